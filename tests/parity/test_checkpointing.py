"""With gradient checkpointing a packed row gives the same log-probs and the same gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn

from literal_grpo import assert_same_gradients
from plain_computation import make_groups, make_pair, shared_logprobs
from tiny_models import MAKERS
from virft.models.generator import EncodedPrompt
from virft.models.hf_generator import HFGenerator
from virft.models.load import LoadedModel
from virft.models.logprobs import Policy
from virft.types import Prompt


def loaded_of(policy: Policy) -> LoadedModel:
    return LoadedModel(
        model=policy.model, tokenizer=None, image_processor=None, family=policy.family, folder=None, card={}
    )


def full(loaded: LoadedModel) -> None:
    """Everything is trained."""


def frozen_vision(loaded: LoadedModel) -> None:
    loaded.freeze_vision()


def adapters(loaded: LoadedModel) -> None:
    loaded.add_lora(4, 8)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1, generator=generator)


@contextlib.contextmanager
def saved_bytes() -> Iterator[list[int]]:
    """Sizes of the storages that autograd keeps for the backward, each once."""
    seen: dict[int, torch.UntypedStorage] = {}
    sizes: list[int] = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage.data_ptr() not in seen:
            seen[storage.data_ptr()] = storage
            sizes.append(storage.nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield sizes


@pytest.mark.parametrize("trained", [full, frozen_vision, adapters])
@pytest.mark.parametrize("model_type", MAKERS)
def test_logprobs_and_gradients_are_the_same_and_less_is_kept(
    model_type: str, trained: Callable[[LoadedModel], None]
) -> None:
    autocast = trained is adapters  # in bfloat16, as adapters mostly are
    logprobs, policies, kept = [], [], []
    for checkpointing in (False, True):
        _, policy = make_pair(model_type)
        trained(loaded := loaded_of(policy))
        if checkpointing:
            loaded.checkpoint_gradients()
        policy.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast), saved_bytes() as sizes:
            found = shared_logprobs(policy, make_groups(policy.config))
        weights = torch.randn(len(found), generator=torch.Generator().manual_seed(1)) / len(found)
        (found * weights).sum().backward()
        logprobs.append(found)
        policies.append(policy)
        kept.append(sum(sizes))
    assert logprobs[0].std() > 0.3
    assert torch.equal(logprobs[0], logprobs[1])
    assert kept[1] < 0.5 * kept[0]
    # 3 layers of 7 matrices; of adapters two halves each
    assert_same_gradients(policies[0].model, policies[1].model, at_least=42 if trained is adapters else 15)


def test_sampling_while_layers_are_checkpointed_is_refused_rather_than_blind() -> None:
    _, policy = make_pair("qwen2_vl")
    loaded_of(policy).checkpoint_gradients()
    prompt, vision, _ = make_groups(policy.config)[0]
    positions = policy.family.prompt_positions(policy.model, torch.tensor(prompt), vision)
    policy.model.generation_config.eos_token_id = 94
    encoded = EncodedPrompt(
        prompt=Prompt(sample_id="a", text="", token_ids=tuple(prompt), images=()),
        positions=positions,
        features=policy.encode_images([vision])[0].detach(),
        noise_id="a",
    )
    generator = HFGenerator(policy, tokenizer=None)
    with pytest.raises(AssertionError, match="is gradient checkpointing on"), torch.no_grad():
        policy.train()
        generator.prefill([encoded], 2, 4)
    with torch.no_grad():
        policy.eval()
        cache, _ = generator.prefill([encoded], 2, 4)
    # every layer holds the whole prompt
    assert [layer.prompt_keys.shape[2] for layer in cache.layers] == [len(prompt)] * 3


def test_a_reference_without_gradient_keeps_nothing() -> None:
    _, policy = make_pair("qwen2_vl")
    loaded_of(policy).checkpoint_gradients()
    policy.train()
    with torch.no_grad(), saved_bytes() as sizes:
        found = shared_logprobs(policy, make_groups(policy.config))
    assert not found.requires_grad
    assert sizes == []
