"""Steps of tiny models that one process, or two together, can do; the results are saved to be compared.

Run by two processes concurrently, all cases in a row: starting processes takes longer than the cases.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from factories import reading, sample
from plain_computation import RULES, make_groups
from tiny_models import tiny_model
from virft.config.schema import GRPOConfig
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.hf_generator import HFGenerator
from virft.models.attention.layout import pack_row
from virft.models.families import family_of
from virft.models.load import LoadedModel, prepare_attention
from virft.models.policy import Policy
from virft.models.renderer import RenderedPrompt
from virft.models.sharding import full_tensor, shard, write_full_tensor
from virft.models.vision import FeatureCache
from virft.training.checkpoint import TrainingState, load_checkpoint, save_checkpoint
from virft.training.distributed import Ranks
from virft.training.grpo.demonstrations import WrittenTarget
from virft.training.grpo.trainer import GRPOTrainer
from virft.training.optim import ScaledRows, make_optimizer, set_learning_rate, update_weights
from virft.training.policy_runner import PolicyRunner
from virft.training.runtime import Runtime
from virft.training.sft.trainer import SFTTrainer
from virft.training.zero import AnyOptimizer, ZeroPolicy, start_zero
from virft.types import Completion, Detections, FinishReason, ImageRef, ImageSize, Prompt, RewardReport

CPU = torch.device("cpu")
PRELOADED = [
    "torch.distributed.fsdp",
    "transformers.models.qwen2_vl.modeling_qwen2_vl",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "virft.models.load",
    "virft.training.grpo.trainer",
]
"""Modules that processes have imported when they start: importing them takes longer than the cases."""
STRATEGIES = ("ddp", "fsdp2")
ZERO = ("zero2", "zero3", "zero2 offload", "zero3 offload")
VARIED, EQUAL = (0.2, 1.7, 0.4, 0.9), (1.0, 1.0, 1.0, 1.0)
DEMONSTRATIONS = ([11, 23, 5, 7, 2], [3, 41, 2], [17, 2], [8, 9, 10, 60, 2])
"""Tokens of the demonstration of each group; the second token is no part of the loss."""
DEMONSTRATION_REWARD = 2.0


@dataclass(frozen=True, kw_only=True)
class Case:
    """A step. ``rewards``: of each group; with two processes the first and third are the first one's."""

    model_type: str = "qwen2_vl"
    rewards: Sequence[Sequence[float]] = (VARIED, VARIED[::-1])
    lora: bool = False
    frozen_vision: bool = False
    supervised: bool = False
    truncated: bool = False
    """True if the last completion of each group is truncated."""
    checkpointing: bool = False
    settings: dict[str, Any] = field(default_factory=dict)
    """Of ``GRPOConfig``. With ``warm_start_steps`` of 1, a supervised step comes first."""


CASES = {
    "two groups": Case(settings={"loss": "token_mean"}),
    "Qwen3-VL": Case(model_type="qwen3_vl"),
    # groups of 14 + 12 and 22 + 20 tokens: a row in the first process, three in the second
    "more rows in the second": Case(settings={"microbatch_tokens": 30}),
    "nothing to learn in the second": Case(rewards=(VARIED, EQUAL), settings={"kl_coef": 0.0}),
    "nothing to learn in the first": Case(rewards=(EQUAL, VARIED), settings={"kl_coef": 0.0, "microbatch_tokens": 30}),
    "nothing to learn": Case(rewards=(EQUAL, EQUAL), settings={"kl_coef": 0.0}),
    "three groups": Case(rewards=(VARIED, EQUAL, VARIED[::-1])),
    "adapters": Case(lora=True, frozen_vision=True),
    "frozen tower": Case(frozen_vision=True),
    "clipped twice": Case(settings={"updates_per_batch": 2, "max_grad_norm": 0.2}),
    "demonstrations": Case(settings={"demonstrations": "loss", "demonstration_coef": 0.7}),
    # the first group has nothing but its demonstration
    "demonstration of a group with zero reward variance": Case(
        rewards=(EQUAL, VARIED), settings={"demonstrations": "loss", "kl_coef": 0.0, "microbatch_tokens": 30}
    ),
    "demonstrations as members": Case(
        rewards=(VARIED, EQUAL), settings={"demonstrations": "group", "demonstration_in_mean": True}
    ),
    "warm start": Case(rewards=(VARIED, EQUAL, VARIED[::-1]), settings={"warm_start_steps": 1}),
    "warm start, adapters": Case(
        lora=True, frozen_vision=True, checkpointing=True, settings={"warm_start_steps": 1, "microbatch_tokens": 30}
    ),
    "supervised": Case(supervised=True, rewards=(VARIED,) * 3),
    "supervised, more rows in the first": Case(
        supervised=True, rewards=(VARIED,) * 3, frozen_vision=True, settings={"microbatch_tokens": 1}
    ),
}


CASES_OF_ZERO = {name: case for name, case in CASES.items() if "warm_start_steps" not in case.settings}
"""ZeRO refuses a warm start."""


class Descent(torch.optim.SGD):
    """Plain descent that records its gradients. Adam would amplify rounding where they are near 0.

    DeepSpeed gives it flat parts, which say nothing; the weights do.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        super().__init__([one for one in parameters if one.requires_grad], lr=0.0)
        self.seen: list[list[torch.Tensor]] = []

    def step(self, closure: Any = None) -> Any:
        found = [one.grad for group in self.param_groups for one in group["params"]]
        self.seen.append([full_tensor(one).clone() if one is not None else torch.zeros(()) for one in found])
        return super().step(closure)


class Replay:
    """A generator that "samples" what the groups hold."""

    def __init__(self, groups: Any, *, truncated: bool = False) -> None:
        self._groups = groups
        self._truncated = truncated

    def generate(self, prompts: Sequence[EncodedPrompt], *_: Any) -> list[list[Completion]]:
        return [self._completions(int(one.prompt.sample_id)) for one in prompts]

    def update(self) -> None:
        """The weights have changed, which is nothing to it."""

    def _completions(self, number: int) -> list[Completion]:
        last = len(self._groups[number][2]) - 1
        return [
            Completion(
                token_ids=tuple(tokens),
                token_ends=(0,) * len(tokens),
                sampler_logprobs=(-1.0 - i,) * len(tokens),
                text=f"{number} {i}",
                finish_reason=FinishReason.LENGTH if self._truncated and i == last else FinishReason.STOP,
            )
            for i, tokens in enumerate(self._groups[number][2])
        ]


class Table:
    """A grader with the rewards of the case."""

    def __init__(self, rewards: Sequence[Sequence[float]]) -> None:
        self._rewards = rewards

    def grade_group(self, texts: Sequence[str], *_: Any, **__: Any) -> list[RewardReport]:
        return list(map(self._grade, texts))

    def _grade(self, text: str) -> RewardReport:
        g, i = map(int, text.split())
        total = self._rewards[g][i] if i >= 0 else DEMONSTRATION_REWARD
        return RewardReport(total=total, parts={}, reading=reading(Detections()))


def write_target(one: Any, _: Any) -> WrittenTarget:
    """The demonstration of a group."""
    tokens = DEMONSTRATIONS[int(one.id)]
    return WrittenTarget(
        text=f"{one.id} -1", token_ids=tuple(tokens), in_loss=tuple(i != 1 for i in range(len(tokens)))
    )


def render(policy: Policy, groups: Any, one: Any) -> RenderedPrompt:
    ids, vision, _ = groups[int(one.id)]
    image = ImageRef(path=one.id, original=ImageSize(1, 1), resized=ImageSize(1, 1))
    return RenderedPrompt(
        prompt=Prompt(sample_id=one.id, text="", token_ids=tuple(ids), images=(image,)),
        load_vision=lambda: vision,
        positions=policy.family.prompt_positions(policy.model, torch.tensor(ids), vision),
    )


def load(case: Case) -> LoadedModel:
    """The same weights in every process."""
    model: Any = tiny_model(case.model_type)
    family = family_of(case.model_type)
    prepare_attention(model, family)
    loaded = LoadedModel(model=model, tokenizer=None, image_processor=None, family=family, folder=None, card={})
    if case.lora:
        loaded.add_lora(4, 8)
        generator = torch.Generator().manual_seed(9)
        with torch.no_grad():
            for name, one in loaded.model.named_parameters():
                if "lora_" in name:
                    one.normal_(0, 0.1, generator=generator)
    elif case.frozen_vision:
        loaded.freeze_vision()
    if case.checkpointing:
        loaded.checkpoint_gradients()
    return loaded


def shard_weights(loaded: LoadedModel, policy: Policy, ranks: Ranks, strategy: str) -> Policy | None:
    """As ``virft.recipes.trainers`` does it: the gathered copy, if the strategy shards weights."""
    if ranks.count == 1 or not strategy.startswith(("fsdp2", "zero3")):
        return None
    loaded.add_gathered_copy(CPU, linear_dtype=None, replicate_tower=strategy.startswith("fsdp2"))
    assert loaded.gathered_copy is not None
    if strategy.startswith("fsdp2"):
        shard(policy, CPU, ranks.count, shard_size=group_of(strategy), replicated=loaded.gathered_copy.shared)
    return Policy(loaded.unsharded().model, loaded.family, RULES)


def group_of(strategy: str) -> int | None:
    """The processes that share one set of weights in "fsdp2 by N"; None for all."""
    _, _, size = strategy.partition(" by ")
    return int(size) if size else None


def stepper(
    policy: Policy, optimizer: torch.optim.Optimizer, ranks: Ranks, strategy: str, max_grad_norm: float = 1e9
) -> tuple[ZeroPolicy | None, AnyOptimizer]:
    """As ``virft.recipes.trainers`` does it: DeepSpeed's engine and the optimizer."""
    if ranks.count == 1 or not strategy.startswith("zero"):
        return None, optimizer
    return start_zero(
        policy,
        optimizer,
        stage=3 if strategy.startswith("zero3") else 2,
        num_processes=ranks.count,
        max_grad_norm=max_grad_norm,
        autocast_dtype=None,
        offload=strategy.endswith("offload"),
    )


def outcome(case: Case, strategy: str, ranks: Ranks) -> dict[str, Any]:
    """Metrics, gradients of every update, and the weights after a step."""
    loaded = load(case)
    policy = Policy(loaded.model, loaded.family, RULES)
    groups = [*make_groups(policy.config), *make_groups(policy.config, 1)][: len(case.rewards)]
    settings: dict[str, Any] = {
        "group_size": 4,
        "steps": 4,
        "kl_coef": 0.3,
        "loss": "sequence_mean",
        "scale_by_std": True,
        "updates_per_batch": 1,
        "clip_range": 0.2,
        "max_grad_norm": 1e9,
        "microbatch_tokens": 1000,
    } | case.settings
    reference = None
    if settings["kl_coef"] and not case.lora and not case.supervised:
        reference = copy.deepcopy(policy).requires_grad_(False)
        with torch.no_grad():
            for one in reference.parameters():
                one += 0.02 * torch.randn(one.shape, generator=torch.Generator().manual_seed(one.numel()))
        reference.to(ranks.device)
    policy.to(ranks.device)
    gathered = shard_weights(loaded, policy, ranks, strategy)
    if reference is not None and gathered is not None:
        shard(reference, CPU, ranks.count, shard_size=group_of(strategy))
    descent = Descent(list(policy.parameters()))
    engine, optimizer = stepper(policy, descent, ranks, strategy, settings["max_grad_norm"])
    name: Any = strategy.partition(" ")[0] if ranks.count > 1 else "ddp"
    gathers = gathered is not None and (not case.supervised or name == "zero3")
    runner = PolicyRunner(
        policy=policy,
        runtime=Runtime(ranks=ranks, strategy=name),
        engine=engine,
        gathered=gathered if gathers else None,
        gather=loaded.gathered if gathers else nullcontext,
        feature_cache=FeatureCache() if case.frozen_vision else None,
    )
    common: dict[str, Any] = {
        "runner": runner,
        "render": partial(render, policy, groups),
        "optimizer": optimizer,
        "learning_rate_at": lambda step: 0.1,
    }
    trainer: Any
    supervised = SFTTrainer(
        target_ids=lambda one, _: groups[int(one.id)][2][0],
        max_grad_norm=settings["max_grad_norm"],
        microbatch_tokens=settings["microbatch_tokens"],
        **common,
    )
    if case.supervised:
        trainer = supervised
    else:
        trainer = GRPOTrainer(
            generator=Replay(groups, truncated=case.truncated),
            grader=Table(case.rewards),
            config=GRPOConfig(**settings),
            params=GenerationParams(max_completion_tokens=12),
            seed=0,
            reference=reference,
            reference_mode=loaded.adapters_disabled if case.lora else None,
            write_target=write_target,
            warm_start=supervised if "warm_start_steps" in settings else None,
            **common,
        )
        trainer.refill = lambda number, turn: [sample(id=str(len(groups) - turn))]
    # with dynamic sampling, the last group is the replacement
    num_samples = len(groups) - settings.get("refill_rounds", 0)
    batch = [sample(id=str(number)) for number in range(num_samples)]
    if "warm_start_steps" in settings:
        trainer.step(0, batch)
    report = trainer.step(1, batch)
    return {
        "metrics": dict(report.metrics),
        "rollout": report.rollout_record,
        "gradients": descent.seen,
        "weights": [full_tensor(one).detach().clone() for one in policy.parameters()],
    }


class Rows:
    """A model and its optimizer, by any strategy, and steps on a row of the process's own group."""

    def __init__(self, strategy: str, ranks: Ranks, make_optimizer: Callable[[Policy], torch.optim.Optimizer]) -> None:
        loaded = load(Case())
        self.policy = Policy(loaded.model, loaded.family, RULES)
        groups = make_groups(self.policy.config)
        self._parts = [self._row(*group) for group in (groups if ranks.count == 1 else groups[ranks.index :][:1])]
        engine, self.optimizer = stepper(self.policy, make_optimizer(self.policy), ranks, strategy)
        self._call = engine or self.policy

    def _row(self, prompt: Any, vision: Any, completions: Any) -> Any:
        positions = self.policy.family.prompt_positions(self.policy.model, torch.tensor(prompt), vision)
        return pack_row([prompt], [positions], [completions]), [vision]

    def backward(self, factor: float = 1.0) -> None:
        for row, vision in self._parts:
            (self._call(row, vision=vision).square().sum() * factor / 100).backward()

    def update(self) -> float:
        return update_weights(self.optimizer, max_grad_norm=1e9, ranks=Ranks())

    def weights(self) -> list[torch.Tensor]:
        return [full_tensor(one).detach().clone() for one in self.policy.parameters()]


def nonfinite_steps(strategy: str, ranks: Ranks) -> dict[str, Any]:
    """Weights after a step, of which nothing may be left that was forgotten or was no number before it."""
    rows = Rows(strategy, ranks, lambda policy: torch.optim.SGD(policy.parameters(), lr=0.1))
    before = rows.weights()
    rows.backward(3.0)
    rows.optimizer.zero_grad(set_to_none=True)
    rows.backward(math.nan)
    norm = rows.update()
    unchanged = all(torch.equal(one, other) for one, other in zip(rows.weights(), before, strict=True))
    rows.backward()
    rows.backward()
    return {"non-finite norm": norm, "unchanged": unchanged, "norm": rows.update(), "after": rows.weights()}


def adam_steps(folder: Path, strategy: str, ranks: Ranks, *, resume: bool) -> list[torch.Tensor]:
    """Weights after three steps of Adam, saved after the second; with ``resume``, of a second model that resumes."""
    # a large eps: elsewhere Adam would blow rounding up where gradients are near 0
    rows = Rows(strategy, ranks, lambda policy: torch.optim.AdamW(policy.parameters(), lr=0.01, eps=1e-3, fused=True))
    first = 0
    if resume:
        for one in rows.policy.parameters():
            write_full_tensor(one, torch.zeros_like(full_tensor(one)))
        first = load_checkpoint(folder / "step_000002", module=rows.policy, optimizer=rows.optimizer).num_steps
    for number in range(first, 3):
        rows.backward()
        rows.update()
        if number == 1 and not resume:
            state = TrainingState(num_steps=2)
            save_checkpoint(folder, module=rows.policy, optimizer=rows.optimizer, state=state, keep=1, ranks=ranks)
    return rows.weights()


def copies(ranks: Ranks) -> dict[str, Any]:
    """What the gathered copy samples from, and the model itself, in bfloat16; and the copy when it is not needed."""
    loaded = load(Case())
    policy = Policy(loaded.model, loaded.family, RULES)
    prompt, vision, _ = make_groups(policy.config)[ranks.index]
    with torch.no_grad():
        (features,) = policy.encode_images([vision])
    positions = loaded.family.prompt_positions(policy.model, torch.tensor(prompt), vision)
    one = EncodedPrompt(
        prompt=Prompt(sample_id="0", text="", token_ids=tuple(prompt), images=()),
        positions=positions,
        features=features,
    )

    def first_tokens(policy: Policy) -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return HFGenerator(policy, None).prefill([one], 1, 4)[1]

    expected = first_tokens(policy)
    loaded.add_gathered_copy(CPU, linear_dtype=torch.bfloat16)
    shard(policy, CPU, ranks.count)
    with loaded.gathered() as whole:
        found = first_tokens(Policy(whole.model, whole.family, RULES))
        dtypes = {str(parameter.dtype) for parameter in whole.model.parameters()}
    left = sum(parameter.numel() for parameter in loaded.unsharded().model.parameters())
    return {"expected": expected, "found": found, "dtypes": dtypes, "left": left}


def checkpointed(folder: Path, ranks: Ranks, *, strategy: str, resume: bool) -> list[torch.Tensor]:
    """Weights after two steps of Adam, saved after the first; with ``resume``, of a second model that resumes."""
    loaded = load(Case())
    policy = Policy(loaded.model, loaded.family, RULES)
    shard_weights(loaded, policy, ranks, strategy)
    # rows of both halves of the table, so of both processes' shards
    rows = ScaledRows(policy.model.get_input_embeddings().weight, torch.tensor([0, 47, 48, 95]), 5.0)
    optimizer = make_optimizer(policy.parameters(), weight_decay=0.0, scaled_rows=rows)
    set_learning_rate(optimizer, 0.01)
    first = 0
    if resume:
        with torch.no_grad():
            for one in policy.parameters():
                one.zero_()
        first = load_checkpoint(folder / "step_000001", module=policy, optimizer=optimizer).num_steps
    for number in range(first, 2):
        for at, one in enumerate(policy.parameters()):
            generator = torch.Generator().manual_seed(1000 * number + at)
            full = torch.randn(full_tensor(one).shape, generator=generator)
            one.grad = shard_of(one, full)
        optimizer.step()
        if number == 0:
            state = TrainingState(num_steps=1)
            save_checkpoint(folder, module=policy, optimizer=optimizer, state=state, keep=1, ranks=ranks)
    return [full_tensor(one).detach().clone() for one in policy.parameters()]


def shard_of(one: Any, full: torch.Tensor) -> Any:
    from torch.distributed.tensor import DTensor, distribute_tensor

    return distribute_tensor(full, one.device_mesh, one.placements) if isinstance(one, DTensor) else full


def run_two(process: Callable[[int, str, str], None], out: Path, *, count: int = 2) -> list[dict[str, Any]]:
    """What ``count`` processes, which meet in a folder, have left there.

    They are forked from a server that has imported what takes long, and has computed nothing.
    """
    torch.multiprocessing.set_forkserver_preload(PRELOADED)
    arguments = (str(out / "meeting"), str(out))
    torch.multiprocessing.start_processes(process, args=arguments, nprocs=count, start_method="forkserver")
    return [torch.load(out / f"{index}.pt", weights_only=False) for index in range(count)]


def assert_learnt_alike(found: dict[str, Any], expected: dict[str, Any], *, atol: float) -> None:
    """The same metrics, the same logged rollout, and weights that are equal to ``atol``."""
    assert found["metrics"] == {
        key: pytest.approx(value, abs=1e-5, rel=1e-5) for key, value in expected["metrics"].items()
    }
    assert found["rollout"] == expected["rollout"]
    torch.testing.assert_close(found["weights"], expected["weights"], atol=atol, rtol=0)


def in_bfloat16(ranks: Ranks) -> bool:
    """True if a float32 policy that DeepSpeed runs in bfloat16 computes as under autocast, bit by bit."""
    loaded = load(Case())
    policy = Policy(loaded.model, loaded.family, RULES)
    group = make_groups(policy.config)[ranks.index]

    def logprobs(call: Any) -> torch.Tensor:
        positions = loaded.family.prompt_positions(policy.model, torch.tensor(group[0]), group[1])
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            found: torch.Tensor = call(pack_row([group[0]], [positions], [group[2]]), vision=[group[1]])
        return found

    expected = logprobs(policy)
    engine, _ = start_zero(
        policy,
        Descent(list(policy.parameters())),
        stage=2,
        num_processes=ranks.count,
        max_grad_norm=1.0,
        autocast_dtype=torch.bfloat16,
        offload=False,
    )
    return torch.equal(logprobs(engine), expected)


def run_zero(index: int, meeting: str, out: str) -> None:
    """What each of the two processes does with DeepSpeed."""
    os.environ["LOCAL_RANK"] = str(index)
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=2)
    ranks = Ranks(index=index, count=2)
    found: dict[str, Any] = {
        f"{strategy}: {name}": outcome(case, strategy, ranks)
        for strategy in ZERO
        for name, case in CASES_OF_ZERO.items()
    }
    found["in bfloat16"] = in_bfloat16(ranks)
    for strategy in ZERO:
        found |= {f"{strategy}: {name}": value for name, value in nonfinite_steps(strategy, ranks).items()}
        for resume in (False, True):
            weights = adam_steps(Path(out) / strategy, strategy, ranks, resume=resume)
            found[f"{strategy}: {'resumed' if resume else 'whole'}"] = weights
    torch.save(found, Path(out) / f"{index}.pt")
    dist.destroy_process_group()


def run_process(index: int, meeting: str, out: str) -> None:
    """What each of the two processes does: every case, by every strategy."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=index, world_size=2)
    ranks = Ranks(index=index, count=2)
    found: dict[str, Any] = {
        f"{strategy}: {name}": outcome(case, strategy, ranks) for strategy in STRATEGIES for name, case in CASES.items()
    }
    found["copies"] = copies(ranks)
    for strategy in STRATEGIES:
        for resume in (False, True):
            weights = checkpointed(Path(out) / strategy, ranks, strategy=strategy, resume=resume)
            found[f"{strategy}: {'resumed' if resume else 'whole'}"] = weights
    found["gathered"] = ranks.gather(ranks.shard("abcde"))
    try:
        ranks.check_equal([torch.nn.Parameter(torch.ones(2) * index)])
    except Exception as error:  # noqa: BLE001 - whatever it is, the test says what it should be
        found["unequal"] = f"{type(error).__name__}: {error}"
    torch.save(found, Path(out) / f"{index}.pt")
    dist.destroy_process_group()
