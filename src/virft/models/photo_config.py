"""Configuration, tokenizer and image processor of the built-in model ``virft-photo``, for ``scripts/train_photo.py``.

The class is transformers' own InternVL, unmodified: DINOv2 ViT-S/14 has the layers of its vision tower. The language
model is that of ``virft-tiny``, with the same tokenizer and three more tokens.
"""

from __future__ import annotations

import copy
from typing import Any

from transformers import InternVLConfig, Qwen2Tokenizer

from virft.models.tiny_config import CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN

IMAGE_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
"""Tokens that are added to the tokenizer: before the image, after it, and its placeholder."""
PLACEHOLDER = IMAGE_TOKENS["context_image_token"]
PHOTO_VISION: dict[str, Any] = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 10,
    "num_attention_heads": 6,
    "attention_bias": True,
    "layer_norm_eps": 1e-6,
    "image_size": 224,
    "patch_size": 14,
    "use_mean_pooling": True,  # no layer norm after the last block
}
"""Sizes of the vision tower."""
TOWER_PREFIX = "vision_tower."
"""Beginning of the names of the tower's weights in a file."""
TOWER_FILE = "model-00001-of-00002.safetensors"
"""Weights of the tower, which never change."""
LANGUAGE_FILE = "model-00002-of-00002.safetensors"
"""Weights of projector and language model."""
NUM_IMAGE_TOKENS = 64
PREPROCESSOR: dict[str, Any] = {
    "crop_to_patches": False,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    # of ImageNet, as DINOv2 was trained with
    "image_mean": [0.485, 0.456, 0.406],
    "image_std": [0.229, 0.224, 0.225],
    "image_processor_type": "GotOcr2ImageProcessor",
    "max_patches": 1,
    "min_patches": 1,
    "processor_class": "InternVLProcessor",
    "resample": 3,
    "rescale_factor": 1 / 255,
    "size": {"height": 224, "width": 224},
}
"""Content of ``preprocessor_config.json``: each image is resized to one tile."""
PHOTO_CHAT_TEMPLATE = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", PLACEHOLDER)


def photo_tokenizer(tiny: Qwen2Tokenizer) -> Qwen2Tokenizer:
    """Return the tokenizer of ``virft-tiny`` with the three tokens around an image."""
    made = copy.deepcopy(tiny)
    added: dict[str, Any] = {"extra_special_tokens": [*tiny.extra_special_tokens, *IMAGE_TOKENS.values()]}
    made.add_special_tokens(added)
    made.chat_template = PHOTO_CHAT_TEMPLATE
    return made


def photo_config(tokenizer: Qwen2Tokenizer, *, layers: int = 4, vision_layers: int | None = None) -> InternVLConfig:
    """Return the configuration: 64 image tokens for an image of 224 x 224 pixels.

    ``layers``: layers of the language model. ``vision_layers``: blocks of the tower, by default 10.
    """
    ids: dict[str, Any] = {
        name: tokenizer.convert_tokens_to_ids(name) for name in (END_OF_TEXT, END_OF_TURN, PLACEHOLDER)
    }
    ends: dict[str, Any] = {
        "bos_token_id": ids[END_OF_TEXT],
        "eos_token_id": ids[END_OF_TURN],
        "pad_token_id": ids[END_OF_TEXT],
    }
    text: dict[str, Any] = {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": 256,
        "intermediate_size": 704,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        "tie_word_embeddings": False,  # as in virft-tiny
    } | ends
    vision = PHOTO_VISION if vision_layers is None else PHOTO_VISION | {"num_hidden_layers": vision_layers}
    return InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[PLACEHOLDER],
        image_seq_length=NUM_IMAGE_TOKENS,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
        **ends,
    )
