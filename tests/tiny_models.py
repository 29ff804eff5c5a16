"""Tiny random models of the supported families, for tests of exactness. Weights are large enough to matter."""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma4Config,
    Gemma4ForConditionalGeneration,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vMoeConfig,
    Glm4vMoeForConditionalGeneration,
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLMoeConfig,
    Qwen3VLMoeForConditionalGeneration,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

IMAGE_TOKEN, VIDEO_TOKEN, VISION_START, VISION_END, EOS = 90, 91, 92, 93, 94
VOCABULARY = 96

_IDS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "vision_start_token_id": VISION_START,
    "vision_end_token_id": VISION_END,
}
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]},
    "bos_token_id": 95,
    "eos_token_id": EOS,
    "pad_token_id": 95,
}


def _qwen2_vl(**text):
    vision = {"depth": 2, "embed_dim": 16, "num_heads": 2, "mlp_ratio": 2, "hidden_size": 32, "patch_size": 4}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=_TEXT | text, vision_config=vision, **_IDS))


def _qwen2_vl_with_window():
    """Sliding window of 5 tokens in every layer: fewer than a prompt has."""
    return _qwen2_vl(use_sliding_window=True, sliding_window=5, max_window_layers=0)


def _qwen2_5_vl():
    vision = {
        "depth": 3, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32,
        "patch_size": 4, "window_size": 16, "fullatt_block_indexes": [1],
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=_TEXT, vision_config=vision, **_IDS))


_QWEN3_TEXT = _TEXT | {
    "head_dim": 8,
    "rope_parameters": {**_TEXT["rope_parameters"], "mrope_interleaved": True},
}
_QWEN3_VISION = {
    "depth": 3, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32, "patch_size": 4,
    "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1],
}  # fmt: skip


def _qwen3_vl():
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=_QWEN3_TEXT, vision_config=_QWEN3_VISION, **_IDS))


def _qwen3_vl_moe():
    """Two of three layers have 4 experts, of which each token uses 2."""
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "mlp_only_layers": [1]}
    text = _QWEN3_TEXT | experts | {"tie_word_embeddings": False}
    return Qwen3VLMoeForConditionalGeneration(
        Qwen3VLMoeConfig(text_config=text, vision_config=_QWEN3_VISION, tie_word_embeddings=False, **_IDS)
    )


_GLM_IDS = {
    "image_token_id": IMAGE_TOKEN,
    "video_token_id": VIDEO_TOKEN,
    "image_start_token_id": VISION_START,
    "image_end_token_id": VISION_END,
    "video_start_token_id": 88,
    "video_end_token_id": 89,
}
# 6 of 8 numbers of a head are rotated: one pair for each axis
_GLM_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1], "partial_rotary_factor": 0.75}
_GLM_TEXT = _TEXT | {"rope_parameters": _GLM_ROPE}
_GLM_VISION = {
    "depth": 2, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24, "out_hidden_size": 32, "patch_size": 4,
    "image_size": 16,
}  # fmt: skip


def _glm4v():
    return Glm4vForConditionalGeneration(Glm4vConfig(text_config=_GLM_TEXT, vision_config=_GLM_VISION, **_GLM_IDS))


def _glm4v_moe():
    """Two of three layers have a shared expert and 8 others in two groups; a token uses 2 of one group."""
    experts = {
        "n_routed_experts": 8, "num_experts_per_tok": 2, "n_group": 2, "topk_group": 1, "moe_intermediate_size": 16,
        "first_k_dense_replace": 1, "routed_scaling_factor": 1.5,
    }  # fmt: skip
    return Glm4vMoeForConditionalGeneration(
        Glm4vMoeConfig(text_config=_GLM_TEXT | experts, vision_config=_GLM_VISION, **_GLM_IDS)
    )


_PLAIN_TEXT = {name: value for name, value in _TEXT.items() if name != "rope_parameters"}
_VISION = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip


def _idefics(configuration, model):
    """A tile of 16 x 16 pixels is 4 x 4 patches, 4 tokens."""
    text = _PLAIN_TEXT | {"model_type": "llama"}
    return model(configuration(text_config=text, vision_config=_VISION, scale_factor=2, image_token_id=IMAGE_TOKEN))


def _internvl():
    """A tile of 16 x 16 pixels is 4 x 4 patches, 4 tokens."""
    text = _PLAIN_TEXT | {"model_type": "qwen2"}
    config = InternVLConfig(
        text_config=text,
        vision_config=_VISION,
        image_seq_length=4,
        image_token_id=IMAGE_TOKEN,
        tie_word_embeddings=False,
    )
    return InternVLForConditionalGeneration(config)


def _gemma3():
    """An image of 16 x 16 pixels is 4 tokens. Two layers of three have a sliding window of 5 tokens."""
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    text = _PLAIN_TEXT | {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 5, "layer_types": layers}
    ids = {"image_token_index": IMAGE_TOKEN, "boi_token_index": VISION_START, "eoi_token_index": VISION_END}
    vision = _VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
    config = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, tie_word_embeddings=False, **ids
    )
    return Gemma3ForConditionalGeneration(config)


def _gemma4():
    """An image of at most 70 tokens, of 3 x 3 patches each. The last two layers use keys and values of the first two.

    Layers of one kind have a sliding window of 5 tokens, those of the other kind wider heads.
    """
    text = _PLAIN_TEXT | {
        "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 5,
        "num_kv_shared_layers": 2, "use_double_wide_mlp": True, "head_dim": 8, "global_head_dim": 16,
        "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCABULARY, "final_logit_softcapping": 3.0,
        "tie_word_embeddings": False,
    }  # fmt: skip
    vision = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "head_dim": 8, "patch_size": 4, "position_embedding_size": 1024,
    }  # fmt: skip
    ids = {
        "image_token_id": IMAGE_TOKEN, "video_token_id": VIDEO_TOKEN, "boi_token_id": VISION_START,
        "eoi_token_id": VISION_END, "audio_token_id": 87, "boa_token_id": 88, "eoa_token_index": 89,
    }  # fmt: skip
    return Gemma4ForConditionalGeneration(
        Gemma4Config(text_config=text, vision_config=vision, tie_word_embeddings=False, **ids)
    )


LLAVA_GRID = [[16, 32], [32, 16], [32, 32], [16, 48], [48, 16], [48, 48]]


def _llava_onevision():
    """A tile of 16 x 16 pixels is 4 x 4 patches, 16 tokens; an image has as many as two tiles have, or fewer."""
    text = _PLAIN_TEXT | {"model_type": "qwen2"}
    vision = _VISION | {"model_type": "siglip_vision_model", "vision_use_head": False}
    ids = {"image_token_index": IMAGE_TOKEN, "video_token_index": VIDEO_TOKEN}
    grid = {"image_grid_pinpoints": LLAVA_GRID, "vision_aspect_ratio": "anyres_max_2"}
    return LlavaOnevisionForConditionalGeneration(
        LlavaOnevisionConfig(text_config=text, vision_config=vision, **ids, **grid)
    )


QWEN = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
}
PATCHES = QWEN | {"glm4v": _glm4v, "glm4v_moe": _glm4v_moe}
"""Families whose images are rows of patches, with positions along time, height and width."""
MAKERS = PATCHES | {
    "smolvlm": lambda: _idefics(SmolVLMConfig, SmolVLMForConditionalGeneration),
    "idefics3": lambda: _idefics(Idefics3Config, Idefics3ForConditionalGeneration),
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
}


def num_adapted(model_type: str) -> int:
    """Return the number of layers with adapters: q, k, v, o, gate, up and down of 3 layers, but for some families.

    GLM-4.1V has gate and up in one. Next to experts, adapters are in attention only. Two of Gemma 4's four layers have
    no k and v.
    """
    return {"glm4v": 18, "glm4v_moe": 12, "qwen3_vl_moe": 12, "gemma4": 24}.get(model_type, 21)


def tiny_model(model_type: str, seed: int = 0) -> torch.nn.Module:
    """Return a random float32 model whose logits depend clearly on image, prompt and position."""
    return with_large_weights(MAKERS[model_type], seed)


def tiny_model_with_window(seed: int = 0) -> torch.nn.Module:
    """Return a Qwen2-VL with sliding windows."""
    return with_large_weights(_qwen2_vl_with_window, seed)


def with_large_weights(make: Callable[[], torch.nn.Module], seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    model = make()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.6 / parameter.shape[-1] ** 0.5, generator=generator)
    return model
