"""A folder of adapters that has a tokenizer, chat template or image processor of its own is used with them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from transformers import AutoTokenizer

from broken_models import rewrite, save_adapters
from virft.errors import ModelError
from virft.inference.prompting import make_renderer, resolve_prompting
from virft.models.load import LoadedModel, load_model
from virft.models.tiny import TINY_NAME, tiny_folder
from virft.types import ImageSize, Sample

OF_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "virft_card.json")
OWN = (tiny_folder() / "chat_template.jinja").read_text().replace("<|im_start|>", "<|im_start|>own ")
TEMPLATE_NOTE = "its adapters have a chat template of their own, which is used"


def bare_adapters(folder: Path, base: str = TINY_NAME) -> Path:
    """Save adapters without any files of tokenizer and processor, as PEFT alone does."""
    save_adapters(folder, base)
    for file in folder.iterdir():
        if file.name not in OF_ADAPTERS:
            file.unlink()
    return folder


def roomy_base(folder: Path, free: int = 8) -> Path:
    """Save a model with ``free`` rows in the embeddings that no token uses, as published models have."""
    loaded = load_model(TINY_NAME)
    loaded.model.resize_token_embeddings(len(loaded.tokenizer) + free)
    loaded.save(folder)
    return folder


def add_tokens(folder: Path, *tokens: str) -> None:
    """Save the tokenizer of virft-tiny with more tokens."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder())
    tokenizer.add_tokens(list(tokens))
    tokenizer.save_pretrained(folder)


def saved_again(loaded: LoadedModel, folder: Path) -> LoadedModel:
    """Merge the adapters and load the saved model."""
    loaded.merge_adapters()
    loaded.save(folder)
    again = load_model(str(folder))
    assert again.adapters is None
    return again


def prompt(loaded: LoadedModel) -> str:
    """Return the text of a prompt."""
    sample = Sample(
        id="a", task="detection", images=("a.png",), image_sizes=(ImageSize(56, 56),), query="fox", target=None
    )
    prompting = resolve_prompting(loaded, template="auto", thinking=None)
    render = make_renderer(loaded, prompting, load_image=lambda path, augmentation: Image.new("RGB", (56, 56)))
    return render(sample).prompt.text


TEMPLATES: dict[str, Callable[[Path], object]] = {
    "jinja": lambda folder: (folder / "chat_template.jinja").write_text(OWN),
    "json": lambda folder: (folder / "chat_template.json").write_text(json.dumps({"chat_template": OWN})),
    "processor": lambda folder: (folder / "processor_config.json").write_text(json.dumps({"chat_template": OWN})),
    "tokenizer_config alone": lambda folder: (folder / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": OWN})
    ),
    "whole tokenizer": lambda folder: [
        shutil.copy(tiny_folder() / "tokenizer.json", folder),
        shutil.copy(tiny_folder() / "tokenizer_config.json", folder),
        rewrite(folder / "tokenizer_config.json", chat_template=OWN),
    ],
}
"""Places of a chat template in a folder of adapters."""


@pytest.mark.parametrize("base_has", ["jinja", "json", "processor"])
@pytest.mark.parametrize("place", TEMPLATES)
def test_a_chat_template_of_the_adapters_is_used_and_saved(tmp_path: Path, place: str, base_has: str) -> None:
    base = Path(shutil.copytree(tiny_folder(), tmp_path / "base"))
    (base / "chat_template.jinja").unlink()
    template = (tiny_folder() / "chat_template.jinja").read_text()
    {
        "jinja": lambda: (base / "chat_template.jinja").write_text(template),
        "json": lambda: (base / "chat_template.json").write_text(json.dumps({"chat_template": template})),
        "processor": lambda: (base / "processor_config.json").write_text(json.dumps({"chat_template": template})),
    }[base_has]()
    adapters = bare_adapters(tmp_path / "a", str(base))
    before = load_model(str(adapters))
    assert (before.notes, "own user" in prompt(before)) == ((), False)
    TEMPLATES[place](adapters)
    loaded = load_model(str(adapters))
    assert loaded.notes == (TEMPLATE_NOTE,)
    assert prompt(loaded) == prompt(before).replace("<|im_start|>", "<|im_start|>own ")
    again = saved_again(loaded, tmp_path / "merged")
    assert (again.notes, prompt(again)) == ((), prompt(loaded))
    assert AutoTokenizer.from_pretrained(tmp_path / "merged").chat_template == OWN


def test_adapters_are_saved_with_their_own_template(tmp_path: Path) -> None:
    adapters = bare_adapters(tmp_path / "a")
    (adapters / "chat_template.jinja").write_text(OWN)
    load_model(str(adapters)).save(tmp_path / "again")
    assert load_model(str(tmp_path / "again")).tokenizer.chat_template == OWN


@pytest.mark.parametrize("template", ["{{ m['role'] + m['content'] }}", "{{ m['content'][2] / 0 }}", "{{ 1 / 0 }}"])
def test_a_template_without_images_is_not_used(tmp_path: Path, template: str) -> None:
    # a tokenizer saved alone has the template of the language model
    adapters = bare_adapters(tmp_path / "a")
    add_tokens(adapters)
    (adapters / "chat_template.jinja").write_text(f"{{% for m in messages %}}{template}{{% endfor %}}")
    loaded = load_model(str(adapters))
    assert loaded.notes == ("the chat template of its adapters writes no images; that of the base is used",)
    expected = (tiny_folder() / "chat_template.jinja").read_text()
    assert loaded.tokenizer.chat_template == expected
    assert saved_again(loaded, tmp_path / "merged").tokenizer.chat_template == expected


def test_tokens_in_free_rows_of_the_embeddings_are_used(tmp_path: Path) -> None:
    adapters = bare_adapters(tmp_path / "a", str(roomy_base(tmp_path / "base")))
    add_tokens(adapters, "<class_a>", "<class_b>")
    loaded = load_model(str(adapters))
    assert loaded.notes == ("the tokenizer of its adapters is used; its base does not have <class_a>, <class_b>",)
    assert loaded.tokenizer("<class_b>").input_ids == [897]  # virft-tiny has the ids 0 to 895
    assert saved_again(loaded, tmp_path / "merged").tokenizer("<class_b>").input_ids == [897]


def test_an_end_token_of_the_adapters_stops_completions(tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_folder(), tmp_path / "base"))
    adapters = bare_adapters(tmp_path / "a", str(base))
    add_tokens(adapters)
    rewrite(adapters / "tokenizer_config.json", eos_token="<|vision_end|>")
    loaded = load_model(str(adapters))
    end = loaded.tokenizer.convert_tokens_to_ids("<|vision_end|>")
    assert end in loaded.model.generation_config.eos_token_id
    assert loaded.notes[-1].startswith("generation_config.json has no stop token <|vision_end|>")


def rename_token(folder: Path) -> None:
    add_tokens(folder)
    path = folder / "tokenizer.json"
    path.write_text(path.read_text().replace("<|vision_end|>", "<|end_of_vision|>"))
    path = folder / "tokenizer_config.json"
    path.write_text(path.read_text().replace("<|vision_end|>", "<|end_of_vision|>"))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "beyond the embeddings": (
        lambda folder: add_tokens(folder, "<class_a>"),
        r"a: its tokenizer has 1 token beyond the 896 rows of the embeddings: <class_a> \(896\)",
    ),
    "another token": (
        rename_token,
        r"a: the tokenizer of its adapters differs from that of their base in 1 token: <\|vision_end\|> \(\d+ in the "
        r"base, missing here\); expected a tokenizer with every token of the base, or none: ",
    ),
    "no JSON": (lambda folder: (folder / "tokenizer.json").write_text("{"), r"a: cannot be loaded: .*; expected the "),
    "no JSON in the processor": (
        lambda folder: (folder / "processor_config.json").write_text("{"),
        r"a: cannot be loaded: .*; expected the files that were saved with the adapters",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_tokenizer_that_does_not_fit_the_base_is_refused(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    adapters = bare_adapters(tmp_path / "a")
    make(adapters)
    with pytest.raises(ModelError, match=message):
        load_model(str(adapters))


@pytest.mark.parametrize("nested", [False, True], ids=["own file", "file of the processor"])
@pytest.mark.parametrize("base_nested", [False, True], ids=["base: own file", "base: file of the processor"])
def test_the_image_processor_of_the_adapters_is_saved(tmp_path: Path, nested: bool, base_nested: bool) -> None:
    def write(folder: Path, is_nested: bool, **changes: Any) -> None:
        settings = json.loads((tiny_folder() / "preprocessor_config.json").read_text()) | changes
        name, tree = (
            ("processor_config.json", {"image_processor": settings, "image_seq_len": 64})
            if is_nested
            else ("preprocessor_config.json", settings)
        )
        (folder / name).write_text(json.dumps(tree))

    base = Path(shutil.copytree(tiny_folder(), tmp_path / "base"))
    (base / "preprocessor_config.json").unlink()
    write(base, base_nested)
    adapters = bare_adapters(tmp_path / "a", str(base))
    write(adapters, nested, image_mean=[0.25, 0.5, 0.75])
    again = saved_again(load_model(str(adapters)), tmp_path / "merged")
    assert list(again.image_processor.image_mean) == [0.25, 0.5, 0.75]
    if base_nested or nested:
        kept = json.loads((tmp_path / "merged" / "processor_config.json").read_text())
        assert kept["image_seq_len"] == 64


def test_a_processor_file_without_an_image_processor_leaves_that_of_the_base(tmp_path: Path) -> None:
    adapters = bare_adapters(tmp_path / "a")
    (adapters / "processor_config.json").write_text('{"processor_class": "Qwen2VLProcessor"}')
    loaded = load_model(str(adapters))
    assert loaded.image_processor.size["longest_edge"] == 112 * 112
    assert saved_again(loaded, tmp_path / "merged").image_processor.size["longest_edge"] == 112 * 112
