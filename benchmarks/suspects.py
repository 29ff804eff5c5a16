"""Suspect labels on the built-in scenes: corrupt 5 % of the labels, train, rank, and train again without the suspects.

    python benchmarks/suspects.py OUT [FAMILY ..] [--seeds 0 1] [--method sft] [--no-training]

For each family of ``scripts/compare_families.py`` and seed: three trainings (corrupted labels; without the suspect
labels; clean labels), each scored on the family's test set. Finished parts are used again. Takes about 6 minutes per
family and seed with SFT on two cores.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from corrupted_labels import write_corrupted
from record import RESULTS, markdown_table, write_results

from virft.cli.build_scenes import build_scenes
from virft.cli.data import GROUP_SIZE
from virft.cli.main import main as virft
from virft.config.toml_file import load_config
from virft.data.store import Store
from virft.evaluation.comparison import Measured, compare_systems, measure
from virft.evaluation.predictions import PREDICTIONS
from virft.evaluation.suspects import SUSPECTS, Suspect
from virft.recipes.evaluate import predict_as_trained
from virft.recipes.run_evaluation import find_model
from virft.recipes.suspects import find_suspects
from virft.tasks import TASKS
from virft.training.run import CONFIG

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))
from compare_families import CONFIGS, FAMILIES, SIZE
from compare_families import TASKS as TASK_OF

FRAC = 0.05
RECALL = 0.6
SYSTEMS = ("corrupted", "without_suspects", "clean")


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family with the settings of its runs."""

    shots: int
    test: str
    settings: dict[str, tuple[str, ...]]
    """Method -> settings."""


RUNS = {
    "lookalike_classification": Family(
        shots=4,
        test="test",
        settings={
            "sft": ("sft.steps=100", "sft.learning_rate=3e-4"),
            "grpo": ("grpo.steps=80", "grpo.learning_rate=3e-4"),
        },
    ),
    "base_to_novel_detection": Family(
        shots=4,
        test="trained_classes",
        settings={
            "sft": ("sft.steps=80", "sft.learning_rate=1e-5"),
            "grpo": ("grpo.steps=60", "grpo.learning_rate=3e-5"),
        },
    ),
    "few_shot_detection": Family(
        shots=16,
        test="same_sprites",
        settings={
            "sft": ("sft.steps=120", "sft.learning_rate=3e-4"),
            "grpo": ("grpo.steps=120", "grpo.learning_rate=3e-4"),
        },
    ),
}


@dataclass(frozen=True, kw_only=True)
class Result:
    """The ranking of one seed of a family, and the scores of its three trainings."""

    family: str
    seed: int
    num_samples: int
    corrupted: dict[str, str]
    ranked: list[Suspect]
    """All samples."""
    listed: tuple[Suspect, ...]
    """Those with at least the default lowest score."""
    measured: dict[str, Measured]

    @property
    def hits(self) -> list[bool]:
        """For each rank, whether the label is corrupted."""
        return [one.sample.id in self.corrupted for one in self.ranked]


def precision_at_recall(hits: Sequence[bool], number: int, recall: float) -> float:
    """Return the highest precision of a ranking with at least this recall of ``number`` corrupted labels; 0 if none."""
    num_found, best = 0, 0.0
    for rank, hit in enumerate(hits, start=1):
        num_found += hit
        if num_found >= recall * number - 1e-9:
            best = max(best, num_found / rank)
    return best


def average_precision(hits: Sequence[bool], number: int) -> float:
    """Return the mean precision at the rank of each corrupted label; one that is not ranked counts 0."""
    places = [rank for rank, hit in enumerate(hits, start=1) if hit]
    return sum(i / rank for i, rank in enumerate(places, start=1)) / number


def run(name: str, seed: int, out: Path, *, method: str, with_training: bool) -> Result:
    """Make the data, train, rank, train again, and score."""
    family, folder = RUNS[name], out / name
    for part in ("train", "validation", family.test):
        if not (folder / part / "card.json").exists():
            options = FAMILIES[name][part] | ({"shots": family.shots} if part == "train" else {})
            build_scenes(out=folder / part, task=TASK_OF.get(name, "detection"), size=SIZE, overwrite=True, **options)
    corrupted_data, key = folder / f"corrupted_{seed}", folder / f"corrupted_{seed}.json"
    if not key.exists():
        key.write_text(json.dumps(write_corrupted(Store(folder / "train"), corrupted_data, frac=FRAC, seed=seed)))
    corrupted: dict[str, str] = json.loads(key.read_text())
    runs = {system: folder / f"{method}_{system}_{seed}" for system in SYSTEMS}
    _train(name, method, seed, runs["corrupted"], corrupted_data, folder)
    ranked = list(find_suspects(runs["corrupted"], min_score=-1.0, group_size=GROUP_SIZE, log=print).suspects)
    listed = find_suspects(runs["corrupted"], group_size=GROUP_SIZE, log=print).suspects
    suspects = runs["corrupted"] / "suspects" / SUSPECTS
    measured: dict[str, Measured] = {}
    if with_training:
        _train(name, method, seed, runs["without_suspects"], corrupted_data, folder, f"data.exclude={suspects}")
        _train(name, method, seed, runs["clean"], folder / "train", folder)
        measured = {system: _measure(one, Store(folder / family.test)) for system, one in runs.items()}
    return Result(
        family=name,
        seed=seed,
        num_samples=len(Store(corrupted_data)),
        corrupted=corrupted,
        ranked=ranked,
        listed=listed,
        measured=measured,
    )


def _train(name: str, method: str, seed: int, run_dir: Path, data: Path, folder: Path, *settings: str) -> None:
    if (run_dir / "model").is_dir():
        return
    status = virft(
        [
            method,
            str(CONFIGS / f"compare_{name}.toml"),
            f"data.train={data}",
            f"data.validation={folder / 'validation'}",
            f"run.dir={run_dir}",
            f"seed={seed}",
            *RUNS[name].settings[method],
            *settings,
            *(["--resume"] if (run_dir / "config.toml").exists() else []),
        ]
    )
    if status:
        raise SystemExit(status)


def _measure(run_dir: Path, store: Store) -> Measured:
    _, model = find_model(run_dir)
    path = run_dir / "eval" / "test" / PREDICTIONS
    if not path.exists():
        predict_as_trained(load_config(run_dir / CONFIG).config, str(model), store, path.parent, resume=True)
    return measure(path, store)


def tables(results: Sequence[Result]) -> str:
    """Return the precision of the rankings, and the scores of the trainings."""
    head = ["family", "seed", "samples", "corrupted", f"precision at recall {RECALL:g}", "average precision"]
    head += ["found", "type right", "box", "class", "missing"]
    return "\n\n".join(
        [markdown_table(head, [_ranking_row(one) for one in results]), *_curves(results), *_training_table(results)]
    )


def _ranking_row(one: Result) -> list[str]:
    number = len(one.corrupted)
    hits = [suspect for suspect in one.listed if suspect.sample.id in one.corrupted]
    right = sum(suspect.kind == one.corrupted[suspect.sample.id] for suspect in hits)
    by_kind = []
    for kind in ("box", "class", "missing"):
        of_kind = sum(value == kind for value in one.corrupted.values())
        found = sum(one.corrupted[suspect.sample.id] == kind for suspect in hits)
        by_kind.append(f"{found} of {of_kind}" if of_kind else "-")
    return [
        one.family,
        str(one.seed),
        str(one.num_samples),
        str(number),
        f"{precision_at_recall(one.hits, number, RECALL):.2f}",
        f"{average_precision(one.hits, number):.2f}",
        f"{len(hits)} of {number}, {len(one.listed)} listed",
        f"{right} of {len(hits)}",
        *by_kind,
    ]


def _curves(results: Sequence[Result]) -> Iterator[str]:
    head = ["family", "seed", *(f"recall {recall / 10:g}" for recall in range(1, 11))]
    rows = [
        [one.family, str(one.seed)]
        + [f"{precision_at_recall(one.hits, len(one.corrupted), recall / 10):.2f}" for recall in range(1, 11)]
        for one in results
    ]
    yield "Precision at each recall:\n\n" + markdown_table(head, rows)


def _training_table(results: Sequence[Result]) -> Iterator[str]:
    rows = []
    for name in dict.fromkeys(one.family for one in results if one.measured):
        own = [one for one in results if one.family == name and one.measured]
        headline = TASKS[TASK_OF.get(name, "detection")].headline
        of = {system: [one.measured[system] for one in own] for system in SYSTEMS}
        for first, second in (("clean", "without_suspects"), ("corrupted", "without_suspects"), ("clean", "corrupted")):
            difference = compare_systems(of[first], of[second])[0].differences[headline]
            ends = difference.interval
            between = f"{ends[0]:+.3f} to {ends[1]:+.3f}" if ends else "-"
            rows.append(
                [
                    name,
                    str(len(own)),
                    headline,
                    f"{second} minus {first}",
                    f"{difference.second.mean:.3f}",
                    f"{difference.first.mean:.3f}",
                    f"{difference.value:+.3f} ({between})",
                ]
            )
    if rows:
        head = ["family", "seeds", "metric", "difference", "second", "first", "value (95 % interval)"]
        yield "Scores on the test set:\n\n" + markdown_table(head, rows)


def main() -> None:
    """Run the families and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("families", nargs="*", metavar="FAMILY", default=list(RUNS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--method", choices=("sft", "grpo"), default="sft")
    parser.add_argument("--no-training", action="store_true", help="only rank; do not train again")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the result file")
    args = parser.parse_args()
    results = [
        run(name, seed, args.out, method=args.method, with_training=not args.no_training)
        for name in args.families
        for seed in args.seeds
    ]
    text = tables(results)
    print(text)
    options = [*args.families, "--seeds", *map(str, args.seeds), "--method", args.method]
    options += ["--no-training"] if args.no_training else []
    command = " ".join(["python benchmarks/suspects.py OUT", *options])
    question = f"suspects_{args.method}_{'_'.join(args.families)}"
    print(write_results(question, command=command, tables=text, date=args.date, folder=args.results))


if __name__ == "__main__":
    main()
