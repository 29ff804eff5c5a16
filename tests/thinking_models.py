"""Copies of the built-in model with chat templates of thinking models."""

from __future__ import annotations

import shutil
from pathlib import Path

from virft.models.tiny import tiny_folder

ALWAYS = "<think>\n"
"""After `assistant`, in every prompt. Source: the chat templates of Qwen3-VL-Thinking and QwQ."""
OPTIONAL = "{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
"""An open think block or an empty one, by ``enable_thinking``. Source: the chat template of Qwen3.5."""


def save_thinking_folder(folder: Path, beginning: str = ALWAYS) -> Path:
    """Return a copy of virft-tiny whose chat template begins completions with ``beginning``."""
    shutil.copytree(tiny_folder(), folder)
    template = folder / "chat_template.jinja"
    text = template.read_text()
    end = "{% endif %}"
    assert text.endswith("<|im_start|>assistant\n" + end)
    template.write_text(text.removesuffix(end) + beginning + end)
    return folder
