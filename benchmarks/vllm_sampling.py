"""vLLM against the built-in generator on a CPU: seconds for the completions of a step, and the gap of log-probs.

    make test-vllm  # once: makes the environment
    .venv-vllm/bin/python benchmarks/vllm_sampling.py [--prompts 8 --group 8 --tokens 50]

The built-in model, temperature 1, end tokens forbidden, so that every completion has the maximum length. The weights
are sent to the engine in each turn, as after a step. The sides alternate; the first turn is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from record import RESULTS, markdown_table, write_results

from virft.config.schema import SamplingConfig
from virft.data.sources.scenes import write_test_scenes
from virft.data.store import Store
from virft.generation.generator import EncodedPrompt, GenerationParams, Generator
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.generation.vllm_start import start_vllm
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.attention.layout import pack_row
from virft.models.load import load_model
from virft.models.policy import Policy, TokenRules, make_policy
from virft.models.stop_tokens import stop_token_ids
from virft.models.tiny import IMAGE_SIZE, TINY_NAME
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind
from virft.types import Completion


@torch.no_grad()
def gap(policy: Policy, encoded: list[EncodedPrompt], drawn: list[list[Completion]]) -> torch.Tensor:
    """Return the absolute difference of the sampler's and the policy's log-probs of each token, in nats."""
    row = pack_row(
        [one.prompt.token_ids for one in encoded],
        [one.positions for one in encoded],
        [[one.token_ids for one in group] for group in drawn],
    )
    sampled = torch.tensor([value for group in drawn for one in group for value in one.sampler_logprobs])
    return (policy(row, features=[one.features for one in encoded]) - sampled).abs()


def main(arguments: argparse.Namespace) -> None:
    """Measure both generators and write the table."""
    loaded = load_model(TINY_NAME)
    rules = make_policy(loaded, temperature=1.0).rules
    never = tuple(sorted({*rules.forbidden_ids, *stop_token_ids(loaded.model)}))
    policy = Policy(loaded.model, loaded.family, TokenRules(forbidden_ids=never)).eval()
    with tempfile.TemporaryDirectory() as name, torch.no_grad():
        write_test_scenes(
            Path(name) / "d", task="detection", classes=class_names("base"), num_questions=arguments.prompts,
            kind=SceneKind.SAME_SPRITES, seed=0, size=IMAGE_SIZE,
        )  # fmt: skip
        render = make_renderer(loaded, resolve_prompting(loaded, template="auto", thinking=False))
        rendered = [render(sample) for sample in Store(Path(name) / "d")]
        features = policy.encode_images([one.vision for one in rendered])
    encoded = [
        EncodedPrompt(prompt=one.prompt, positions=one.positions, features=made, stream_id=one.prompt.sample_id)
        for one, made in zip(rendered, features, strict=True)
    ]
    began = time.perf_counter()
    engine = start_vllm(loaded, policy.rules, SamplingConfig(engine="vllm"), dtype="float32", on_cpu=True)
    start_s = time.perf_counter() - began
    sides: dict[str, Generator] = {"built-in": HFGenerator(policy, loaded.tokenizer), "vLLM": engine}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    gaps: dict[str, torch.Tensor] = {}
    params = GenerationParams(max_completion_tokens=arguments.tokens)
    for turn in range(arguments.repeats + 1):
        for side, generator in sides.items():
            generator.update()
            began = time.perf_counter()
            drawn = generator.generate(encoded, arguments.group, params, StepKey(seed=0, step=turn))
            seconds[side].append(time.perf_counter() - began)
            assert {len(one.token_ids) for group in drawn for one in group} == {arguments.tokens}
            gaps[side] = gap(policy, encoded, drawn)
    engine.close()
    rows = [
        [
            side,
            f"{statistics.median(taken[1:]):.2f}",
            f"{min(taken[1:]):.2f}",
            f"{gaps[side].mean():.1e}",
            f"{gaps[side].max():.1e}",
        ]
        for side, taken in seconds.items()
    ]
    table = markdown_table(["side", "seconds", "fastest", "mean gap", "largest gap"], rows)
    text = (
        f"{arguments.prompts} prompts x {arguments.group} completions of {arguments.tokens} tokens, float32; medians "
        f"of {arguments.repeats}, gaps in nats. The engine started in {start_s:.0f} s.\n\n{table}"
    )
    print(text)
    command = " ".join(["python", "benchmarks/vllm_sampling.py", *sys.argv[1:]])
    print(write_results("vllm_sampling", command=command, tables=text, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--date")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
