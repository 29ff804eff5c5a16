"""Tab completes verbs, options, settings and their values; file names where a file is expected."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from virft.cli import main as cli
from virft.cli.completion import completions


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["gr"], ["grpo"]),
        (["build", "co"], ["coco"]),
        (["build", "coco", "a.json", "images", "out", "--negatives"], ["--negatives-frac"]),
        (
            ["build", "coco", "a.json", "images", "out", "--task", ""],
            ["detection", "counting", "multiclass_detection", "pointing"],
        ),
        (["build", "coco", "a.json", ""], []),
        (["grpo", "a.toml", "samp"], ["sampling."]),
        (["grpo", "a.toml", "grpo.gr"], ["grpo.group_size="]),
        (["grpo", "--resume", "a.toml", "grpo.gr"], ["grpo.group_size="]),
        (["grpo", "grpo.steps=3", "see"], ["seed="]),
        (["grpo", "a.toml", "model.train="], ["model.train=full", "model.train=lora"]),
        (["grpo", "a.toml", "model.compile=t"], ["model.compile=true"]),
        (["grpo", "a.toml", "mixture.planes.preset=p"], ["mixture.planes.preset=paper"]),
        (["grpo", "a.toml", "data.train=x"], []),
        (["grpo", "a.toml", "no.such=x"], []),
        (["plan", "--memory", "24", "a.toml", "model.path=virft"], ["model.path=virft-tiny", "model.path=virft-photo"]),
        (["plan", "--memory", ""], []),
        (["predict", "virft"], ["virft-tiny", "virft-photo"]),
        (["predict", "Qwen/Qwen2.5-VL-3B"], ["Qwen/Qwen2.5-VL-3B-Instruct"]),
        (["predict", "virft-tiny", ""], []),
        (["config", "grpo.kl"], ["grpo.kl_coef", "grpo.kl_coef_end"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["nonsense", ""], []),
        (["build", "nonsense", ""], []),
    ],
)
def test_the_last_word_is_completed(words: list[str], expected: list[str]) -> None:
    assert completions(words) == expected


def test_an_option_that_was_given_is_not_offered_again() -> None:
    assert "--dry-run" in completions(["grpo", "--"])
    assert "--dry-run" not in completions(["grpo", "--dry-run", "--"])


def test_toml_files_are_completed_as_the_config_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in ("mine.toml", "runs/mine.toml", "other.txt"):
        (tmp_path / name).touch()
    assert completions(["grpo", "mi"]) == ["mixture.", "mine.toml"]
    assert completions(["grpo", "runs/"]) == ["runs/mine.toml"]
    assert completions(["grpo", "mine.toml", "mi"]) == ["mixture."]


def test_without_a_name_the_script_is_for_the_users_shell(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SHELL", "/usr/bin/fish")
    assert cli.main(["completion"]) == 0
    assert "virft completion fish | source" in capsys.readouterr().out
    monkeypatch.setenv("SHELL", "/bin/dash")
    assert cli.main(["completion"]) == 2
    assert capsys.readouterr().err == "virft: completion: $SHELL is 'dash'; expected bash, zsh, fish\n"


@pytest.fixture
def path_with_virft(tmp_path: Path) -> str:
    """A PATH on which ``virft`` is this package."""
    program = tmp_path / "bin" / "virft"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m virft "$@"\n')
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("virft grpo a.toml model.tr", ["-o nospace", "model.train="]),
        # bash begins a new word after =
        ("virft grpo a.toml model.train=l", ["lora"]),
        (
            "virft build coco a.json images out --task ",
            ["detection", "counting", "multiclass_detection", "pointing"],
        ),
        ("virft predict virft-tiny ", [""]),
    ],
)
def test_bash_completes(line: str, expected: list[str], path_with_virft: str) -> None:
    script = f'''eval "$(virft completion bash)"
compopt() {{ echo "$*"; }}
COMP_LINE="{line}" COMP_POINT={len(line)}
_virft
printf "%s\\n" "${{COMPREPLY[@]}}"
'''
    done = subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PATH": path_with_virft},
    )
    assert done.stdout.splitlines() == expected
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_is_valid(shell: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    assert cli.main(["completion", shell]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    subprocess.run([shell, "-n", tmp_path / "script"], check=True)
