"""The size that a model sees is the one that its image processor makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import AutoImageProcessor
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from virft.errors import ConfigError
from virft.integrations.resizing import QwenResize
from virft.models.tiny import tiny_folder
from virft.types import ImageSize

SIDES = st.integers(1, 4000)
UNITS = st.sampled_from([28, 32])


@given(
    width=SIDES, height=SIDES, unit=st.sampled_from([28, 32]), low=st.integers(1, 90_000), more=st.integers(0, 10**6)
)
def test_sizes_are_those_of_transformers(width: int, height: int, unit: int, low: int, more: int) -> None:
    resize = QwenResize(unit=unit, min_pixels=low, max_pixels=low + more)
    if max(width, height) > 200 * min(width, height):
        with pytest.raises(
            ConfigError, match=f"resize: {width} x {height} pixels; expected a side ratio of at most 200"
        ):
            resize(ImageSize(width, height))
        return
    high, wide = smart_resize(height, width, unit, low, low + more)
    assert resize(ImageSize(width, height)) == ImageSize(wide, high)


@pytest.mark.parametrize("size", [(112, 112), (300, 60), (20, 31), (1000, 600)])
def test_an_image_processor_gives_the_same_size(size: tuple[int, int]) -> None:
    processor = AutoImageProcessor.from_pretrained(tiny_folder(), backend="pil")
    _, high, wide = processor(images=[Image.new("RGB", size)], return_tensors="pt")["image_grid_thw"][0].tolist()
    # patches of 14 pixels
    assert QwenResize.of(processor)(ImageSize(*size)) == ImageSize(wide * 14, high * 14)
