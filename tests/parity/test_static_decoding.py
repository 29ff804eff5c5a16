"""Decode steps of constant shape sample what the other decoding loop samples, also if their operations are replayed.

So do completions that take the places of others (continuous batching).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from plain_computation import device_of, make_groups, make_pair, pair_of
from tiny_models import EOS, MAKERS, tiny_model_with_window
from tiny_policies import Tokenizer, adapters, encode, loaded_of
from virft.generation import hf_generator, static_decoding
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.generation.random_streams import StepKey
from virft.generation.static_decoding import static_obstacle
from virft.models.policy import Policy
from virft.types import Completion

KEY = StepKey(seed=5, step=2)
NUM_TOKENS = 24
"""Several spans, and several checks of ended rows."""


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Recorder(TorchDispatchMode):
    """Records operations with their tensors, as a CUDA graph does: values of Python are those of the recording."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        made = [one for one in tree_leaves(result) if isinstance(one, Tensor)]
        given = {_storage(one) for one in tree_leaves((args, kwargs)) if isinstance(one, Tensor)}
        if func._schema.is_mutable:
            self.operations.append((func, args, kwargs, []))
        elif not all(_storage(one) in given for one in made):  # else a view, which sees later values by itself
            self.operations.append((func, args, kwargs, made))
        return result

    def replay(self) -> None:
        for func, args, kwargs, outputs in self.operations:
            found = [one for one in tree_leaves(func(*args, **kwargs)) if isinstance(one, Tensor)]
            for output, new in zip(outputs, found, strict=False):
                output.copy_(new)


class Captures:
    """In place of ``capture``: runs the steps eagerly, or replays what the first of them did."""

    def __init__(self, *, replays: bool) -> None:
        self._replays = replays
        self.num_captures = 0
        self.num_replays = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.num_captures += 1
        recorder: Recorder | None = None

        def run() -> None:
            nonlocal recorder
            self.num_replays += 1
            if not self._replays:
                step()
            elif recorder is None:
                with Recorder() as recorder:
                    step()
            else:
                recorder.replay()

        return run


def policy_of(kind: str, device: torch.device | str = "cpu") -> Policy:
    _, policy = pair_of(tiny_model_with_window(), device) if kind == "window" else make_pair(kind, device)
    # so that rows end at different times, some of them late
    policy.model.generation_config.eos_token_id = [EOS, *range(4)]
    return policy


def sample(
    policy: Policy, temperature: float = 0.9, *, prompts: int = 2, limit: int = NUM_TOKENS, **options: Any
) -> list[Completion]:
    params = GenerationParams(max_completion_tokens=limit, temperature=temperature)
    both = encode(policy, make_groups(policy.config))
    # two prompts of different lengths in turn, each time with another random stream
    encoded = [replace(both[i % 2], stream_id=str(i)) for i in range(prompts)]
    generator = HFGenerator(policy, Tokenizer(), **{"cuda_graph": True} | options)
    drawn = generator.generate(iter(encoded), 6 if prompts == 2 else 2, params, KEY)
    assert len(drawn) == prompts
    return [one for group in drawn for one in group]


def sample_static(
    monkeypatch: pytest.MonkeyPatch, policy: Policy, *, replays: bool, **options: Any
) -> tuple[list[Completion], Captures]:
    captures = Captures(replays=replays)
    kind = device_of(policy).type
    with monkeypatch.context() as patch:
        patch.setattr(hf_generator, "_CAPTURES", {kind})
        patch.setattr(hf_generator, "_CHECK_EVERY", {kind: 4})
        patch.setattr(static_decoding, "FIRST_SPAN", 4)
        patch.setattr(static_decoding, "capture", captures)
        return sample(policy, **options), captures


def assert_same(found: list[Completion], expected: list[Completion]) -> None:
    for own, other in zip(expected, found, strict=True):
        assert other.token_ids == own.token_ids
        assert other.sampler_logprobs == pytest.approx(own.sampler_logprobs, abs=2e-5)


@pytest.mark.parametrize("kind", [*MAKERS, "window"])
def test_a_family_samples_the_same_tokens(kind: str, monkeypatch: pytest.MonkeyPatch, device: torch.device) -> None:
    policy = policy_of(kind, device)
    assert static_obstacle(policy) == ""
    expected = sample(policy, cuda_graph=False)
    found, captures = sample_static(monkeypatch, policy, replays=False)
    assert_same(found, expected)
    lengths = [len(one.token_ids) for one in expected]
    assert max(lengths) > 16 and min(lengths) < 4, "rows must end at different times, and use more than two spans"
    # spans of 4, 8, 16 and 24 tokens, and at least once half of the rows had ended
    assert captures.num_captures > 4
    assert captures.num_replays > 8


@pytest.mark.skipif(os.environ.get("VIRFT_TEST_DEVICE", "cpu") == "cpu", reason="steps are captured on a GPU")
@pytest.mark.parametrize("kind", [*MAKERS, "window"])
def test_captured_steps_sample_the_same_tokens(kind: str, device: torch.device) -> None:
    policy = policy_of(kind, device)
    assert_same(sample(policy), sample(policy, cuda_graph=False))
    waiting = {"prompts": 7, "prompts_per_batch": 3}
    assert_same(sample(policy, **waiting), sample(policy, cuda_graph=False, prompts=7))


@pytest.mark.parametrize("kind", ["qwen2_vl", "gemma3", "window"])
def test_replaying_the_operations_of_one_step_samples_the_same_tokens(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(kind)
    found, captures = sample_static(monkeypatch, policy, replays=True)
    assert_same(found, sample(policy))
    assert captures.num_replays > 8


def test_a_number_of_python_in_the_step_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("qwen2_vl")
    take = static_decoding.StaticDecoding._take
    count = 0

    def take_by_number(self: Any, distribution: Tensor) -> None:
        nonlocal count
        self._newest.fill_(count)
        count += 1
        take(self, distribution)

    monkeypatch.setattr(static_decoding.StaticDecoding, "_take", take_by_number)
    expected = sample(policy)
    assert_same(sample_static(monkeypatch, policy, replays=False)[0], expected)
    count = 0
    found = sample_static(monkeypatch, policy, replays=True)[0]
    assert [one.token_ids for one in found] != [one.token_ids for one in expected]


def test_greedy_decoding_and_merged_adapters_are_the_same_too(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("qwen2_vl")
    adapters(loaded_of(policy))
    options = {"temperature": 0.0, "merge_adapters": True}
    assert_same(sample_static(monkeypatch, policy, replays=True, **options)[0], sample(policy, **options))


class Admissions:
    """Counts the steps of ``StaticDecoding``, and those rows that had tokens when others were replaced."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.num_steps = 0
        self.num_replaced = 0
        self.num_running = 0
        step, change = static_decoding.StaticDecoding._step, static_decoding.StaticDecoding._replace

        def counted_step(decoding: Any) -> None:
            self.num_steps += 1
            step(decoding)

        def counted_change(decoding: Any, prompts: Tensor, rows: Tensor, new: Any) -> bool:
            self.num_replaced += len(prompts)
            self.num_running += int((~decoding._over).sum())
            return change(decoding, prompts, rows, new)

        monkeypatch.setattr(static_decoding.StaticDecoding, "_step", counted_step)
        monkeypatch.setattr(static_decoding.StaticDecoding, "_replace", counted_change)


@pytest.mark.parametrize("kind", [*MAKERS, "window"])
def test_waiting_prompts_take_the_places_of_completions_that_ended(
    kind: str, monkeypatch: pytest.MonkeyPatch, device: torch.device
) -> None:
    policy = policy_of(kind, device)
    expected = sample(policy, prompts=7, cuda_graph=False)
    admissions = Admissions(monkeypatch)
    # read after every token, as on a CPU
    monkeypatch.setattr(hf_generator, "_CHECK_EVERY", {device.type: 1})
    assert_same(sample(policy, prompts=7, prompts_per_batch=3, cuda_graph=False), expected)
    assert admissions.num_replaced == 4
    assert admissions.num_running > 0, "rows must continue while others are replaced"
    groups = [expected[i : i + 2] for i in range(0, len(expected), 2)]
    # the first token of a batch needs no step
    batches = [max(len(one.token_ids) for group in groups[i : i + 3] for one in group) - 1 for i in range(0, 7, 3)]
    assert admissions.num_steps < sum(batches)


@pytest.mark.parametrize("replays", [False, True])
@pytest.mark.parametrize("kind", ["qwen2_vl", "gemma3", "window"])
def test_waiting_prompts_take_their_places_in_captured_steps(
    kind: str, replays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of(kind)
    expected = sample(policy, prompts=7)
    admissions = Admissions(monkeypatch)
    found, captures = sample_static(monkeypatch, policy, replays=replays, prompts=7, prompts_per_batch=3)
    assert_same(found, expected)
    assert admissions.num_replaced == 4
    assert admissions.num_running > 0
    # spans of 4, 8, 16 and 24, once a longer prompt, and rows that are dropped when no prompt waits
    assert captures.num_captures <= 8
    assert captures.num_replays > 15


@pytest.mark.parametrize("limit", [1, 2, 7])
def test_places_are_free_when_all_tokens_of_a_completion_are_sampled(
    limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_of("qwen2_vl")
    policy.model.generation_config.eos_token_id = [EOS]
    options = {"prompts": 5, "limit": limit}
    expected = sample(policy, **options)
    admissions = Admissions(monkeypatch)
    # the host reads which rows have ended after 4 tokens: it does not wait for that
    found, _ = sample_static(monkeypatch, policy, replays=False, prompts_per_batch=2, **options)
    assert_same(found, expected)
    # three times two prompts; of a single token, each two that are replaced need a step
    assert admissions.num_steps == max(3 * (limit - 1), 2)


def test_greedy_decoding_and_merged_adapters_wait_too(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("qwen2_vl")
    adapters(loaded_of(policy))
    options = {"prompts": 5, "temperature": 0.0, "merge_adapters": True}
    expected = sample(policy, **options)
    assert_same(sample(policy, prompts_per_batch=1, **options), expected)
    assert_same(sample_static(monkeypatch, policy, replays=True, prompts_per_batch=2, **options)[0], expected)


def test_prompts_are_taken_when_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("qwen2_vl")
    both = encode(policy, make_groups(policy.config))
    admissions = Admissions(monkeypatch)
    steps_at: list[int] = []

    def prompts() -> Iterator[EncodedPrompt]:
        for i in range(6):
            steps_at.append(admissions.num_steps)
            yield replace(both[i % 2], stream_id=str(i))

    params = GenerationParams(max_completion_tokens=NUM_TOKENS)
    drawn = HFGenerator(policy, Tokenizer(), prompts_per_batch=2).generate(prompts(), 2, params, KEY)
    assert len(drawn) == 6
    assert steps_at[:3] == [0, 0, 0], "two prompts, and the next one"
    assert 0 < steps_at[3] < steps_at[5]
    assert HFGenerator(policy, Tokenizer()).generate([], 2, params, KEY) == []


def test_models_without_a_constant_shape_decode_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = policy_of("qwen2_vl")
    policy.config.get_text_config().rope_parameters = {"rope_type": "dynamic", "factor": 2.0}
    assert static_obstacle(policy) == "its rotary embeddings depend on the length of the sequence (dynamic)"
    with pytest.warns(UserWarning, match=r"^decoding without CUDA graphs: its rotary embeddings depend on the length"):
        assert sample_static(monkeypatch, policy, replays=False)[1].num_captures == 0
    quantized = policy_of("qwen2_vl")
    quantized.model.is_quantized = True
    assert static_obstacle(quantized) == "its weights are quantized"
    allowed = policy_of("qwen2_vl")
    assert sample_static(monkeypatch, allowed, replays=False, cuda_graph=False)[1].num_captures == 0
