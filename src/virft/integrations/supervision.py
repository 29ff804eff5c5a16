"""Boxes of the package supervision as virft's own. ``Result.to_supervision`` is the opposite direction.

Nothing here imports supervision: only the arrays of its ``Detections`` are read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from virft.errors import DataError
from virft.text.labels import normalize_label
from virft.types import Box, Detection, Detections

_WHERE = "from_supervision()"


def from_supervision(found: Any, *, query: str | None = None) -> Detections:
    """Return the boxes of a ``supervision.Detections``, with their ``class_name`` as label.

    Read are ``xyxy`` (corners in pixels, shape (N, 4)), ``confidence`` (shape (N,); None: 1 for each box) and
    ``data["class_name"]`` (shape (N,); a box without one has no label). ``query``: only the boxes of this class,
    without a label, as in the target of a question about one class; names are compared as rewards compare them. Raises
    ``DataError`` for a box without area or a number that is not finite, for a confidence outside [0, 1], and if
    ``query`` is given and boxes have no class name.

    >>> from types import SimpleNamespace
    >>> boxes = SimpleNamespace(
    ...     xyxy=np.array([[0, 0, 4, 2], [1, 1, 3, 3]]),
    ...     confidence=np.array([0.5, 0.25]),
    ...     data={"class_name": np.array(["Fox", "dog"])},
    ... )
    >>> [(one.box.xyxy, one.confidence, one.label) for one in from_supervision(boxes).items]
    [((0.0, 0.0, 4.0, 2.0), 0.5, 'Fox'), ((1.0, 1.0, 3.0, 3.0), 0.25, 'dog')]
    >>> len(from_supervision(boxes, query="fox").items)
    1
    """
    corners = np.asarray(found.xyxy, dtype=float).reshape(-1, 4).tolist()
    number = len(corners)
    confidences = [1.0] * number if found.confidence is None else np.asarray(found.confidence, dtype=float).tolist()
    names = found.data.get("class_name")
    if names is None and query is not None and number:
        raise DataError(f"{_WHERE}: {number} boxes without class_name; expected names, or no query")
    labels = [None] * number if names is None else [str(name) for name in names]
    items = []
    for i, (xyxy, confidence, label) in enumerate(zip(corners, confidences, labels, strict=True)):
        x1, y1, x2, y2 = xyxy
        if not (np.isfinite(xyxy).all() and x1 < x2 and y1 < y2):
            raise DataError(f"{_WHERE}: box {i} is {xyxy}; expected finite x1 < x2 and y1 < y2, in pixels")
        if not 0.0 <= confidence <= 1.0:
            raise DataError(f"{_WHERE}: the confidence of box {i} is {confidence}; expected a number from 0 to 1")
        if query is None or normalize_label(label or "") == normalize_label(query):
            box = Box(x1=x1, y1=y1, x2=x2, y2=y2)
            items.append(Detection(box=box, confidence=confidence, label=label if query is None else None))
    return Detections(items=tuple(items))
