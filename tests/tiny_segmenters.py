"""Folders of tiny random segmenters with inputs of 64 pixels per side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Sam2Config, Sam2Model, SamConfig, SamModel

SIDE = 64
KINDS = ("sam", "sam2")

_DECODER = {"hidden_size": 32, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16}
_PROMPTS = {"hidden_size": 32, "image_size": SIDE, "mask_input_channels": 4}


def _sam() -> SamModel:
    vision = {
        "hidden_size": 16, "output_channels": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": SIDE,
        "patch_size": 8, "window_size": 4, "global_attn_indexes": [1], "num_pos_feats": 16, "mlp_dim": 32,
    }  # fmt: skip
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=_PROMPTS | {"patch_size": 8}, mask_decoder_config=_DECODER
    )
    return SamModel(config)


def _sam2() -> Sam2Model:
    backbone = {
        "image_size": [SIDE, SIDE], "hidden_size": 8, "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8], "blocks_per_stage": [1, 1, 2, 1],
        "window_size_per_stage": [4, 2, 2, 2], "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }  # fmt: skip
    vision = {
        "backbone_config": backbone, "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]], "fpn_hidden_size": 32,
    }  # fmt: skip
    config = Sam2Config(
        vision_config=vision, prompt_encoder_config=_PROMPTS | {"patch_size": 16}, mask_decoder_config=_DECODER
    )
    return Sam2Model(config)


def save_segmenter(folder: Path, kind: str, **processor: Any) -> str:
    """Save a segmenter whose masks depend clearly on image and box; ``processor``: content of its processor file."""
    torch.manual_seed(0)
    model = {"sam": _sam, "sam2": _sam2}[kind]()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.0 / parameter[0].numel() ** 0.5, generator=generator)
    model.save_pretrained(folder)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return str(folder)
