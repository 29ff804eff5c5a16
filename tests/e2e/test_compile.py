"""A run with compiled layers is the run without them, to rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from runs import log, virft, write_config
from tiny_policies import needs_compiler


@needs_compiler
def test_a_run_learns_the_same(tmp_path: Path, scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # traced and differentiated, but not made into C++: parity/test_compiled_layers.py does that for small layers
    compile_layer = torch.compile
    monkeypatch.setattr(torch, "compile", lambda layer, **_: compile_layer(layer, dynamic=True, backend="aot_eager"))
    torch._dynamo.reset()
    logs = []
    for value in ("false", "true"):
        counters.clear()
        (folder := tmp_path / value).mkdir()
        config = write_config(folder, scenes / "train")
        assert virft("grpo", config, f"model.compile={value}", "grpo.kl_coef=0.01") == 0
        logs.append(log(folder / "run"))
        assert (counters["stats"]["unique_graphs"] > 0) == (value == "true")
    assert len(logs[0]) == 3
    for plain, compiled in zip(*logs, strict=True):
        assert plain.keys() == compiled.keys()
        for name, value in plain.items():
            assert compiled[name] == pytest.approx(value, rel=2e-3, abs=1e-5), name
