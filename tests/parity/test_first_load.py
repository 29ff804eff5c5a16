"""Main memory of the first load: two processes share the file of a model, and each converts one block at a time."""

from __future__ import annotations

import ctypes
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
from run_parts import make_config, prompting_of
from virft.config.schema import Config, GRPOConfig, ModelConfig
from virft.models.load import LoadedModel, load_model
from virft.models.policy import Policy
from virft.models.sharding import full_tensor, local_shard
from virft.models.stored_dtypes import linear_parameters
from virft.models.tiny import tiny_folder
from virft.recipes.setup import load_for_training
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


def config_of(folder: Path, model: dict[str, Any]) -> Config:
    """A config with a KL term."""
    return make_config(
        model=ModelConfig(path=str(folder), **model),
        grpo=GRPOConfig(steps=1, prompts_per_step=2, group_size=2, kl_coef=0.04),
    )


def make_trainer(config: Config, loaded: LoadedModel, runtime: Runtime) -> GRPOTrainer:
    return make_grpo_trainer(config, loaded, prompting_of(config, loaded), runtime)


def load_and_shard(folder: Path, ranks: Ranks, dtype: torch.dtype, model: dict[str, Any]) -> dict[str, Any]:
    """Load and shard policy and reference; the peaks of private bytes while that runs, and digests of the weights."""
    runtime, config = Runtime(ranks=ranks, strategy="fsdp2", dtype=dtype), config_of(folder, model)
    with PrivatePeak() as loading:
        loaded = load_for_training(config.model, runtime, seed=0)
    with PrivatePeak() as sharding:
        trainer = make_trainer(config, loaded, runtime)
    layers = loaded.model.get_submodule(loaded.family.language_module).layers
    with loaded.gathered() as whole:
        gathered = {name: (str(one.dtype), digest(one)) for name, one in whole.model.named_parameters()}
    return {
        "loading": loading.bytes,
        "sharding": sharding.bytes,
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
    # Freed tensors are returned to the system at once, and not counted: M_MMAP_THRESHOLD of malloc.h, 128 KiB.
    ctypes.CDLL(None).mallopt(-3, 1 << 17)
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 17)  # virft sets another one unless the user has set one
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
def test_a_process_never_holds_more_than_its_shards_and_a_block(name: str, both: Any) -> None:
    for found in (one[name] for one in both):
        # converted weights have 116 MiB
        assert found["layer"] > 25 * MIB
        assert found["loading"] < 16 * MIB
        # FSDP2 gathers each block once: on a CPU, its buffer and the weights in it are two copies
        assert found["sharding"] < found["shards"] + 2 * found["layer"] + 16 * MIB


@pytest.mark.parametrize("name", CASES)
def test_weights_are_those_of_a_single_process(name: str, folder: Path, both: Any) -> None:
    dtype, model = CASES[name]
    runtime, config = Runtime(dtype=dtype), config_of(folder / "wide", model)
    alone = policies(make_trainer(config, load_for_training(config.model, runtime, seed=0), runtime))
    expected = [digests(one) for one in alone]
    linear = {id(one) for one in linear_parameters(alone[0])}
    whole = {
        name.removeprefix("model."): one.to(dtype) if id(one) in linear else one
        for name, one in alone[0].named_parameters()
    }
    of_file = dict(load_model(str(folder / "wide")).model.named_parameters())
    base = {key: one for key, one in alone[0].named_parameters() if "lora_" not in key}
    assert len(base) == len(of_file)
    for key, one in base.items():
        assert torch.equal(one.float(), of_file[key.removeprefix("model.").replace(".base_layer", "")])
    assert len(expected) == (1 if "adapters" in name else 2)
    for found in (one[name] for one in both):
        assert found["weights"] == expected
        assert found["gathered"] == {name: (str(one.dtype), digest(one)) for name, one in whole.items()}
