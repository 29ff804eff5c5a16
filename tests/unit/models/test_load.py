"""Loading and saving of model folders: completeness, errors, adapters, code that is never run."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoImageProcessor, AutoModelForImageTextToText

from tiny_folders import FOLDERS, save_tiny_folder
from tiny_models import MAKERS, QWEN, num_adapted, tiny_model
from virft.errors import ModelError
from virft.models.attention.shared_prompt import SHARED_PROMPT
from virft.models.families import family_of
from virft.models.load import LoadedModel, load_model, prepare_attention, wrap_model
from virft.models.saved_files import pixel_budget
from virft.models.tiny import TINY_NAME, tiny_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of virft-tiny that a test may damage."""
    return Path(shutil.copytree(tiny_folder(), tmp_path / "model"))


def in_memory(model_type: str) -> LoadedModel:
    model = tiny_model(model_type)
    family = family_of(model_type)
    prepare_attention(model, family)
    return LoadedModel(model=model, tokenizer=None, image_processor=None, family=family, folder=None, card={})


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no configuration": (lambda f: (f / "config.json").unlink(), "no config.json in this folder; expected a Hugging"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights in this folder; expected *.safetensors"),
    "cut weights": (
        lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:1000]),
        "cannot be loaded: ",
    ),
    "cut configuration": (lambda f: (f / "config.json").write_text("{"), "cannot be loaded: "),
    "no tokenizer": (
        lambda f: (f / "tokenizer.json").unlink(),
        "its tokenizer has 14 tokens, but images are token ",
    ),
    "no processor": (lambda f: (f / "preprocessor_config.json").unlink(), "cannot be loaded: "),
    "another kind of model": (
        lambda f: rewrite(f / "config.json", model_type="llama"),
        "models of type 'llama' are not supported; supported are qwen2_vl, qwen2_5_vl, qwen3_vl",
    ),
    "adapters without weights": (
        lambda f: (f / "adapter_config.json").write_text("{}"),
        "no adapters in this folder; expected adapter_model.safetensors next to adapter_config.json",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_incomplete_folder_is_refused(folder: Path, damage: str) -> None:
    change, message = DAMAGES[damage]
    change(folder)
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    assert message in str(caught.value)
    if "supported" not in message:
        assert str(caught.value).startswith(f"{folder}: ")


@pytest.mark.parametrize("path", ["nowhere", "./nowhere", "/no/where", "a/b/c"])
def test_a_missing_folder_is_refused(path: str) -> None:
    with pytest.raises(
        ModelError, match="there is no such folder; expected virft-tiny, virft-photo, a model folder, or a hub id"
    ):
        load_model(path)


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("virft-tinny", "virft-tiny"),
        ("Virft-tiny", "virft-tiny"),
        ("Qwen2.5-VL-3B", "Qwen/Qwen2.5-VL-3B-Instruct"),
        ("qwen2-vl-2b-instruct", "Qwen/Qwen2-VL-2B-Instruct"),
        ("./runs/mnie/model", "runs/mine/model"),
    ],
)
def test_a_misspelt_model_leads_to_the_nearest_name(
    path: str, nearest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/mine/model").mkdir(parents=True)
    with pytest.raises(ModelError) as caught:
        load_model(path)
    assert str(caught.value) == f"{path}: there is no such folder; did you mean {nearest}?"


def test_a_run_in_place_of_a_model_leads_to_its_model(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=rf"no config\.json in this folder; did you mean {tmp_path}/model\?"):
        load_model(str(tmp_path))


def test_the_card_has_the_prompt_template() -> None:
    assert load_model(TINY_NAME).card["prompt_template"] == "short"


def test_language_model_and_tower_have_their_own_attention() -> None:
    config = load_model(TINY_NAME).model.config
    assert config.text_config._attn_implementation == SHARED_PROMPT
    assert config.vision_config._attn_implementation != SHARED_PROMPT


def test_pixel_limits_reach_the_processor() -> None:
    processor = load_model(TINY_NAME, pixels=(None, 56 * 56)).image_processor
    assert (processor.size["shortest_edge"], processor.size["longest_edge"]) == (56 * 56, 56 * 56)
    assert load_model(TINY_NAME).image_processor.size["longest_edge"] == 112 * 112


@pytest.mark.parametrize("model_type", MAKERS)
def test_adapters_are_in_the_language_model_only(model_type: str) -> None:
    loaded = in_memory(model_type)
    loaded.add_lora(4, 8)
    adapted = {name for name, module in loaded.model.named_modules() if hasattr(module, "lora_A")}
    assert all(name.startswith(loaded.family.language_module + ".") for name in adapted)
    assert len(adapted) == num_adapted(model_type)
    trained = {name: p for name, p in loaded.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name for name in trained)
    assert {p.dtype for p in trained.values()} == {torch.float32}


@pytest.mark.parametrize("model_type", MAKERS)
def test_freezing_the_vision_tower_leaves_the_language_model_trainable(model_type: str) -> None:
    loaded = in_memory(model_type)
    loaded.freeze_vision()
    for name, parameter in loaded.model.named_parameters():
        language = name.startswith((loaded.family.language_module + ".", "lm_head."))
        assert parameter.requires_grad is language, name


@pytest.mark.parametrize("model_type", QWEN)
def test_a_copy_embeds_patches_with_its_own_weights(model_type: str) -> None:
    loaded = in_memory(model_type)
    embed = loaded.model.model.visual.patch_embed
    values = embed.proj.weight[0].numel()
    patches = torch.ones(2, values)
    reference = copy.deepcopy(embed)
    before = reference(patches)
    with torch.no_grad():
        embed.proj.weight.zero_()
    torch.testing.assert_close(reference(patches), before)
    assert embed(patches).std() == 0 != before.std()


def test_a_saved_model_is_a_hugging_face_folder(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    loaded.save(tmp_path / "m")
    plain = AutoModelForImageTextToText.from_pretrained(tmp_path / "m", dtype=torch.float32)
    for (name, a), b in zip(loaded.model.named_parameters(), plain.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert "_attn_implementation" not in (tmp_path / "m" / "config.json").read_text()
    assert load_model(str(tmp_path / "m")).card == loaded.card
    for name in ("tokenizer.json", "preprocessor_config.json", "chat_template.jinja"):
        assert (tmp_path / "m" / name).read_bytes() == (tiny_folder() / name).read_bytes()


def test_saving_replaces_an_existing_folder(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "old").touch()
    (tmp_path / "m.unfinished").mkdir()
    loaded.save(tmp_path / "m")
    assert not (tmp_path / "m" / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_saved_adapters_load_with_their_base(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    loaded.add_lora(2, 4)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.01)
    loaded.save(tmp_path / "a")
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    # by name: the package is installed in another folder on the next machine
    assert config["base_model_name_or_path"] == TINY_NAME
    assert not (tmp_path / "a" / "model.safetensors").exists()
    again = load_model(str(tmp_path / "a"))
    assert again.adapters is not None
    ids = torch.tensor([[5, 6, 7]])
    expected = loaded.model(input_ids=ids).logits
    torch.testing.assert_close(again.model(input_ids=ids).logits, expected)
    with again.adapters_disabled():
        assert (again.model(input_ids=ids).logits - expected).abs().max() > 1e-2


def test_the_processors_chat_template_has_precedence(tmp_path: Path) -> None:
    # as on the hub in LLaVA-OneVision, whose tokenizer brings the language model's template, without images
    folder = save_tiny_folder(tmp_path / "m", "llava_onevision")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    rewrite(folder / "tokenizer_config.json", chat_template="no images here")
    loaded = load_model(str(folder))
    assert loaded.tokenizer.chat_template == template
    loaded.save(tmp_path / "again")
    assert load_model(str(tmp_path / "again")).tokenizer.chat_template == template


def test_a_description_is_a_model_folder_without_weights(tmp_path: Path) -> None:
    load_model(TINY_NAME).save_description(tmp_path)
    there, whole = ({path.name for path in folder.iterdir()} for folder in (tmp_path, tiny_folder()))
    assert {"config.json", "tokenizer.json", "preprocessor_config.json"} <= there
    assert there == whole - {"model.safetensors", "generation_config.json", "README.md"}


@pytest.mark.parametrize("model_type", MAKERS)
def test_the_description_of_a_model_made_in_memory_names_its_class(model_type: str, tmp_path: Path) -> None:
    tiny = load_model(TINY_NAME)
    model = tiny_model(model_type)
    wrap_model(model, tiny.tokenizer, tiny.image_processor).save_description(tmp_path)
    described = json.loads((tmp_path / "config.json").read_text())
    assert described["architectures"] == [type(model).__name__]
    assert not described["tie_word_embeddings"]


# three tiles of 16 x 16 where the models are tiled
@pytest.mark.parametrize(
    ("model_type", "pixels"),
    [("tiny", 6272), ("smolvlm", 16 * 32), ("internvl", 3 * 256), ("glm4v", 600), ("gemma4", 20_160)],
)
def test_a_saved_model_has_the_pixel_budget_of_its_training(tmp_path: Path, model_type: str, pixels: int) -> None:
    base = tiny_folder() if model_type == "tiny" else save_tiny_folder(tmp_path / "base", model_type)
    loaded = load_model(str(base), pixels=(None, pixels))
    loaded.save(tmp_path / "saved")
    limited, own, again = (
        pixel_budget(one.image_processor)
        for one in (loaded, load_model(str(base)), load_model(str(tmp_path / "saved")))
    )
    assert again == limited != own
    alone = AutoImageProcessor.from_pretrained(tmp_path / "saved", backend="pil")
    assert pixel_budget(alone) == limited
    load_model(str(base)).save(tmp_path / "as_it_was")
    name = "preprocessor_config.json"
    assert (tmp_path / "as_it_was" / name).read_bytes() == (base / name).read_bytes()


def test_adapters_have_their_own_pixel_budget_and_prompt_settings(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME, pixels=(None, 6272))
    loaded.card |= {"prompt_template": "Where is {query}?", "thinking": True}
    loaded.add_lora(rank=2, alpha=4)
    loaded.save(tmp_path / "adapters")
    again = load_model(str(tmp_path / "adapters"))
    assert again.image_processor.size["longest_edge"] == 6272
    assert again.card == loaded.card
    again.merge_adapters()
    again.save(tmp_path / "merged")
    merged = load_model(str(tmp_path / "merged"))
    assert merged.image_processor.size["longest_edge"] == 6272
    assert merged.card == loaded.card


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "adapter_model.bin"])
def test_pickled_weights_are_refused_unread(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(tiny_folder(), tmp_path / "m")
    (folder / "model.safetensors").unlink()
    if name.startswith("adapter"):
        (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "virft-tiny", "peft_type": "LORA"}')
    (folder / name).write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    with pytest.raises(ModelError, match=rf"only pickled \w+ \({name}\), which may run code .*safetensors"):
        load_model(str(folder))
    assert not (tmp_path / "ran").exists()


def test_pickled_weights_next_to_safetensors_are_not_read(tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_folder(), tmp_path / "m")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Touch(tmp_path / "ran")))
    load_model(str(folder))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("model_type", ["qwen2_vl", "of_its_own"])
def test_code_in_a_model_folder_is_not_run(tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers would prompt, and accept a yes
    folder = shutil.copytree(tiny_folder(), tmp_path / "m")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        tree = json.loads((folder / name).read_text())
        kinds = ("AutoConfig", "AutoModelForImageTextToText", "AutoImageProcessor")
        tree["auto_map"] = dict.fromkeys(kinds, "own.Own") | {"AutoTokenizer": ["own.Own", None]}
        if "model_type" in tree:
            tree["model_type"] = model_type
        (folder / name).write_text(json.dumps(tree))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Own: pass\n")
    if model_type == "qwen2_vl":
        load_model(str(folder))
    else:
        with pytest.raises(ModelError, match="models of type 'of_its_own' are not supported"):
            load_model(str(folder))
    assert not (tmp_path / "ran").exists()


def mapped_weights(model: torch.nn.Module) -> tuple[int, int]:
    """Return the bytes of weights that lie in a mapping of their file, and those that this process alone has of it."""
    bounds, private = [], 0
    is_file = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = line.split()
        if not name.endswith(":"):
            is_file = line.endswith(".safetensors")
            if is_file:
                bounds.append([int(place, 16) for place in name.split("-")])
        elif is_file and name == "Private_Dirty:":
            private += int(rest[0]) * 1024
    weights = [one for one in model.parameters() if any(a <= one.data_ptr() < b for a, b in bounds)]
    return sum(one.nbytes for one in weights), private


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="no list of memory mappings on this system")
def test_processes_share_weights_in_the_dtype_of_their_file() -> None:
    loaded = load_model(TINY_NAME, dtype=torch.bfloat16)
    loaded.add_lora(4, 8)
    num_bytes = sum(one.nbytes for name, one in loaded.model.named_parameters() if "lora_" not in name)
    assert mapped_weights(loaded.model) == (num_bytes, 0)
    # The first number is not always that: a conversion makes a copy.
    assert mapped_weights(load_model(TINY_NAME).model) == (0, 0)
    assert mapped_weights(load_model(TINY_NAME, mapped=True).model) == (num_bytes, 0)


@pytest.mark.parametrize("model_type", [*FOLDERS, "qwen2_vl"])
def test_a_mapped_model_differs_in_the_dtypes_of_its_weights_only(
    model_type: str, folder: Path, tmp_path: Path
) -> None:
    if model_type in FOLDERS:
        folder = save_tiny_folder(tmp_path / "m", model_type)
    stored = load_file(folder / "model.safetensors")
    # one weight in another dtype: each has that of its file, which a dtype for the whole model would round
    stored = {name: one.float() if "norm" in name else one.bfloat16() for name, one in stored.items()}
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
    expected, found = load_model(str(folder)), load_model(str(folder), mapped=True)
    weights, others = dict(found.model.named_parameters()), dict(expected.model.named_parameters())
    assert {one.dtype for one in weights.values()} == {torch.bfloat16, torch.float32}
    assert {one.dtype for one in others.values()} == {torch.float32}
    assert weights.keys() == others.keys()
    assert all(torch.equal(one.float(), others[name]) for name, one in weights.items())
    # not in the files, and not rounded either: in bfloat16, the scale of Gemma's embeddings is
    buffers, same = dict(found.model.named_buffers()), dict(expected.model.named_buffers())
    assert buffers.keys() == same.keys()
    assert all(torch.equal(one.float(), same[name].float()) for name, one in buffers.items())
    assert all(one.dtype == same[name].dtype for name, one in buffers.items() if name not in stored)
    assert found.model.config.to_dict() == expected.model.config.to_dict()
    assert found.precision == expected.precision
