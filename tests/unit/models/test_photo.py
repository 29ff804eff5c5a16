"""virft-photo is an ordinary InternVL: here with a random tower of two blocks in place of the real one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoTokenizer, InternVLForConditionalGeneration, InternVLVisionConfig, InternVLVisionModel

import virft
from virft.models import built_in
from virft.models.built_in import BUILT_IN_MODELS, BuiltInModel
from virft.models.load import LoadedModel, load_model
from virft.models.photo_config import (
    IMAGE_TOKENS,
    LANGUAGE_FILE,
    NUM_IMAGE_TOKENS,
    PHOTO_VISION,
    TOWER_FILE,
    TOWER_PREFIX,
    photo_config,
    photo_tokenizer,
)
from virft.models.size import read_model_size
from virft.models.tiny import tiny_folder

SCRIPTS = Path(__file__).resolve().parents[3] / "scripts"
BLOCKS = 2
SHIPPED_TOWER = Path(built_in.__file__).parent / "photo_weights" / TOWER_FILE
IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8))


def tower_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    tower = InternVLVisionModel(InternVLVisionConfig(**PHOTO_VISION | {"num_hidden_layers": BLOCKS}))
    return {f"{TOWER_PREFIX}{name}": tensor.to(torch.bfloat16) for name, tensor in tower.state_dict().items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the export writes it: random weights, a tower of two blocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPTS)
        from export_photo import save_folder
    place = tmp_path_factory.mktemp("photo")
    save_file(tower_weights(), place / "tower.safetensors")
    tokenizer = photo_tokenizer(AutoTokenizer.from_pretrained(tiny_folder()))
    torch.manual_seed(1)
    config = photo_config(tokenizer, layers=2, vision_layers=BLOCKS)
    model = InternVLForConditionalGeneration(config)
    weights = {name: tensor for name, tensor in model.state_dict().items() if "vision_tower" not in name}
    save_folder(weights, tokenizer, config, place / "tower.safetensors", place / "model")
    return place / "model"


@pytest.fixture(scope="module")
def photo(folder: Path) -> LoadedModel:
    return load_model(str(folder))


def test_the_model_is_transformers_own_class(photo: LoadedModel) -> None:
    assert type(photo.model) is InternVLForConditionalGeneration
    assert photo.notes == ()


def test_weights_are_in_two_files_of_which_one_has_the_tower_alone(folder: Path) -> None:
    for name, is_tower in ((TOWER_FILE, True), (LANGUAGE_FILE, False)):
        with safe_open(folder / name, "pt") as file:
            assert {one.startswith(TOWER_PREFIX) for one in file.keys()} == {is_tower}  # noqa: SIM118
    assert read_model_size(str(folder)).num_parameters == sum(
        parameter.numel() for parameter in InternVLForConditionalGeneration.from_pretrained(folder).parameters()
    )


def test_the_tower_in_the_folder_is_the_one_that_was_given(photo: LoadedModel) -> None:
    found = photo.model.model.vision_tower.state_dict()
    for name, tensor in tower_weights().items():
        torch.testing.assert_close(found[name.removeprefix(TOWER_PREFIX)], tensor.float(), rtol=0, atol=0)


def test_an_image_has_64_tokens_of_one_tile(photo: LoadedModel) -> None:
    vision = photo.family.read_images(photo.image_processor, [IMAGE])
    assert vision.pixel_values.shape == (1, 3, 224, 224)
    assert photo.family.num_image_tokens(photo.model.config, vision) == [NUM_IMAGE_TOKENS]


def test_the_prompt_has_the_image_between_its_markers(photo: LoadedModel) -> None:
    start, end, placeholder = (photo.tokenizer.convert_tokens_to_ids(token) for token in IMAGE_TOKENS.values())
    ids = photo.tokenizer("<img><IMG_CONTEXT><IMG_CONTEXT></img>Detect fox.").input_ids
    assert ids[:4] == [start, placeholder, placeholder, end]
    assert len({start, end, placeholder}) == 3
    assert min(start, end, placeholder) >= len(AutoTokenizer.from_pretrained(tiny_folder()))


def test_words_have_the_tokens_of_virft_tiny(photo: LoadedModel) -> None:
    text = "Detect fox.<|im_end|>\n<|im_start|>assistant\n<answer>No Objects</answer>"
    assert photo.tokenizer(text).input_ids == AutoTokenizer.from_pretrained(tiny_folder())(text).input_ids


def test_it_is_loaded_by_its_name_and_answers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUILT_IN_MODELS, "virft-photo", BuiltInModel(str(folder), 224))
    model = virft.load("virft-photo")
    model.max_completion_tokens = 4
    assert model.loaded.model.name_or_path == "virft-photo"
    assert len(model.detect(IMAGE, "fox").text) > 0


def test_a_name_without_weights_is_not_offered() -> None:
    assert all(one.folder.is_dir() and (one.folder / "config.json").is_file() for one in BUILT_IN_MODELS.values())


def test_the_shipped_tower_is_the_one_that_the_script_made() -> None:
    digest = hashlib.sha256(SHIPPED_TOWER.read_bytes()).hexdigest()
    assert digest == "1cfd581e0c2e12cf4470ee7079deedc426e4d5938b02335ac7ac3f86cd194688"
