"""A promptable segmenter, SAM or SAM 2 of transformers: a picture and boxes in, a mask for each box out.

Pictures and boxes are scaled here as the families' own processors do it: that of SAM 2 needs torchvision, which has no
build for CPUs. Sources: SAM (arXiv 2304.02643), SAM 2 (arXiv 2408.00714), transformers' processors of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F
from transformers import PreTrainedConfig, Sam2Model, SamModel
from transformers.image_processing_base import ImageProcessingMixin

from virft.errors import ModelError
from virft.geometry.masks import Mask
from virft.models.load import check_folder, explained, without_progress_bars
from virft.types import Box, ImageSize

_EXPECTED = "box, a folder of a SAM or SAM 2 model, or its hub id owner/name"
# The weights of SAM 2 for pictures are published inside those for videos.
_MODELS: dict[str, Any] = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_BOXES_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class SamSegmenter:
    """Called with an upright picture and boxes in its pixels: a mask of its size for each box, in their order.

    The picture is encoded once. ``side``: the model's input has so many pixels a side. ``keeps_aspect`` (SAM): the
    longer side of the picture is scaled to that and the rest stays empty; otherwise (SAM 2) both are.
    """

    model: Any
    side: int
    keeps_aspect: bool
    mean: tuple[float, ...] = _MEAN
    std: tuple[float, ...] = _STD

    @torch.inference_mode()
    def __call__(self, image: Image.Image, boxes: Sequence[Box]) -> list[Mask]:
        """One mask for a box, not the three that a model offers for prompts that may mean several things."""
        if not boxes:
            return []
        size = ImageSize(*image.size)
        pixels = torch.from_numpy(self.pixel_values(image))[None].to(self.model.device)
        embedded = self.model.get_image_embeddings(pixels)
        masks = []
        for some in self._scaled(boxes, size).to(self.model.device).split(_BOXES_AT_ONCE):
            found = self.model(image_embeddings=embedded, input_boxes=some[None], multimask_output=False)
            masks += [self._upright(logits, size) for logits in found.pred_masks[0, :, 0]]
        return masks

    def pixel_values(self, image: Image.Image) -> NDArray[np.float32]:
        """Float32 [3, side, side]: resized, normalised, then padded with zeros at the right and the bottom."""
        resized = self._resized(ImageSize(*image.size))
        picture = np.asarray(image.convert("RGB").resize(resized, Image.Resampling.BILINEAR), dtype=np.float32)
        values = (picture / 255 - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        padded = np.zeros((3, self.side, self.side), dtype=np.float32)
        padded[:, : resized.height, : resized.width] = values.transpose(2, 0, 1)
        return padded

    def _resized(self, size: ImageSize) -> ImageSize:
        if not self.keeps_aspect:
            return ImageSize(self.side, self.side)
        scale = self.side / max(size)
        return ImageSize(*(max(1, int(length * scale + 0.5)) for length in size))

    def _scaled(self, boxes: Sequence[Box], size: ImageSize) -> torch.Tensor:
        """Float32 [N, 4], in pixels of the resized picture."""
        resized = self._resized(size)
        x, y = resized.width / size.width, resized.height / size.height
        return torch.tensor([[box.x1 * x, box.y1 * y, box.x2 * x, box.y2 * y] for box in boxes])

    def _upright(self, logits: torch.Tensor, size: ImageSize) -> Mask:
        """The mask of the picture's size, of the model's coarse [h, w]."""
        values = logits[None, None].float()
        if self.keeps_aspect:
            resized = self._resized(size)
            values = F.interpolate(values, (self.side, self.side), mode="bilinear", align_corners=False)
            values = values[..., : resized.height, : resized.width]
        values = F.interpolate(values, (size.height, size.width), mode="bilinear", align_corners=False)
        return np.asarray(values[0, 0].cpu() > 0)


def load_segmenter(path: str, *, device: torch.device) -> SamSegmenter:
    """The segmenter in a folder, or of a hub id, by the ``model_type`` of its config; in float32.

    Raises ``ModelError`` for a folder that is missing or incomplete, for other types of model, and where the image
    processor's file says another size than the model takes.
    """
    if Path(path).is_dir():
        check_folder(Path(path), path)
    elif path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(f"{path}: there is no such folder; expected {_EXPECTED}")
    with explained(path, expected=_EXPECTED):
        model_type = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
        if model_type not in _MODELS:
            raise ModelError(f"{path}: a model of type {model_type!r}; expected one of {', '.join(_MODELS)}")
        with without_progress_bars():
            model, found = _MODELS[model_type].from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
        processor = _processor(path)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}; expected a whole model")
    side = model.config.prompt_encoder_config.image_size
    told = {processor["size"][key] for key in ("longest_edge", "height", "width") if key in processor.get("size", ())}
    if told - {side}:
        raise ModelError(
            f"{path}: its image processor makes pictures of {max(told)} pixels a side; expected {side}, as in its model"
        )
    return SamSegmenter(
        model=model.to(device).eval(),
        side=side,
        keeps_aspect=model_type == "sam",
        mean=tuple(processor.get("image_mean", _MEAN)),
        std=tuple(processor.get("image_std", _STD)),
    )


def _processor(path: str) -> dict[str, Any]:
    """What the image processor's file says; nothing in a folder without one."""
    if Path(path).is_dir() and not any((Path(path) / name).exists() for name in _PROCESSOR_FILES):
        return {}
    return ImageProcessingMixin.get_image_processor_dict(path)[0]
