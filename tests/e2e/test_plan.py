"""`virft plan` on a config whose data need not exist, without loading weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import virft
from virft.config.toml_file import parse

TOML = """
data.train = "nowhere"
run.dir = "runs/a"
model.train = "lora"
model.dtype = "bfloat16"
sampling.max_completion_tokens = 16
grpo.prompts_per_step = 2
grpo.group_size = 2
"""


def test_what_is_printed_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(TOML)
    assert virft("plan", tmp_path / "c.toml", "grpo.group_size=3", "--memory", "8", "--image", "112x112") == 0
    output = capsys.readouterr().out
    assert "prompt      166 tokens: 16 of an image of 112 x 112, 150 of text" in output
    table, _, settings = output.partition("# The largest that fits into 90% of 8 GiB")
    assert "peak: throughout + largest stage" in table
    # 2 groups of 166 + 3 x 16 tokens
    pasted = parse(TOML + settings.partition(":\n")[2], origin="pasted").config
    assert (pasted.grpo.microbatch_tokens, pasted.sampling.prompts_per_batch) == (428, 2)


def test_a_model_that_is_not_there_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(TOML)
    (tmp_path / "m").mkdir()
    assert virft("plan", tmp_path / "c.toml", f"model.path={tmp_path / 'm'}", "--memory", "8") == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "cannot be loaded" in output
    assert "a folder with the model's config.json" in output
