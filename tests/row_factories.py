"""Rows as `virft export --format trl` writes them."""

from __future__ import annotations

from typing import Any

FOX_ANSWER = "<answer>[{'Position':[250,250,500,500],'Confidence':1.0}]</answer>"
"""The target of ``fox_row`` in thousandths: 16 / 64, 12 / 48, 32 / 64, 24 / 48."""


def fox_row(**changes: Any) -> dict[str, Any]:
    """A fox at [16, 12, 32, 24] on an image of 64 x 48."""
    return {
        "id": "a.png:fox",
        "task": "detection",
        "query": "fox",
        "target": {"boxes": [[16.0, 12.0, 32.0, 24.0]]},
        "target_image": 0,
        "image_size": [64, 48],
        "box_space": "relative_1000",
        "thinking": False,
    } | changes


def label_row(**changes: Any) -> dict[str, Any]:
    """A red fox, with the None that a table has in the column ``boxes`` of other rows."""
    target = {"label": "red fox", "aliases": ["fox"], "boxes": None}
    return fox_row(id="b.png", task="classification", query="animal", target=target, **changes)
