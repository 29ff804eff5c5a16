"""Model folders that do not work, each made from a whole one, with the message that they have to give."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file, save_file

from virft.models.load import load_model
from virft.models.tiny import TINY_NAME, tiny_folder

WEIGHTS, ADAPTERS = "model.safetensors", "adapter_model.safetensors"


class Broken(NamedTuple):
    """``make`` damages a copy of virft-tiny, or of adapters for it; ``message`` is part of what has to be raised."""

    make: Callable[[Path], object]
    message: str
    has_adapters: bool = False


def rewrite(path: Path, part: str | None = None, /, **changes: Any) -> None:
    """Change keys of a JSON file, or of one object in it; None removes a key."""
    tree = json.loads(path.read_text())
    target = tree if part is None else tree[part]
    target.update(changes)
    for key in [key for key, value in changes.items() if value is None]:
        del target[key]
    path.write_text(json.dumps(tree))


def rename_weights(path: Path, rename: Callable[[str], str | None]) -> None:
    """Rename the weights of a file; those with the name None are removed."""
    weights = {rename(name): tensor for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in weights.items() if name is not None}, path, {"format": "pt"})


def change_weights(folder: Path, changes: Mapping[str, Callable[[Any], Any]], name: str = WEIGHTS) -> None:
    """Change the weights whose names contain one of the keys."""
    weights = load_file(folder / name)
    for part, change in changes.items():
        weights |= {key: change(weight).contiguous() for key, weight in weights.items() if part in key}
    save_file(weights, folder / name, {"format": "pt"})


def shard(folder: Path, num_shards: int = 2) -> None:
    """Split the weights of a folder into several files with an index."""
    weights = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {}
    for number in range(num_shards):
        name = f"model-{number + 1:05d}-of-{num_shards:05d}.safetensors"
        part = {key: weights[key] for key in sorted(weights)[number::num_shards]}
        save_file(part, folder / name, {"format": "pt"})
        places |= dict.fromkeys(part, name)
    index = {"metadata": {"total_size": 0}, "weight_map": places}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def without(*parts: str) -> Callable[[Path], None]:
    """Remove the weights whose names contain one of ``parts``."""
    return lambda folder: rename_weights(
        folder / WEIGHTS, lambda name: None if any(part in name for part in parts) else name
    )


def quantized(method: str, **settings: Any) -> Callable[[Path], None]:
    """Declare the weights as quantized."""
    return lambda folder: rewrite(
        folder / "config.json", quantization_config={"quant_method": method, "bits": 4, **settings}
    )


def add_tokens(folder: Path) -> None:
    """Add 20 tokens to the tokenizer; the embeddings have room for fewer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<class_{number}>" for number in range(20)])
    tokenizer.save_pretrained(folder)


def save_adapters(folder: Path, base: str = TINY_NAME, rank: int = 2) -> Path:
    """Save adapters that change every completion."""
    loaded = load_model(base)
    loaded.add_lora(rank, 2 * rank)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    loaded.save(folder)
    return folder


def _template(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def _replace_in_template(folder: Path, old: str, new: str) -> None:
    template = (folder / "chat_template.jinja").read_text()
    assert old in template
    (folder / "chat_template.jinja").write_text(template.replace(old, new))


BROKEN: Mapping[str, Broken] = {
    "missing weights": Broken(
        without("layers.0.mlp.down_proj", "lm_head"),
        "its files lack 2 weights of the model: lm_head.weight, model.language_model.layers.0.mlp.down_proj",
    ),
    "one missing bias": Broken(
        without("blocks.3.attn.qkv.bias"),
        "its files lack 1 weight of the model: model.visual.blocks.3.attn.qkv.bias",
    ),
    "prefix of a wrapper": Broken(
        lambda folder: rename_weights(folder / WEIGHTS, lambda name: f"_orig_mod.{name}"),
        "lm_head.weight, model.language_model.embed_tokens.weight, ",
    ),
    "unmerged adapters": Broken(
        lambda folder: rename_weights(
            folder / WEIGHTS, lambda name: name.replace("q_proj.weight", "q_proj.base_layer.weight")
        ),
        "belong to adapters, which would not be applied",
    ),
    "vocabulary of another size": Broken(
        lambda folder: rewrite(folder / "config.json", "text_config", vocab_size=904),
        "2 weights of other shapes than in its config.json: lm_head.weight is [896, 256] in the files and [904, 256]",
    ),
    "patches of another size": Broken(
        lambda folder: [
            rewrite(folder / "config.json", "vision_config", patch_size=16),
            rewrite(folder / "preprocessor_config.json", patch_size=16),
        ],
        "1 weight of other shapes than in its config.json: model.visual.patch_embed.proj.weight is ",
    ),
    "image processor of another model": Broken(
        lambda folder: rewrite(folder / "preprocessor_config.json", patch_size=16),
        "patch_size of its image processor is 16, but 14 in its vision tower",
    ),
    "AWQ": Broken(quantized("awq", zero_point=True, group_size=128), "its weights are quantized (awq)"),
    "GPTQ": Broken(quantized("gptq", group_size=128), "its weights are quantized (gptq)"),
    "bitsandbytes": Broken(quantized("bitsandbytes", load_in_4bit=True), "its weights are quantized (bitsandbytes)"),
    "FP8": Broken(quantized("fp8", activation_scheme="dynamic"), "its weights are quantized (fp8)"),
    "no chat template": Broken(lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template"),
    "more tokens than embeddings": Broken(add_tokens, "beyond the 896 rows of the embeddings: "),
    "internvl_chat": Broken(
        lambda folder: rewrite(
            folder / "config.json", model_type="internvl_chat", auto_map={"AutoConfig": "configuration_internvl.C"}
        ),
        "models of type 'internvl_chat' are not supported; supported are ",
    ),
    "NaN": Broken(
        lambda folder: change_weights(folder, {"lm_head.weight": lambda weight: weight * float("nan")}),
        "1 weight with numbers that are not finite (NaN or infinity): lm_head.weight; expected finite",
    ),
    "infinity in the tower": Broken(
        lambda folder: change_weights(folder, {"blocks.0.norm1.weight": lambda weight: weight / 0}),
        "not finite (NaN or infinity): model.visual.blocks.0.norm1.weight",
    ),
    "FP8 weights, and a config that does not say so": Broken(
        lambda folder: change_weights(folder, {"_proj.weight": lambda weight: weight.to(torch.float8_e4m3fn)}),
        "in model.safetensors is stored as F8_E4M3, which is quantized",
    ),
    "whole numbers as weights": Broken(
        lambda folder: change_weights(folder, {"lm_head": lambda weight: weight.to(torch.int8)}),
        "lm_head.weight in model.safetensors is stored as I8, which is quantized",
    ),
    "fewer layers in the config": Broken(
        lambda folder: rewrite(folder / "config.json", "text_config", num_hidden_layers=3, layer_types=None),
        "its files have more layers than its config.json: model.language_model.layers.3.input_layernorm.weight, ",
    ),
    "fewer blocks of the tower in the config": Broken(
        lambda folder: rewrite(folder / "config.json", "vision_config", depth=5),
        "its files have more layers than its config.json: model.visual.blocks.5.attn.proj.bias, ",
    ),
    "rotary axes of another head": Broken(
        lambda folder: rewrite(
            folder / "config.json",
            "text_config",
            rope_parameters={"rope_type": "default", "mrope_section": [8, 12, 16]},
        ),
        "mrope_section in its config.json is [8, 12, 16]; expected three numbers whose sum is 32, half",
    ),
    "no rotary axes": Broken(
        lambda folder: rewrite(folder / "config.json", "text_config", rope_parameters={"rope_type": "default"}),
        "mrope_section in its config.json is None; expected three numbers whose sum is 32",
    ),
    "half a file of weights": Broken(
        lambda folder: (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:100_000]), "cannot be loaded: "
    ),
    "a pointer in place of the weights": Broken(
        lambda folder: (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
        "cannot be loaded: ",
    ),
    "a missing shard": Broken(
        lambda folder: [shard(folder), (folder / "model-00002-of-00002.safetensors").unlink()],
        "cannot be loaded: No such file or directory",
    ),
    "a mean of one channel": Broken(
        lambda folder: rewrite(folder / "preprocessor_config.json", image_mean=[0.5]), "cannot be loaded: mean must "
    ),
    "a mean that is text": Broken(
        lambda folder: rewrite(folder / "preprocessor_config.json", image_mean="x"), "cannot be loaded: "
    ),
    "a standard deviation of 0": Broken(
        lambda folder: rewrite(folder / "preprocessor_config.json", image_std=[0, 0, 0]),
        "its image processor makes pixels that are not finite",
    ),
    "images of no pixels": Broken(
        lambda folder: rewrite(
            folder / "preprocessor_config.json", max_pixels=0, size={"shortest_edge": 0, "longest_edge": 0}
        ),
        "cannot be loaded: ",
    ),
    "a stop token that is text": Broken(
        lambda folder: rewrite(folder / "generation_config.json", eos_token_id="<|im_end|>"),
        "eos_token_id in generation_config.json is '<|im_end|>'; expected the id of a token, or a list of ids",
    ),
    "a stop token that is no whole number": Broken(
        lambda folder: rewrite(folder / "generation_config.json", eos_token_id=[882.0]),
        "eos_token_id in generation_config.json is [882.0]; expected the id",
    ),
    "a generation config that is no JSON": Broken(
        lambda folder: (folder / "generation_config.json").write_text("{"), "generation_config.json cannot be read ("
    ),
    "a card that is no JSON": Broken(
        lambda folder: (folder / "virft_card.json").write_text("{"), "virft_card.json: cannot be read ("
    ),
    "a card that is a list": Broken(
        lambda folder: (folder / "virft_card.json").write_text("[]"), "virft_card.json: [] is not an object; expected"
    ),
    "no model_type": Broken(lambda folder: rewrite(folder / "config.json", model_type=None), "has no model_type"),
    "a size that is text": Broken(
        lambda folder: rewrite(folder / "config.json", "text_config", hidden_size="many"), "cannot be loaded: "
    ),
    "run without a model": Broken(
        lambda folder: [(folder / "config.json").unlink(), (folder / "config.toml").touch()],
        "this run has saved no model yet",
    ),
    "adapters of unknown names": Broken(
        lambda folder: rename_weights(folder / ADAPTERS, lambda name: name.replace("model.language_model.", "module.")),
        "its adapters do not fit the base model virft-tiny: base_model.model.module.layers.0.mlp.down_proj.lora_A",
        has_adapters=True,
    ),
    "adapters with a missing weight": Broken(
        lambda folder: rename_weights(folder / ADAPTERS, lambda name: None if "0.mlp.up_proj.lora_B" in name else name),
        "its file lacks 1 weight: base_model.model.model.language_model.layers.0.mlp.up_proj.lora_B",
        has_adapters=True,
    ),
    "adapters with more tokens than embeddings": Broken(
        add_tokens, "beyond the 896 rows of the embeddings: ", has_adapters=True
    ),
    "adapters of NaN": Broken(
        lambda folder: change_weights(folder, {"lora_A": lambda weight: weight * float("nan")}, ADAPTERS),
        "28 weights with numbers that are not finite (NaN or infinity): ",
        has_adapters=True,
    ),
    "adapters in FP8": Broken(
        lambda folder: change_weights(folder, {"lora_A": lambda weight: weight.to(torch.float8_e4m3fn)}, ADAPTERS),
        "in adapter_model.safetensors is stored as F8_E4M3, which is quantized",
        has_adapters=True,
    ),
    "adapters of another rank": Broken(
        lambda folder: rewrite(folder / "adapter_config.json", r=3), "cannot be loaded: ", has_adapters=True
    ),
    "adapters whose base is elsewhere": Broken(
        lambda folder: rewrite(folder / "adapter_config.json", base_model_name_or_path="base"),
        "holds adapters, whose base model cannot be loaded: base: there is no such folder",
        has_adapters=True,
    ),
    "adapters without a base": Broken(
        lambda folder: rewrite(folder / "adapter_config.json", base_model_name_or_path=None),
        "adapter_config.json names no base model (base_model_name_or_path is None)",
        has_adapters=True,
    ),
    "adapters of themselves": Broken(
        lambda folder: rewrite(folder / "adapter_config.json", base_model_name_or_path=str(folder.name)),
        "its adapters name their own folder as the base model",
        has_adapters=True,
    ),
    "prompt tuning": Broken(
        lambda folder: (folder / "adapter_config.json").write_text(
            json.dumps({"peft_type": "PROMPT_TUNING", "base_model_name_or_path": TINY_NAME, "num_virtual_tokens": 2})
        ),
        "adapters of type PROMPT_TUNING; expected LoRA",
        has_adapters=True,
    ),
}
"""Folders that cannot be loaded."""

BROKEN_TEMPLATES: Mapping[str, Broken] = {
    "a template without images": Broken(
        _template("{% for m in messages %}{{ m['content'] }}{% endfor %}"), "chat template writes no image placeholder"
    ),
    "a template without the question": Broken(
        _template("{% for m in messages %}<|image_pad|>{% endfor %}"), "chat template does not write the question"
    ),
    "a template that writes an image twice": Broken(
        lambda folder: _replace_in_template(folder, "<|image_pad|>", "<|image_pad|><|image_pad|>"),
        "chat template writes 2 image placeholders (<|image_pad|>) for an image",
    ),
    "a template without the turn of the assistant": Broken(
        lambda folder: _replace_in_template(folder, "add_generation_prompt", "false"),
        "chat template begins no turn of the assistant (prompts end with ",
    ),
    "a template that divides by zero": Broken(
        _template("{{ 1 / 0 }}"), "chat template cannot format a question about an image (ZeroDivisionError: "
    ),
    "a template without an end": Broken(
        _template("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}"),
        "chat template cannot format a question about an image (RecursionError: ",
    ),
    "a template that refuses": Broken(
        _template("{{ raise_exception('no images here') }}"),
        "chat template cannot format a question about an image (TemplateError: no images here)",
    ),
}
"""Folders that can be loaded, but not prompted."""


def _move_template(folder: Path, name: str, content: Callable[[str], Any]) -> None:
    """Move the chat template to a key of another file."""
    template = folder / "chat_template.jinja"
    text = template.read_text()
    template.unlink()
    other = folder / name
    other.write_text(json.dumps((json.loads(other.read_text()) if other.exists() else {}) | content(text)))


def _new_processor_file(folder: Path) -> None:
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    tree = {"processor_class": "Qwen2VLProcessor", "image_processor": processor}
    (folder / "processor_config.json").write_text(json.dumps(tree))


def _flat_config(folder: Path) -> None:
    """Write the config as transformers did before it had a part for the language model."""
    config = json.loads((folder / "config.json").read_text())
    text = config.pop("text_config")
    rope = text.pop("rope_parameters")
    text |= {
        "rope_scaling": {"type": "mrope", "mrope_section": rope["mrope_section"]},
        "rope_theta": rope["rope_theta"],
    }
    del text["model_type"]
    (folder / "config.json").write_text(json.dumps({**text, **config}))


def _as(dtype: torch.dtype) -> Callable[[Path], None]:
    return lambda folder: change_weights(folder, {"": lambda weight: weight.to(dtype)})


SOUND: Mapping[str, Callable[[Path], object]] = {
    "several files of weights": shard,
    "float32": _as(torch.float32),
    "float64": _as(torch.float64),
    "bfloat16 and float32": lambda folder: change_weights(folder, {"norm": lambda weight: weight.float()}),
    "names before transformers 4.52": lambda folder: rename_weights(
        folder / WEIGHTS,
        lambda name: name.replace("model.language_model.", "model.").replace("model.visual.", "visual."),
    ),
    "flat config": _flat_config,
    "template in tokenizer_config.json": lambda folder: _move_template(
        folder, "tokenizer_config.json", lambda text: {"chat_template": text}
    ),
    "template in chat_template.json": lambda folder: _move_template(
        folder, "chat_template.json", lambda text: {"chat_template": text}
    ),
    "several templates": lambda folder: _move_template(
        folder,
        "tokenizer_config.json",
        lambda text: {"chat_template": [{"name": name, "template": text} for name in ("default", "tool_use")]},
    ),
    "image processor in processor_config.json": _new_processor_file,
    "fast image processor": lambda folder: rewrite(
        folder / "preprocessor_config.json", image_processor_type="Qwen2VLImageProcessorFast"
    ),
    "several stop tokens": lambda folder: rewrite(folder / "generation_config.json", eos_token_id=[882, 883]),
    "no stop token in the generation config": lambda folder: rewrite(
        folder / "generation_config.json", eos_token_id=None
    ),
    "no generation config": lambda folder: (folder / "generation_config.json").unlink(),
    "settings of sampling": lambda folder: rewrite(
        folder / "generation_config.json", do_sample=True, temperature=0.01, top_k=1, repetition_penalty=1.05
    ),
    "no card": lambda folder: (folder / "virft_card.json").unlink(),
}
"""Folders of other shapes that are whole: nothing about them is a problem."""


def make_broken(broken: Broken, folder: Path) -> Path:
    """Make one of these folders."""
    if broken.has_adapters:
        save_adapters(folder)
    else:
        shutil.copytree(tiny_folder(), folder)
    broken.make(folder)
    return folder


def forget_end_of_turn(folder: Path) -> Path:
    """Let the generation config stop at the end of a text alone, as checkpoint mergers of verl and EasyR1 write it."""
    rewrite(folder / "generation_config.json", eos_token_id=883)
    return folder
