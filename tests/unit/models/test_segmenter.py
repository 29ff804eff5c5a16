"""SAM and SAM 2: a mask of the size of the image for each box, and errors for other folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from factories import box
from tiny_segmenters import KINDS, SIDE, save_segmenter
from virft.errors import ModelError
from virft.models.segmenter import SamSegmenter, load_segmenter, segmenter_size
from virft.models.vision import FeatureCache
from virft.types import ImageSize

CPU = torch.device("cpu")
BOXES = [box(5, 5, 40, 60), box(60.5, 10, 99.5, 70), box(0, 0, 100, 80), box(90, 70, 91, 71)]


@pytest.fixture(scope="module", params=KINDS)
def segmenter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> SamSegmenter:
    return load_segmenter(save_segmenter(tmp_path_factory.mktemp("m") / "s", request.param), device=CPU)


def textured_image(width: int = 100, height: int = 80) -> Image.Image:
    """Return a gradient with random texture, so that every place is different."""
    texture = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    slope = np.linspace(0, 190, width)[None, :, None] * np.array([1.0, 0.5, 0.2])
    return Image.fromarray((texture + slope).astype(np.uint8))


def test_a_box_gives_a_mask_of_the_size_of_the_image(segmenter: SamSegmenter) -> None:
    masks = segmenter(textured_image(), BOXES)
    assert [(mask.shape, mask.dtype) for mask in masks] == [((80, 100), np.dtype(bool))] * 4
    assert any(0 < mask.mean() < 1 for mask in masks), "random weights that show nothing"


@pytest.mark.parametrize("size", [(64, 64), (37, 150), (300, 1)])
def test_any_aspect_ratio_is_accepted(segmenter: SamSegmenter, size: tuple[int, int]) -> None:
    (mask,) = segmenter(textured_image(*size), [box(0, 0, *size)])
    assert mask.shape == size[::-1]


def test_masks_are_deterministic(segmenter: SamSegmenter) -> None:
    first, second = segmenter(textured_image(), BOXES), segmenter(textured_image(), BOXES)
    assert all((one == other).all() for one, other in zip(first, second, strict=True))


def test_masks_depend_on_the_box_and_the_image(segmenter: SamSegmenter) -> None:
    masks = segmenter(textured_image(), BOXES)
    assert (masks[0] != masks[1]).any()
    mirrored = segmenter(textured_image().transpose(Image.Transpose.FLIP_LEFT_RIGHT), BOXES)
    assert (masks[0] != mirrored[0]).any()


def test_masks_do_not_depend_on_other_boxes(segmenter: SamSegmenter) -> None:
    boxes = [box(i, i, 40 + 3 * i, 50 + i) for i in range(19)]  # more than one batch
    together = segmenter(textured_image(), boxes)
    assert len(together) == 19
    for one, mask in zip(boxes, together, strict=True):
        (alone,) = segmenter(textured_image(), [one])
        # a logit at 0 may fall to either side
        assert (alone != mask).mean() < 1e-3


def test_masks_from_cached_embeddings_are_the_same_bit_for_bit(segmenter: SamSegmenter) -> None:
    image, cache = textured_image(), FeatureCache()
    size = ImageSize(*image.size)
    plain = segmenter(image, BOXES)
    for _ in range(2):  # computed, then cached
        features = cache.get("a", lambda: segmenter.encode(image))
        found = segmenter.decode(features, size, BOXES)
        assert all((one == other).all() for one, other in zip(found, plain, strict=True))
    assert (cache.hits, cache.misses) == (1, 1)
    assert all(
        torch.equal(one, other) for one, other in zip(features.tokens, segmenter.encode(image).tokens, strict=True)
    )
    assert segmenter.decode(features, size, []) == []


def test_boxes_decoded_together_have_the_logits_of_each_alone(segmenter: SamSegmenter) -> None:
    # The mask depends on the sign of these numbers, so masks of a batch can differ only where a logit rounds to 0.
    embedded = segmenter.model.get_image_embeddings(torch.from_numpy(segmenter.pixel_values(textured_image()))[None])
    prompts = torch.tensor([[float(i), i, 30 + i, 40 + 2 * i] for i in range(8)])

    def logits(boxes: torch.Tensor) -> torch.Tensor:
        return segmenter.model(image_embeddings=embedded, input_boxes=boxes[None], multimask_output=False).pred_masks[0]

    with torch.inference_mode():
        together = logits(prompts)
        alone = torch.cat([logits(one[None]) for one in prompts])
    assert together.std() > 0
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * float(together.abs().max()))


def test_the_bytes_of_weights_and_embeddings_are_counted_without_reading_them(
    segmenter: SamSegmenter, tmp_path: Path
) -> None:
    segmenter.model.save_pretrained(tmp_path)
    expected = sum(one.numel() * one.element_size() for one in segmenter.model.parameters())
    (tmp_path / "model.safetensors").write_bytes(b"")
    size = segmenter_size(str(tmp_path))
    assert size.weights == expected > 10_000
    assert size.embeddings == segmenter.encode(textured_image()).num_bytes


def test_no_boxes_give_no_masks(segmenter: SamSegmenter) -> None:
    assert segmenter(textured_image(), []) == []


def test_an_image_is_encoded_once_for_all_its_boxes(segmenter: SamSegmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    encode = segmenter.model.get_image_embeddings
    monkeypatch.setattr(segmenter.model, "get_image_embeddings", lambda pixels: calls.append(1) or encode(pixels))
    segmenter(textured_image(), BOXES * 9)
    assert calls == [1]


def test_sam_keeps_the_aspect_ratio_and_sam2_does_not(tmp_path: Path) -> None:
    white = Image.new("RGB", (100, 50), "white")
    sam = load_segmenter(save_segmenter(tmp_path / "1", "sam"), device=CPU).pixel_values(white)
    sam2 = load_segmenter(save_segmenter(tmp_path / "2", "sam2"), device=CPU).pixel_values(white)
    assert sam.shape == sam2.shape == (3, SIDE, SIDE)
    # white is (1 - mean) / std; of the first, the lower half is empty
    assert sam[:, :32].reshape(3, -1).std(1).max() < 1e-6
    np.testing.assert_allclose(sam[:, 0, 0], [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-5)
    assert (sam[:, 32:] == 0).all()
    np.testing.assert_allclose(sam2, np.broadcast_to(sam[:, :1, :1], sam2.shape), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_mean_and_std_come_from_the_processor_file(tmp_path: Path, kind: str) -> None:
    size = {"longest_edge": SIDE} if kind == "sam" else {"height": SIDE, "width": SIDE}
    path = save_segmenter(tmp_path, kind, size=size, image_mean=[0.5, 0.5, 0.0], image_std=[0.5, 0.25, 1.0])
    white = Image.new("RGB", (SIDE, SIDE), "white")
    # (1 - 0.5) / 0.5, (1 - 0.5) / 0.25, (1 - 0) / 1
    assert load_segmenter(path, device=CPU).pixel_values(white)[:, 3, 3].tolist() == [1.0, 2.0, 1.0]


def test_video_weights_of_sam2_serve_for_images(tmp_path: Path) -> None:
    path = save_segmenter(tmp_path, "sam2")
    expected = load_segmenter(path, device=CPU)(textured_image(), BOXES)
    edit(tmp_path, model_type="sam2_video")
    found = load_segmenter(path, device=CPU)(textured_image(), BOXES)
    assert all((one == other).all() for one, other in zip(found, expected, strict=True))


def test_the_model_type_comes_from_the_config_not_from_the_folder_name(tmp_path: Path) -> None:
    assert load_segmenter(save_segmenter(tmp_path / "sam2-large", "sam"), device=CPU).keeps_aspect
    assert not load_segmenter(save_segmenter(tmp_path / "sam-vit", "sam2"), device=CPU).keeps_aspect


def edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: edit(f, model_type="sam_hq"), r"a model of type 'sam_hq'; expected one of sam, sam2, sam2_video$"),
        (lambda f: edit(f, model_type=None), r"a model of type None; expected one of sam"),
        (lambda f: (f / "config.json").unlink(), r"no config\.json in this folder; expected"),
        (lambda f: (f / "model.safetensors").unlink(), r"no weights in this folder; expected"),
        (lambda f: (f / "model.safetensors").write_bytes(b"cut"), r"cannot be loaded: .*; expected a folder of"),
        (
            lambda f: (f / "preprocessor_config.json").write_text('{"size": {"longest_edge": 1024}}'),
            r"its image processor makes images of 1024 pixels a side; expected 64, as in its model",
        ),
        (lambda f: (f / "preprocessor_config.json").write_text("{"), r"cannot be loaded: .*preprocessor_config"),
    ],
)
def test_a_folder_without_a_segmenter_is_refused(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    path = save_segmenter(tmp_path, "sam")
    damage(tmp_path)
    with pytest.raises(ModelError, match=message):
        load_segmenter(path, device=CPU)


def test_missing_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = save_segmenter(tmp_path, "sam")
    weights = load_file(tmp_path / "model.safetensors")
    del weights["mask_decoder.iou_token.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, such as mask_decoder\.iou_token\.weight; expected a"):
        load_segmenter(path, device=CPU)


@pytest.mark.parametrize("path", ["./nowhere", "nowhere", "a/b/c"])
def test_a_missing_segmenter_folder_is_refused(path: str) -> None:
    with pytest.raises(ModelError, match=r"there is no such folder; expected a folder of a SAM or SAM 2"):
        load_segmenter(path, device=CPU)
