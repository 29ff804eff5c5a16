"""Alignment of virft-photo: projector and language model learn to read the frozen tower.

    python scripts/photo_assets.py ASSETS
    python scripts/photo_sets.py ASSETS SETS
    python scripts/train_photo.py dense FOLDER --assets ASSETS --steps N      the projector only
    python scripts/train_photo.py joint FOLDER --assets ASSETS --steps N --sets SETS      projector and language model

The language model starts as that of ``virft-tiny``. In the dense stage, auxiliary heads on the image tokens predict the
name, the categories and the box of the object that each token shows; in the joint stage the language model answers
several questions about each image, packed after one copy of the image, and the heads stay active. They are discarded
afterwards. The scenes are fresh ones, see ``photo_ring.py``.

FOLDER has the ring of features, the training states (an interrupted stage is resumed exactly), logs, and ``model/``:
the moving average of the weights. With ``--sets``, it is evaluated every ``--eval-minutes`` on the datasets in
that folder.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

# each number of answer tokens is a shape of its own, and oneDNN would keep its kernels: 20 GB after 300 steps
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")

import numpy as np
import photo_ring
import torch
from export_photo import save_folder
from packed_questions import (
    IGNORE,
    LANE_ATTENTION,
    LANE_WIDTH,
    LANES,
    LanePacker,
    PlaceHead,
    Progress,
    WordHeads,
    learning_rate,
    make_optimizer,
    name_vectors,
    save,
    set_rate,
    token_bags,
)
from photo_questions import PhotoQuestionWriter, token_finder
from photo_scenes import SIDE, SIZE, Assets, load_assets
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoTokenizer, InternVLForConditionalGeneration, Qwen2VLForConditionalGeneration

from virft.models.photo_config import TOWER_FILE, photo_config, photo_tokenizer
from virft.models.tiny import tiny_folder

TOWER = Path(__file__).resolve().parents[1] / "src/virft/models/photo_weights" / TOWER_FILE
NUM_CELLS = SIDE * SIDE
CATEGORY_WEIGHT = 0.5


def initial_model(layers: int) -> tuple[InternVLForConditionalGeneration, object]:
    """Return the model without a tower and its tokenizer; language model and embeddings are those of virft-tiny.

    More than its 4 layers: the new ones are placed between them and change nothing, as their last projections are zero.
    """
    old_tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    tokenizer = photo_tokenizer(old_tokenizer)
    tiny = Qwen2VLForConditionalGeneration.from_pretrained(tiny_folder(), dtype=torch.float32)
    model = InternVLForConditionalGeneration(photo_config(tokenizer, layers=layers, vision_layers=1))
    model.model.vision_tower = nn.Identity()
    ours, theirs = model.model.language_model, tiny.model.language_model
    places = np.linspace(0, layers - 1, len(theirs.layers)).round().astype(int).tolist()
    for index, layer in enumerate(ours.layers):
        if index in places:
            layer.load_state_dict(theirs.layers[places.index(index)].state_dict())
        else:
            nn.init.zeros_(layer.self_attn.o_proj.weight)
            nn.init.zeros_(layer.mlp.down_proj.weight)
    ours.norm.load_state_dict(theirs.norm.state_dict())
    old_vocabulary = old_tokenizer.get_vocab()
    similar = {"<img>": "<|vision_start|>", "</img>": "<|vision_end|>", "<IMG_CONTEXT>": "<|image_pad|>"}
    with torch.no_grad():
        for token, index in tokenizer.get_vocab().items():
            source = old_vocabulary[similar.get(token, token)]
            ours.embed_tokens.weight[index] = theirs.embed_tokens.weight[source]
            model.lm_head.weight[index] = tiny.lm_head.weight[source]
    return model, tokenizer


def project(model: InternVLForConditionalGeneration, features: Tensor) -> Tensor:
    """Return the image tokens [B * cells, hidden] of features of patches [B, patches, width]."""
    side = round(features.shape[1] ** 0.5)
    grid = model.model.pixel_shuffle(features.unflatten(1, (side, side)), scale_factor=model.config.downsample_ratio)
    return model.model.multi_modal_projector(grid.flatten(1, 2)).flatten(0, 1)


class Targets:
    """What the auxiliary heads predict for each image token."""

    def __init__(self, assets: Assets, categories: tuple[str, ...]) -> None:
        rows = [[c in assets.categories[name] for c in categories] for name in assets.names]
        self.categories = torch.tensor([[False] * len(categories), *rows]).float()  # the first row: background
        known = [bool(assets.categories[name]) for name in assets.names]
        self.known = torch.tensor([True, *known])

    def of(self, records: np.ndarray, cells: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return classes [B * cells], 0 for the background, and boxes / image size [B * cells, 4]."""
        index = torch.from_numpy(cells).long()
        rows = torch.from_numpy(records)
        found = rows.gather(1, index.clamp(min=0)[..., None].expand(-1, -1, rows.shape[2]))
        classes = torch.where(index >= 0, found[..., 0].long() + 1, 0)
        return classes.flatten(), found[..., 1:5].flatten(0, 1) / SIZE


class Alignment(nn.Module):
    """The model with its auxiliary heads."""

    def __init__(self, model: InternVLForConditionalGeneration, tokenizer: object, assets: Assets) -> None:
        super().__init__()
        self.model = model
        self.writer = PhotoQuestionWriter(tokenizer, assets)
        prefix = np.arange(len(self.writer.prefix_ids))[None]
        self.packer = LanePacker(self.writer, prefix, SIZE, SIDE)
        ids_of = token_finder(tokenizer)
        self.names = token_bags([ids_of(name) for name in assets.names])
        self.category_names = token_bags([ids_of(name) for name in self.writer.category_names])
        self.targets = Targets(assets, self.writer.category_names)
        width = model.config.text_config.hidden_size
        self.words_at = nn.ModuleDict({place: WordHeads(width) for place in ("merged", "halfway")})
        self.category_bias = nn.Parameter(torch.full((2,), -2.0))
        self.place = PlaceHead(width, NUM_CELLS)
        model.model.language_model.config._attn_implementation = LANE_ATTENTION

    def compile_layers(self) -> None:
        """Compile the layers of the language model: 0.6 of the CPU time of a joint step; needs a C++ compiler."""
        for layer in self.model.model.language_model.layers:
            layer.forward = torch.compile(layer.forward, dynamic=False)

    def dense_losses(
        self, place: str, tokens: Tensor, records: np.ndarray, cells: np.ndarray
    ) -> tuple[Tensor, dict[str, float]]:
        """Return name loss + 4 x L1 of boxes + category loss of the head at a place, and numbers for the log."""
        table = self.model.model.language_model.embed_tokens.weight
        classes, boxes = self.targets.of(records, cells)
        head = self.words_at[place]
        names, l1, hits = head.losses(tokens, name_vectors(table, self.names), classes, boxes)
        vectors = F.normalize(name_vectors(table, self.category_names), dim=-1)
        bias = self.category_bias[0 if place == "merged" else 1]
        logits = F.normalize(tokens.float(), dim=-1) @ vectors.T * head.scale.exp() + bias
        known = self.targets.known[classes]
        target = self.targets.categories[classes]
        found = F.binary_cross_entropy_with_logits(logits[known], target[known])
        numbers = {f"{place}_acc": hits, f"{place}_l1": l1.item(), f"{place}_categories": found.item()}
        return names + 4 * l1 + CATEGORY_WEIGHT * len(self.category_names[1]) * found, numbers

    def answers(self, tokens: Tensor, packed: dict[str, Tensor]) -> tuple[Tensor, int, Tensor, Tensor]:
        """Return mean next-token loss of answer tokens, their number, states of image tokens and of queries."""
        language = self.model.model.language_model
        embeds = language.embed_tokens(packed["ids"])
        is_image = packed["ids"] == self.writer.image_token_id
        embeds = embeds.masked_scatter(is_image[..., None], tokens.to(embeds.dtype))
        states: list[Tensor] = []
        half = len(language.layers) // 2
        hooks = [
            layer.register_forward_hook(lambda module, inputs, output: states.append(output))
            for layer in language.layers[half - 1 : half + 1]
        ]
        hidden = language(
            inputs_embeds=embeds,
            position_ids=packed["positions"][0],
            attention_mask={"full_attention": None},
            use_cache=False,
            lanes=(packed["ids"].shape[1] - LANES * LANE_WIDTH, packed["mask"]),
        ).last_hidden_state
        for hook in hooks:
            hook.remove()
        has_label = packed["labels"] != IGNORE
        logits = self.model.lm_head(hidden[has_label]).float()
        rows, columns = packed["queries"].unbind(1)
        loss = F.cross_entropy(logits, packed["labels"][has_label])
        return loss, int(has_label.sum()), states[0][is_image], states[1][rows, columns]

    def dense_step(self, features: Tensor, records: np.ndarray, cells: np.ndarray) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of the dense stage."""
        return self.dense_losses("merged", project(self.model, features), records, cells)

    def joint_step(
        self,
        features: Tensor,
        records: np.ndarray,
        cells: np.ndarray,
        rng: np.random.Generator,
        args: argparse.Namespace,
    ) -> tuple[Tensor, dict[str, float]]:
        """Return the loss of the joint stage."""
        tokens = project(self.model, features)
        packed = self.packer.pack(records, rng)
        loss, count, image_states, query_states = self.answers(tokens, packed)
        cell_loss, first_l1 = self.place.losses(query_states, packed["places"])
        total = loss + args.place_weight * (cell_loss + 2 * first_l1)
        numbers = {"answer_loss": loss.item(), "answer_tokens": count, "cells": cell_loss.item()}
        numbers["first_l1"] = first_l1.item()
        for place, states in (("merged", tokens), ("halfway", image_states)):
            dense, found = self.dense_losses(place, states, records, cells)
            total = total + args.word_weight * dense
            numbers |= found
        return total, numbers


def trained_part(module: Alignment, stage: str) -> list[str]:
    """Return the beginnings of the names of the parameters that a stage trains."""
    if stage == "joint":
        return [""]
    return [
        "model.model.multi_modal_projector",
        "model.model.language_model.embed_tokens",
        "words_at.merged",
        "category",
    ]


def evaluate_folder(folder: Path, sets: Path) -> dict[str, dict[str, float]]:
    """Return the scores of a model folder on each dataset: those of ``virft.evaluate``, and of its blind baselines."""
    import virft

    scores: dict[str, dict[str, float]] = {}
    model = virft.load(folder)
    for test in sorted(sets.glob("*/test")):
        train = test.parent / "train"
        found = virft.evaluate(model, test, train=train if train.is_dir() else None)
        for one in found.predictions.scores:
            scores[f"{test.parent.name}/{one.task}"] = {name: round(float(v), 4) for name, v in one.values.items()}
        for blind in found.predictions.blind:
            best = {
                f"{row.name}: {name}": round(float(v), 4) for row in blind.baselines for name, v in row.values.items()
            }
            scores[f"{test.parent.name}/{blind.task}"] |= best
    return scores


def train(args: argparse.Namespace) -> None:
    """Run a stage, resuming it if it was interrupted."""
    args.folder.mkdir(parents=True, exist_ok=True)
    assets = load_assets(args.assets)
    model, tokenizer = initial_model(args.layers)
    module = Alignment(model, tokenizer, assets)
    path, is_joint = args.folder / f"{args.stage}.pt", args.stage == "joint"
    chosen = trained_part(module, args.stage)
    for name, parameter in module.named_parameters():
        parameter.requires_grad_(name.startswith(tuple(chosen)))
    if path.exists():
        state = torch.load(path)
        module.load_state_dict(state["module"])
    else:
        earlier = args.folder / "dense.pt"
        if is_joint and earlier.exists():
            module.load_state_dict(torch.load(earlier)["module"])
        state = {"step": 0, "average": None, "optimizer": None}
    if args.compile:
        module.compile_layers()
    optimizer = make_optimizer(module, slow="embed_tokens", slow_scale=args.word_rate)
    if state["optimizer"] is not None:
        optimizer.load_state_dict(state["optimizer"])
    step = state["step"]
    average = state["average"] or {name: t.detach().clone() for name, t in model.state_dict().items()}
    shape = photo_ring.Shape(block=args.batch // args.reuse, reuse=args.reuse, lag=args.lag)
    ring = photo_ring.start(
        args.folder / f"ring_{args.stage}",
        shape,
        step=step,
        processes=args.encoders,
        assets=args.assets,
        tower=args.tower,
        seed=args.seed + (1 if is_joint else 0),
    )
    progress = Progress(args.folder / f"{args.stage}.jsonl", args.log_every)
    saved_at = evaluated_at = time.time()
    while step < args.steps:
        features, records, cells = ring.batch(step)
        if args.fixed:  # a check that the model can learn: the same scenes in every step
            features, records, cells = features_of_fixed(args, ring, (features, records, cells), step)
        rate = learning_rate(step, args.steps, args.rate, args.warmup, args.decay)
        set_rate(optimizer, rate)
        rng = np.random.default_rng([args.seed, step])
        with torch.autocast("cpu", torch.bfloat16):
            if is_joint:
                loss, numbers = module.joint_step(features, records, cells, rng, args)
            else:
                loss, numbers = module.dense_step(features, records, cells)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        keep = min(args.average, step / (step + 10))
        for name, tensor in model.state_dict().items():
            average[name].lerp_(tensor, 1 - keep)
        progress.add(step, args.batch, numbers | {"norm": norm, "rate": rate})
        is_last = step == args.steps
        if is_last or time.time() - saved_at > 60 * args.save_minutes:
            content = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            save(path, content | {"step": step})
            saved_at = time.time()
        if is_joint and (is_last or (args.sets and time.time() - evaluated_at > 60 * args.eval_minutes)):
            save_folder(
                average, tokenizer, photo_config(tokenizer, layers=args.layers), args.tower, args.folder / "model"
            )
            if args.sets:
                scores = evaluate_folder(args.folder / "model", args.sets)
                with (args.folder / "eval.jsonl").open("a") as file:
                    print(json.dumps({"step": step} | scores), file=file)
                torch.set_num_threads(args.threads)
            evaluated_at = time.time()


_Batch = tuple[Tensor, np.ndarray, np.ndarray]
_fixed: list[_Batch] = []


def features_of_fixed(args: argparse.Namespace, ring: photo_ring.Ring, batch: _Batch, step: int) -> _Batch:
    """Return one of the first ``args.fixed`` batches in turn."""
    if len(_fixed) < args.fixed:
        _fixed.append(batch)
    return _fixed[step % len(_fixed)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["dense", "joint"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--sets", type=Path, help="folder with datasets NAME/test, and NAME/train for blind baselines")
    parser.add_argument("--tower", type=Path, default=TOWER)
    parser.add_argument("--layers", type=int, default=6, help="layers of the language model")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--reuse", type=int, default=2, help="steps that use a scene")
    parser.add_argument("--lag", type=int, default=150, help="steps between two uses of a scene")
    parser.add_argument("--rate", type=float, default=6e-4, help="peak learning rate")
    parser.add_argument("--word-rate", type=float, default=0.5, help="factor of the learning rate of word embeddings")
    parser.add_argument("--warmup", type=int, default=300)
    parser.add_argument("--decay", type=int, default=0, help="last steps, in which the rate decays; 0: cosine decay")
    parser.add_argument("--average", type=float, default=0.998, help="decay of the moving average of the weights")
    parser.add_argument("--word-weight", type=float, default=0.15, help="weight of the heads on image tokens")
    parser.add_argument("--place-weight", type=float, default=0.5, help="weight of the head that predicts the place")
    parser.add_argument("--log-every", type=int, default=50, help="steps in a line of the log")
    parser.add_argument("--save-minutes", type=float, default=10)
    parser.add_argument("--eval-minutes", type=float, default=60)
    parser.add_argument("--fixed", type=int, default=0, help="learn this number of batches only; 0: fresh scenes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--encoders", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="compile the layers of the language model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    train(args)


if __name__ == "__main__":
    main()
