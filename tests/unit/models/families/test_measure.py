"""Image sizes alone give the image tokens that the image processor's pixels give."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from tiny_folders import save_tiny_folder
from tiny_models import PATCHES
from virft.errors import DataError, ModelError
from virft.models.families import FAMILIES
from virft.models.load import LoadedModel, load_model
from virft.models.renderer import Renderer
from virft.models.tiny import TINY_NAME
from virft.types import Detections, ImageSize, Sample

SIZES = [(20, 20), (64, 48), (48, 64), (150, 37), (37, 150), (17, 200), (333, 90), (410, 2), (3, 500), (1, 1), (97, 95)]
MODELS = ["qwen2_vl", *(name for name in FAMILIES if "qwen" not in name)]


@pytest.fixture(scope="module", params=MODELS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    if request.param == "qwen2_vl":
        return load_model(TINY_NAME)
    return load_model(str(save_tiny_folder(tmp_path_factory.mktemp("m") / "m", request.param)))


def model_is_patched(model_type: str) -> bool:
    return model_type in PATCHES


def images(sizes: list[tuple[int, int]]) -> list[Image.Image]:
    return [Image.new("RGB", size, (90, 60, 30)) for size in sizes]


@pytest.mark.parametrize("number", [1, 2])
def test_sizes_give_what_pixels_give(loaded: LoadedModel, number: int) -> None:
    family, processor, config = loaded.family, loaded.image_processor, loaded.model.config
    for first in range(len(SIZES) - number + 1):
        sizes = SIZES[first : first + number]
        try:
            measured = family.measure_images(processor, [ImageSize(*size) for size in sizes])
        except ModelError:
            assert model_is_patched(family.model_type)
            assert any(max(size) > 200 * min(size) for size in sizes)
            with pytest.raises(ValueError, match="aspect ratio"):
                family.read_images(processor, images(sizes))
            continue
        read = family.read_images(processor, images(sizes))
        assert measured.pixel_values.shape == read.pixel_values.shape
        assert measured.pixel_values.device.type == "meta"
        for name, values in read.per_image.items():
            assert torch.equal(measured.per_image[name], values), (sizes, name)
        assert family.num_image_tokens(config, measured) == family.num_image_tokens(config, read)


def test_an_image_of_extreme_aspect_ratio_is_refused_by_some_families_only(loaded: LoadedModel) -> None:
    size = ImageSize(4100, 20)
    sample = Sample(
        id="a", task="detection", images=("a.png",), image_sizes=(size,), query="fox", target=Detections(items=())
    )
    renderer = Renderer(loaded, lambda path, augmentation: Image.new("RGB", size))
    if model_is_patched(loaded.family.model_type):
        message = r"^a\.png: 4100 x 20 pixels, an aspect ratio of 205; expected at most 200"
        for call in (renderer.check_sample, renderer.render):
            with pytest.raises(DataError, match=message):
                call(sample, "?", thinking=False)
        return
    renderer.check_sample(sample, "?", thinking=False)
    rendered = renderer.render(sample, "?")
    features = loaded.family.encode_images(loaded.model, rendered.vision)
    assert [len(one) for one in features.tokens] == loaded.family.num_image_tokens(loaded.model.config, rendered.vision)
