"""Make torchvision importable with a CPU build of PyTorch, in the environment whose Python runs this script.

For `make test-vllm`, and for TRL's side of `benchmarks/step_against_trl.py`: vLLM imports torchvision, and transformers
needs it for video processors. The wheel of the package index is built for GPUs; with a CPU build its compiled part does
not load, and the import fails at two operators of that part. This script installs a start-up file into the environment
that declares the two operators when torchvision is first imported. They still cannot be called; nothing here does so.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

SUPPRESSION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


class DeclareFirst(importlib.abc.MetaPathFinder):
    """Import hook that declares torchvision's operators at its first import; it finds no module itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return None, so that the next finder imports the module."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            from torch.library import define

            for operator in ("nms", "qnms"):
                define(f"torchvision::{operator}", SUPPRESSION)
        return None


def install() -> None:
    """Copy this file into the environment of the running Python, which then loads it at every start."""
    site = Path(sysconfig.get_paths()["purelib"])
    shutil.copyfile(__file__, site / "declare_torchvision.py")
    (site / "declare_torchvision.pth").write_text("import declare_torchvision\n")


if __name__ == "__main__":
    install()
else:
    sys.meta_path.insert(0, DeclareFirst())  # at import, not in the .pth file: that may be executed twice
