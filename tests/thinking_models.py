"""The built-in model with chat templates of models that think, as folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from virft.models.tiny import tiny_folder

ALWAYS = "<think>\n"
"""Behind `assistant`, in every prompt. Source: the chat template of Qwen3-VL-Thinking, as of QwQ."""
WHEN_ASKED = "{% if enable_thinking %}<think>\n{% else %}<think>\n\n</think>\n\n{% endif %}"
"""A thought begun, or an empty one, as the caller wants. Source: the chat template of Qwen3.5."""


def save_thinking_folder(folder: Path, beginning: str = ALWAYS) -> Path:
    """A copy of virft-tiny whose template begins answers like this."""
    shutil.copytree(tiny_folder(), folder)
    template = folder / "chat_template.jinja"
    text = template.read_text()
    end = "{% endif %}"
    assert text.endswith("<|im_start|>assistant\n" + end)
    template.write_text(text.removesuffix(end) + beginning + end)
    return folder
