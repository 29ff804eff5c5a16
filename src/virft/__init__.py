"""virft: fine-tune vision-language models by reinforcement learning (GRPO) with rule-based visual rewards.

The names in ``__all__`` are the public API; each is documented with an example in ``docs/api.md``. They are imported on
first use, so that ``import virft`` loads neither PyTorch nor NumPy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from virft.config.schema import Config
    from virft.errors import VirftError
    from virft.inference.model import load
    from virft.recipes.api import build_coco, evaluate, open_run, train
    from virft.recipes.single_reward import reward
    from virft.tasks import TASKS
    from virft.types import (
        Box,
        Detection,
        Detections,
        Label,
        LabelledDetections,
        Points,
        Sample,
        ShortAnswer,
        Unreadable,
    )

__version__ = "0.2.0"

__all__ = [
    "TASKS",
    "Box",
    "Config",
    "Detection",
    "Detections",
    "Label",
    "LabelledDetections",
    "Points",
    "Sample",
    "ShortAnswer",
    "Unreadable",
    "VirftError",
    "build_coco",
    "evaluate",
    "load",
    "open_run",
    "reward",
    "train",
]

_MODULES = {
    "virft.config.schema": ("Config",),
    "virft.errors": ("VirftError",),
    "virft.inference.model": ("load",),
    "virft.recipes.api": ("build_coco", "evaluate", "open_run", "train"),
    "virft.recipes.single_reward": ("reward",),
    "virft.tasks": ("TASKS",),
    "virft.types": (
        "Box",
        "Detection",
        "Detections",
        "Label",
        "LabelledDetections",
        "Points",
        "Sample",
        "ShortAnswer",
        "Unreadable",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

if not TYPE_CHECKING:  # a type checker would accept every name

    def __getattr__(name: str) -> object:
        """Import a public name on first use."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module 'virft' has no attribute {name!r}")
        from importlib import import_module

        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted([*__all__, *(name for name in globals() if name.startswith("__"))])
