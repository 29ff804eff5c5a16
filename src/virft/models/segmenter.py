"""A promptable segmenter, SAM or SAM 2 of transformers: an image and boxes in, a mask for each box out.

Images and boxes are scaled here as the models' own processors do it: that of SAM 2 needs torchvision. Sources:
SAM (arXiv 2304.02643), SAM 2 (arXiv 2408.00714), transformers' processors of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional as F
from transformers import PreTrainedConfig, Sam2Model, SamModel
from transformers.image_processing_base import ImageProcessingMixin

from virft.errors import ModelError
from virft.geometry.masks import Mask
from virft.models.model_files import explained, without_progress_bars
from virft.models.model_folders import check_folder
from virft.models.saved_files import PROCESSOR_FILES
from virft.models.vision import ImageFeatures
from virft.types import Box, ImageSize

_EXPECTED = "a folder of a SAM or SAM 2 model, or its hub id owner/name"
# The weights of SAM 2 for images are published inside those for videos.
_MODELS: dict[str, Any] = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Normalisation without a processor file: mean and standard deviation of ImageNet, as in both models' processors."""
_BATCH_SIZE = 16
"""Boxes in one forward pass of the mask decoder."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SamSegmenter:
    """A loaded segmenter; call it with an image and boxes."""

    model: Any
    """The model of transformers, in ``eval()``."""

    side: int
    """Pixels per side of the model's input."""

    keeps_aspect: bool
    """SAM: the longer side of the image is scaled to ``side``, and the rest is padding. SAM 2: both are."""

    mean: tuple[float, ...] = _MEAN
    """Mean of each colour channel, subtracted from values in [0, 1]."""

    std: tuple[float, ...] = _STD
    """Standard deviation of each colour channel, by which the differences are divided."""

    def __call__(self, image: Image.Image, boxes: Sequence[Box]) -> list[Mask]:
        """Return a mask for each box: bool arrays of shape [height, width] of ``image``.

        ``image`` is upright, ``boxes`` are in its pixels.
        """
        return self.decode(self.encode(image), ImageSize(*image.size), boxes) if boxes else []

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> ImageFeatures:
        """Return the embeddings of an upright image, on the model's device: the expensive part, once for all its boxes.

        Tensors of shape [1, channels, height, width] in float32: one of SAM, three of SAM 2 with the coarsest last.
        """
        pixels = torch.from_numpy(self.pixel_values(image))[None].to(self.model.device)
        return _features(self.model.get_image_embeddings(pixels))

    @torch.inference_mode()
    def decode(self, features: ImageFeatures, size: ImageSize, boxes: Sequence[Box]) -> list[Mask]:
        """Return a mask for each box of an image, bool [height, width], given its embeddings by ``encode``.

        ``size``: that of the upright image in pixels. ``features`` may be on another device.
        """
        levels = features.to(self.model.device).tokens
        embedded = levels[0] if len(levels) == 1 else list(levels)
        masks: list[Mask] = []
        for some in self._scaled(boxes, size).to(self.model.device).split(_BATCH_SIZE) if boxes else ():
            # One mask per box: the three of `multimask_output` are for prompts that are ambiguous, such as a point.
            found = self.model(image_embeddings=embedded, input_boxes=some[None], multimask_output=False)
            masks += [self._upright(logits, size) for logits in found.pred_masks[0, :, 0]]
        return masks

    def pixel_values(self, image: Image.Image) -> NDArray[np.float32]:
        """Return the model's input, float32 [3, side, side]: resized, normalised, padded with zeros right and below."""
        resized = self._resized(ImageSize(*image.size))
        pixels = np.asarray(image.convert("RGB").resize(resized, Image.Resampling.BILINEAR), dtype=np.float32)
        values = (pixels / 255 - np.asarray(self.mean, np.float32)) / np.asarray(self.std, np.float32)
        padded = np.zeros((3, self.side, self.side), dtype=np.float32)
        padded[:, : resized.height, : resized.width] = values.transpose(2, 0, 1)
        return padded

    def _resized(self, size: ImageSize) -> ImageSize:
        if not self.keeps_aspect:
            return ImageSize(self.side, self.side)
        scale = self.side / max(size)
        return ImageSize(*(max(1, int(length * scale + 0.5)) for length in size))

    def _scaled(self, boxes: Sequence[Box], size: ImageSize) -> torch.Tensor:
        """Boxes as float32 [N, 4], in pixels of the resized image."""
        resized = self._resized(size)
        x, y = resized.width / size.width, resized.height / size.height
        return torch.tensor([[box.x1 * x, box.y1 * y, box.x2 * x, box.y2 * y] for box in boxes])

    def _upright(self, logits: torch.Tensor, size: ImageSize) -> Mask:
        """The mask, bool [height, width] of the image, of the model's coarse logits [h, w]."""
        values = logits[None, None].float()
        if self.keeps_aspect:
            # Through the model's input size: padding is cut off there, at the pixel where it begins.
            resized = self._resized(size)
            values = F.interpolate(values, (self.side, self.side), mode="bilinear", align_corners=False)
            values = values[..., : resized.height, : resized.width]
        values = F.interpolate(values, (size.height, size.width), mode="bilinear", align_corners=False)
        return np.asarray(values[0, 0].cpu() > 0)


def load_segmenter(path: str, *, device: torch.device) -> SamSegmenter:
    """Load the segmenter of a folder or hub id, by the ``model_type`` of its config, in float32.

    Raises ``ModelError`` for a folder that is missing or incomplete, for other types of model, and if the file of the
    image processor has another size than the model's input.
    """
    require_segmenter(path)
    with explained(path, expected=_EXPECTED):
        model_type = _model_type(path)
        with without_progress_bars():
            model, found = _MODELS[model_type].from_pretrained(
                path, dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
        processor = _processor(path)
    if missing := sorted(found["missing_keys"]):
        raise ModelError(f"{path}: {len(missing)} weights are missing, such as {missing[0]}; expected a whole model")
    side = model.config.prompt_encoder_config.image_size
    sizes = {processor["size"][key] for key in ("longest_edge", "height", "width") if key in processor.get("size", ())}
    if sizes - {side}:
        raise ModelError(
            f"{path}: its image processor makes images of {max(sizes)} pixels a side; expected {side}, as in its model"
        )
    return SamSegmenter(
        model=model.to(device).eval(),
        side=side,
        keeps_aspect=model_type == "sam",
        mean=tuple(processor.get("image_mean", _MEAN)),
        std=tuple(processor.get("image_std", _STD)),
    )


def require_segmenter(path: str) -> None:
    """Raise ``ModelError`` for a folder that is missing or incomplete, and for another type of model.

    Reads no weights.
    """
    if Path(path).is_dir():
        check_folder(Path(path), path)
    elif path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise ModelError(f"{path}: there is no such folder; expected {_EXPECTED}")
    with explained(path, expected=_EXPECTED):
        _model_type(path)


class SegmenterSize(NamedTuple):
    """Memory of a segmenter in float32, in bytes."""

    weights: int
    """All weights."""
    embeddings: int
    """The embeddings of one image, of any size."""


@torch.no_grad()
def segmenter_size(path: str) -> SegmenterSize:
    """Return the memory of a segmenter, counted from its config: the model runs on tensors without data."""
    require_segmenter(path)
    with explained(path, expected=_EXPECTED):
        kind = _MODELS[_model_type(path)]
        with torch.device("meta"):
            model = kind(kind.config_class.from_pretrained(path, dtype=torch.float32)).eval()
            side = model.config.prompt_encoder_config.image_size
            features = _features(model.get_image_embeddings(torch.empty(1, 3, side, side)))
    return SegmenterSize(weights=sum(one.nbytes for one in model.parameters()), embeddings=features.num_bytes)


def _features(found: torch.Tensor | Sequence[torch.Tensor]) -> ImageFeatures:
    """The embeddings of an image as the model returns them: SAM one tensor, SAM 2 a list."""
    return ImageFeatures(tokens=(found,) if isinstance(found, torch.Tensor) else tuple(found))


def _model_type(path: str) -> str:
    model_type = PreTrainedConfig.get_config_dict(path)[0].get("model_type")
    if model_type not in _MODELS:
        raise ModelError(f"{path}: a model of type {model_type!r}; expected one of {', '.join(_MODELS)}")
    return str(model_type)


def _processor(path: str) -> dict[str, Any]:
    """Settings of the image processor; empty for a folder without its file."""
    if Path(path).is_dir() and not any((Path(path) / name).exists() for name in PROCESSOR_FILES):
        return {}
    return ImageProcessingMixin.get_image_processor_dict(path)[0]
