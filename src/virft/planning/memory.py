"""The memory of one device in a run, part by part.

What autograd keeps of a row is counted, not guessed: ``Policy`` itself runs forward and backward over a packed row on
tensors without contents (PyTorch's fake tensors), with one layer and with two, and every further layer costs what the
second did; the vision tower in ``virft.planning.towers``. The other parts are formulas, each in the function that gives
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from virft.config.schema import Config
from virft.generation.sampling_weights import MAX_COPY_BYTES
from virft.models.attention.layout import PackedRow, pack_row
from virft.models.attention.shared_prompt import causal_bias
from virft.models.load import LoadedModel
from virft.models.policy import MAX_PASS_VALUES, Policy, TokenRules
from virft.models.vision import FeatureCache
from virft.planning.live_bytes import LiveBytes
from virft.planning.skeleton import load_skeleton, num_bytes, unfilled
from virft.planning.towers import Tiles, Tower
from virft.training.optim import OptimizerName
from virft.training.zero import SENT_AT_ONCE
from virft.types import ImageSize

TrainerName = Literal["grpo", "sft"]

_LOGIT_BYTES = 16
"""Of a number of the vocabulary and a row while a token is drawn: float32 log-probs and their exponentials, and the
cumulative sum in float64; while the next ones are made it is as much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One picture and its text, in tokens. ``pixel_values``: numbers that the image processor makes of it."""

    image: ImageSize
    image_tokens: int
    tiles: Tiles
    pixel_values: int
    text_tokens: int
    position_axes: int

    @property
    def prompt_tokens(self) -> int:
        """All of them: L."""
        return self.image_tokens + self.text_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What may be chosen to make a run fit, none of which changes its result."""

    gradient_checkpointing: bool
    microbatch_tokens: int
    prompts_per_batch: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RowShape:
    """Of one microbatch: so many prompts with so many completions each."""

    groups: int
    completions: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes by part: those held all the time, and those of the stages of a step, of which one runs at a time."""

    held: Mapping[str, int]
    stages: Mapping[str, Mapping[str, int]]

    @property
    def peak(self) -> int:
        """What is held, and the largest stage."""
        return sum(self.held.values()) + max(sum(parts.values()) for parts in self.stages.values())


class Activations(NamedTuple):
    """``kept`` from the forward to the backward, and what is alive for a moment beside it at most."""

    kept: int
    temporary: int


class Planner:
    """The memory of a config's run under one choice or another, on a GPU unless ``on_cpu``."""

    def __init__(
        self,
        config: Config,
        *,
        image: ImageSize,
        text_tokens: int,
        trainer: TrainerName = "grpo",
        on_cpu: bool = False,
    ) -> None:
        self.config = config
        self.on_cpu = on_cpu
        self.trainer = trainer
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.loaded = load_skeleton(config, self._mode)
        self.question = ask(self.loaded, image=image, text_tokens=text_tokens)
        # Without a tokenizer one forbidden token stands for all of them.
        rules = TokenRules(forbidden_ids=(self.loaded.model.config.image_token_id,))
        self._policy = Policy(self.loaded.model, self.loaded.family, rules)
        self._layers = self.loaded.model.get_submodule(self.loaded.family.language_module).layers
        self.group_size = config.grpo.group_size if trainer == "grpo" else 1
        self.prompts_per_step = config.grpo.prompts_per_step if trainer == "grpo" else config.sft.samples_per_step
        self._tower = Tower(self.loaded, self._mode, item=self._item, precision=self._precision)
        self.activations = lru_cache(maxsize=None)(self._activations)

    @property
    def choice(self) -> Choice:
        """What the config says itself."""
        section = self.config.grpo if self.trainer == "grpo" else self.config.sft
        return Choice(
            gradient_checkpointing=self.config.model.gradient_checkpointing,
            microbatch_tokens=section.microbatch_tokens,
            prompts_per_batch=min(
                self.config.sampling.prompts_per_batch or self.prompts_per_step, self.prompts_per_step
            ),
        )

    @property
    def group_tokens(self) -> int:
        """Tokens of a prompt with all its completions: L + G * C."""
        return self.row_tokens(RowShape(groups=1, completions=self.group_size))

    def row_tokens(self, shape: RowShape) -> int:
        """Tokens of a row."""
        own = shape.completions * self.config.sampling.max_completion_tokens
        return shape.groups * (self.question.prompt_tokens + own)

    def row_shape(self, microbatch_tokens: int) -> RowShape:
        """The largest row that a step is packed into, every completion being as long as it may.

        As in ``virft.training.grpo.pack``: as many whole groups as fit, else some completions of one group.
        """
        if microbatch_tokens >= self.group_tokens:
            groups = min(microbatch_tokens // self.group_tokens, self.prompts_per_step)
            return RowShape(groups=groups, completions=self.group_size)
        room = microbatch_tokens - self.question.prompt_tokens
        fitting = room // self.config.sampling.max_completion_tokens
        return RowShape(groups=1, completions=min(max(fitting, 1), self.group_size))

    def memory(self, choice: Choice) -> Memory:
        """Every part under a choice."""
        stages = {"vision tower": self._encoding, "update": self._update(choice)}
        if self.trainer == "grpo":
            stages["sampling"] = self._sampling(choice.prompts_per_batch)
        return Memory(held=self.held, stages=stages)

    @cached_property
    def held(self) -> Mapping[str, int]:
        """What is there from the first update on: weights, reference, optimizer, image features.

        Optimizer and weights of 4 bits: ``optimizer_bytes``, ``four_bit_bytes``. Reference: in a full training with a
        KL term a second copy of the model; adapters need none. Features: of as many images as the run may show, until
        the cache is full, each [image tokens, hidden]; of a trained tower those of a step. Pictures: pixels of a
        step's prompts, float32.
        """
        parameters = list(self.loaded.model.parameters())
        trained = [one for one in parameters if one.requires_grad]
        frozen = [one for one in parameters if not one.requires_grad]
        packed = self._packed
        held = {"frozen weights, 4 bits": four_bit_bytes(packed)} if packed else {}
        packed_ids = {id(one) for one in packed}
        frozen = [one for one in frozen if id(one) not in packed_ids]
        held |= {f"frozen weights, {name}": num_bytes(of) for name, of in _by_dtype(frozen).items()}
        held |= {f"trained weights, {name}": num_bytes(of) for name, of in _by_dtype(trained).items()}
        if self.trainer == "grpo" and self.config.grpo.has_reference and self.config.model.train == "full":
            held["reference model"] = num_bytes(parameters)
        section = self.config.grpo if self.trainer == "grpo" else self.config.sft
        held["optimizer states"] = 0 if self._is_offloaded else optimizer_bytes(trained, section.optimizer)
        held["image features"] = self._feature_bytes
        held["pictures of a step"] = self.prompts_per_step * self.question.pixel_values * 4
        return held

    @property
    def _is_offloaded(self) -> bool:
        """Whether gradients and optimizer lie in main memory."""
        return self.config.parallel.offload_optimizer

    @property
    def _packed(self) -> list[Tensor]:
        """The weights that are kept in 4 bits: those of the language model's linear layers."""
        if not self.config.model.load_in_4bit:
            return []
        language = self.loaded.model.get_submodule(self.loaded.family.language_module)
        linear = [module for module in language.modules() if isinstance(module, nn.Linear)]
        return [module.weight for module in linear if not module.weight.requires_grad]

    @property
    def _feature_bytes(self) -> int:
        one = self.question.image_tokens * int(self._text.hidden_size) * self._item
        if not self.config.model.freeze_vision:
            return self.prompts_per_step * one
        steps = self.config.grpo.steps if self.trainer == "grpo" else self.config.sft.steps
        return min(FeatureCache().max_bytes, steps * self.prompts_per_step * one)

    @cached_property
    def _encoding(self) -> Mapping[str, int]:
        """One pass of the tower without gradient. A frozen tower takes one prompt at a time, a trained one several."""
        images = 1
        if not self.config.model.freeze_vision:
            images = max(1, min(self.prompts_per_step, MAX_PASS_VALUES // self.question.pixel_values))
        return {"one pass": self._tower.encoding(self._tiles_of(images))}

    def _tiles_of(self, images: int) -> Tiles:
        one = self.question.tiles
        return replace(one, pieces=images * one.pieces)

    def _sampling(self, prompts: int) -> Mapping[str, int]:
        """A batch of P prompts with G completions each, all as long as they may.

        Cache: keys and values, 2 x layers x kv heads x head dim numbers for each of P (L + G C) tokens: each prompt
        once. Logits: P G rows of the vocabulary, 16 bytes a number, see ``_LOGIT_BYTES``. Prompts' forward: counted
        with one layer. Copies of weights: see ``ready_for_sampling``.
        """
        text, head = self._text, self.loaded.model.get_output_embeddings().weight
        head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        a_token = 2 * text.num_hidden_layers * text.num_key_value_heads * head_dim * self._item
        own = self.group_size * self.config.sampling.max_completion_tokens
        parts = {
            "key-value cache": prompts * (self.question.prompt_tokens + own) * a_token,
            "prompts' forward": prompts * self._prefill,
            "next-token logits": prompts * self.group_size * head.shape[0] * _LOGIT_BYTES,
        }
        packed_ids = {id(one) for one in self._packed}  # layers of 4 bits are left alone
        weights = [layer.weight for layer in self._policy.token_layers() if id(layer.weight) not in packed_ids]
        cast = sum(one.numel() * self._item for one in weights if one.element_size() != self._item)
        laid_out = sum(one.nbytes for one in weights if one.element_size() == self._item)
        if not (self.on_cpu and self._item == 2):
            laid_out = 0
        parts["copies of weights"] = cast + min(laid_out, MAX_COPY_BYTES)
        return parts

    def _update(self, choice: Choice) -> Mapping[str, int]:
        """Gradients, 4 bytes for each trained number, and one row on its way forward and backward."""
        shape = self.row_shape(choice.microbatch_tokens)
        found = self.activations(shape, choice.gradient_checkpointing)
        trained = [one for one in self.loaded.model.parameters() if one.requires_grad]
        parts = {
            "gradients": min(num_bytes(trained), 4 * SENT_AT_ONCE) if self._is_offloaded else num_bytes(trained),
            "activations kept": found.kept,
            "logits and temporary": found.temporary,
        }
        if self._packed:
            parts["an unpacked weight"] = max(one.numel() for one in self._packed) * self._item
        if not self.config.model.freeze_vision:
            self._set_checkpointing(choice.gradient_checkpointing)
            parts["vision tower"] = self._tower.kept(
                self._tiles_of(shape.groups), checkpointing=choice.gradient_checkpointing
            )
        return parts

    def _activations(self, shape: RowShape, checkpointing: bool) -> Activations:
        """Counted over one layer and over two; every further layer keeps what the second did."""
        one, two = (self._count(shape, checkpointing, layers) for layers in (1, 2))
        further = self._text.num_hidden_layers - 2
        return Activations(kept=two.kept + further * (two.kept - one.kept), temporary=two.temporary)

    def _count(self, shape: RowShape, checkpointing: bool, num_layers: int) -> Activations:
        """Forward and backward of the language model's first layers, the head behind them."""
        model = self.loaded.model
        self._set_checkpointing(checkpointing)
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = unfilled(parameter, self._mode)
        known = [one.grad for one in model.parameters() if one.grad is not None]
        row = self._row(shape)
        with _Run(self, num_layers, training=True, known=known) as live:
            with self._precision():
                logprobs = self._policy(row, features=[])
            kept = live.now
            logprobs.sum().backward()
        return Activations(kept=kept, temporary=live.peak - kept)

    def _set_checkpointing(self, wanted: bool) -> None:
        if wanted:
            self.loaded.checkpoint_gradients()
        else:
            self.loaded.model.gradient_checkpointing_disable()

    @cached_property
    def _prefill(self) -> int:
        """The most that is alive while a prompt goes through a layer, without gradient."""
        row = self._row(RowShape(groups=1, completions=0))
        with _Run(self, 1, training=False) as live, torch.no_grad(), self._precision():
            self._policy.hidden_states(row, [])
        return live.peak

    def _row(self, shape: RowShape) -> PackedRow:
        """A packed row of this shape whose tensors hold nothing."""
        prompt, own = self.question.prompt_tokens, self.config.sampling.max_completion_tokens
        row = pack_row(
            [[0] * prompt] * shape.groups,
            [torch.arange(prompt).expand(self.question.position_axes, -1)] * shape.groups,
            [[[0] * own] * shape.completions] * shape.groups,
        )
        return _emptied(row, self._mode, in_tables=not self.on_cpu)

    def _precision(self) -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.config.model.dtype == "bfloat16")

    @property
    def _text(self) -> Any:
        return self.loaded.model.config.get_text_config()

    @property
    def _item(self) -> int:
        """Bytes of a number that the model computes."""
        return 2 if self.config.model.dtype == "bfloat16" else 4


def optimizer_bytes(trained: Sequence[Tensor], kind: OptimizerName) -> int:
    """Two moments of every trained number: 4 bytes each.

    In 8 bits one byte each and for 256 of them a scale of 4; tensors of fewer than 4096 numbers stay as they were.
    Source: bitsandbytes, ``Optimizer2State``.

    >>> optimizer_bytes([torch.empty(64, 64), torch.empty(10)], "adamw_8bit")  # 2 x (4096 + 16 x 4) + 8 x 10
    8400
    """
    if kind == "adamw":
        return 8 * _num_numbers(trained)
    return sum(2 * (n + -(-n // 256) * 4) if (n := one.numel()) >= 4096 else 8 * n for one in trained)


def four_bit_bytes(weights: Sequence[Tensor]) -> int:
    """Half a byte a number, for 64 of them a scale of one byte, for 256 scales one of 4 bytes. Source: QLoRA.

    >>> four_bit_bytes([torch.empty(256, 256)])  # 32768 + 1024 + 4 x 4
    33808
    """
    return sum(n // 2 + (scales := -(-n // 64)) + -(-scales // 256) * 4 for n in (one.numel() for one in weights))


class _Run:
    """A count over the first layers, with everything put back afterwards."""

    def __init__(self, planner: Planner, num_layers: int, *, training: bool, known: Sequence[Tensor] = ()) -> None:
        self._planner, self._num_layers, self._training = planner, num_layers, training
        model = planner.loaded.model
        self._live = LiveBytes([*model.parameters(), *model.buffers(), *known])
        self._stack = ExitStack()

    def __enter__(self) -> LiveBytes:
        planner = self._planner
        planner._policy.train(self._training)
        self._set_layers(planner._layers[: self._num_layers])
        causal_bias.cache_clear()
        self._stack.enter_context(planner._mode)
        self._stack.enter_context(self._live)
        return self._live

    def __exit__(self, *raised: object) -> None:
        self._stack.close()
        causal_bias.cache_clear()  # what was kept there holds nothing
        self._set_layers(self._planner._layers)

    def _set_layers(self, layers: nn.ModuleList) -> None:
        loaded = self._planner.loaded
        loaded.model.get_submodule(loaded.family.language_module).layers = layers


def ask(loaded: LoadedModel, *, image: ImageSize, text_tokens: int) -> Question:
    """What the model's own image processor makes of a picture of this size: rows of patches, or tiles of them."""
    family, config = loaded.family, loaded.model.config
    vision = family.read_images(loaded.image_processor, [Image.new("RGB", (image.width, image.height))])
    (tokens,) = family.num_image_tokens(config, vision)
    pixels = vision.pixel_values
    patches = 1
    if pixels.ndim > 2:
        side = config.vision_config.patch_size
        height, width = (side, side) if isinstance(side, int) else side
        patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    ids = torch.tensor([config.image_token_id] * tokens)
    return Question(
        image=image,
        image_tokens=tokens,
        tiles=Tiles(pieces=len(pixels), patches=patches),
        pixel_values=pixels.numel(),
        text_tokens=text_tokens,
        position_axes=len(family.prompt_positions(loaded.model, ids, vision)),
    )


def _emptied(row: PackedRow, mode: FakeTensorMode, *, in_tables: bool) -> PackedRow:
    layout = replace(
        row.layout,
        in_tables=in_tables,
        prompt_lengths=unfilled(row.layout.prompt_lengths, mode),
        row_place=unfilled(row.layout.row_place, mode),
        table_place=unfilled(row.layout.table_place, mode),
    )
    return replace(
        row,
        token_ids=unfilled(row.token_ids, mode),
        positions=unfilled(row.positions, mode),
        logit_index=unfilled(row.logit_index, mode),
        targets=unfilled(row.targets, mode),
        layout=layout,
    )


def _by_dtype(parameters: Sequence[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Parameters by the name of their kind of number, the most numerous kind first."""
    names = {str(one.dtype).removeprefix("torch.") for one in parameters}
    found = {name: [one for one in parameters if str(one.dtype).endswith(name)] for name in names}
    return dict(sorted(found.items(), key=lambda item: -_num_numbers(item[1])))


def _num_numbers(parameters: Sequence[Tensor]) -> int:
    return sum(one.numel() for one in parameters)
