"""Features of fresh composites from background processes: scenes are rendered and run through the frozen tower.

Blocks of scenes are numbered. Block ``b`` is a pure function of the seed and ``b``, and step ``s`` of a training uses
the blocks ``s``, ``s - lag``, ``s - 2 lag`` ..: each scene is used ``reuse`` times, with other questions. So a resumed
training has the same batches.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from photo_scenes import MAX_OBJECTS, SIDE, cells_of, load_assets, random_plan, records_of, render
from safetensors.torch import load_file
from torch import Tensor
from transformers import InternVLVisionConfig, InternVLVisionModel

from virft.models.photo_config import PHOTO_VISION, PREPROCESSOR, TOWER_PREFIX

AHEAD = 24
"""Blocks that are made ahead of the step that uses them."""
WIDTH: int = PHOTO_VISION["hidden_size"]
NUM_PATCHES = (PHOTO_VISION["image_size"] // PHOTO_VISION["patch_size"]) ** 2


@dataclass(frozen=True)
class Shape:
    """Sizes of a ring."""

    block: int
    """Scenes in a block."""
    reuse: int
    """Steps that use a scene; a batch has ``block * reuse`` scenes."""
    lag: int
    """Steps between two uses of a scene."""

    @property
    def num_blocks(self) -> int:
        """Blocks that the ring holds."""
        return AHEAD + self.lag * (self.reuse - 1) + 1

    def blocks_of(self, step: int) -> list[int]:
        """Return the blocks of a step. In the first steps, blocks are repeated."""
        return [max(0, step - self.lag * turn) for turn in range(self.reuse)]


@dataclass
class Ring:
    """Shared memory: features of patches (bf16), object records, cells, and the numbers of blocks that are complete."""

    features: np.memmap
    records: np.memmap
    cells: np.memmap
    done: np.memmap
    """Blocks that each process has completed, int64 [processes]; process p makes blocks p, p + processes, .."""
    step: np.memmap
    """Step of the trainer, int64 [1]."""
    shape: Shape

    @classmethod
    def open(cls, folder: Path, shape: Shape, processes: int) -> Ring:
        """Open the ring; a new or different one is empty."""
        folder.mkdir(parents=True, exist_ok=True)
        size = (shape.num_blocks, shape.block)
        layout = (
            ("features.bf16", np.int16, (*size, NUM_PATCHES, WIDTH)),
            ("records.f32", np.float32, (*size, MAX_OBJECTS, 6)),
            ("cells.i8", np.int8, (*size, SIDE * SIDE)),
            ("done.i64", np.int64, (processes,)),
            ("step.i64", np.int64, (1,)),
        )
        described = f"{shape} {processes}"
        note = folder / "shape.txt"
        fresh = not note.exists() or note.read_text() != described
        opened = [np.memmap(folder / name, kind, "w+" if fresh else "r+", shape=size) for name, kind, size in layout]
        note.write_text(described)
        return cls(*opened, shape)

    def rewind(self, step: int) -> None:
        """Prepare for a trainer that starts at a step: blocks that it needs and that are overwritten are made again."""
        first = min(self.shape.blocks_of(step))
        processes = len(self.done)
        newest = max(int(count) * processes + p for p, count in enumerate(self.done)) + processes
        if newest - self.shape.num_blocks >= first or any(
            int(count) * processes + p < first for p, count in enumerate(self.done)
        ):
            for p in range(processes):
                self.done[p] = max(0, -(-(first - p) // processes))
        self.step[0] = step

    def is_ready(self, block: int) -> bool:
        """Return True if a block is complete."""
        processes = len(self.done)
        return int(self.done[block % processes]) > block // processes

    def batch(self, step: int) -> tuple[Tensor, np.ndarray, np.ndarray]:
        """Wait for the scenes of a step; return features bf16 [B, patches, width], records, cells."""
        self.step[0] = step
        slots = []
        for block in self.shape.blocks_of(step):
            while not self.is_ready(block):
                time.sleep(0.02)
            slots.append(block % self.shape.num_blocks)
        features = torch.from_numpy(self.features[slots]).view(torch.bfloat16).flatten(0, 1)
        return features, np.concatenate(self.records[slots]), np.concatenate(self.cells[slots])


def load_tower(path: Path) -> InternVLVisionModel:
    """Return the tower in bf16."""
    tower = InternVLVisionModel(InternVLVisionConfig(**PHOTO_VISION, attn_implementation="sdpa"))
    weights = load_file(path)
    tower.load_state_dict({name.removeprefix(TOWER_PREFIX): tensor for name, tensor in weights.items()})
    return tower.to(torch.bfloat16).eval().requires_grad_(False)


def encode(tower: InternVLVisionModel, images: np.ndarray) -> Tensor:
    """Return the features of the patches of uint8 images [B, H, W, 3]: bf16 [B, patches, width]."""
    mean, std = (torch.tensor(PREPROCESSOR[key]) for key in ("image_mean", "image_std"))
    pixels = ((torch.from_numpy(images) / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        return tower(pixels.to(torch.bfloat16)).last_hidden_state[:, 1:]


def encode_forever(
    folder: Path, shape: Shape, processes: int, number: int, assets_folder: Path, tower_file: Path, seed: int
) -> None:
    """Make the blocks of one process, as far as the trainer lets it; ends with the trainer."""
    os.nice(5)
    torch.set_num_threads(1)
    ring = Ring.open(folder, shape, processes)
    assets, tower = load_assets(assets_folder), load_tower(tower_file)
    trainer = os.getppid()
    while os.getppid() == trainer:
        block = int(ring.done[number]) * processes + number
        if block >= int(ring.step[0]) + AHEAD:
            time.sleep(0.02)
            continue
        slot = block % shape.num_blocks
        images = []
        for index in range(shape.block):
            rng = np.random.default_rng([seed, block, index])
            scene = render(rng, assets, random_plan(rng, assets))
            images.append(scene.image)
            ring.records[slot, index] = records_of(scene, assets.names)
            ring.cells[slot, index] = cells_of(scene)
        ring.features[slot] = encode(tower, np.stack(images)).contiguous().view(torch.int16).numpy()
        ring.done[number] += 1


def start(folder: Path, shape: Shape, *, step: int, processes: int, assets: Path, tower: Path, seed: int) -> Ring:
    """Start the processes and return the ring."""
    ring = Ring.open(folder, shape, processes)
    ring.rewind(step)
    context = multiprocessing.get_context("spawn")
    for number in range(processes):
        arguments = (folder, shape, processes, number, assets, tower, seed)
        context.Process(target=encode_forever, args=arguments, daemon=True).start()
    return ring
