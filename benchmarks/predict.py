"""Throughput of batched prediction against one question at a time, as public evaluators of such models generate.

    python benchmarks/predict.py [--questions 256]

The built-in model, temperature 0, the same questions. The sides alternate; the first turn is not counted. Predictions
can differ if the two most likely tokens have almost equal probability. For such pairs the table gives the difference of
the log-probabilities of the chosen tokens at the first place where the texts differ.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from record import RESULTS, markdown_table, write_results

from virft.data.sources.scenes import write_test_scenes
from virft.data.store import Store
from virft.evaluation.predict import generate_predictions
from virft.evaluation.prediction_run import CONCURRENT, plan_batches
from virft.generation.hf_generator import HFGenerator
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.load import load_model
from virft.models.policy import make_policy
from virft.models.tiny import IMAGE_SIZE, TINY_NAME
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind
from virft.types import Prediction

NEAR_TIE = 1e-4


def margin(first: Prediction, second: Prediction) -> float:
    """Return the difference of the log-probabilities, in nats, of the first tokens at which two predictions differ."""
    pairs = zip(first.text, second.text, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first.text), len(second.text)))
    chosen = [one.token_logprobs[sum(end <= at for end in one.token_ends[:-1])] for one in (first, second)]
    return abs(chosen[0] - chosen[1])


def main(arguments: argparse.Namespace) -> None:
    """Measure both sides and write the table."""
    with tempfile.TemporaryDirectory() as name:
        write_test_scenes(
            Path(name) / "d", task="detection", classes=class_names("base"), num_questions=arguments.questions,
            kind=SceneKind.SAME_SPRITES, seed=0, size=IMAGE_SIZE,
        )  # fmt: skip
        store = Store(Path(name) / "d")
        loaded = load_model(TINY_NAME)
        policy = make_policy(loaded, temperature=1.0)

        def answers(batches: Sequence[Sequence[int]]) -> tuple[float, dict[str, Prediction]]:
            began = time.perf_counter()
            made = generate_predictions(
                ([store[i] for i in batch] for batch in batches),
                render=make_renderer(loaded, resolve_prompting(loaded, template="auto", thinking=False)),
                encode=policy.encode_images,
                generator=HFGenerator(policy, loaded.tokenizer, prompts_per_batch=CONCURRENT),
                max_completion_tokens=128,
            )
            found = {one.prediction.sample_id: one.prediction for batch in made for one in batch}
            return time.perf_counter() - began, found

        sides = {"in batches": plan_batches(store), "one at a time": [[i] for i in range(len(store))]}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        found: dict[str, dict[str, Prediction]] = {}
        for _ in range(arguments.repeats + 1):
            for side, batches in sides.items():
                elapsed, found[side] = answers(batches)
                seconds[side].append(elapsed)
    medians = {side: statistics.median(times[1:]) for side, times in seconds.items()}
    both = [(one, found["one at a time"][key]) for key, one in found["in batches"].items()]
    margins = [margin(*pair) for pair in both if pair[0].text != pair[1].text]
    rows = [[side, f"{median:.1f}", f"{len(both) / median:.1f}"] for side, median in medians.items()]
    ratio = medians["one at a time"] / medians["in batches"]
    near, largest = sum(one < NEAR_TIE for one in margins), max(margins, default=0.0)
    text = (
        f"{len(both)} questions; medians of {arguments.repeats}. Speedup of batches: {ratio:.1f}. {len(margins)} "
        f"predictions differ, {near} of them at a near-tie (below {NEAR_TIE:g}); largest margin {largest:.1e}."
    )
    text += "\n\n" + markdown_table(["side", "seconds", "predictions/s"], rows)
    print(text)
    command = " ".join(["python benchmarks/predict.py", *sys.argv[1:]])
    print(write_results("predict", command=command, tables=text, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    torch.manual_seed(0)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
