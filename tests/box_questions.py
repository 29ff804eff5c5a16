"""Random questions about boxes, for hypothesis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import strategies as st

from virft.metrics.average_precision import BoxQuestion


def untied(questions: Sequence[BoxQuestion]) -> list[BoxQuestion]:
    """The questions with different scores, in the order in which the reference evaluators rank equal ones."""
    number = 0
    found = []
    for one in questions:
        scores = [score - 1e-9 * (number + index) for index, score in enumerate(one.scores)]
        number += len(scores)
        found.append(replace(one, scores=scores))
    return found


sides = st.integers(1, 120)
corners = st.builds(
    lambda x, y, w, h: (float(x), float(y), float(x + w), float(y + h)),
    st.integers(0, 40),
    st.integers(0, 40),
    sides,
    sides,
)
scores = st.sampled_from([1.0, 1.0, 0.9, 0.5, 0.25, 0.0])


@st.composite
def box_questions(draw: st.DrawFn, *, crowds: bool = True) -> list[BoxQuestion]:
    """Questions about up to 5 images and 3 classes; predictions near the targets, far from them, repeated, and many."""
    found = []
    for image in range(draw(st.integers(1, 5))):
        for label in range(draw(st.integers(1, 3))):
            targets = draw(st.lists(corners, max_size=4))
            nudges = draw(st.lists(st.integers(-4, 4), min_size=4, max_size=4))
            near = [tuple(v + d for v, d in zip(box, nudges, strict=True)) for box in targets]
            boxes = [box for box in near if box[0] < box[2] and box[1] < box[3]]
            boxes += draw(st.lists(corners | st.sampled_from([*targets, (1.0, 1.0, 9.0, 9.0)]), max_size=4))
            if draw(st.integers(0, 30)) == 7:
                boxes += [(float(i), 0.0, i + 9.0, 9.0) for i in range(110)]  # over its limit
            areas = draw(st.lists(st.floats(1.0, 20000.0), min_size=len(targets), max_size=len(targets)))
            found.append(
                BoxQuestion(
                    image=f"{image}.png",
                    label="abc"[label],
                    boxes=boxes,  # type: ignore[arg-type]
                    scores=draw(st.lists(scores, min_size=len(boxes), max_size=len(boxes))),
                    targets=targets,
                    areas=areas if draw(st.booleans()) else (),
                    crowd=draw(st.lists(corners, max_size=1)) if crowds else (),
                )
            )
    return found
