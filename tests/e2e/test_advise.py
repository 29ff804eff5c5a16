"""Advice for the built-in model, and a learning curve of two steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from runs import virft
from virft.data.base_completions import BASE_COMPLETIONS
from virft.errors import RunStopped
from virft.recipes.advice.advise import TrainingAdvice, advise_training
from virft.recipes.advice.completions import completions_cache

SHORT = ("sampling.max_completion_tokens=48", "grpo.group_size=4")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def advise(scenes: Path, *, num_samples: int = 5) -> tuple[TrainingAdvice, list[str]]:
    lines: list[str] = []
    found = advise_training(scenes / "train", "virft-tiny", SHORT, num_samples=num_samples, log=lines.append)
    return found, lines


def test_a_second_call_prints_the_same_and_needs_no_torch(
    scenes: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [str(one) for one in ("advise", scenes / "train", "virft-tiny", *SHORT, "--samples", 4)]
    assert virft(*words) == 0
    printed = capsys.readouterr()
    assert "4 of 11 samples, 4 completions each" in printed.out
    assert "advice: " in printed.out
    assert "base model: 4 of 4 samples scored" in printed.err
    code = "import sys; from virft.cli.main import main; main(sys.argv[1:]); print('torch' in sys.modules)"
    again = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, env=os.environ
    )
    assert again.stdout == printed.out + "False\n"
    assert "completions of an earlier call are used again" in again.stderr


def test_excluded_samples_are_not_used(scenes: Path, tmp_path: Path) -> None:
    first = json.loads((scenes / "train" / "samples.jsonl").read_text().splitlines()[0])["id"]
    (tmp_path / "exclude.txt").write_text(f"{first}\n")
    settings = (*SHORT, f"data.exclude={tmp_path / 'exclude.txt'}")
    found = advise_training(scenes / "train", "virft-tiny", settings, num_samples=2, log=print)
    assert found.features.num_samples == 10


def test_sampling_resumes_and_more_samples_use_those_that_exist(scenes: Path) -> None:
    _, lines = advise(scenes, num_samples=2)
    (path,) = completions_cache().glob(f"*/{BASE_COMPLETIONS}")
    before = path.read_text()

    def interrupt(line: str) -> None:
        if line.startswith("base model: "):
            raise KeyboardInterrupt

    # eight at a time
    with pytest.raises(RunStopped, match=r"^stopped: 10 of 11 samples are scored; the same command resumes$"):
        advise_training(scenes / "train", "virft-tiny", SHORT, num_samples=11, log=interrupt)
    found, lines = advise(scenes, num_samples=11)
    assert lines[-1].startswith("base model: 1 of 1 samples scored")
    assert path.read_text().startswith(before)
    assert found.features.num_evaluated == found.features.num_samples == 11
    # a call that was stopped has written some lines
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:4]))
    again, lines = advise(scenes, num_samples=11)
    assert lines[-1].startswith("base model: 7 of 7 samples scored")
    assert again.features.images_per_class == found.features.images_per_class == 1


def test_json_and_the_config_file_have_the_advice(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "mine.toml"
    words = ("advise", scenes / "train", "virft-tiny", *SHORT, "--samples", 4, "--json", "--out", config)
    assert virft(*words) == 0
    tree = json.loads(capsys.readouterr().out)
    assert set(tree["features"]) >= {"pass_rate", "nonzero_std", "readable", "knowledge", "blind_score"}
    low, high = tree["features"]["pass_rate"]["interval"]
    assert 0 <= low <= tree["features"]["pass_rate"]["value"] <= high <= 1
    assert tree["commands"] == [f"virft train {config}"]
    # one image of each of eight new classes
    assert (tree["images_per_class"], tree["advice"]["case"], tree["advice"]["system"]) == (1, "few", "mix")
    verb = tree["commands"][0].split()[1]
    assert virft(verb, config, f"run.dir={tmp_path / 'run'}", "--dry-run", "grpo.steps=1") == 0
    assert virft(*words) == 2
    assert f"virft: {config}: exists; replace it with --overwrite" in capsys.readouterr().err


def test_data_that_is_no_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert virft("advise", tmp_path, "virft-tiny") == 2
    assert f"virft: {tmp_path}: holds no dataset; expected a folder" in capsys.readouterr().err


def test_learning_curve_of_two_steps(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "curve"
    words = (
        "curve",
        f"data.train={scenes / 'train'}",
        f"data.validation={scenes / 'test'}",
        f"run.dir={run}",
        "sampling.max_completion_tokens=32",
        "sft.steps=2",
        "sft.samples_per_step=2",
        "--method",
        "sft",
        "--fractions",
        "0.5",
    )
    assert virft(*words) == 0
    printed = capsys.readouterr().out
    tree = json.loads((run / "curve.json").read_text())
    assert [one["num_images"] for one in tree["points"]] == [4, 8]
    assert tree["doubled"]["num_images"] == 16
    assert f"would give about {tree['doubled']['score']:.2f}" in printed
    assert "warning: two numbers of images" in printed
    subset = json.loads((run / "subsets" / "images_4" / "card.json").read_text())
    assert (subset["num_images"], subset["source"]["kind"]) == (4, "subset")
    page = (run / "report.html").read_text()
    assert "Learning curve" in page
    assert '<figure class="chart"' in page
    assert "16 (expected)" in page
    # nothing is trained or predicted twice
    model = run / "images_8" / "seed_0" / "model" / "model.safetensors"
    before = model.stat().st_mtime_ns
    assert virft(*words) == 2
    assert "already holds a learning curve; resume with --resume" in capsys.readouterr().err
    assert virft(*words, "--resume") == 0
    assert capsys.readouterr().out.splitlines()[1:] == printed[printed.index("validation F1,") :].splitlines()
    # the folder alone has the method, the fractions and the seeds
    assert virft("curve", f"run.dir={run}", "--resume") == 0
    assert capsys.readouterr().out.splitlines()[1:] == printed[printed.index("validation F1,") :].splitlines()
    assert model.stat().st_mtime_ns == before
    assert json.loads((run / "curve.json").read_text()) == tree


def test_cells_are_measured_and_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = cells_script(monkeypatch)
    families = script.compare_families
    small = [
        "compare.seeds=1",
        "compare.rft_learning_rates=[1e-4]",
        "compare.sft_learning_rates=[1e-4]",
        "grpo.steps=2",
        "grpo.prompts_per_step=2",
        "grpo.group_size=2",
        "grpo.warmup_steps=0",
        "sft.warmup_steps=0",
        "data.validate_every=1",
        "sampling.max_completion_tokens=24",
    ]
    data = {
        "train": {"classes": ["novel"], "shots": 1},
        "validation": {"classes": ["novel"], "questions": 4, "seed": 1},
        "test": {"classes": ["novel"], "questions": 8},
    }
    monkeypatch.setitem(families.FAMILIES, "lookalike_classification", data)
    settings = [word for one in small for word in ("--set", one)]
    monkeypatch.setattr(sys, "argv", ["advice_cells.py", str(tmp_path), "lookalike_classification_1_images", *settings])
    script.main()
    (cell,) = script.read_cells(tmp_path / script.CELLS)
    assert (cell.name, cell.metric) == ("lookalike_classification_1_images test seed 0", "accuracy")
    assert cell.scores.keys() == {"base", "sft", "rft", "mix"}
    assert cell.situation.is_classification
    printed = capsys.readouterr().out
    assert "| lookalike_classification_1_images test seed 0 |" in printed
    assert "always mix: within 0.01 of the best in" in printed
    # a second call trains nothing
    runs = sorted(tmp_path.glob("*/compare/*/*/model/model.safetensors"))
    before = [path.stat().st_mtime_ns for path in runs]
    script.main()
    assert len(runs) == 3
    assert [path.stat().st_mtime_ns for path in runs] == before
    assert script.read_cells(tmp_path / script.CELLS) == [cell]


def cells_script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    import advice_cells

    return advice_cells
