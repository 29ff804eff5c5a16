"""Tokenizer, chat template and image processor of a model folder: read them, and copy their files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoImageProcessor, AutoTokenizer
from transformers.processing_utils import ProcessorMixin

from virft.models.families import Family
from virft.models.saved_files import PREPROCESSOR, PROCESSOR, PROCESSOR_FILES, pixel_budget, write_pixel_budget
from virft.models.stop_tokens import TEMPLATE_ERRORS

NO_CODE = {"trust_remote_code": False}
"""Explicit: by default, transformers may prompt at the terminal whether to run Python code of a model folder."""
_VOCABULARIES = ("tokenizer.json", "vocab.json", "tokenizer.model")
"""Files of which every tokenizer of a supported family has one."""
_TOKENIZER_CONFIG, _TEMPLATE = "tokenizer_config.json", "chat_template.jinja"
_TOKENIZER_FILES = ("tokenizer*", "vocab*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
_TEMPLATE_FILES = ("chat_template*",)
_PROCESSOR_FILES = (*PROCESSOR_FILES, "video_preprocessor_config.json")


def has_tokenizer(folder: Path) -> bool:
    """Return True if a folder has the vocabulary of a tokenizer."""
    return any((folder / name).is_file() for name in _VOCABULARIES)


def has_image_processor(folder: Path) -> bool:
    """Return True if a folder has the settings of an image processor, in a file of its own or in the processor's."""
    return (folder / PREPROCESSOR).is_file() or "image_processor" in _read(folder / PROCESSOR)


def read_tokenizer(folder: Path, **options: Any) -> Any:
    """Return the tokenizer of a folder, with the chat template of the processor if it has one."""
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **NO_CODE, **options)
    # The processor's template has precedence: some tokenizers have one without images (LLaVA-OneVision).
    if (template := _processor_template(folder)) is not None:
        tokenizer.chat_template = template
    return tokenizer


def read_chat_template(folder: Path) -> str | None:
    """Return the chat template of a folder, which may have no tokenizer; None if it has none."""
    template = _processor_template(folder) or _read(folder / _TOKENIZER_CONFIG).get("chat_template")
    return template if isinstance(template, str) else None


def writes_image(tokenizer: Any, template: str, placeholder: str) -> bool:
    """Return True if a chat template writes the placeholder of an image."""
    chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "?"}]}]
    try:
        return placeholder in str(tokenizer.apply_chat_template(chat, chat_template=template, tokenize=False))
    except TEMPLATE_ERRORS:
        return False


def read_image_processor(source: str, family: Family, pixels: tuple[int | None, int | None]) -> Any:
    """Load the image processor of a folder or hub id, PIL backend. ``pixels``: as for ``load_model``."""
    # Always PIL: torchvision's differs by up to 0.1 in normalised pixels, so results would depend on its installation.
    processor = AutoImageProcessor.from_pretrained(source, backend="pil", **NO_CODE)
    if pixels != (None, None):
        family.limit_pixels(processor, *pixels)
    return processor


def copy_companions(out: Path, folders: Sequence[Path], *, tokenizer: Any, processor: Any, family: Family) -> None:
    """Copy the files of tokenizer, chat template and image processor of a base, the first folder, and of its adapters.

    A part that a later folder has replaces that of an earlier one. Files are copied byte for byte: loading and saving
    them again would drop what transformers cannot load without torchvision. Chat template and pixel budget are written
    if they differ from those of ``tokenizer`` and ``processor``, which are in memory.
    """
    for folder in folders:
        patterns: tuple[str, ...] = _TEMPLATE_FILES
        if folder is folders[0] or has_tokenizer(folder):
            _remove(out, _TOKENIZER_FILES)
            patterns += _TOKENIZER_FILES
        if folder is folders[0] or has_image_processor(folder):
            (out / PREPROCESSOR).unlink(missing_ok=True)
            _drop(out / PROCESSOR, "image_processor")
            patterns += _PROCESSOR_FILES
        for file in _matching(folder, patterns):
            shutil.copyfile(file, out / file.name)
    template = tokenizer.chat_template
    # The file that has precedence for a processor need not be the one that a tokenizer reads.
    is_mixed = any(read_chat_template(folder) for folder in folders[1:]) and _stored_template(out) != template
    if isinstance(template, str) and (is_mixed or read_tokenizer(out).chat_template != template):
        _remove(out, _TEMPLATE_FILES)
        _drop(out / PROCESSOR, "chat_template")
        (out / _TEMPLATE).write_text(template, encoding="utf-8")
    budget = pixel_budget(processor)
    if pixel_budget(read_image_processor(str(out), family, (None, None))) != budget:
        write_pixel_budget(out, budget)


def _matching(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    return [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]


def _remove(folder: Path, patterns: tuple[str, ...]) -> None:
    for file in _matching(folder, patterns):
        file.unlink()


def _stored_template(folder: Path) -> str | None:
    """Return the content of chat_template.jinja, the file that tokenizers and processors read."""
    return (folder / _TEMPLATE).read_text(encoding="utf-8") if (folder / _TEMPLATE).is_file() else None


def _processor_template(folder: Path) -> str | None:
    template = ProcessorMixin.get_processor_dict(str(folder))[0].get("chat_template")
    return template if isinstance(template, str) else None


def _drop(path: Path, key: str) -> None:
    """Remove a key of a JSON file; nothing if there is no such file or key."""
    tree = _read(path)
    if tree.pop(key, None) is not None:
        path.write_text(json.dumps(tree, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _read(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; an empty one if there is no file."""
    if not path.is_file():
        return {}
    tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return tree
