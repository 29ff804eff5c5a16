"""The best and the worst completion of a step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factories import box, detections, sample, save_image
from report_factories import NOTHING, RIGHT, rollout
from virft.geometry.masks import mask_to_rle
from virft.report.render.page_images import PageImages
from virft.report.render.reported import ReportedRun
from virft.report.render.shown_groups import ShownRollouts, chosen_rollouts, shown_rollouts
from virft.types import Augmentation, Sample


def shown(*records: dict[str, Any], samples: dict[str, Sample] | None = None) -> ShownRollouts:
    run = ReportedRun(name="a", folder="a", rollouts=records, samples=samples or {})
    return shown_rollouts(run, PageImages())


def one_sample(folder: Path, target: Any = None, **more: Any) -> dict[str, Sample]:
    target = target or detections((0, 0, 32, 24))
    return {"q0": sample(target, id="q0", image=str(save_image(folder / "a.png")), **more)}


def test_best_and_worst_are_shown_with_their_parts_and_advantages() -> None:
    (group,) = shown(rollout(4)).groups
    assert (group.step, group.sample, group.prompt) == (5, "q0", "Detect fox.")
    best, worst = group.completions
    assert (best.title, best.text, best.reward, best.advantage) == ("best", RIGHT, "2.00", "+0.700")
    assert (worst.title, worst.text, worst.reward, worst.parts) == ("worst", NOTHING, "0.50", (("IoU", "0.00"),))
    assert best.panel is None
    assert group.summary == "2 rewards from 0.50 to 2.00"


def test_boxes_are_drawn_if_the_sample_is_available(tmp_path: Path) -> None:
    found = shown(rollout(0), samples=one_sample(tmp_path))
    assert found.problem == ""
    best, worst = (one.panel for one in found.groups[0].completions)
    assert best is not None
    assert worst is not None
    assert [(shape.kind, shape.width, shape.height) for shape in best.shapes] == [("target", 32, 24), ("hit", 32, 24)]
    assert [shape.kind for shape in worst.shapes] == ["target"]
    assert best.alt_text == (f"The best completion. Query: fox. Target: 1 box: 0, 0 to 32, 24. Text: {RIGHT}")
    assert found.groups[0].target == "1 box: 0, 0 to 32, 24"


def test_an_augmented_sample_is_shown_as_the_model_saw_it(tmp_path: Path) -> None:
    # the left half, twice as wide: what was 0 to 32 is 0 to 64
    augmentation = Augmentation(crop=(0.0, 0.0, 32.0, 48.0))
    found = shown(rollout(0, augmentation=asdict(augmentation)), samples=one_sample(tmp_path))
    panel = found.groups[0].completions[0].panel
    assert panel is not None
    assert (panel.shapes[0].width, panel.shapes[0].height) == (64, 24)


def test_the_mask_that_was_rewarded_is_drawn_over_that_of_the_target(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), dtype=bool)
    mask[10:20, 5:25] = True
    record = rollout(0)
    record["best"] |= {"boxes": [[0, 0, 32, 24, 1.0]], "masks": [mask_to_rle(mask)]}
    square = (0, 0, 32, 0, 32, 24, 0, 24)
    samples = one_sample(tmp_path, box(0, 0, 32, 24), task="grounding", polygons=(square,))
    best, worst = (one.panel for one in shown(record, samples=samples).groups[0].completions)
    assert best is not None
    assert worst is not None
    assert best.answer_masks == ("M5.0 10.0 25.0 10.0 25.0 20.0 5.0 20.0Z",)
    assert best.outlines == ("0.0 0.0 32.0 0.0 32.0 24.0 0.0 24.0",)
    assert (worst.answer_masks, worst.outlines) == ((), ())


def test_masks_of_a_cropped_image_are_drawn_as_the_model_saw_it(tmp_path: Path) -> None:
    mask = np.zeros((48, 64), dtype=bool)
    mask[10:20, 5:25] = True
    # the left half, twice as wide
    record = rollout(0, augmentation=asdict(Augmentation(crop=(0.0, 0.0, 32.0, 48.0))))
    record["best"] |= {"masks": [mask_to_rle(mask)] * 2}
    samples = one_sample(tmp_path, outlines=(((0, 0, 32, 0, 32, 24, 0, 24),),))
    panel = shown(record, samples=samples).groups[0].completions[0].panel
    assert panel is not None
    assert panel.answer_masks == ("M10.0 10.0 50.0 10.0 50.0 20.0 10.0 20.0Z",) * 2
    assert panel.outlines == ("0.0 0.0 64.0 0.0 64.0 24.0 0.0 24.0",)


def test_the_region_of_a_zoom_call_and_its_first_turn_are_shown(tmp_path: Path) -> None:
    record = rollout(0)
    record["best"] |= {"zoom": {"text": "<zoom>[0,0,500,500]</zoom>", "region": [0, 0, 32, 24]}}
    best, worst = shown(record, samples=one_sample(tmp_path)).groups[0].completions
    assert best.panel is not None
    assert worst.panel is not None
    zoom, *others = best.panel.shapes
    assert (zoom.kind, zoom.text, zoom.width, zoom.height) == ("region", "zoom", 32, 24)
    assert [shape.kind for shape in others] == ["target", "hit"]
    assert (best.first_turn, worst.first_turn) == ("<zoom>[0,0,500,500]</zoom>", "")
    assert [shape.kind for shape in worst.panel.shapes] == ["target"]


def test_a_grounding_answer_has_one_box(tmp_path: Path) -> None:
    found = shown(rollout(0), samples=one_sample(tmp_path, box(0, 0, 32, 24), task="grounding"))
    best, worst = (one.panel for one in found.groups[0].completions)
    assert best is not None
    assert worst is not None
    assert [shape.kind for shape in best.shapes] == ["target", "hit"]
    assert [shape.kind for shape in worst.shapes] == ["target"]


def test_logs_of_older_runs_have_no_boxes_and_no_advantages(tmp_path: Path) -> None:
    old = {"reward": 1.0, "parts": {}, "text": "x"}
    found = shown(rollout(0, best=old, worst=old), samples=one_sample(tmp_path))
    best = found.groups[0].completions[0]
    assert best.advantage == ""
    assert best.panel is not None
    assert [shape.kind for shape in best.panel.shapes] == ["target"]


def test_groups_with_equal_rewards_are_skipped() -> None:
    records = [rollout(step, rewards=[1.0, 1.0] if step % 2 else [0.5, 2.0]) for step in range(40)]
    steps = [one["step"] for one in chosen_rollouts(records, 4)]
    # of 0, 2, .. 38: the first, the last, and two at a third and two thirds
    assert steps == [0, 12, 26, 38]


@pytest.mark.parametrize(
    ("records", "problem"),
    [
        ([], "no rollouts have been logged yet"),
        ([rollout(0, rewards=[1.0, 1.0])], "all rewards within each group are equal so far: nothing to compare"),
        ([rollout(0)], "the dataset was not found: rollouts are shown without images"),
    ],
)
def test_missing_data_is_reported(records: list[dict[str, Any]], problem: str) -> None:
    assert shown(*records).problem == problem
