"""Lets torchvision be imported beside a PyTorch for CPUs, in the environment whose Python runs this.

For `make test-vllm`, and for TRL's side of `benchmarks/step_against_trl.py`: vLLM imports torchvision, and transformers
wants it for processors of videos. The wheel of the package index is built for GPUs; here its compiled part does not
load, and its import stops where it describes two operators of that part. This puts a start-up file into the environment
that declares the two when torchvision is first imported. They still cannot be called; nothing here does.
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
    """Finds nothing itself; sees torchvision asked for, declares its operators, and steps aside."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """None, always."""
        if name == "torchvision":
            sys.meta_path.remove(self)
            from torch.library import define

            for operator in ("nms", "qnms"):
                define(f"torchvision::{operator}", SUPPRESSION)
        return None


def install() -> None:
    """Copies this file into the environment of the Python that runs it, to be loaded at every start."""
    site = Path(sysconfig.get_paths()["purelib"])
    shutil.copyfile(__file__, site / "declare_torchvision.py")
    (site / "declare_torchvision.pth").write_text("import declare_torchvision\n")


if __name__ == "__main__":
    install()
else:
    sys.meta_path.insert(0, DeclareFirst())  # here, as start-up files may be read twice
