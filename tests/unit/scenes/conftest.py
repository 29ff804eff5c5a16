"""Scenes with given boxes."""

from collections.abc import Callable

import numpy as np
import pytest

from virft.scenes.assets import Style, scene_classes
from virft.scenes.render import Scene, SceneObject
from virft.types import Box, ImageSize

MakeScene = Callable[..., Scene]


def _scene(*objects: tuple[str, tuple[float, float, float, float]], size: int = 112) -> Scene:
    """A scene with a black image and these (class name, xyxy) objects."""
    return Scene(
        image=np.zeros((size, size, 3), dtype=np.uint8),
        objects=tuple(
            SceneObject(
                class_name=name,
                group=scene_classes()[name].group,
                style=Style.FLUENT,
                box=Box(x1=xyxy[0], y1=xyxy[1], x2=xyxy[2], y2=xyxy[3]),
                visible_frac=1.0,
                image_size=ImageSize(size, size),
                patch_mask=np.ones((1, 1), dtype=bool),
                patch_origin=(0, 0),
            )
            for name, xyxy in objects
        ),
    )


@pytest.fixture
def make_scene() -> MakeScene:
    """``make_scene(("cat", (0, 0, 30, 30)), ..., size=112)``."""
    return _scene
