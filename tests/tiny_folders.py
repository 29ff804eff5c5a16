"""Folders of tiny random models, with tokenizer and image processor of their family.

Needs transformers and nothing of virft, so that ``scripts/make_placeholder_goldens.py`` can use it elsewhere.
"""

from __future__ import annotations

import copy
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tiny_models import LLAVA_GRID, MAKERS, with_large_weights

TILE = 16
"""Pixels per side of a tile, the input of the tiny towers."""

_ROWS = tuple(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7))
_SMOLVLM_TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
_IDEFICS_TOKENS = ("<|im_start|>", "<fake_token_around_image>", "<image>", "<global-img>", *_ROWS, "<video>")
_IDEFICS_IMAGES = {"size": {"longest_edge": 3 * TILE}, "max_image_size": {"longest_edge": TILE}}


class _Kind(NamedTuple):
    """``special`` tokens: the first ends a turn. ``named``: those with a name of their own in the tokenizer.

    ``module`` and ``images``: module and name of the image processor; ``settings``: its arguments.
    """

    special: tuple[str, ...]
    named: dict[str, str]
    template: str
    module: str
    images: str
    settings: dict[str, Any]


_KINDS = {
    name: _Kind(("<end_of_utterance>", *_IDEFICS_TOKENS), {}, _SMOLVLM_TEMPLATE, name, images, _IDEFICS_IMAGES)
    for name, images in (("smolvlm", "SmolVLM"), ("idefics3", "Idefics3"))
}
_INTERNVL_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n'}}{% endif %}"
)
_INTERNVL_NAMED = {
    "start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}  # fmt: skip
_KINDS["internvl"] = _Kind(
    ("<|im_end|>", "<|im_start|>", *_INTERNVL_NAMED.values(), "<box>", "</box>"),
    _INTERNVL_NAMED,
    _INTERNVL_TEMPLATE,
    "got_ocr2",
    "GotOcr2",
    {"size": {"height": TILE, "width": TILE}, "max_patches": 6, "crop_to_patches": False},
)
_LLAVA_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] | selectattr('type', 'equalto', 'text') %}{{ '\n' + part['text'] }}{% endfor %}"
    "{{'<|im_end|>'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_KINDS["llava_onevision"] = _Kind(
    ("<|im_end|>", "<|im_start|>", "<image>", "<video>"),
    {},
    _LLAVA_TEMPLATE,
    "llava_onevision",
    "LlavaOnevision",
    {"size": {"height": TILE, "width": TILE}, "image_grid_pinpoints": LLAVA_GRID},
)
_GEMMA_TEMPLATE = (
    "<bos>{% for message in messages %}{{ '<start_of_turn>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<start_of_image>' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
_GEMMA_NAMED = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
_KINDS["gemma3"] = _Kind(
    ("<end_of_turn>", "<bos>", "<start_of_turn>", *_GEMMA_NAMED.values()),
    _GEMMA_NAMED,
    _GEMMA_TEMPLATE,
    "gemma3",
    "Gemma3",
    {"size": {"height": TILE, "width": TILE}},
)
TILED = tuple(_KINDS)
"""Families whose images are tiles of one size."""
_GLM_TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|begin_of_image|><|image|><|end_of_image|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_GLM_NAMED = {"image_token": "<|image|>", "video_token": "<|video|>"}
_GLM_MARKERS = {
    f"{kind}_{name}_token_id": f"<|{word}_of_{kind}|>"
    for kind in ("image", "video")
    for name, word in (("start", "begin"), ("end", "end"))
}
_KINDS["glm4v"] = _KINDS["glm4v_moe"] = _Kind(
    ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", *_GLM_MARKERS.values(), *_GLM_NAMED.values()),
    _GLM_NAMED,
    _GLM_TEMPLATE,
    "glm4v",
    "Glm4v",
    # of all frames, and an image is two; 3 x 3 tiles
    {"size": {"shortest_edge": 2 * TILE**2, "longest_edge": 2 * (3 * TILE) ** 2}, "patch_size": 4},
)
_GEMMA4_TEMPLATE = (
    "<bos>{% for message in messages %}{{ '<|turn>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '\n\n<|image|>\n\n' }}"
    "{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}{{ '<turn|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn>model\n' }}{% endif %}"
)
_GEMMA4_NAMED = {
    "boi_token": "<|image>", "eoi_token": "<image|>", "image_token": "<|image|>", "video_token": "<|video|>",
    "audio_token": "<|audio|>", "boa_token": "<|audio>", "eoa_token": "<audio|>",
}  # fmt: skip
_GEMMA4_IDS = {
    "boi_token_id": "<|image>", "eoi_token_id": "<image|>", "video_token_id": "<|video|>",
    "audio_token_id": "<|audio|>", "boa_token_id": "<|audio>", "eoa_token_index": "<audio|>",
}  # fmt: skip
_KINDS["gemma4"] = _Kind(
    ("<turn|>", "<bos>", "<|turn>", *_GEMMA4_NAMED.values()),
    _GEMMA4_NAMED,
    _GEMMA4_TEMPLATE,
    "gemma4",
    "Gemma4",
    {"patch_size": 4, "pooling_kernel_size": 3, "max_soft_tokens": 70},
)
FOLDERS = tuple(_KINDS)
"""Families of which there are folders, with tokenizer and image processor."""
_SOFT = {
    "glm4v": "<|image|>", "glm4v_moe": "<|image|>", "gemma4": "<|image|>",
    "internvl": "<IMG_CONTEXT>", "gemma3": "<image_soft_token>",
}  # fmt: skip
"""Tokens that the tower fills, where they differ from the placeholder."""


def striped_image(width: int, height: int, number: int = 0) -> Image.Image:
    """Return an image of gradients and stripes, the same in every version of every library."""
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    layers = [x * 255 // width, y * 255 // height, (x // 3 + y // 5 + number) % 5 * 50]
    return Image.fromarray(np.stack(layers, -1).astype(np.uint8))


def tiny_tokenizer(model_type: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer of bytes, two line breaks as one token (as in all these families), and special tokens."""
    special, named, template = _KINDS[model_type][:3]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*letters, "ĊĊ"])}, [("Ċ", "Ċ")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=special[0], pad_token="<|pad|>", extra_special_tokens=named or None
    )
    made.add_special_tokens({"additional_special_tokens": list(special[1:])})
    made.chat_template = template
    return made


def tiny_image_processor(model_type: str, *, backend: str = "pil") -> Any:
    """Return the image processor of the family; ``backend`` "torchvision" needs torchvision."""
    module, name, settings = _KINDS[model_type][3:]
    end = "_pil" if backend == "pil" else ""
    found = import_module(f"transformers.models.{module}.image_processing{end}_{module}")
    return getattr(found, f"{name}ImageProcessor{end.title().strip('_')}")(**settings)


def pixel_digest(tiles: torch.Tensor) -> list[list[float]]:
    """Return sides, mean and a few numbers of each tile, rounded."""
    flat = tiles.reshape(-1, *tiles.shape[-3:])
    return [
        [*one.shape, *(round(x.item(), 4) for x in (one.float().mean(), *one.flatten()[:: one.numel() // 7]))]
        for one in flat
    ]


def tiny_chat_model(model_type: str, seed: int = 0) -> Any:
    """Return the family's tiny model with the vocabulary of its tokenizer."""
    tokenizer = tiny_tokenizer(model_type)

    def make() -> Any:
        model = MAKERS[model_type]()
        config = copy.deepcopy(model.config)
        config.text_config.vocab_size = len(tokenizer)
        config.text_config.eos_token_id = tokenizer.eos_token_id
        config.text_config.bos_token_id = config.text_config.pad_token_id = tokenizer.pad_token_id
        config.image_token_id = tokenizer.convert_tokens_to_ids(_SOFT.get(model_type, "<image>"))
        if model_type.startswith("glm4v"):
            for name, token in {"video_token_id": "<|video|>", **_GLM_MARKERS}.items():
                setattr(config, name, tokenizer.convert_tokens_to_ids(token))
        elif model_type == "gemma4":
            config.text_config.vocab_size_per_layer_input = len(tokenizer)
            for name, token in _GEMMA4_IDS.items():
                setattr(config, name, tokenizer.convert_tokens_to_ids(token))
        elif hasattr(config, "video_token_id"):
            config.video_token_id = tokenizer.convert_tokens_to_ids("<video>")
        if model_type == "gemma3":
            config.boi_token_id = tokenizer.convert_tokens_to_ids("<start_of_image>")
            config.eoi_token_id = tokenizer.convert_tokens_to_ids("<end_of_image>")
        return type(model)(config)

    return with_large_weights(make, seed)


def save_tiny_folder(folder: Path, model_type: str) -> Path:
    """Save a model folder such as those on the hub."""
    tiny_chat_model(model_type).save_pretrained(folder)
    tiny_tokenizer(model_type).save_pretrained(folder)
    tiny_image_processor(model_type).save_pretrained(folder)
    return folder
