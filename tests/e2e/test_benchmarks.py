"""The benchmarks run, and their two ways of computing agree. Times are not checked."""

from __future__ import annotations

import importlib
import json
import random
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from virft.config.toml_file import dump, first_difference, parse
from virft.data.store import Store
from virft.geometry.boxes import intersection_over_union
from virft.planning.cluster import StepCosts
from virft.recipes.compare.systems import Steps, grpo_config
from virft.recipes.quickstart import quickstart_config

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ONCE = ("--repeats", "1", "--threads", "1")


Run = Callable[..., str]
"""(program, folder of the result file, options) -> the text of that file."""


def result_in(out: Path) -> str:
    (file,) = out.glob("*.md")
    return file.read_text()


def run_alone(name: str, out: Path, *options: str) -> str:
    """A program in a process of its own: it changes the allocator, or starts other processes."""
    command = [sys.executable, str(BENCHMARKS / name), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return result_in(out)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a program in this process: importing PyTorch again takes longer than most of them."""

    def run_here(name: str, out: Path, *options: str) -> str:
        monkeypatch.syspath_prepend(str(BENCHMARKS))
        monkeypatch.setattr(sys, "argv", [str(BENCHMARKS / name), "--out", str(out), *options])
        runpy.run_path(sys.argv[0], run_name="__main__")
        return result_in(out)

    num_threads = torch.get_num_threads()
    yield run_here
    torch.set_num_threads(num_threads)


def test_shared_prefix_compares_equal_computations(run: Run, tmp_path: Path) -> None:
    options = ("--prompts", "40", "--images", "112", "--completions", "3", "--groups", "2", "--prefill-prompts", "2")
    text = run("shared_prefix.py", tmp_path, *ONCE, *options)
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if re.match(r"\|\s+40", line)
    ]
    assert [row[:4] for row in rows] == [["40", "112", "3", "2"], ["40", "112", "2", "2.00"]]
    assert float(rows[0][-1]) < 1e-5


def test_the_tree_of_turns_and_separate_turns_are_equal_computations(run: Run, tmp_path: Path) -> None:
    options = ("--prompts", "1", "--text", "20", "--image", "112", "--groups", "2", "--first", "4", "--second", "3")
    text = run("zoom.py", tmp_path, *ONCE, *options)  # ends with an error if the losses differ
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if re.match(r"\|\s+1 ", line)
    ]
    assert [row[6] for row in rows] == ["sampling", "update", "step"]
    # P 38, tool turn 42: 38 + 2 * 4 + 42 + 3 tokens in the row of the tree, 46 and 84 + 3 in those of the turns
    assert 1.2 < float(rows[1][7]) < 2.5 and all(float(row[7]) > 1 for row in rows)


def test_a_step_without_prefix_sharing_runs_next_to_virfts(tmp_path: Path) -> None:
    text = run_alone("step_against_trl.py", tmp_path, *ONCE, "--shapes", "40,112,3,2", "--num-prompts", "2")
    assert re.search(r"\|\s+40 \|\s+112 \|\s+3 \|\s+2 \|", text)


def test_steps_with_and_without_demonstrations_are_compared(run: Run, tmp_path: Path) -> None:
    text = run("demonstrations.py", tmp_path, *ONCE, "--shape", "40,112,3,2", "--num-prompts", "2")
    # 2 prompts of 40 tokens, 2 completions and a demonstration of 3 tokens each
    for way, tokens in (("off", 92), ("loss", 98), ("group", 98)):
        assert re.search(rf"\|\s+{way} \|\s+{tokens} \|", text)


def test_an_update_with_adapters_is_the_same_without_prefix_sharing(tmp_path: Path) -> None:
    options = ("--shape", "small", "--dtype", "float32", "--prompt", "410", "--completion", "3", "--group", "2")
    text = run_alone("update_2b.py", tmp_path, *ONCE, *options)
    assert re.search(r"\|\s+small \|\s+410 \|\s+3 \|\s+2 \|", text)


def test_the_program_for_a_gpu_is_rehearsed_on_a_cpu(run: Run, tmp_path: Path) -> None:
    text = run("gpu_step.py", tmp_path, "--try-on-cpu")
    assert len(re.findall(r"^\| rehearsal \|", text, re.MULTILINE)) == 4


def test_the_program_for_a_gpu_names_what_it_had_no_time_for(run: Run, tmp_path: Path) -> None:
    text = run("gpu_step.py", tmp_path, "--try-on-cpu", "--minutes", "0")
    assert "Skipped, to end within 0 minutes: model rehearsal.\n" in text


def test_every_parallel_strategy_completes_a_run(tmp_path: Path) -> None:
    text = run_alone("processes.py", tmp_path, "--repeats", "1", "--steps", "2", "--prompts", "2", "--group", "2")
    for way in ("one process", "ddp", "fsdp2"):
        assert re.search(rf"^\|\s+{way} \|", text, re.MULTILINE)


@pytest.mark.parametrize("train_vision", [False, True])
def test_counted_operations_are_those_that_run(monkeypatch: pytest.MonkeyPatch, train_vision: bool) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    shared_prefix, counting = (importlib.import_module(name) for name in ("shared_prefix", "counting"))
    shape = counting.GroupShape(prompt=40, completion=5, group=3, patches=64)
    shared, _ = shared_prefix.make_sides(train_vision=train_vision)
    config = shared.policy.config
    with FlopCounterMode(display=False) as counter:
        shared.loss([shared_prefix.make_group(shared.policy, shape, seed=0)]).backward()
    # Pairs of tokens that do not attend to each other are computed too: 40 x 39 / 2 in the prompt,
    # 5 x 4 / 2 in each completion; 4 operations for each number of a head, three times (forwards, twice backwards).
    unseen = 40 * 39 // 2 + 3 * (5 * 4 // 2)
    wasted = 3 * config.text_config.num_hidden_layers * 4 * config.text_config.hidden_size * unseen
    counted = counting.update_operations(config, shape, shared=True, frozen_vision=not train_vision)
    assert counter.get_total_flops() == counted + wasted


def test_the_page_of_a_synthetic_run_has_its_images(run: Run, tmp_path: Path) -> None:
    text = run("report_page.py", tmp_path, "--steps", "30", "--images", "6", "--chromium", "")
    assert "30 steps, 6 questions with images, 2 systems." in text
    (number,) = re.findall(r"images in it \|\s+(\d+)", text)
    # one for each question, and for each of six groups of rollouts
    assert 6 <= int(number) <= 12
    assert re.search(r"seconds to open \| not measured", text)


def test_costs_grow_with_the_varied_factor(run: Run, tmp_path: Path) -> None:
    text = run("step_costs.py", tmp_path, *ONCE, "--around", "40,112,3,2,2", "--factors", "G", "groups", "--most", "2")
    slopes = dict(re.findall(r"\|\s*(\w[\w ]+) \|\s+-?\d+\.\d\d \|\s+(\d\.\d\d) \|", text))
    assert slopes["groups per step"] == "1.00", "twice the groups are twice the counted operations"
    assert 0 < float(slopes["completions per group"]) < 1, "the prompt is counted once, whatever G"
    assert len(re.findall(r"\| completions per group \|\s+[24] \|", text)) == 2


def test_corrupted_labels_differ_from_the_dataset_in_the_given_fraction(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    corrupted_labels = importlib.import_module("corrupted_labels")
    clean = Store(scenes / "train")
    key = corrupted_labels.write_corrupted(clean, tmp_path / "corrupted", frac=0.3, seed=0)
    corrupted = {sample.id: sample for sample in Store(tmp_path / "corrupted")}
    assert sorted(key.values()) == ["box", "class", "missing"]  # 30 % of 11 samples
    for sample in clean:
        changed = (sample.query, sample.target) != (corrupted[sample.id].query, corrupted[sample.id].target)
        assert changed == (sample.id in key)
    by_kind = {kind: (next(one for one in clean if one.id == name), corrupted[name]) for name, kind in key.items()}
    before, after = by_kind["missing"]
    assert len(after.target.items) == len(before.target.items) - 1
    before, after = by_kind["class"]
    assert after.query != before.query and after.target == before.target
    before, after = by_kind["box"]
    moved = [(one.box, other.box) for one, other in zip(before.target.items, after.target.items, strict=True)]
    ((old, new),) = [pair for pair in moved if pair[0] != pair[1]]
    assert intersection_over_union(old.xyxy, new.xyxy) <= 0.4


def test_precision_at_recall_of_a_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    suspects = importlib.import_module("suspects")
    hits = [True, False, True, True, False]
    assert suspects.precision_at_recall(hits, 4, 0.5) == 0.75  # ranks 1 to 4 hold 3 of 4; ranks 1 to 3 hold 2
    assert suspects.precision_at_recall(hits, 4, 1.0) == 0.0  # one is not ranked
    assert suspects.average_precision(hits, 4) == pytest.approx((1 + 2 / 3 + 3 / 4) / 4)


def test_the_engines_train_the_rft_of_the_quickstart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    config_of = importlib.import_module("vllm_quickstart").config_of
    quickstart = quickstart_config(tmp_path, seed=3, steps=40)
    rft = grpo_config(quickstart, "rft", Steps(40, 16), rates=(3e-4,), seed=3, folder=tmp_path / "run")
    for engine in ("builtin", "vllm"):
        found = config_of(tmp_path / "data" / "train", tmp_path / "run", engine=engine, seed=3, steps=40)
        assert found.sampling.engine == engine
        assert parse(dump(found), origin="dump").config == found
        alike = replace(rft, sampling=found.sampling, run=found.run)
        assert first_difference(found, alike) is None


def test_clusters_are_simulated_with_the_lengths_of_a_run(run: Run, tmp_path: Path) -> None:
    lengths = tmp_path / "groups_in_flight.jsonl"
    group = {"completions": [{"token_ids": [1] * length} for length in (10, 30)]}
    lengths.write_text(json.dumps(group) + "\n")
    text = run("cluster_model.py", tmp_path / "out", "simulate", "--gpus", "2", "--lengths", str(lengths))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    replayed = [row for row in rows if row[1] == "replayed, mean 20"]
    assert len(replayed) == 6
    for row in replayed:
        shared, apart, off = (float(cell) for cell in row[5:8])
        assert off <= apart
        assert row[8] == "1 + 1"
        # the ratios are those of the unrounded seconds
        for ratio, other in ((row[-2], shared), (row[-1], apart)):
            assert abs(float(ratio) * off - other) <= 0.05 * (1 + float(ratio)) + 0.005 * off


def test_costs_are_fitted_to_steps_that_follow_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    cluster_model = importlib.import_module("cluster_model")
    costs = StepCosts(
        decode_step=0.02, decode_row=1e-4, context_token=1e-7, prompt_token=1e-3, update_token=2e-3, update=0.1
    )
    rng = random.Random(0)
    steps = []
    for number in range(12):
        lengths = [[rng.randint(1, 60) for _ in range(4)] for _ in range(2 + number)]
        step = cluster_model.Step(lengths, 90 + number, 0.0, 0.0)
        found = cluster_model.predict(step, 1, costs)
        steps.append(step._replace(sampling_s=found.sampling_s, update_s=found.update_s))
    fitted = cluster_model.fit_costs(steps)
    for name in StepCosts.__slots__:
        assert getattr(fitted, name) == pytest.approx(getattr(costs, name), rel=1e-3, abs=1e-12), name
