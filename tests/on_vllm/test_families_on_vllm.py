"""Log-probs of vLLM equal the policy's, for small random models of its families (``make test-vllm``)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoImageProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from virft.config.schema import SamplingConfig
from virft.data.store import Store
from virft.generation.generator import EncodedPrompt, GenerationParams
from virft.generation.random_streams import StepKey
from virft.generation.vllm_start import start_vllm
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.attention.layout import pack_row
from virft.models.load import LoadedModel, load_model, wrap_model
from virft.models.policy import make_policy
from virft.models.tiny import tiny_folder

pytestmark = pytest.mark.vllm


def small_model(model_type: str, tiny: LoadedModel) -> LoadedModel:
    """Return a model of random weights, large enough to matter, with tied embeddings and the built-in tokenizer."""
    config = tiny.model.config
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    ids: dict[str, Any] = {name: getattr(config, name) for name in names}
    text = config.get_text_config().to_dict() | {"tie_word_embeddings": True, "intermediate_size": 256}
    vision: dict[str, Any] = {"depth": 3, "hidden_size": 64, "num_heads": 2, "intermediate_size": 96}
    vision["out_hidden_size"] = text["hidden_size"]
    processor = AutoImageProcessor.from_pretrained(str(tiny_folder()), backend="pil")
    torch.manual_seed(0)
    model: Any
    if model_type == "qwen2_5_vl":
        vision |= {"patch_size": 14, "window_size": 56, "fullatt_block_indexes": [1]}
        text["model_type"] = "qwen2_5_vl_text"
        model = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
        )
    else:
        processor.patch_size = 16
        vision |= {"patch_size": 16, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1]}
        text |= {"model_type": "qwen3_vl_text", "head_dim": 64}
        text["rope_parameters"] = {**text["rope_parameters"], "mrope_interleaved": True}
        model = Qwen3VLForConditionalGeneration(
            Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)
        )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 1.2 / parameter.shape[-1] ** 0.5)
    return wrap_model(model, tiny.tokenizer, processor)


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl"])
def test_sampler_logprobs_equal_the_policys(model_type: str, scenes: Path) -> None:
    loaded = small_model(model_type, load_model("virft-tiny"))
    policy = make_policy(loaded, temperature=1.0).eval()
    render = make_renderer(loaded, resolve_prompting(loaded, template="short", thinking=False))
    rendered = [render(sample) for sample in Store(str(scenes))][:6]
    with torch.no_grad():
        features = policy.encode_images([one.vision for one in rendered])
    encoded = [
        EncodedPrompt(prompt=one.prompt, positions=one.positions, features=made, stream_id=one.prompt.sample_id)
        for one, made in zip(rendered, features, strict=True)
    ]
    generator = start_vllm(loaded, policy.rules, SamplingConfig(engine="vllm"), dtype="float32", on_cpu=True)
    drawn = generator.generate(encoded, 3, GenerationParams(max_completion_tokens=32), StepKey(seed=0, step=0))
    generator.close()
    row = pack_row(
        [one.prompt.token_ids for one in encoded],
        [one.positions for one in encoded],
        [[one.token_ids for one in group] for group in drawn],
    )
    with torch.no_grad():
        scored = policy(row, features=features)
    sampled = torch.tensor([value for group in drawn for one in group for value in one.sampler_logprobs])
    assert sampled.std() > 0.3
    torch.testing.assert_close(sampled, scored, atol=1e-4, rtol=0)
