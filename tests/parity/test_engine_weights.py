"""Weights for another engine, gathered one by one from the shards of two processes connected by gloo."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from process_cases import CPU, Case, load, run_two
from tiny_models import IMAGE_TOKEN
from virft.generation.engine_weights import engine_weights
from virft.models import sharding
from virft.models.policy import Policy, TokenRules
from virft.models.sharding import shard

CASES = {
    "full": Case(),
    "adapters": Case(lora=True, frozen_vision=True),
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Gathered:
    """Counts the full tensors that are made and alive."""

    def __init__(self) -> None:
        self.made = self.alive = self.most = 0
        self._gather = sharding.full_tensor

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        full = self._gather(tensor)
        if full is not tensor:
            self.made += 1
            self.alive += 1
            self.most = max(self.most, self.alive)
            # not its storage, which a thread of gloo may hold for a moment longer
            weakref.finalize(full, self._free)
        return full

    def _free(self) -> None:
        self.alive -= 1


def run_process(index: int, meeting: str, out: str) -> None:
    """Iterate over the weights of each case in one of two processes, and save copies of them."""
    torch.set_num_threads(1)
    os.environ["LOCAL_RANK"] = str(index)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=2)
    found: dict[str, Any] = {}
    for name, case in CASES.items():
        loaded = load(case)
        loaded.add_gathered_copy(CPU, linear_dtype=None)
        assert loaded.gathered_copy is not None
        policy = Policy(loaded.model, loaded.family, TokenRules(forbidden_ids=(IMAGE_TOKEN,)))
        shard(policy, CPU, 2, replicated=loaded.gathered_copy.shared)
        for of, dtype in DTYPES.items():
            with pytest.MonkeyPatch.context() as patched:
                gathered = Gathered()
                patched.setattr("virft.generation.engine_weights.full_tensor", gathered)
                patched.setattr(sharding, "full_tensor", gathered)
                copies = {}
                for key, weight in engine_weights(loaded, dtype, only_trained=False):
                    copies[key] = weight.clone()
                    del weight
                found[f"{name}, {of}"] = {
                    "weights": copies,
                    "made": gathered.made,
                    "most": gathered.most,
                    "is sharded": all(
                        isinstance(one, sharding.DTensor) for one in policy.parameters() if one.requires_grad
                    ),
                }
        with loaded.gathered(only_vision=True) as copied:
            found[f"{name}, tower"] = {key: one.numel() > 0 for key, one in copied.model.named_parameters()}
    torch.save(found, Path(out) / f"{index}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    return run_two(run_process, tmp_path_factory.mktemp("processes"), count=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_weights_from_shards_are_those_of_one_process_bit_by_bit(name: str, dtype: str, both: Any) -> None:
    expected = dict(engine_weights(load(CASES[name]), DTYPES[dtype], only_trained=False))
    for found in (one[f"{name}, {dtype}"] for one in both):
        assert found["weights"].keys() == expected.keys()
        for key, weight in expected.items():
            assert found["weights"][key].dtype == DTYPES[dtype]
            assert found["weights"][key].equal(weight), key
        assert found["is sharded"], "the shards are where they were"


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_gathered_weight_is_alive_at_a_time(dtype: str, both: Any) -> None:
    for found in (one[f"full, {dtype}"] for one in both):
        assert found["made"] == len(found["weights"]) > 30
        assert found["most"] == 1


@pytest.mark.parametrize("name", CASES)
def test_images_need_the_weights_of_the_tower_alone(name: str, both: Any) -> None:
    for found in (one[f"{name}, tower"] for one in both):
        assert {key.startswith("model.visual.") for key, is_there in found.items() if is_there} == {True}
        assert all(is_there for key, is_there in found.items() if key.startswith("model.visual."))
