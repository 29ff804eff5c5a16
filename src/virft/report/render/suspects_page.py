"""Render suspect labels as one HTML page: each image with the labelled boxes and those of the model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from virft.evaluation.suspects import REASONS, Kind, Suspect
from virft.report.render.page import render
from virft.report.render.page_images import PageImages
from virft.report.render.panels import Panel, make_shape
from virft.tasks import TASKS


@dataclass(frozen=True, kw_only=True, slots=True)
class SuspectCard:
    """One suspect label."""

    rank: int
    """Place in the list, from 1."""
    panel: Panel
    """The image with the boxes of the label and of the model."""
    caption: str
    """Caption of the enlarged image."""
    score: str
    """Suspicion, formatted."""
    kind: str
    """Type of the suspected error, for the filter."""
    reason: str
    """Type of the suspected error, for people."""
    query: str
    """Query of the sample."""
    label: str
    """Description of the label."""
    proposed: str
    """Description of the answer of the model."""
    evidence: str
    """The numbers that the score is made of."""
    sample_id: str
    """Id of the sample."""
    class_name: str
    """Class of the label, for the filter."""


def suspects_page(suspects: Sequence[Suspect], *, title: str, num_images: int, source: str) -> str:
    """Return the page with the first ``num_images`` suspects. ``source``: the file that holds all of them."""
    images = PageImages()
    counts = Counter(one.kind for one in suspects)
    return render(
        "suspects.html.jinja",
        title=title,
        source=source,
        facts=[f"{counts[kind]} {kind}: {REASONS[kind]}" for kind in Kind if counts[kind]],
        num_suspects=len(suspects),
        classes=sorted({_class_of(one) for one in suspects[:num_images]}),
        kinds=[str(kind) for kind in Kind if counts[kind]],
        cards=[_card(rank, one, images) for rank, one in enumerate(suspects[:num_images], start=1)],
    )


def _class_of(suspect: Suspect) -> str:
    class_of = TASKS[suspect.sample.task].class_of
    return class_of(suspect.sample) if class_of is not None else suspect.sample.task


def _card(rank: int, suspect: Suspect, images: PageImages) -> SuspectCard:
    sample, task = suspect.sample, TASKS[suspect.sample.task]
    # without an id: an image with several suspects is embedded several times
    image = replace(images.add(sample.images[sample.target_image], sample.target_size), id="")
    label, proposed = task.describe_target(sample.target), task.describe_target(suspect.consensus)
    shapes = [make_shape("target", box, image.size) for box in task.target_boxes(sample.target)]
    shapes += [make_shape("hit", box, image.size) for box in task.target_boxes(suspect.consensus)]
    text = f"{sample.query}. Label: {label}. Model: {proposed}"
    return SuspectCard(
        rank=rank,
        panel=Panel(image=image, shapes=tuple(shapes), outlines=(), alt_text=text, is_alone=True),
        caption=text,
        score=f"{suspect.score:.2f}",
        kind=suspect.kind,
        reason=suspect.reason,
        query=sample.query,
        label=label,
        proposed=proposed,
        evidence=(
            f"{suspect.agreement:.0%} agreement of the completions, {suspect.label_score:.0%} with the label, "
            f"{suspect.reliability:.0%} on other samples of the class"
        ),
        sample_id=sample.id,
        class_name=_class_of(suspect),
    )
