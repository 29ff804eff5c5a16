"""Pixels, boxes and masks of SAM equal those of transformers' own processor.

The image processor of SAM 2 needs torchvision; for that model only the boxes are compared here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Sam2Processor, SamProcessor
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from factories import box
from tiny_segmenters import SIDE, save_segmenter
from virft.models.segmenter import SamSegmenter, load_segmenter

GREY_LEVEL = 1 / 255 / 0.224  # in normalised pixels


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> SamSegmenter:
    return load_segmenter(save_segmenter(tmp_path_factory.mktemp("m") / "s", "sam"), device=torch.device("cpu"))


@pytest.mark.parametrize("size", [(100, 80), (37, 150), (64, 64), (20, 31), (333, 250)])
def test_pixels_boxes_and_masks_equal_those_of_the_processor(segmenter: SamSegmenter, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    boxes = [box(2.5, 1, 15, 28), box(0, 0, *size)]
    own = SamProcessor(SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size={"height": SIDE, "width": SIDE}))
    inputs = own(image, input_boxes=[[list(one.xyxy) for one in boxes]], return_tensors="pt")
    assert np.abs(segmenter.pixel_values(image) - inputs["pixel_values"][0].numpy()).max() < GREY_LEVEL
    with torch.inference_mode():
        found = segmenter.model(
            pixel_values=inputs["pixel_values"], input_boxes=inputs["input_boxes"].float(), multimask_output=False
        )
    (expected,) = own.post_process_masks(found.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"])
    masks = segmenter(image, boxes)
    assert 0 < expected.float().mean() < 1
    for mask, reference in zip(masks, expected[:, 0].numpy(), strict=True):
        assert mask.shape == reference.shape
        # a logit at 0 may fall to either side
        assert (mask != reference).mean() < 1e-3


def test_boxes_for_sam2_equal_those_of_its_processor(tmp_path: Path) -> None:
    segmenter = load_segmenter(save_segmenter(tmp_path / "s", "sam2"), device=torch.device("cpu"))
    seen = []
    segmenter.model.prompt_encoder.register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(kwargs["input_boxes"]), with_kwargs=True
    )
    one = box(2.5, 1, 90, 28)
    segmenter(Image.new("RGB", (100, 30)), [one])
    given = torch.tensor([one.xyxy])
    expected = Sam2Processor._normalize_coordinates(None, SIDE, given, (30, 100), is_bounding_box=True)
    torch.testing.assert_close(seen[0][0], expected)
