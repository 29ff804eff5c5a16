"""A user's own reward and prompt, and the estimated cost of a run."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from runs import log, virft, write_config
from virft.config.toml_file import load_config

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


def test_a_dry_run_prints_settings_and_cost_and_writes_nothing(
    scenes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, scenes / "train")
    assert virft("grpo", config, "--dry-run", "grpo.group_size=2") == 0
    text = capsys.readouterr().out
    assert tomllib.loads(text)["grpo"]["group_size"] == 2
    # 3 steps of 2 prompts of 16 image tokens and some text
    assert "# 3 steps of 2 prompts x 2 completions; one group, measured now: prompt " in text
    assert " tokens (of which 16 image tokens), completions " in text
    assert "prompt tokens, " in text
    assert "completion tokens (at most 576), at most 0:" in text  # 3 x 2 x 2 x 48
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.toml"]

    more = ("grpo.max_base_score=0.9", "grpo.refill_rounds=2")
    assert virft("grpo", config, "--dry-run", "grpo.group_size=2", *more) == 0
    more_text = capsys.readouterr().out
    # each of the 11 samples gets one more group
    assert "completion tokens (at most 1,632), at most 0:" in more_text  # (3 x 2 + 11) x 2 x 48
    assert more_text.endswith(
        "(the groups of a step are batched); this includes a group of each of 11 samples before the first step "
        "(grpo.min_base_score, grpo.max_base_score); grpo.refill_rounds may sample up to 2 times as much in addition\n"
    )

    (tmp_path / "resolved.toml").write_text(text)
    assert load_config(tmp_path / "resolved.toml").config == load_config(config, ["grpo.group_size=2"]).config
