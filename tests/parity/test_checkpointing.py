"""With gradient checkpointing a packed row gives the same log-probs and the same gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from literal_grpo import assert_same_gradients
from plain_computation import make_groups, make_pair, shared_logprobs
from tiny_models import MAKERS, num_adapted
from tiny_policies import adapters, encode, loaded_of
from virft.generation.hf_generator import HFGenerator
from virft.models.load import LoadedModel


def full(loaded: LoadedModel) -> None:
    """Train all weights."""


def frozen_vision(loaded: LoadedModel) -> None:
    loaded.freeze_vision()


@contextlib.contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """Record the size of each storage that autograd saves for the backward."""
    seen: dict[int, torch.UntypedStorage] = {}
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        # a tensor of the simulated device has its storage in another one
        storage = getattr(tensor, "held", tensor).untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = storage
            sizes.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize("trained", [full, frozen_vision, adapters])
@pytest.mark.parametrize("model_type", MAKERS)
def test_checkpointing_leaves_logprobs_and_gradients_and_saves_less(
    model_type: str, trained: Callable[[LoadedModel], None], device: torch.device, tolerance: float
) -> None:
    autocast = trained is adapters  # in bfloat16, as adapters mostly are
    logprobs, policies, saved = [], [], []
    for checkpointing in (False, True):
        _, policy = make_pair(model_type, device)
        trained(loaded := loaded_of(policy))
        policy.to(device)
        if checkpointing:
            loaded.checkpoint_gradients()
        policy.train()
        with torch.autocast(device.type, torch.bfloat16, enabled=autocast), saved_bytes() as sizes:
            found = shared_logprobs(policy, make_groups(policy.config))
        weights = torch.randn(len(found), generator=torch.Generator().manual_seed(1)).to(device) / len(found)
        (found * weights).sum().backward()
        logprobs.append(found)
        policies.append(policy)
        saved.append(sum(sizes))
    assert logprobs[0].std() > 0.3
    assert torch.equal(logprobs[0], logprobs[1])
    assert saved[1] < 0.5 * saved[0]
    # 3 layers of 7 matrices; of adapters two halves each
    at_least = 2 * num_adapted(model_type) if trained is adapters else 15
    assert_same_gradients(policies[0].model, policies[1].model, at_least=at_least, tolerance=tolerance)


def test_sampling_with_checkpointed_layers_is_refused() -> None:
    _, policy = make_pair("qwen2_vl")
    loaded_of(policy).checkpoint_gradients()
    policy.model.generation_config.eos_token_id = 94
    (encoded,) = encode(policy, make_groups(policy.config)[:1])
    generator = HFGenerator(policy, tokenizer=None)
    with pytest.raises(AssertionError, match="is gradient checkpointing on"), torch.no_grad():
        policy.train()
        generator.prefill([encoded], 2, 4)
    with torch.no_grad():
        policy.eval()
        cache, _ = generator.prefill([encoded], 2, 4)
    # every layer holds the whole prompt
    assert [layer.prompt_keys.shape[2] for layer in cache.layers] == [len(encoded.prompt.token_ids)] * 3


def test_a_reference_without_gradient_saves_no_tensors(device: torch.device) -> None:
    _, policy = make_pair("qwen2_vl", device)
    loaded_of(policy).checkpoint_gradients()
    policy.train()
    with torch.no_grad(), saved_bytes() as sizes:
        found = shared_logprobs(policy, make_groups(policy.config))
    assert not found.requires_grad
    assert sizes == []
