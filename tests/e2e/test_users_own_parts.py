"""A user's own reward and prompt, and the estimated cost of a run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runs import log, virft, write_config

REWARD = '''
def brevity(reading, target, context):
    """1 for an empty text, 0 from 200 characters on."""
    return max(0.0, 1.0 - len(reading.text) / 200)
'''


def test_a_reward_of_the_users_own_counts_in_the_total(scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(REWARD)
    extra = f'reward.extra = ["{tmp_path / "mine.py"}:brevity"]\nreward.weights.brevity = 0.5\n'
    assert virft("grpo", write_config(tmp_path, scenes / "train", extra=extra), "grpo.steps=1") == 0
    record = log(tmp_path / "run")[0]
    assert 0.0 < record["reward_brevity"] < 1.0
    parts = record["reward_iou"] + record["reward_confidence"] + record["reward_format"]
    assert record["reward"] == pytest.approx(parts + 0.5 * record["reward_brevity"])
    best = log(tmp_path / "run", "rollouts.jsonl")[0]["best"]
    assert best["parts"]["brevity"] == pytest.approx(max(0.0, 1 - len(best["text"]) / 200))


def test_a_users_own_template_is_the_prompt(scenes: Path, tmp_path: Path) -> None:
    template = tmp_path / "question.txt"
    template.write_text('Where is the {query}? Answer like {"box": [..]}.\n')
    config = write_config(tmp_path, scenes / "train")
    assert virft("grpo", config, "grpo.steps=1", f"prompt.template={template}") == 0
    prompt = log(tmp_path / "run", "rollouts.jsonl")[0]["prompt"]
    assert "<|vision_end|>Where is the " in prompt
    assert '? Answer like {"box": [..]}.<|im_end|>' in prompt
    out = tmp_path / "p"
    assert virft("predict", "virft-tiny", scenes / "test", out, "--template", template, "--limit", 1) == 0


def test_a_dry_run_prints_cost_then_settings_and_writes_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("grpo", config, "--dry-run", "grpo.group_size=2") == 0
    text = capsys.readouterr().out
    time, tokens, _, memory, disk = text.splitlines()[:5]
    assert re.fullmatch(r"time    0:\d\d to 0:\d\d for 3 steps \(\d+\.\d to \d+\.\d s a step, 3 steps measured\)", time)
    assert "(16 image tokens), completions of " in tokens
    assert tokens.endswith("at most 48")
    assert re.fullmatch(r"memory  \d+\.\d GiB of this process at most, in the steps measured", memory)
    # weights and two moments of 3.4 million trained float32 values, and all 7.1 million weights
    assert disk.startswith("disk    105 MiB in ")
    assert disk.endswith("2 checkpoints of 39 MiB, 1 model of 27 MiB")
    assert "steps  3 steps x 2 prompts x 2 completions, learning rate 0.001 (linear), robust reward\n" in text
    assert re.search(r"\n  grpo\.group_size = 2 +command line\n", text)
    assert re.search(rf"\n  grpo\.steps = 3 +{re.escape(str(config))}\n", text)
    assert "fitted: " in text
    # neither other methods nor defaults
    assert not re.search(r"sft\.|compare\.|clip_range", text)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml"]


def test_a_dry_run_counts_validation_and_sampling_before_and_between_steps(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    more = ("grpo.max_base_score=0.9", "grpo.refill_rounds=2", f"data.validation={scenes / 'test'}")
    assert virft("grpo", config, "--dry-run", "grpo.group_size=2", "data.validate_every=1", *more) == 0
    text = capsys.readouterr().out
    # before the first step, and after each of 3
    assert re.search(r"; 4 validations of 0:\d\d to 0:\d\d each; ", text)
    assert "a group of each of 11 samples before the first step (grpo.min_base_score)" in text
    assert "grpo.refill_rounds may sample up to 2 times as many in addition" in text


def test_a_dry_run_of_sft_measures_it_too(scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("sft", config, "--dry-run", "sft.steps=7", "sft.samples_per_step=2") == 0
    text = capsys.readouterr().out
    assert re.match(r"time    0:\d\d to 0:\d\d for 7 steps ", text)
    assert "image tokens), targets of " in text
    assert not re.search(r"grpo\.|reward\.", text)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_names_a_run_that_is_in_the_way(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.toml").write_text("")
    assert virft("sft", config, "--dry-run", "sft.steps=1", "sft.samples_per_step=2") == 0
    note = f"note: {tmp_path / 'run'} holds a run already; resume with --resume, or choose another run.dir\n"
    assert capsys.readouterr().out.endswith(note)
    assert virft("sft", config, "sft.steps=1", "sft.samples_per_step=2") == 2
    assert "run: already holds a run; resume with --resume" in capsys.readouterr().err
