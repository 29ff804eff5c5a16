"""Main memory of the first load: two processes share the file of a model, and each converts one block at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from transformers import AutoConfig, AutoModelForImageTextToText

from process_cases import run_two
from run_parts import make_config
from virft.config.schema import GRPOConfig, ModelConfig
from virft.models.load import LoadedModel
from virft.models.policy import Policy
from virft.models.sharding import full_tensor, local_shard
from virft.models.stored_dtypes import linear_parameters
from virft.models.tiny import tiny_folder
from virft.recipes.setup import load_for_training, make_prompting
from virft.recipes.trainers import make_grpo_trainer
from virft.training.distributed import Ranks
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.runtime import Runtime

STATUS = Path("/proc/self/status")
COUNT = 2
MIB = 1 << 20
BF16, FP32 = torch.bfloat16, torch.float32
CASES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "full, float32": (FP32, {}),
    "full, bfloat16": (BF16, {}),
    "full, trained tower": (BF16, {"freeze_vision": False}),
    "adapters, float32": (FP32, {"train": "lora", "lora_rank": 4}),
}
"""Precision of the computation and settings of the model, whose file is in bfloat16. A KL term needs a reference."""


class PrivatePeak:
    """Inside the block, the largest number of bytes that this process has for itself, above those at its begin.

    Pages of mapped files are not counted, unless they were written.
    """

    def __enter__(self) -> PrivatePeak:
        self._begin, self.bytes, self._is_over = _private(), 0, threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(0.001):
            self.bytes = max(self.bytes, _private() - self._begin)


def _private() -> int:
    (line,) = (one for one in STATUS.read_text().splitlines() if one.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def save_wide_model(folder: Path) -> None:
    """Write virft-tiny with wide layers and random weights: 4 layers of 7 million weights, in bfloat16."""
    shutil.copytree(tiny_folder(), folder)
    settings = json.loads((folder / "config.json").read_text())
    text = settings["text_config"]
    text |= {"hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 4}
    text["layer_types"] = ["full_attention"] * 4
    text["rope_parameters"]["mrope_section"] = [16, 24, 24]
    settings["vision_config"] |= {"hidden_size": 512}
    (folder / "config.json").write_text(json.dumps(settings))
    torch.manual_seed(0)
    AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(folder), dtype=BF16).save_pretrained(folder)


def make_trainer(
    folder: Path, runtime: Runtime, model: dict[str, Any], seen: list[LoadedModel] | None = None
) -> GRPOTrainer:
    """The trainer of a model in ``folder``, with a KL term; the loaded model is appended to ``seen``."""
    config = make_config(
        model=ModelConfig(path=str(folder), **model),
        grpo=GRPOConfig(steps=1, prompts_per_step=2, group_size=2, kl_coef=0.04),
    )
    loaded = load_for_training(config.model, runtime, seed=0)
    if seen is not None:
        seen.append(loaded)
    return make_grpo_trainer(config, loaded, make_prompting(config.prompt, config.mixture, loaded), runtime)


def load_and_shard(folder: Path, ranks: Ranks, dtype: torch.dtype, model: dict[str, Any]) -> dict[str, Any]:
    """Load and shard policy and reference; the peak of private bytes while that runs, and digests of the weights."""
    seen: list[LoadedModel] = []
    with PrivatePeak() as peak:
        trainer = make_trainer(folder, Runtime(ranks=ranks, strategy="fsdp2", dtype=dtype), model, seen)
    (loaded,) = seen
    layers = loaded.model.get_submodule(loaded.family.language_module).layers
    with loaded.gathered() as whole:
        gathered = {name: (str(one.dtype), digest(one)) for name, one in whole.model.named_parameters()}
    return {
        "peak": peak.bytes,
        "shards": sum(local_shard(one).nbytes for policy in policies(trainer) for one in policy.parameters()),
        "layer": sum(one.numel() for one in layers[0].parameters()) * FP32.itemsize,
        "weights": [digests(one) for one in policies(trainer)],
        "gathered": gathered,
    }


def policies(trainer: GRPOTrainer) -> list[Policy]:
    return [one for one in (trainer.policy, trainer.reference) if one is not None]


def digests(policy: Policy) -> dict[str, tuple[str, str]]:
    return {name: (str(one.dtype), digest(full_tensor(one))) for name, one in policy.named_parameters()}


def digest(one: torch.Tensor) -> str:
    return hashlib.sha256(one.detach().contiguous().view(torch.uint8).numpy()).hexdigest()


def run_process(index: int, meeting: str, out: str) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    # So that virft does not let glibc retain freed memory, which would be counted.
    os.environ["MALLOC_ARENA_MAX"] = "1"
    os.environ["LOCAL_RANK"] = str(index)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=COUNT)
    ranks = Ranks(index=index, count=COUNT)
    load_and_shard(tiny_folder(), ranks, BF16, {})  # modules and libraries that are not loaded yet
    torch.save(
        {name: load_and_shard(Path(out) / "wide", ranks, *case) for name, case in CASES.items()},
        Path(out) / f"{index}.pt",
    )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("processes")
    save_wide_model(folder / "wide")
    return folder


@pytest.fixture(scope="module")
def both(folder: Path) -> list[dict[str, Any]]:
    return run_two(run_process, folder, count=COUNT)


@pytest.mark.skipif(not STATUS.exists(), reason="no count of private memory on this system")
@pytest.mark.parametrize("name", CASES)
def test_a_process_holds_its_shards_and_one_converted_block(name: str, both: Any) -> None:
    for found in (one[name] for one in both):
        print(name, {key: found[key] / MIB for key in ("peak", "shards", "layer")})
        assert found["layer"] > 25 * MIB
        assert found["peak"] < found["shards"] + 1.5 * found["layer"] + 16 * MIB


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_a_single_process(name: str, folder: Path, both: Any) -> None:
    dtype, model = CASES[name]
    alone = policies(make_trainer(folder / "wide", Runtime(dtype=dtype), model))
    expected = [digests(one) for one in alone]
    linear = {id(one) for one in linear_parameters(alone[0])}
    whole = {
        name.removeprefix("model."): one.to(dtype) if id(one) in linear else one
        for name, one in alone[0].named_parameters()
    }
    assert len(expected) == (1 if "adapters" in name else 2)
    for found in (one[name] for one in both):
        assert found["weights"] == expected
        assert found["gathered"] == {name: (str(one.dtype), digest(one)) for name, one in whole.items()}
