"""Supervised pre-training of virft-tiny on the base classes of the built-in scenes.

    python scripts/train_tiny.py dense FOLDER --steps N     the vision tower only
    python scripts/train_tiny.py joint FOLDER --steps N     the whole model, starting from the dense stage

``--start-from MODEL`` initialises either stage with the weights of a model, and also with the auxiliary heads if MODEL
is the FOLDER of an earlier training; the joint stage uses the tower of the dense stage if it exists. Auxiliary heads
are discarded after training.

In the dense stage each patch predicts its class and the distances to the edges of its object (auxiliary heads); with
the next-token loss only, the tower would take days to learn. In the joint stage the language model answers several
questions about each image, packed after one copy of the image; the dense loss stays active.

In addition to the base classes, scenes show things, which have no name. The tower learns to distinguish them, and
questions refer to them by learned vectors in place of word embeddings, which are discarded. 64 classes would be too
few: the model would learn neither the appearance of new objects nor that any embedding can be a name. Scenes are
rendered by a separate process into a ring buffer, from which batches are drawn.

FOLDER has the ring buffer, the training states (an interrupted stage is resumed), logs, and ``model/``: the moving
average of the weights in bf16.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
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
    under,
)
from tiny_questions import NO_KIND, WORD, QuestionWriter, corpus
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Qwen2VLForConditionalGeneration
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from virft.models.attention.shared_prompt import VISION_ATTENTION
from virft.models.tiny import IMAGE_SIZE
from virft.models.tiny_config import VISION, tiny_config, train_tokenizer
from virft.scenes.assets import BASE_STYLES, class_names, thing_names

PATCH, MERGE = 14, 2
GRID = IMAGE_SIZE // PATCH
NUM_IMAGE_TOKENS = (GRID // MERGE) ** 2
MAX_OBJECTS = 6
RING_SIZE = 24_000
HALF = 2  # of the language model's 4 layers: after it, image tokens encode class and position
UNKNOWN_STD = 0.04
"""Standard deviation of the random embedding of an unknown word, about that of known words."""
NUM_BASE = len(class_names("base"))
NUM_KINDS = NUM_BASE + len(thing_names())
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073])
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711])


# ------------------------------------------------------------------------------------------ scenes


@dataclass
class Ring:
    """Shared-memory ring buffer of scenes: pixels, and per object [class, x1, y1, x2, y2, visible]."""

    images: np.memmap
    objects: np.memmap
    filled: np.memmap

    @classmethod
    def open(cls, folder: Path, mode: str) -> Ring:
        return cls(
            np.memmap(folder / "images.u8", np.uint8, mode, shape=(RING_SIZE, IMAGE_SIZE, IMAGE_SIZE, 3)),
            np.memmap(folder / "objects.f32", np.float32, mode, shape=(RING_SIZE, MAX_OBJECTS, 6)),
            np.memmap(folder / "filled.i64", np.int64, mode, shape=(1,)),
        )


def render_forever(folder: Path, seed: int) -> None:
    """Fill the ring buffer with scenes of base classes and things, endlessly, at the lowest process priority.

    Half of the scenes have base classes only, so that questions about groups ("the largest animal") are correct.
    """
    from virft.scenes.render import PlanItem, render_scene

    os.nice(19)
    torch.set_num_threads(1)
    ring = Ring.open(folder, "r+")
    names = (*class_names("base"), *thing_names())
    number = {name: i for i, name in enumerate(names)}
    count = int(ring.filled[0])
    rng = np.random.default_rng([seed, count])
    trainer = os.getppid()
    while os.getppid() == trainer:  # ends with the trainer, also if that is killed
        if rng.random() < 0.15:  # one large object, for "which animal is this?"
            plan = [PlanItem(names[rng.integers(NUM_BASE)], 1, (45.0, 80.0))]
        else:
            total = int(rng.integers(2, 5))
            of_base = total if rng.random() < 0.5 else int(rng.integers(1, total))
            kinds = [
                *rng.choice(NUM_BASE, size=of_base, replace=False),
                *rng.choice(np.arange(NUM_BASE, NUM_KINDS), size=total - of_base, replace=False),
            ]
            counts = rng.choice([1, 2, 3, 4], size=len(kinds), p=[0.68, 0.2, 0.08, 0.04])
            plan = [PlanItem(names[k], int(n)) for k, n in zip(kinds, counts, strict=True)]
            while sum(item.count for item in plan) > MAX_OBJECTS:
                plan.pop()
        scene = render_scene(rng, plan, styles=BASE_STYLES)
        slot = count % RING_SIZE
        ring.images[slot] = scene.image
        ring.objects[slot] = -1
        for row, item in enumerate(scene.objects):
            ring.objects[slot, row] = [number[item.class_name], *item.box.xyxy, item.visible_frac]
        count += 1
        ring.filled[0] = count


# ------------------------------------------------------------------------------------------- model


def jittered(images: Tensor) -> Tensor:
    """Apply colour jitter, blur or sharpening to half of the uint8 images [B, H, W, 3]; float32 in 0..1.

    Contrast, brightness, saturation and colour cast vary. Other styles draw the same object in other colours, flatter
    or with harder edges, and the model should not depend on them.
    """
    x = images.float() / 255
    changed, contrast, shift, saturation, detail = torch.rand(5, len(x), 1, 1, 1)
    cast = torch.rand(len(x), 1, 1, 3)
    smooth = F.avg_pool2d(x.permute(0, 3, 1, 2), 3, stride=1, padding=1, count_include_pad=False).permute(0, 2, 3, 1)
    made = x + (x - smooth) * (2.0 * detail - 1.0)
    grey = made.mean(-1, keepdim=True)
    made = grey + (made - grey) * (0.4 + 1.2 * saturation)
    made = made * (0.85 + 0.3 * cast)
    made = (made - 0.5) * (0.7 + 0.6 * contrast) + 0.5 + 0.25 * (shift - 0.5)
    return torch.where(changed < 0.5, made.clamp(0, 1), x)


def patches_of(images: Tensor) -> Tensor:
    """Return the patches [B * patches, 3 * 2 * 14 * 14] of images [B, H, W, 3] in 0..1, in the order of Qwen2-VL."""
    x = (images - MEAN) / STD
    b, blocks = len(x), GRID // MERGE
    x = x.view(b, blocks, MERGE, PATCH, blocks, MERGE, PATCH, 3).permute(0, 1, 4, 2, 5, 7, 3, 6)
    x = x.reshape(b * GRID * GRID, 3, 1, PATCH * PATCH)
    return x.expand(-1, -1, 2, -1).reshape(b * GRID * GRID, -1)


def objects_of_patches(objects: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the object index of each patch, in the tower's order [B, 64] (-1: background), and patch centres [64]."""
    blocks = GRID // MERGE
    centres = (torch.arange(GRID) + 0.5) * PATCH
    y, x = (
        t.view(blocks, MERGE, blocks, MERGE).transpose(1, 2).reshape(-1)
        for t in torch.meshgrid(centres, centres, indexing="ij")
    )
    shown = torch.full((len(objects), GRID * GRID), -1)
    for k in range(MAX_OBJECTS):  # later objects are on top
        kind, x1, y1, x2, y2 = (objects[:, k, i, None] for i in range(5))
        shown = torch.where((kind >= 0) & (x > x1) & (x < x2) & (y > y1) & (y < y2), k, shown)
    return shown, x, y


def dense_targets(objects: Tensor) -> tuple[Tensor, Tensor]:
    """Return per patch, in the tower's order: class (0: background) [B, 64], edge distances / image size [B, 64, 4]."""
    shown, x, y = objects_of_patches(objects)
    records = objects.gather(1, shown.clamp(min=0)[..., None].expand(-1, -1, objects.shape[2]))
    classes = torch.where(shown >= 0, records[..., 0].long() + 1, 0)
    edges = torch.stack([x - records[..., 1], y - records[..., 2], records[..., 3] - x, records[..., 4] - y], -1)
    return classes, edges / IMAGE_SIZE


def cell_targets(objects: Tensor) -> tuple[Tensor, Tensor]:
    """Return per image token (4 patches): class of its main object [B, 16] (0: background), box / image size."""
    shown, _, _ = objects_of_patches(objects)
    cells = shown.view(len(objects), NUM_IMAGE_TOKENS, MERGE * MERGE)
    counts = torch.stack([(cells == k).sum(-1) for k in range(MAX_OBJECTS)], -1)
    most, main = counts.max(-1)
    records = objects.gather(1, main[..., None].expand(-1, -1, objects.shape[2]))
    return torch.where(most > 0, records[..., 0].long() + 1, 0), records[..., 1:5] / IMAGE_SIZE


class DenseHeads(nn.Module):
    """Auxiliary heads on the patches of the tower's last layer."""

    def __init__(self, width: int, num_classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.classes = nn.Linear(width, num_classes + 1)
        self.distances = nn.Linear(width, 4)

    def losses(self, patches: Tensor, objects: Tensor) -> tuple[Tensor, dict[str, float]]:
        """Return cross-entropy x 0.5 + L1 of the distances x 2, and the accuracy on covered patches."""
        target, edges = dense_targets(objects)
        target, edges = target.flatten(), edges.flatten(0, 1)
        hidden = self.norm(patches)
        logits = self.classes(hidden).float()
        covered = target > 0
        cross_entropy = F.cross_entropy(logits, target)
        l1 = (self.distances(hidden).float()[covered].sigmoid() - edges[covered]).abs().mean()
        hits = (logits.detach()[covered].argmax(-1) == target[covered]).float().mean().item()
        return 0.5 * cross_entropy + 2.0 * l1, {"ce": cross_entropy.item(), "l1": l1.item(), "patch_acc": hits}


def encode_images(visual: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return patch states [B * 64, width] and image tokens [B * 16, hidden] of jittered uint8 images."""
    grid = torch.tensor([[1, GRID, GRID]]).expand(len(images), -1)
    out = visual(patches_of(jittered(images)), grid_thw=grid)
    return out.last_hidden_state, out.pooler_output


def prefix_positions(writer: QuestionWriter) -> np.ndarray:
    """Return the three position ids of each token of the prefix [3, P]: image tokens have a row and a column."""
    start = writer.prefix_ids.index(writer.image_token_id)
    side = GRID // MERGE
    position = [[i] * 3 for i in range(start)]
    position += [[start, start + i, start + j] for i in range(side) for j in range(side)]
    position += [[start + side + i] * 3 for i in range(len(writer.prefix_ids) - start - NUM_IMAGE_TOKENS)]
    return np.array(position).T


@dataclass(frozen=True, slots=True)
class Answers:
    """Output of the language model."""

    loss: Tensor
    """Mean next-token loss over the answer tokens."""
    count: int
    """Number of answer tokens."""
    image_states: Tensor
    """States of the image tokens after ``HALF`` layers [B * 16, width], for the auxiliary heads."""
    query_states: Tensor
    """States of the last query tokens after one more layer [M, width], for the auxiliary heads."""


def answer(
    model: Qwen2VLForConditionalGeneration, packed: dict[str, Tensor], features: Tensor, things: Tensor
) -> Answers:
    """Run the language model over packed questions; ``things`` [things, width]: their learned names."""
    language = model.model.language_model
    embeds = language.embed_tokens(packed["ids"])
    place = (packed["ids"] == model.config.image_token_id)[..., None]
    embeds = embeds.masked_scatter(place, features.to(embeds.dtype))
    meanings = packed["meanings"]
    rows, columns = packed["queries"][meanings != WORD].unbind(1)
    meanings = meanings[meanings != WORD]
    unknown = torch.randn(len(rows), embeds.shape[-1]) * UNKNOWN_STD
    names = torch.where((meanings == NO_KIND)[:, None], unknown, things[meanings.clamp(min=NUM_BASE) - NUM_BASE])
    embeds = embeds.index_put((rows, columns), names.to(embeds.dtype))
    prefix = packed["ids"].shape[1] - LANES * LANE_WIDTH
    states: list[Tensor] = []
    hooks = [
        layer.register_forward_hook(lambda module, inputs, output: states.append(output))
        for layer in language.layers[HALF - 1 : HALF + 1]
    ]
    hidden = language(
        inputs_embeds=embeds,
        position_ids=packed["positions"],
        attention_mask={"full_attention": None},
        use_cache=False,
        lanes=(prefix, packed["mask"]),
    ).last_hidden_state
    for hook in hooks:
        hook.remove()
    has_label = packed["labels"] != IGNORE
    logits = model.lm_head(hidden[has_label]).float()
    rows, columns = packed["queries"].unbind(1)
    return Answers(
        F.cross_entropy(logits, packed["labels"][has_label]),
        int(has_label.sum()),
        states[0][place[..., 0]],
        states[1][rows, columns],
    )


# ---------------------------------------------------------------------------------------- training


def save_model(model: nn.Module, average: dict[str, Tensor], tokenizer, folder: Path) -> None:
    """Save the averaged weights in bf16 with the tokenizer and processor files."""
    clone = Qwen2VLForConditionalGeneration(tiny_config(tokenizer))
    clone.load_state_dict(average)
    clone.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def open_ring(folder: Path, renderers: int) -> Ring:
    """Start the renderers and wait for the first scenes."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "images.u8").exists():
        Ring.open(folder, "w+")
    context = multiprocessing.get_context("spawn")
    for number in range(renderers):
        context.Process(target=render_forever, args=(folder, 1000 + number), daemon=True).start()
    ring = Ring.open(folder, "r")
    while ring.filled[0] < 2000:
        time.sleep(1)
    return ring


def compile_blocks(blocks: nn.ModuleList) -> None:
    """Compile each block with torch.compile; needs a C++ compiler."""
    for block in blocks:
        block.forward = torch.compile(block.forward, dynamic=False)


def batches(ring: Ring, size: int, seed: int, step: int) -> tuple[Tensor, np.ndarray, np.random.Generator]:
    """Draw random scenes from the ring buffer, half of them flipped: uint8 images, object records, a generator."""
    rng = np.random.default_rng([seed, step])
    slots = np.sort(rng.integers(0, min(int(ring.filled[0]), RING_SIZE), size))
    images, objects = ring.images[slots], ring.objects[slots]
    flipped = rng.random(size) < 0.5
    images[flipped] = images[flipped, :, ::-1]
    left, right = objects[flipped, :, 1], objects[flipped, :, 3]
    objects[flipped, :, 1], objects[flipped, :, 3] = IMAGE_SIZE - right, IMAGE_SIZE - left
    return torch.from_numpy(images), objects, rng


def earlier_weights(place: Path) -> dict[str, Tensor]:
    """Return initial weights, named as in the joint stage: of a model folder, or of a training with its heads."""
    if (place / "joint.pt").exists():
        state = torch.load(place / "joint.pt")
        return state["module"] | {f"model.{name}": tensor for name, tensor in state["average"].items()}
    model = Qwen2VLForConditionalGeneration.from_pretrained(place)
    return {f"model.{name}": tensor.float() for name, tensor in model.state_dict().items()}


def fast_patch_embed(visual: nn.Module) -> None:
    """Replace the patch embedding by a matrix product: PyTorch's CPU convolution is several times slower."""
    embed = visual.patch_embed
    embed.forward = lambda x: F.linear(x, embed.proj.weight.flatten(1))


def train_dense(args: argparse.Namespace) -> None:
    """Run stage one: the vision tower with the auxiliary heads."""
    ring = open_ring(args.folder, args.renderers)
    visual = Qwen2VisionTransformerPretrainedModel(Qwen2VLVisionConfig(**VISION))
    visual.config._attn_implementation = VISION_ATTENTION
    fast_patch_embed(visual)
    module = nn.ModuleDict({"visual": visual, "heads": DenseHeads(VISION["embed_dim"], NUM_KINDS)})
    if args.start_from is not None:
        earlier = earlier_weights(args.start_from)
        visual.load_state_dict(under("model.model.visual.", earlier))
        module["heads"].load_state_dict(under("heads.", earlier) or module["heads"].state_dict())
    optimizer = make_optimizer(module)
    if args.compile:
        compile_blocks(visual.blocks)
    step, path = 0, args.folder / "dense.pt"
    if path.exists():
        state = torch.load(path)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        step = state["step"]
    progress = Progress(args.folder / "dense.jsonl")
    while step < args.steps:
        images, objects, _ = batches(ring, args.batch, args.seed, step)
        rate = learning_rate(step, args.steps, args.rate)
        set_rate(optimizer, rate)
        with torch.autocast("cpu", torch.bfloat16):
            patches, _ = encode_images(visual, images)
            loss, numbers = module["heads"].losses(patches, torch.from_numpy(objects))
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        progress.add(step, args.batch, numbers | {"norm": norm, "rate": rate, "rendered": int(ring.filled[0])})
        if step % 500 == 0 or step == args.steps:
            save(path, {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step})


def train_joint(args: argparse.Namespace) -> None:
    """Run stage two: questions and answers, with the dense loss as an auxiliary loss."""
    ring = open_ring(args.folder, args.renderers)
    tokenizer = train_tokenizer(corpus(), vocab_size=896)
    writer = QuestionWriter(tokenizer, NUM_IMAGE_TOKENS)
    packer = LanePacker(writer, prefix_positions(writer), IMAGE_SIZE, GRID // MERGE)
    model = Qwen2VLForConditionalGeneration(tiny_config(tokenizer))
    model.model.visual.config._attn_implementation = VISION_ATTENTION
    model.model.language_model.config._attn_implementation = LANE_ATTENTION
    fast_patch_embed(model.model.visual)
    heads = DenseHeads(VISION["embed_dim"], NUM_KINDS)
    name_ids = [tokenizer(f" {name}", add_special_tokens=False).input_ids for name in class_names("base")]
    width = model.config.text_config.hidden_size
    bags = token_bags(name_ids)
    words_at = nn.ModuleDict({place: WordHeads(width) for place in ("merged", "halfway")})
    names = nn.Embedding(NUM_KINDS - NUM_BASE, width)  # of things
    nn.init.normal_(names.weight, std=UNKNOWN_STD)
    module = nn.ModuleDict(
        {
            "model": model,
            "heads": heads,
            "words_at": words_at,
            "place": PlaceHead(width, NUM_IMAGE_TOKENS),
            "things": names,
        }
    )
    optimizer = make_optimizer(module, slow="visual.blocks", slow_scale=0.1)
    if args.compile:
        compile_blocks(model.model.visual.blocks)
        compile_blocks(model.model.language_model.layers)
    step, path = 0, args.folder / "joint.pt"
    if path.exists():
        state = torch.load(path)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        average, step = state["average"], state["step"]
    else:
        if args.start_from is not None:
            module.load_state_dict(module.state_dict() | earlier_weights(args.start_from))
        if (args.folder / "dense.pt").exists():
            dense = torch.load(args.folder / "dense.pt")["module"]
            # The dense stage does not train the merger: its weights are the initial ones of that stage.
            model.model.visual.load_state_dict(under("visual.", dense))
            heads.load_state_dict(under("heads.", dense))
        average = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    progress = Progress(args.folder / "joint.jsonl")
    while step < args.steps:
        images, objects, rng = batches(ring, args.batch, args.seed + 1, step)
        rate = learning_rate(step, args.steps, args.rate)
        set_rate(optimizer, rate)
        with torch.autocast("cpu", torch.bfloat16):
            patches, features = encode_images(model.model.visual, images)
            loss, numbers = heads.losses(patches, torch.from_numpy(objects))
            packed = packer.pack(objects, rng)
            words = answer(model, packed, features, module["things"].weight)
            cells, first = module["place"].losses(words.query_states, packed["places"])
        table = model.model.language_model.embed_tokens.weight
        loss = args.dense_weight * loss + words.loss + args.place_weight * (cells + 2 * first)
        numbers |= {"cells": cells.item(), "first_l1": first.item()}
        vectors = torch.cat([name_vectors(table, bags), module["things"].weight])
        classes, boxes = (t.flatten(0, 1) for t in cell_targets(torch.from_numpy(objects)))
        for place, tokens in (("merged", features), ("halfway", words.image_states)):
            name_loss, box_loss, hits = words_at[place].losses(tokens, vectors, classes, boxes)
            loss = loss + args.word_weight * (name_loss + 4 * box_loss)
            numbers |= {f"{place}_acc": hits, f"{place}_l1": box_loss.item()}
        loss.backward()
        norm = nn.utils.clip_grad_norm_(module.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad()
        step += 1
        keep = min(0.998, step / (step + 10))
        for name, tensor in model.state_dict().items():
            average[name].lerp_(tensor, 1 - keep)
        numbers |= {"answer_loss": words.loss.item(), "answer_tokens": words.count, "norm": norm, "rate": rate}
        progress.add(step, args.batch, numbers | {"rendered": int(ring.filled[0])})
        if step % 250 == 0 or step == args.steps:
            state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "average": average}
            save(path, state | {"step": step})
            save_model(model, average, tokenizer, args.folder / "model")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stage", choices=["dense", "joint"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--dense-weight", type=float, default=0.5, help="weight of the dense loss in the joint stage")
    parser.add_argument(
        "--word-weight", type=float, default=0.25, help="weight of the heads that align tokens with words"
    )
    parser.add_argument("--place-weight", type=float, default=1.0, help="weight of the head that predicts the place")
    parser.add_argument("--start-from", type=Path, help="a model folder, or the folder of an earlier training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="use torch.compile: speedup 1.5")
    parser.add_argument("--renderers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    (train_dense if args.stage == "dense" else train_joint)(args)


if __name__ == "__main__":
    main()
