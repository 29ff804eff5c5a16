"""Parts of the supervised alignment of both built-in models: packed questions, auxiliary heads, optimizer, log.

A row is ``[prefix | lane 1 .. lane n]``: the image with the words before it, then several questions about it with their
answers, of which none attends to another.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, AttentionMaskInterface

from virft.models.attention.shared_prompt import attend, causal_bias
from virft.types import Box

LANE_WIDTH = 128
LANES = 3
LANE_ATTENTION = "virft_lanes"
IGNORE = -100
UNSEEN = -1e9


@dataclass(frozen=True, kw_only=True, slots=True)
class Written:
    """Question and answer as tokens."""

    question: list[int]
    """Token ids of the question."""
    answer: list[int]
    """Token ids of the answer."""
    query_at: int | None
    """Index of the last token of the query, such as the class name; None for classification."""
    boxes: tuple[Box, ...]
    """Boxes of the queried objects."""
    meaning: int
    """Meaning of the query, for the writer's own use."""


class Writer(Protocol):
    """Writes tokenised questions about a scene."""

    prefix_ids: list[int]
    pad_id: int

    def write(self, scene: np.ndarray, rng: np.random.Generator) -> Iterator[Written]:
        """Yield questions about a scene in random order."""


class LanePacker:
    """Packs tokenised questions about an image into lanes after the shared prefix."""

    def __init__(self, writer: Writer, prefix_positions: np.ndarray, image_size: int, side: int) -> None:
        """``prefix_positions``: position ids [axes, P]. ``side``: image tokens per side of an image."""
        self.writer = writer
        self.prefix = writer.prefix_ids
        self.prefix_positions = prefix_positions
        self.next_position = int(prefix_positions.max()) + 1
        self.image_size, self.side = image_size, side

    def pack(self, scenes: Sequence[np.ndarray], rng: np.random.Generator) -> dict[str, Tensor]:
        """Return ids, labels [B, T]; positions [axes, B, T]; additive mask [B, lanes, 1, width, prefix + width]."""
        b, total, p = len(scenes), LANES * LANE_WIDTH, len(self.prefix)
        ids = np.full((b, p + total), self.writer.pad_id)
        labels = np.full((b, p + total), IGNORE)
        positions = np.zeros((len(self.prefix_positions), b, p + total), np.int64)
        segment = np.zeros((b, LANES, LANE_WIDTH), np.int64)
        ids[:, :p] = self.prefix
        positions[:, :, :p] = self.prefix_positions[:, None]
        queries: list[tuple[int, int]] = []
        places: list[np.ndarray] = []
        meanings: list[int] = []
        for row in range(b):
            used = [0] * LANES
            for number, one in enumerate(self.writer.write(scenes[row], rng), start=1):
                question, answer = one.question, one.answer
                length = len(question) + len(answer)
                lane = next((i for i in range(LANES) if used[i] + length <= LANE_WIDTH), None)
                if lane is None:
                    continue
                at = p + lane * LANE_WIDTH + used[lane]
                ids[row, at : at + length] = question + answer
                # position i predicts token i + 1
                labels[row, at + len(question) - 1 : at + length - 1] = answer
                positions[:, row, at : at + length] = self.next_position + np.arange(length)
                segment[row, lane, used[lane] : used[lane] + length] = number
                used[lane] += length
                if one.query_at is not None:
                    queries.append((row, at + one.query_at))
                    meanings.append(one.meaning)
                    places.append(cells_and_first_box([box.xyxy for box in one.boxes], self.image_size, self.side))
        same = segment[..., :, None] == segment[..., None, :]
        own = same & np.tril(np.ones((LANE_WIDTH, LANE_WIDTH), bool))
        mask = np.concatenate([np.ones((b, LANES, LANE_WIDTH, p), bool), own], -1)[:, :, None]
        return {
            "ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "positions": torch.from_numpy(positions),
            "mask": torch.zeros(mask.shape).masked_fill_(torch.from_numpy(~mask), UNSEEN),
            "queries": torch.tensor(queries),
            "places": torch.from_numpy(np.stack(places)),
            "meanings": torch.tensor(meanings),
        }


def cells_and_first_box(boxes: list[tuple[float, ...]], image_size: int, side: int) -> np.ndarray:
    """Return [cells + 5]: 1 for each image token with its centre in a box, first box / image size, 1 if any box.

    ``side``: image tokens per side of an image, cells = side * side.
    """
    cells = side * side
    centres = (np.arange(side) + 0.5) * image_size / side
    made = np.zeros(cells + 5, np.float32)
    for x1, y1, x2, y2 in boxes:
        inside = ((centres > y1) & (centres < y2))[:, None] & ((centres > x1) & (centres < x2))[None]
        made[:cells] = np.maximum(made[:cells], inside.reshape(-1))
    if boxes:
        made[cells:-1] = np.array(boxes[0]) / image_size
        made[-1] = 1
    return made


class WordHeads(nn.Module):
    """Auxiliary heads that align image tokens with words: each token close to the name of its object, and its box.

    Without these heads, the language model needs very long to learn the correspondence of a name in the question and a
    place in the image, and, since positions are relative, the absolute position of an image token.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.background = nn.Parameter(torch.randn(1, width) * 0.02)
        self.scale = nn.Parameter(torch.tensor(2.3))
        self.box = nn.Linear(width, 4)

    def losses(self, states: Tensor, names: Tensor, classes: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, float]:
        """Return cross-entropy, L1 of boxes, accuracy on covered tokens.

        ``states`` [M, width]: image tokens. ``names`` [K, width]: a vector for each name. ``classes`` [M]: 0 for the
        background, 1 + index of the name. ``boxes`` [M, 4] / image size.
        """
        vectors = torch.cat([self.background, names])
        logits = F.normalize(states.float(), dim=-1) @ F.normalize(vectors.float(), dim=-1).T * self.scale.exp()
        covered = classes > 0
        l1 = (self.boxes(states[covered]) - boxes[covered]).abs().mean()
        hits = (logits.detach()[covered].argmax(-1) == classes[covered]).float().mean().item()
        return F.cross_entropy(logits, classes), l1, hits

    def boxes(self, states: Tensor) -> Tensor:
        """Return the predicted box of each token / image size [M, 4]."""
        return self.box(F.rms_norm(states.float(), states.shape[-1:])).sigmoid()


def token_bags(names: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Return the token ids of all names, one after another, and the offset of each name."""
    lengths = np.array([0, *(len(ids) for ids in names[:-1])])
    return torch.tensor([token for ids in names for token in ids]), torch.from_numpy(lengths.cumsum())


def name_vectors(words: Tensor, bags: tuple[Tensor, Tensor]) -> Tensor:
    """Return the mean embedding of the tokens of each name [K, width]; ``words``: the embedding table."""
    return F.embedding_bag(bags[0], words, bags[1], mode="mean")


class PlaceHead(nn.Module):
    """Auxiliary head on the last token of the query that predicts its place in the image."""

    def __init__(self, width: int, num_cells: int) -> None:
        super().__init__()
        self.out = nn.Linear(width, num_cells + 4)
        self.num_cells = num_cells

    def losses(self, states: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
        """Return binary cross-entropy of the cells, L1 of the first box.

        ``states`` [M, width]: last tokens of queries. ``places`` [M, cells + 5], see ``cells_and_first_box``.
        """
        n = self.num_cells
        made = self.out(F.rms_norm(states.float(), states.shape[-1:]))
        cells = F.binary_cross_entropy_with_logits(made[:, :n], places[:, :n])
        has_box = places[:, -1] > 0
        boxes = made[has_box, n:].sigmoid()
        return cells, (boxes - places[has_box, n:-1]).abs().mean()


def lane_attention(module, query, key, value, attention_mask=None, scaling=None, dropout=0.0, lanes=None, **kwargs):
    """Attention over rows [prefix | lane 1 .. lane n]: causal in the prefix; a lane attends to the prefix and itself.

    ``lanes``: prefix length, and the mask of the lanes.
    """
    prefix, mask = lanes
    repeat = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(repeat, 1) for x in (key, value))
    causal = causal_bias(prefix, None, 1, query.dtype, query.device)
    first = attend(query[:, :, :prefix], key[:, :, :prefix], value[:, :, :prefix], causal, scaling)
    split = lambda x: x[:, :, prefix:].unflatten(2, (LANES, LANE_WIDTH)).transpose(1, 2)  # noqa: E731
    shared = lambda x: x[:, None, :, :prefix].expand(-1, LANES, -1, -1, -1)  # noqa: E731
    keys, values = (torch.cat([shared(x), split(x)], 3) for x in (key, value))
    rest = attend(split(query), keys, values, mask.to(query.dtype), scaling)
    output = torch.cat([first, rest.transpose(1, 2).flatten(2, 3)], 2)
    return output.transpose(1, 2), None


AttentionInterface.register(LANE_ATTENTION, lane_attention)
AttentionMaskInterface.register(LANE_ATTENTION, lambda *args, **kwargs: None)


def learning_rate(step: int, steps: int, peak: float, warmup: int = 200, decay: int = 0) -> float:
    """Return the learning rate of a step: linear warm-up, then cosine decay to 2 % of the peak.

    ``decay``: the peak is held, and decays linearly in the last ``decay`` steps only, so that a run may be prolonged.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if decay:
        return peak * (0.02 + 0.98 * min(1.0, (steps - step) / decay))
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def make_optimizer(module: nn.Module, slow: str = "", slow_scale: float = 1.0) -> torch.optim.Optimizer:
    """Make AdamW without weight decay on vectors; ``slow_scale`` scales the rate of parameters named ``slow``."""
    groups = []
    for scale, chosen in ((slow_scale, True), (1.0, False)):
        named = [p for name, p in module.named_parameters() if (bool(slow) and slow in name) == chosen]
        groups.append({"params": [p for p in named if p.ndim > 1], "weight_decay": 0.05, "scale": scale})
        groups.append({"params": [p for p in named if p.ndim <= 1], "weight_decay": 0.0, "scale": scale})
    return torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), fused=True)


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Set the learning rate of each parameter group, scaled by its factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


class Progress:
    """Log of means over ``every`` steps, as JSON lines."""

    def __init__(self, path: Path, every: int = 50) -> None:
        self.file, self.every = path.open("a"), every
        self.sums: dict[str, float] = {}
        self.count = 0
        self.since = time.time()

    def add(self, step: int, num_images: int, numbers: dict[str, float]) -> None:
        self.count += 1
        for key, value in numbers.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        if step % self.every == 0:
            seconds = time.time() - self.since
            line = {"step": step, **{key: round(value / self.count, 5) for key, value in self.sums.items()}}
            line["images_per_s"] = round(self.count * num_images / seconds, 1)
            print(json.dumps(line), file=self.file, flush=True)
            self.sums, self.count, self.since = {}, 0, time.time()


def under(prefix: str, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, without the prefix."""
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def save(path: Path, content: dict[str, object]) -> None:
    """Save a training state atomically."""
    torch.save(content, path.with_suffix(".new"))
    path.with_suffix(".new").rename(path)
