"""Answers in batches against one at a time, as the public evaluators of such models generate.

    python benchmarks/predict.py [--questions 256]

The built-in model, temperature 0, the same questions. The sides take turns; the first turn is not counted. Answers may
differ where the two likeliest tokens are as good as equal: what is told then is how far the log-probabilities of the
chosen tokens lie apart at the first place where two answers differ.
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
from virft.evaluation.predict import predict
from virft.evaluation.prediction_run import plan_batches
from virft.generation.hf_generator import HFGenerator
from virft.inference.prompting import make_renderer
from virft.models.load import load_model
from virft.models.policy import make_policy
from virft.models.tiny import IMAGE_SIZE, TINY_NAME
from virft.scenes.assets import class_names
from virft.scenes.sets import SceneKind
from virft.types import Prediction

NEAR_TIE = 1e-4


def margin(first: Prediction, second: Prediction) -> float:
    """How far the log-probabilities of the tokens lie apart with which two answers begin to differ."""
    pairs = zip(first.text, second.text, strict=False)
    at = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first.text), len(second.text)))
    chosen = [one.token_logprobs[sum(end <= at for end in one.token_ends[:-1])] for one in (first, second)]
    return abs(chosen[0] - chosen[1])


def main(arguments: argparse.Namespace) -> None:
    """Measure and write the table."""
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
            made = predict(
                ([store[i] for i in batch] for batch in batches),
                render=make_renderer(loaded, template="auto", thinking=False),
                encode=policy.encode_images,
                generator=HFGenerator(policy, loaded.tokenizer),
                max_completion_tokens=128,
            )
            found = {one.prediction.sample_id: one.prediction for batch in made for one in batch}
            return time.perf_counter() - began, found

        sides = {"in batches": plan_batches(store), "one at a time": [[i] for i in range(len(store))]}
        seconds: dict[str, list[float]] = {side: [] for side in sides}
        found: dict[str, dict[str, Prediction]] = {}
        for _ in range(arguments.repeats + 1):
            for side, batches in sides.items():
                taken, found[side] = answers(batches)
                seconds[side].append(taken)
    medians = {side: statistics.median(times[1:]) for side, times in seconds.items()}
    both = [(one, found["one at a time"][key]) for key, one in found["in batches"].items()]
    margins = [margin(*pair) for pair in both if pair[0].text != pair[1].text]
    rows = [[side, f"{taken:.1f}", f"{len(both) / taken:.1f}"] for side, taken in medians.items()]
    ratio = medians["one at a time"] / medians["in batches"]
    near, largest = sum(one < NEAR_TIE for one in margins), max(margins, default=0.0)
    text = (
        f"{len(both)} questions; medians of {arguments.repeats}. In batches {ratio:.1f} times as fast. {len(margins)} "
        f"answers differ, {near} of them by a near-tie (below {NEAR_TIE:g}); largest margin {largest:.1e}."
    )
    text += "\n\n" + markdown_table(["side", "seconds", "answers a second"], rows)
    print(text)
    command = " ".join(["python benchmarks/predict.py", *sys.argv[1:]])
    print(write_results("predict", command=command, tables=text, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    torch.manual_seed(0)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--date", help="of the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
