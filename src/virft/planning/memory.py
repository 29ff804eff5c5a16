"""Memory of one device in a run, part by part.

Activations are measured, not estimated: ``Policy`` itself runs forward and backward over a packed row of fake tensors
(which have shapes but no memory), with one layer and with two, and each additional layer costs what the second did. The
vision tower is in ``virft.planning.towers``, and what several processes divide among them in
``virft.planning.processes``. All other parts are formulas, each in the docstring of its function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

import torch
from peft.tuners.lora import LoraLayer
from PIL import Image
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from virft.config.schema import Config, Method, OptimizerName
from virft.errors import ConfigError
from virft.generation.sampling_weights import MAX_COPY_BYTES, merges_adapters
from virft.generation.static_decoding import static_obstacle
from virft.models.attention.layout import AttentionMethod, PackedRow, pack_row
from virft.models.attention.shared_prompt import causal_bias
from virft.models.layer_shapes import layer_shapes
from virft.models.load import LoadedModel
from virft.models.policy import GPU_BLOCK_LOGITS, MAX_PASS_VALUES, Policy, TokenRules
from virft.models.segmenter import SegmenterSize, segmenter_size
from virft.models.sharding import MAX_UNREDUCED_BYTES
from virft.models.stored_dtypes import linear_parameters
from virft.planning.device import GIB
from virft.planning.live_bytes import LiveBytes
from virft.planning.processes import ZERO3_LIVE_NUMBERS, Processes
from virft.planning.skeleton import load_skeleton, num_bytes, unfilled
from virft.planning.towers import Tiles, Tower
from virft.training.zero import BUCKET_ELEMENTS
from virft.types import ImageSize

_LOGIT_BYTES = 16
"""Bytes per token of the vocabulary and row while a token is sampled: float32 log-probs, their exponentials, and the
cumulative sum in float64. While the next logits are computed it is as much."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptShape:
    """Sizes of a prompt with one image."""

    image: ImageSize
    """Size of the image in pixels."""

    image_tokens: int
    """Language-model tokens of the image."""

    tiles: Tiles
    """Input of the vision tower for the image."""

    pixel_values: int
    """Numbers in the output of the image processor."""

    text_tokens: int
    """Tokens of the text."""

    position_axes: int
    """Axes of the rotary position ids, 3 or 1."""

    @property
    def prompt_tokens(self) -> int:
        """All tokens of the prompt, L."""
        return self.image_tokens + self.text_tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class FitOption:
    """Settings that change the memory of a run, but not its result."""

    gradient_checkpointing: bool
    """Save only the input of each layer and compute it again in the backward."""

    microbatch_tokens: int
    """Largest number of tokens in a packed row."""

    prompts_per_batch: int
    """Prompts in a sampling batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RowShape:
    """Sizes of one microbatch."""

    groups: int
    """Number of prompts."""

    completions: int
    """Completions of each prompt, and its demonstrations."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Memory:
    """Bytes of a run, by part."""

    held: Mapping[str, int]
    """Parts that are allocated throughout the run."""

    stages: Mapping[str, Mapping[str, int]]
    """Parts of each stage of a step. One stage runs at a time."""

    host: Mapping[str, int] = field(default_factory=dict)
    """Parts in the main memory of a machine with a GPU, not on the device."""

    @property
    def peak(self) -> int:
        """Bytes of the parts allocated throughout, and of the largest stage."""
        return sum(self.held.values()) + max(sum(parts.values()) for parts in self.stages.values())


class Activations(NamedTuple):
    """Bytes of activations in an update."""

    saved: int
    """Saved from the forward to the backward."""

    temporary: int
    """Peak of everything else, logits included."""


class Planner:
    """Memory of one process of a config's run with different options, on a GPU unless ``on_cpu``.

    ``num_processes``: world size of the run. ``device_memory``: bytes of the device, of which vLLM gets a fraction.
    ``has_samplers``: vLLM has devices of its own, and takes nothing of this one.
    ``report`` gets a line for each row that is counted, which takes seconds.

    Raises ``ConfigError`` for a number of processes that the config cannot have.
    """

    def __init__(
        self,
        config: Config,
        *,
        image: ImageSize,
        text_tokens: int,
        method: Method = "grpo",
        on_cpu: bool = False,
        num_processes: int = 1,
        device_memory: int | None = None,
        has_samplers: bool = False,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.config = config = _with_dtype(config, on_cpu=on_cpu)
        self.processes = Processes.of(config.parallel, num_processes)
        self.device_memory = device_memory
        self.has_samplers = has_samplers
        self.report = report
        self.on_cpu = on_cpu
        self.method = method
        self._mode = FakeTensorMode(allow_non_fake_inputs=True)
        self.loaded = load_skeleton(config, self._mode)
        self.prompt = prompt_shape(self.loaded, image=image, text_tokens=text_tokens)
        # The skeleton has no tokenizer. One forbidden token takes the same memory as several.
        rules = TokenRules(forbidden_ids=(self.loaded.model.config.image_token_id,))
        # Fake tensors are on the CPU; the blocks of a GPU are larger.
        block = None if on_cpu else GPU_BLOCK_LOGITS
        self._policy = Policy(self.loaded.model, self.loaded.family, rules, block_logits=block)
        self._layers = self.loaded.model.get_submodule(self.loaded.family.language_module).layers
        self.group_size = config.grpo.group_size if method == "grpo" else 1
        self.row_members = self.group_size + (config.grpo.max_demonstrations if method == "grpo" else 0)
        """Completions and demonstrations of a prompt, which share its row."""
        batch = config.grpo.prompts_per_step if method == "grpo" else config.sft.samples_per_step
        if batch < num_processes:
            key = "grpo.prompts_per_step" if method == "grpo" else "sft.samples_per_step"
            raise ConfigError(f"{key} is {batch} with {num_processes} processes; expected at least one for each")
        self.prompts_per_step = self.processes.items(batch)
        """Prompts of a step that one process gets, at most."""
        self._tower = Tower(self.loaded, self._mode, item=self._item, precision=self._precision)
        self.activations = lru_cache(maxsize=None)(self._activations)

    @property
    def configured(self) -> FitOption:
        """The option that the config has."""
        section = self.config.grpo if self.method == "grpo" else self.config.sft
        return FitOption(
            gradient_checkpointing=self.config.model.gradient_checkpointing,
            microbatch_tokens=section.microbatch_tokens,
            prompts_per_batch=min(
                self.config.sampling.prompts_per_batch or self.prompts_per_step, self.prompts_per_step
            ),
        )

    @property
    def group_tokens(self) -> int:
        """Tokens of a prompt with all its completions and demonstrations, each counted with C tokens."""
        return self.row_tokens(RowShape(groups=1, completions=self.row_members))

    def row_tokens(self, shape: RowShape) -> int:
        """Return the tokens of a row, groups * (L + completions * C)."""
        own = shape.completions * self.config.sampling.max_completion_tokens
        return shape.groups * (self.prompt.prompt_tokens + own)

    def row_shape(self, microbatch_tokens: int) -> RowShape:
        """Return the largest row of a step whose completions all have the largest number of tokens.

        As in ``virft.training.grpo.pack``: as many whole groups as fit, else some completions of one group.
        """
        if microbatch_tokens >= self.group_tokens:
            groups = min(microbatch_tokens // self.group_tokens, self.prompts_per_step)
            return RowShape(groups=groups, completions=self.row_members)
        room = microbatch_tokens - self.prompt.prompt_tokens
        fitting = room // self.config.sampling.max_completion_tokens
        return RowShape(groups=1, completions=min(max(fitting, 1), self.row_members))

    def supervised_shape(self, microbatch_tokens: int) -> RowShape:
        """Return the largest row of a step of the warm start: a target for each prompt."""
        own = self.row_tokens(RowShape(groups=1, completions=1))
        return RowShape(groups=min(max(1, microbatch_tokens // own), self.prompts_per_step), completions=1)

    def memory(self, option: FitOption) -> Memory:
        """Return the memory of the run, part by part, with an option."""
        stages = {
            "vision tower": self._encoding,
            "update": self._update(self.row_shape(option.microbatch_tokens), option),
        }
        if self.method == "grpo" and self.config.grpo.warm_start_steps:
            # more prompts in a row, so more images
            stages["warm start"] = self._update(self.supervised_shape(option.microbatch_tokens), option)
        if self.method == "grpo":
            stages["sampling"] = self._sampling(option.prompts_per_batch)
        return Memory(held=self.held, stages=stages, host=self.host)

    @property
    def host(self) -> Mapping[str, int]:
        """Parts in pinned main memory, of a run on a GPU: the caches of a frozen tower's image features and of a
        segmenter's embeddings."""
        if self.on_cpu:
            return {}
        features = {"cache of image features": self._cached_feature_bytes} if self.config.model.freeze_vision else {}
        embeddings = {"cache of segmenter embeddings": self._embedding_bytes} if self._segmenter is not None else {}
        return features | embeddings

    @cached_property
    def held(self) -> Mapping[str, int]:
        """Parts that are allocated from the first update on: weights, reference, optimizer, image features.

        Sharded parts: those of one process; FSDP2 leaves a frozen vision tower whole. DeepSpeed has a float32 copy of
        the trained weights. vLLM as a server: its fraction of the device, all the time.

        Optimizer states and 4-bit weights: ``optimizer_bytes``, ``four_bit_bytes``. Reference model: a second copy of
        the weights in full training with a KL term, linear layers in the precision of the computation; with adapters,
        the base is the reference. Image features: [image tokens, hidden] of the images of one step; with a frozen tower
        on a CPU, of each image of the run until the cache is full. On a GPU this cache is in ``host``. Images: float32
        pixels of the prompts of one step. Segmenter: its weights, and on a CPU the cache of its embeddings; encoding an
        image is not counted, as rewards are computed when the KV cache is freed and no activation is stored.
        """
        parameters = list(self.loaded.model.parameters())
        trained = [one for one in parameters if one.requires_grad]
        frozen = [one for one in parameters if not one.requires_grad]
        packed = self._packed
        held = {"frozen weights, 4 bits": four_bit_bytes(packed)} if packed else {}
        packed_ids = {id(one) for one in packed}
        frozen = [one for one in frozen if id(one) not in packed_ids]
        processes = self.processes
        whole = {id(one) for one in self._replicated}
        for kind, of_kind in (("frozen", frozen), ("trained", trained)):
            for name, of in _by_dtype(of_kind).items():
                sharded = num_bytes(one for one in of if id(one) not in whole)
                held[f"{kind} weights, {name}"] = num_bytes(of) - sharded + processes.weights(sharded)
        if self.method == "grpo" and self.config.grpo.has_reference and self.config.model.train == "full":
            held["reference model"] = processes.weights(self._reference_bytes)
        section = self.config.grpo if self.method == "grpo" else self.config.sft
        if self._is_offloaded:
            held["optimizer states"] = 0
        else:
            held["optimizer states"] = processes.part(optimizer_bytes(trained, section.optimizer))
            if processes.is_zero:
                held["float32 copy of trained weights"] = processes.part(4 * _num_numbers(trained))
        if self._engine == "server":
            held["vLLM"] = self._engine_bytes
        if self._segmenter is not None:
            held["segmenter"] = self._segmenter.weights
            if self.on_cpu:
                held["segmenter embeddings"] = self._embedding_bytes
        held["image features"] = self._feature_bytes
        held["images of a step"] = self.prompts_per_step * self.prompt.pixel_values * 4
        return held

    @cached_property
    def _segmenter(self) -> SegmenterSize | None:
        path = self.config.reward.segmenter
        return segmenter_size(path) if self.method == "grpo" and path is not None else None

    @property
    def _embedding_bytes(self) -> int:
        """Embeddings of each image of the run until the cache is full."""
        assert self._segmenter is not None
        most = self.config.grpo.steps * self.prompts_per_step * self._segmenter.embeddings
        return min(round(self.config.reward.segmenter_cache_gib * GIB), most)

    @property
    def _reference_bytes(self) -> int:
        model = self.loaded.model
        cast = {id(one): one for one in linear_parameters(model)}
        others = (one for one in model.parameters() if id(one) not in cast)
        return num_bytes(others) + self._item * _num_numbers([*cast.values()])

    @property
    def _replicated(self) -> list[nn.Parameter]:
        """Weights that FSDP2 does not shard: a frozen vision tower, and its projector."""
        if self.processes.strategy != "fsdp2":
            return []
        return [one for one in self.loaded.family.vision_parameters(self.loaded.model) if not one.requires_grad]

    @property
    def _engine(self) -> Literal["colocated", "server", "elsewhere"] | None:
        """Place of vLLM: the training process, a server on the same device, or other devices.

        None without vLLM.
        """
        sampling = self.config.sampling
        if self.method != "grpo" or sampling.engine == "builtin":
            return None
        if sampling.vllm_devices:
            return "elsewhere"
        if self.device_memory is None:
            return None
        return "server" if sampling.serves_vllm(on_cpu=self.on_cpu) else "colocated"

    @property
    def _engine_bytes(self) -> int:
        if self.has_samplers:
            return 0
        return int(self.config.sampling.vllm_gpu_memory * (self.device_memory or 0))

    @property
    def _is_offloaded(self) -> bool:
        """True if gradients and optimizer states are in main memory."""
        return self.config.parallel.offload_optimizer

    @property
    def _packed(self) -> list[Tensor]:
        """The weights that are stored in 4 bits: those of the language model's linear layers."""
        if not self.config.model.load_in_4bit:
            return []
        language = self.loaded.model.get_submodule(self.loaded.family.language_module)
        linear = [module for module in language.modules() if isinstance(module, nn.Linear)]
        return [module.weight for module in linear if not module.weight.requires_grad]

    @property
    def _feature_bytes(self) -> int:
        if self.on_cpu and self.config.model.freeze_vision:
            return self._cached_feature_bytes
        return self.prompts_per_step * self._features_of_an_image

    @property
    def _cached_feature_bytes(self) -> int:
        steps = self.config.grpo.steps if self.method == "grpo" else self.config.sft.steps
        most = steps * self.prompts_per_step * self._features_of_an_image
        return min(round(self.config.model.feature_cache_gib * GIB), most)

    @property
    def _features_of_an_image(self) -> int:
        return self.prompt.image_tokens * int(self._text.hidden_size) * self._item

    @cached_property
    def _encoding(self) -> Mapping[str, int]:
        """A forward pass of the tower without gradient: one prompt with a frozen tower, several with a trained one."""
        images = 1
        if not self.config.model.freeze_vision:
            images = max(1, min(self.prompts_per_step, MAX_PASS_VALUES // self.prompt.pixel_values))
        return {"one forward pass": self._tower.encoding(self._tiles_of(images))}

    def _tiles_of(self, images: int) -> Tiles:
        one = self.prompt.tiles
        return replace(one, pieces=images * one.pieces)

    def _sampling(self, prompts: int) -> Mapping[str, int]:
        """A sampling batch of P prompts with G completions each, all of the largest number of tokens.

        KV cache: 2 * KV heads * head dim numbers of each layer, for each of P (L + G C) tokens: each prompt is stored
        once. Admitted prompts (continuous batching): L tokens of each, until they are copied to their places. If
        all completions end at the same time, as many prompts as fit are admitted together. Logits: P G rows of the
        vocabulary, 16 bytes per number, see ``_LOGIT_BYTES``. Prefill: measured with one layer. Copies of weights: see
        ``_sampling_copies``. Graph pool: see ``_graph_pool``. If weights are sharded, the copy of the model that
        samples has all of them. vLLM: its fraction of the device, while it is awake; sharded weights are gathered one
        at a time.
        """
        if self._engine is not None:
            engine = {"vLLM": self._engine_bytes if self._engine == "colocated" else 0}
            if self.processes.shards_weights:
                engine["one gathered weight"] = self._item * max(one.numel() for one in self.loaded.model.parameters())
            return engine
        text, head = self._text, self.loaded.model.get_output_embeddings().weight
        a_token = 2 * sum(layer.kv_width for layer in layer_shapes(text)) * self._item
        own = self.group_size * self.config.sampling.max_completion_tokens
        parts = {
            "KV cache": prompts * (self.prompt.prompt_tokens + own) * a_token,
            "prefill": prompts * self._prefill,
            "next-token logits": prompts * self.group_size * head.shape[0] * _LOGIT_BYTES,
        }
        if (admitted := min(prompts, self.prompts_per_step - prompts)) > 0:
            parts["KV cache of admitted prompts"] = admitted * self.prompt.prompt_tokens * a_token
        if self.processes.shards_weights:
            replicated = {id(one) for one in self._replicated}
            linear = {id(one) for one in self._token_weights()}
            parts["gathered weights"] = sum(
                one.numel() * (min(self._item, one.element_size()) if id(one) in linear else one.element_size())
                for one in self.loaded.model.parameters()
                if id(one) not in replicated
            )
        parts["copies of weights"] = self._sampling_copies()
        if self.uses_cuda_graph:
            parts["graph pool"] = self._graph_pool(prompts)
        return parts

    @property
    def uses_cuda_graph(self) -> bool:
        """True if the sampler replays decode steps as CUDA graphs."""
        if self.on_cpu or self._engine is not None or not self.config.sampling.cuda_graph:
            return False
        return not (self.config.model.load_in_4bit or static_obstacle(self._policy))

    def _graph_pool(self, prompts: int) -> int:
        """Bytes that a CUDA graph reserves for the temporary tensors of a decode step.

        A pool of its own: the blocks of the eager step before it stay reserved while the graph is captured. The largest
        of: logits of P G rows, ``_LOGIT_BYTES`` per number; scores of a layer over L + C keys, float32, with their
        softmax and its rounding; the three intermediate results of an MLP. One graph exists at a time.
        """
        text, rows = self._text, prompts * self.group_size
        vocabulary: int = self.loaded.model.get_output_embeddings().weight.shape[0]
        keys = self.prompt.prompt_tokens + self.config.sampling.max_completion_tokens
        return rows * max(
            vocabulary * _LOGIT_BYTES,
            int(text.num_attention_heads) * keys * (4 + 4 + self._item),
            3 * int(text.intermediate_size) * self._item,
        )

    def _token_weights(self) -> list[Tensor]:
        """The weights that every decode step reads, without those in 4 bits, which are not copied."""
        packed = {id(one) for one in self._packed}
        return [layer.weight for layer in self._policy.token_layers() if id(layer.weight) not in packed]

    def _sampling_copies(self) -> int:
        """Bytes of copies of linear weights while completions are sampled, see ``ready_for_sampling``.

        With adapters in bfloat16 on a GPU: one merged copy of each layer with adapters. Other weights in another dtype
        than the products' are cast, unless they were gathered in it. On a CPU in bfloat16, weights are laid out anew.
        """
        weights, merged = self._token_weights(), 0
        if self.merges_adapters:
            adapted: list[Any] = [one for one in self.loaded.model.modules() if isinstance(one, LoraLayer)]
            merged = sum(one.get_base_layer().weight.numel() for one in adapted) * self._item
            inside = {id(weight) for one in adapted for weight in one.parameters()}
            weights = [one for one in weights if id(one) not in inside]
        cast = sum(one.numel() * self._item for one in weights if one.element_size() != self._item)
        if self.processes.shards_weights:
            cast = 0
        laid_out = sum(one.nbytes for one in weights if one.element_size() == self._item)
        if not (self.on_cpu and self._item == 2):
            laid_out = 0
        return merged + cast + min(laid_out, MAX_COPY_BYTES)

    @property
    def merges_adapters(self) -> bool:
        """True if the sampler uses a merged copy of base and adapters."""
        return self.method == "grpo" and merges_adapters(
            self.config.sampling.weights,
            has_adapters=self.loaded.adapters is not None,
            on_cpu=self.on_cpu,
            dtype=torch.bfloat16 if self._item == 2 else torch.float32,
            in_4bit=self.config.model.load_in_4bit,
        )

    def _update(self, shape: RowShape, option: FitOption) -> Mapping[str, int]:
        """Gradients, as large as the trained weights, and the forward and backward of one row."""
        found = self.activations(shape, option.gradient_checkpointing)
        saved = found.saved
        if self.processes.strategy == "fsdp2" and not option.gradient_checkpointing:
            # Gathered weights have the dtype of products, so the backward needs no copies that autocast made.
            weights = [one.weight for one in self._layers.modules() if isinstance(one, nn.Linear)]
            saved -= sum(one.numel() * self._item for one in weights if one.element_size() != self._item)
        parts = {
            "gradients": self._gradient_bytes,
            "activations": saved,
            "logits and temporary": found.temporary,
        }
        if self.processes.shards_weights:
            parts["gathered weights"] = self._gathered_bytes
        if self._packed:
            # bitsandbytes unpacks one weight at a time.
            parts["one unpacked weight"] = max(one.numel() for one in self._packed) * self._item
        if not self.config.model.freeze_vision:
            self._set_checkpointing(option.gradient_checkpointing)
            parts["vision tower"] = self._tower.saved(
                self._tiles_of(shape.groups), checkpointing=option.gradient_checkpointing
            )
        return parts

    @property
    def _gradient_bytes(self) -> int:
        """Gradients on one process: whole, sharded, or those of adapters, which FSDP2 reduces after the last row."""
        size = num_bytes(one for one in self.loaded.model.parameters() if one.requires_grad)
        if self._is_offloaded:
            return min(size, 4 * BUCKET_ELEMENTS)
        if self.processes.is_zero:
            return self.processes.part(size) + min(size, 4 * BUCKET_ELEMENTS)
        if self.processes.strategy == "fsdp2":
            return size if size <= MAX_UNREDUCED_BYTES else self.processes.part(size)
        return size

    @property
    def _gathered_bytes(self) -> int:
        """Gathered weights during an update.

        FSDP2: everything outside of layers, and two layers, that which computes and the next one, in the dtype of
        products; and the gradient of the larger of both parts, in this dtype and in float32. ZeRO-3: at most as many
        weights as DeepSpeed retains.
        """
        parameters = [one for one in self.loaded.model.parameters() if id(one) not in {id(r) for r in self._replicated}]
        if self.processes.strategy == "zero3":
            item: int = max(one.element_size() for one in parameters)
            return min(num_bytes(parameters), ZERO3_LIVE_NUMBERS * item)
        layer = list(self._layers[0].parameters())
        inside = {id(one) for one in self._layers.parameters()}
        tower = {id(one) for one in self.loaded.family.vision_parameters(self.loaded.model)}
        root = [one for one in parameters if id(one) not in inside | tower]
        trained: int = max(_num_numbers([one for one in part if one.requires_grad]) for part in (root, layer))
        return (_num_numbers(root) + 2 * _num_numbers(layer)) * self._item + trained * (self._item + 4)

    def _activations(self, shape: RowShape, checkpointing: bool) -> Activations:
        """Measured with one layer and with two; each additional layer saves as much as the second.

        If layers after the first have different shapes, all of them are measured.
        """
        self.report(
            f"counting activations: {self.row_tokens(shape):,} tokens in a row ({shape.groups} x {shape.completions} "
            f"completions), image of {self.prompt.image_tokens} tokens"
            f"{', gradient checkpointing' if checkpointing else ''}"
        )
        if len(set(layer_shapes(self._text)[1:])) > 1:  # Gemma 4
            return self._count(shape, checkpointing, len(self._layers))
        one, two = (self._count(shape, checkpointing, layers) for layers in (1, 2))
        others = self._text.num_hidden_layers - 2
        return Activations(saved=two.saved + others * (two.saved - one.saved), temporary=two.temporary)

    def _count(self, shape: RowShape, checkpointing: bool, num_layers: int) -> Activations:
        """Run forward and backward of the first layers of the language model, and of the head."""
        model = self.loaded.model
        self._set_checkpointing(checkpointing)
        # Gradients exist from the start, as after the first row of a step: they are a part of their own.
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = unfilled(parameter, self._mode)
        known = [one.grad for one in model.parameters() if one.grad is not None]
        row = self._row(shape)
        with _Run(self, num_layers, training=True, known=known) as live:
            with self._precision():
                logprobs = self._policy(row, features=[])
            saved = live.now
            logprobs.sum().backward()
        return Activations(saved=saved, temporary=live.peak - saved)

    def _set_checkpointing(self, on: bool) -> None:
        if on:
            self.loaded.checkpoint_gradients()
        else:
            self.loaded.model.gradient_checkpointing_disable()

    @cached_property
    def _prefill(self) -> int:
        """Peak bytes while a prompt goes through one layer, without gradient."""
        row = self._row(RowShape(groups=1, completions=0))
        with _Run(self, 1, training=False) as live, torch.no_grad(), self._precision():
            self._policy.hidden_states(row, [])
        return live.peak

    def _row(self, shape: RowShape) -> PackedRow:
        """A packed row of this shape, of fake tensors."""
        prompt, own = self.prompt.prompt_tokens, self.config.sampling.max_completion_tokens
        row = pack_row(
            [[0] * prompt] * shape.groups,
            [torch.arange(prompt).expand(self.prompt.position_axes, -1)] * shape.groups,
            [[[0] * own] * shape.completions] * shape.groups,
        )
        return _emptied(row, self._mode, self._attention)

    def _precision(self) -> torch.autocast:
        # "cpu": fake tensors are on the CPU, whatever device is planned for.
        # As ``Runtime.autocast``, without a cache of weights.
        is_half = self.config.model.dtype == "bfloat16"
        return torch.autocast("cpu", torch.bfloat16, enabled=is_half, cache_enabled=False)

    @property
    def _attention(self) -> AttentionMethod | None:
        """The way in which attention of a packed row is computed; None on a CPU."""
        if self.on_cpu:
            return None
        return "varlen" if self._item == 2 and not self.loaded.family.bidirectional_images else "tables"

    @property
    def _text(self) -> Any:
        return self.loaded.model.config.get_text_config()

    @property
    def _item(self) -> int:
        """Bytes per number that the model computes."""
        return 2 if self.config.model.dtype == "bfloat16" else 4


def optimizer_bytes(trained: Sequence[Tensor], kind: OptimizerName) -> int:
    """Return the bytes of the optimizer states of trained tensors of any shape.

    AdamW: two moments of 4 bytes per number. 8-bit AdamW: two moments of one byte per number, and a scale of 4 bytes
    for 256 of them; tensors of fewer than 4,096 numbers have 4-byte moments. Source: bitsandbytes, ``Optimizer2State``.

    >>> optimizer_bytes([torch.empty(64, 64), torch.empty(10)], "adamw_8bit")  # 2 x (4096 + 16 x 4) + 8 x 10
    8400
    """
    if kind == "adamw":
        return 8 * _num_numbers(trained)
    return sum(2 * (n + -(-n // 256) * 4) if (n := one.numel()) >= 4096 else 8 * n for one in trained)


def four_bit_bytes(weights: Sequence[Tensor]) -> int:
    """Return the bytes of weights of any shape in NF4 with double quantization.

    Half a byte per number, a scale of one byte for 64 numbers, one of 4 bytes for 256 scales. Source: QLoRA
    (arXiv 2305.14314).

    >>> four_bit_bytes([torch.empty(256, 256)])  # 32768 + 1024 + 4 x 4
    33808
    """
    return sum(n // 2 + (scales := -(-n // 64)) + -(-scales // 256) * 4 for n in (one.numel() for one in weights))


class _Run:
    """Inside the block, the language model has its first layers only, and live bytes are counted."""

    def __init__(self, planner: Planner, num_layers: int, *, training: bool, known: Sequence[Tensor] = ()) -> None:
        self._planner, self._num_layers, self._training = planner, num_layers, training
        model = planner.loaded.model
        self._live = LiveBytes([*model.parameters(), *model.buffers(), *known])
        self._stack = ExitStack()

    def __enter__(self) -> LiveBytes:
        planner = self._planner
        planner._policy.train(self._training)
        self._set_layers(planner._layers[: self._num_layers])
        # The bias of a real run in the cache would not be counted.
        causal_bias.cache_clear()
        self._stack.enter_context(planner._mode)
        self._stack.enter_context(self._live)
        return self._live

    def __exit__(self, *raised: object) -> None:
        self._stack.close()
        causal_bias.cache_clear()  # it holds fake tensors now, which a real run must not use
        self._set_layers(self._planner._layers)

    def _set_layers(self, layers: nn.ModuleList) -> None:
        loaded = self._planner.loaded
        loaded.model.get_submodule(loaded.family.language_module).layers = layers


def prompt_shape(loaded: LoadedModel, *, image: ImageSize, text_tokens: int) -> PromptShape:
    """Return the sizes of a prompt with an image of ``image`` pixels, by running the model's image processor."""
    family, config = loaded.family, loaded.model.config
    vision = family.read_images(loaded.image_processor, [Image.new("RGB", (image.width, image.height))])
    (tokens,) = family.num_image_tokens(config, vision)
    pixels = vision.pixel_values
    pieces, patches = pixels[..., 0].numel(), 1  # a row of patches [patches, values], or one per image (Gemma 4)
    if pixels.ndim == 4:  # tiles [pieces, 3, height, width]
        pieces = len(pixels)
        side = config.vision_config.patch_size
        height, width = (side, side) if isinstance(side, int) else side
        patches = (pixels.shape[-2] // height) * (pixels.shape[-1] // width)
    ids = torch.tensor([config.image_token_id] * tokens)
    return PromptShape(
        image=image,
        image_tokens=tokens,
        tiles=Tiles(pieces=pieces, patches=patches),
        pixel_values=pixels.numel(),
        text_tokens=text_tokens,
        position_axes=len(family.prompt_positions(loaded.model, ids, vision)),
    )


def _emptied(row: PackedRow, mode: FakeTensorMode, method: AttentionMethod | None) -> PackedRow:
    segments = row.layout.segments
    layout = replace(
        row.layout,
        method=method,
        segments=replace(
            segments,
            query_starts=unfilled(segments.query_starts, mode),
            key_starts=unfilled(segments.key_starts, mode),
            key_place=unfilled(segments.key_place, mode),
        ),
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


def _with_dtype(config: Config, *, on_cpu: bool) -> Config:
    """Resolve ``model.dtype`` "auto"; a GPU is taken to support bfloat16."""
    if config.model.dtype != "auto":
        return config
    return replace(config, model=replace(config.model, dtype="float32" if on_cpu else "bfloat16"))


def _by_dtype(parameters: Sequence[nn.Parameter]) -> dict[str, list[nn.Parameter]]:
    """Parameters by the name of their dtype, the one with most numbers first."""
    names = {str(one.dtype).removeprefix("torch.") for one in parameters}
    found = {name: [one for one in parameters if str(one.dtype).endswith(name)] for name in names}
    return dict(sorted(found.items(), key=lambda item: -_num_numbers(item[1])))


def _num_numbers(parameters: Sequence[Tensor]) -> int:
    return sum(one.numel() for one in parameters)
