"""Adapters that older versions of transformers saved compute the same as under their present names."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners import lora
from safetensors.torch import load_file, save_file

from broken_models import ADAPTERS, change_weights, rename_weights, rewrite, save_adapters
from tiny_models import VOCABULARY, tiny_model
from virft.errors import ModelError
from virft.models.adapters import FusedLinear, attach_adapters, fuse_adapters
from virft.models.load import load_model
from virft.models.tiny import TINY_NAME
from virft.planning.live_bytes import LiveBytes

CONFIG = "adapter_config.json"
QWEN = (("model.language_model.", "model."), ("model.visual.", "visual."))
LLAVA = (
    ("model.language_model.", "language_model.model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("lm_head.", "language_model.lm_head."),
)
OLDER = {
    "qwen2_vl": QWEN,
    "qwen2_5_vl": QWEN,
    "internvl": (*LLAVA, ("model.vision_tower.", "vision_tower.")),
    "llava_onevision": (*LLAVA, ("model.vision_tower.", "vision_tower.vision_model.")),
    "gemma3": (*LLAVA, ("model.vision_tower.", "vision_tower.vision_model.")),
}
"""Present names of parts of a model, and those before transformers 4.52, 4.53 for InternVL."""
LEAVES = ["q_proj", "v_proj", "down_proj", "qkv", "linear_1", "lm_head"]
"""Linear layers of language models and output layer, of Qwen's towers, and of LLaVA's projector."""
IDS = torch.arange(12).reshape(1, -1) % VOCABULARY


def older_name(model_type: str, name: str) -> str:
    for new, old in OLDER[model_type]:
        if name.startswith(new):
            return old + name.removeprefix(new)
    return name


def adapted_model(model_type: str, folder: Path, **settings: Any) -> PeftModel:
    """Save adapters with random weights; return the model with them."""
    settings = {"target_modules": LEAVES, "r": 2, "lora_alpha": 4} | settings
    adapted = get_peft_model(tiny_model(model_type), LoraConfig(**settings))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                parameter.normal_(0, 0.3, generator=generator)
    adapted.save_pretrained(str(folder), save_embedding_layers=False)
    return adapted.eval()


def make_older(folder: Path, model_type: str) -> None:
    """Give the weights in a file the names of older versions."""
    prefix = "base_model.model."
    rename_weights(folder / ADAPTERS, lambda name: prefix + older_name(model_type, name.removeprefix(prefix)))


def require_equal(expected: PeftModel, found: PeftModel, model_type: str) -> None:
    """Every weight is equal, so is the scale of every adapter, and so are logits, which differ from the base's."""
    weights, others = expected.state_dict(), found.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    logits = expected(input_ids=IDS).logits
    assert torch.equal(logits, found(input_ids=IDS).logits)
    assert (logits - tiny_model(model_type)(input_ids=IDS).logits).abs().max() > 0.1


@pytest.mark.parametrize("model_type", OLDER)
def test_older_names_give_the_same_model(model_type: str, tmp_path: Path) -> None:
    expected = adapted_model(model_type, tmp_path)
    new, is_older = attach_adapters(tiny_model(model_type), tmp_path, path="a", base="b")
    assert not is_older
    require_equal(expected, new, model_type)
    make_older(tmp_path, model_type)
    found, is_older = attach_adapters(tiny_model(model_type), tmp_path, path="a", base="b")
    assert is_older
    require_equal(expected, found, model_type)


OLDER_SETTINGS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    # the older expression matches the tower too under its present name
    "regular expression": (
        {"target_modules": r"^(visual\..*qkv|model\..*_proj)$"},
        {"target_modules": r"^model\.(visual\..*qkv|language_model\..*_proj)$"},
    ),
    "excluded": (
        {"target_modules": ["q_proj", "down_proj"], "exclude_modules": r"^visual\..*"},
        {"target_modules": ["q_proj", "down_proj"], "exclude_modules": r"^model\.visual\..*"},
    ),
    "whole names": (
        {"target_modules": ["model.layers.0.self_attn.q_proj", "visual.blocks.1.attn.qkv"]},
        {"target_modules": ["model.language_model.layers.0.self_attn.q_proj", "model.visual.blocks.1.attn.qkv"]},
    ),
    "patterns": (
        {"alpha_pattern": {"model.layers.1.self_attn.q_proj": 9}, "rank_pattern": {r"^visual\..*qkv": 3}},
        {
            "alpha_pattern": {"model.language_model.layers.1.self_attn.q_proj": 9},
            "rank_pattern": {r"^model\.visual\..*qkv": 3},
        },
    ),
    "magnitudes": ({"use_dora": True}, {"use_dora": True}),
    "embeddings": (
        {"modules_to_save": ["model.embed_tokens"]},
        {"modules_to_save": ["model.language_model.embed_tokens"]},
    ),
}
"""PEFT's settings by older names, and the same by present names."""


@pytest.mark.parametrize("settings", OLDER_SETTINGS)
@pytest.mark.parametrize("model_type", ["qwen2_vl", "qwen2_5_vl"])
def test_settings_by_older_names_mean_the_same(model_type: str, settings: str, tmp_path: Path) -> None:
    older, present = OLDER_SETTINGS[settings]
    expected = adapted_model(model_type, tmp_path, **present)
    make_older(tmp_path, model_type)
    rewrite(tmp_path / CONFIG, **older)
    found, is_older = attach_adapters(tiny_model(model_type), tmp_path, path="a", base="b")
    assert is_older
    require_equal(expected, found, model_type)


def test_older_adapters_of_virft_tiny_answer_alike(tmp_path: Path) -> None:
    now = save_adapters(tmp_path / "now")
    older = shutil.copytree(now, tmp_path / "older")
    make_older(older, "qwen2_vl")
    logits = [load_model(str(one)).model(input_ids=IDS).logits for one in (now, older, TINY_NAME)]
    assert torch.equal(logits[0], logits[1])
    assert (logits[1] - logits[2]).abs().max() > 0.01
    assert load_model(str(now)).notes == ()
    assert load_model(str(older)).notes == (
        "its adapters have names of an older version of transformers, which were converted",
    )
    merged = load_model(str(older))
    merged.merge_adapters()
    merged.save(tmp_path / "merged")
    assert load_model(str(tmp_path / "merged")).notes == ()
    again = load_model(str(now))
    again.merge_adapters()
    for name, weight in load_model(str(tmp_path / "merged")).model.state_dict().items():
        assert torch.equal(weight, again.model.state_dict()[name]), name


def test_an_older_file_that_lacks_a_weight_is_refused(tmp_path: Path) -> None:
    adapted_model("qwen2_vl", tmp_path)
    make_older(tmp_path, "qwen2_vl")
    rename_weights(tmp_path / ADAPTERS, lambda name: None if "1.mlp.down_proj.lora_B" in name else name)
    with pytest.raises(ModelError, match=r"lacks 1 weight: \S*language_model\.layers\.1\.mlp\.down_proj\.lora_B"):
        attach_adapters(tiny_model("qwen2_vl"), tmp_path, path="a", base="b")


def test_weights_under_both_names_are_refused(tmp_path: Path) -> None:
    adapted_model("qwen2_vl", tmp_path)
    weights = load_file(tmp_path / ADAPTERS)
    both = {name.replace("model.language_model.", "model."): 2 * tensor for name, tensor in weights.items()}
    save_file(both | weights, tmp_path / ADAPTERS, {"format": "pt"})
    with pytest.raises(ModelError, match=r"base_model\.model\.model\.layers\.0\.\S+, \S+, \S+ \.\. in its file belong"):
        attach_adapters(tiny_model("qwen2_vl"), tmp_path, path="a", base="b")


@pytest.mark.parametrize("model_type", ["qwen3_vl", "smolvlm"])
def test_names_without_a_conversion_are_refused(model_type: str, tmp_path: Path) -> None:
    adapted_model(model_type, tmp_path)
    part = {"qwen3_vl": "language_model.", "smolvlm": "text_model."}[model_type]
    rename_weights(tmp_path / ADAPTERS, lambda name: name.replace(f"model.{part}", "model."))
    with pytest.raises(ModelError, match="in its file belong to no layer of the base"):
        attach_adapters(tiny_model(model_type), tmp_path, path="a", base="b")


@pytest.mark.parametrize("part", ["lora_B", "embed_tokens"])
def test_weights_of_older_names_have_to_be_finite(part: str, tmp_path: Path) -> None:
    adapted_model("qwen2_vl", tmp_path, modules_to_save=["model.language_model.embed_tokens"])
    make_older(tmp_path, "qwen2_vl")
    rewrite(tmp_path / CONFIG, modules_to_save=["model.embed_tokens"])
    change_weights(tmp_path, {part: lambda weight: weight / 0}, ADAPTERS)
    with pytest.raises(ModelError, match=rf"not finite \(NaN or infinity\): \S*{part}"):
        attach_adapters(tiny_model("qwen2_vl"), tmp_path, path="a", base="b")


@pytest.mark.parametrize("scaling", [0.5, 2.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_adapters_compute_as_those_of_peft(dtype: torch.dtype, scaling: float) -> None:
    generator = torch.Generator().manual_seed(0)
    peft = lora.Linear(
        torch.nn.Linear(48, 32), adapter_name="default", config=LoraConfig(r=4, lora_alpha=4 * scaling), r=4,
        lora_alpha=4 * scaling,
    ).to(dtype)  # fmt: skip
    with torch.no_grad():
        for name, one in peft.named_parameters():
            one.normal_(0, 0.3, generator=generator)
            if "lora_" in name:
                one.data = one.float()
    fused = copy.deepcopy(peft)
    fuse_adapters(fused)
    assert type(fused) is FusedLinear
    inputs = torch.randn(2, 5, 48, generator=generator).to(dtype)
    outer = torch.randn(2, 5, 32, generator=generator)

    def compute(layer: Any, is_cast: bool) -> list[torch.Tensor]:
        own = inputs.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=is_cast):
            output = layer(own)
        (output * outer).sum().backward()
        gradients = [one.grad for name, one in layer.named_parameters() if "lora_" in name]
        layer.zero_grad()
        return [output.detach(), own.grad, *gradients]

    # with autocast off, PEFT's own code runs; with it, one rounding less
    for is_cast, tolerance in ((False, 0), (True, 2e-2)):
        for found, expected in zip(compute(fused, is_cast), compute(peft, is_cast), strict=True):
            assert found.dtype == expected.dtype and expected.abs().max() > 0.1
            torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max()))
    with torch.no_grad():
        # without its adapters the layer is the base
        fused.enable_adapters(False)
        assert torch.equal(fused(inputs), fused.base_layer(inputs))


def test_fused_adapters_save_their_input_once() -> None:
    base = torch.nn.Linear(512, 8, bias=False)
    peft = lora.Linear(base, adapter_name="default", config=LoraConfig(r=2), r=2, lora_alpha=4)
    peft.base_layer.to(torch.bfloat16)
    fused = copy.deepcopy(peft)
    fuse_adapters(fused)
    sizes = []
    for layer in (peft, fused):
        inputs = torch.randn(1000, 512, dtype=torch.bfloat16, requires_grad=True)
        with LiveBytes([*layer.parameters(), inputs]) as live:
            with torch.autocast("cpu", torch.bfloat16):
                output = layer(inputs)
            sizes.append(live.now)
        assert output.requires_grad
    # the input in bfloat16 again: 1000 x 512 x 2
    assert sizes[0] - sizes[1] > 1_000_000
    assert sizes[1] < 100_000
