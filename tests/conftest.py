"""What every test may use."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

import hypothesis
import pytest


def pytest_configure() -> None:
    """One thread for each worker: several workers with a thread per core each would wait for one another.

    ``--hypothesis-profile=few``: the same few examples each time, for `make mutants`.
    """
    hypothesis.settings.register_profile("few", max_examples=25, derandomize=True, deadline=None, database=None)
    if "PYTEST_XDIST_WORKER" in os.environ:
        # Read by PyTorch when it is first imported, so tests without it need not import it.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked ``gpu``, ``browser``, ``vllm`` or ``deepspeed`` are skipped where there is none."""
    marks = {"gpu": _without_gpu, "browser": _without_browser, "vllm": _without_vllm, "deepspeed": _without_deepspeed}
    for mark, missing in marks.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and (reason := missing()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=reason))


def _without_gpu() -> str:
    import torch

    return "" if torch.cuda.is_available() else "no accelerator here"


def _without_browser() -> str:
    packages = [name for name in ("gradio", "playwright") if find_spec(name) is None]
    missing = packages + [name for name in ("chromium",) if shutil.which(name) is None]
    return f"no {missing[0]} here; make test-app" if missing else ""


def _without_deepspeed() -> str:
    return "no deepspeed here; make test-deepspeed" if find_spec("deepspeed") is None else ""


def _without_vllm() -> str:
    return "no vllm here; make test-vllm" if find_spec("vllm") is None else ""


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets; the test is skipped where it is not given."""
    place = os.environ.get("VIRFT_TEST_DATA", "")
    if not place or not Path(place).is_dir():
        pytest.skip(f"VIRFT_TEST_DATA is {place!r}; expected the folder that holds raccoon/ and bccd/")
    return Path(place)
