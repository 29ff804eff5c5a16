"""Masks of a real segmenter in the reward: those of ``virft score --masks``, with cached image embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from factories import box, reading
from mask_questions import masked, sails, save_masked_image
from tiny_segmenters import KINDS, save_segmenter
from virft.config.schema import PromptConfig, RewardConfig
from virft.data.augmentation import augment_box, augment_target
from virft.errors import ConfigError
from virft.evaluation.masks import MaskMaker, mask_scores
from virft.geometry.boxes import BoxSpace
from virft.models.segmenter import SamSegmenter, load_segmenter
from virft.models.vision import FeatureCache
from virft.recipes.mask_reward import MaskReward
from virft.recipes.setup import make_grader, reward_parts
from virft.recipes.single_reward import reward
from virft.types import Augmentation, BoxPair, RewardContext, Sample

BOXES = [box(20, 20, 60, 60), box(15, 25, 70, 60), box(0, 0, 100, 100), box(80, 80, 90, 99)]
PAIRS = [BoxPair(one, 0, iou=0.5) for one in BOXES]
TEXT = "<answer>(200,200),(600,600)</answer>"


@pytest.fixture(params=KINDS)
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return save_segmenter(tmp_path / "segmenter", request.param)


@pytest.fixture
def sail(tmp_path: Path) -> Sample:
    return masked(20, 20, 60, 60, image=save_masked_image(tmp_path))


def counting(segmenter: SamSegmenter, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    calls: list[int] = []
    encode: Callable[..., object] = segmenter.model.get_image_embeddings
    monkeypatch.setattr(segmenter.model, "get_image_embeddings", lambda pixels: calls.append(1) or encode(pixels))
    return calls


def test_the_ious_are_those_of_the_evaluation(path: str, sail: Sample) -> None:
    segmenter = load_segmenter(path, device=torch.device("cpu"))
    found = MaskReward(segmenter=segmenter, cache=FeatureCache())(sail, PAIRS)
    assert len({one.iou for one in found}) > 1, "random weights that show nothing"
    for predicted, one in zip(BOXES, found, strict=True):
        scores = mask_scores([(sail, reading(predicted))], MaskMaker(name="m", segment=segmenter))
        assert scores.values["giou (masks: m)"] == pytest.approx(one.iou, abs=1e-3)


def test_an_image_is_encoded_once_and_cached_masks_are_equal(
    path: str, sail: Sample, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = load_segmenter(path, device=torch.device("cpu"))
    calls = counting(segmenter, monkeypatch)
    segment = MaskReward(segmenter=segmenter, cache=FeatureCache())
    first, second = segment(sail, PAIRS), segment(sail, PAIRS)
    assert calls == [1]
    assert first == second == MaskReward(segmenter=segmenter, cache=FeatureCache())(sail, PAIRS)


def test_a_full_cache_forgets_the_oldest_image_and_changes_no_mask(
    path: str, sail: Sample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (100, 100), "teal").save(tmp_path / "b.png")
    other = masked(20, 20, 60, 60, image=str(tmp_path / "b.png"))
    segmenter = load_segmenter(path, device=torch.device("cpu"))
    calls = counting(segmenter, monkeypatch)
    small = MaskReward(segmenter=segmenter, cache=FeatureCache(max_bytes=1))
    first = small(sail, PAIRS)
    small(other, PAIRS)
    assert small(sail, PAIRS) == first
    assert calls == [1, 1, 1]


def test_the_segmenter_of_a_run_is_in_its_grader_and_in_no_gradient(path: str, sail: Sample) -> None:
    settings = RewardConfig(segmenter=path, segmenter_cache_gib=0.5, weights={"mask": 2.0})
    grader = make_grader(settings, PromptConfig(), {}, BoxSpace.RELATIVE_1000)
    assert isinstance(grader.segment, MaskReward)
    assert grader.segment.cache.max_bytes == 2**29
    assert not grader.segment.segmenter.model.training
    report = grader.grade(TEXT, sail, resized=sail.target_size, context=RewardContext())
    assert report.total == pytest.approx(sum(report.parts.values()) + report.parts["mask"])
    assert not any(level.requires_grad for one in grader.segment.cache._entries.values() for level in one.tokens)
    parts = reward_parts(grader, ["grounding"])
    assert parts.accuracy == {"giou": (0.0, 1.0), "mask": (0.0, 1.0)}
    assert "mask" in reward_parts(grader, ["detection"]).accuracy
    assert "mask" not in reward_parts(grader, ["counting"]).accuracy


def test_the_reward_of_one_completion_is_that_of_the_grader(path: str, sail: Sample) -> None:
    grader = make_grader(RewardConfig(segmenter=path), PromptConfig(), {}, BoxSpace.RELATIVE_1000)
    expected = grader.grade(TEXT, sail, resized=sail.target_size, context=RewardContext())
    target = {"box": [20, 20, 60, 60], "polygons": [list(sail.polygons[0])]}
    found = reward(TEXT, target, "grounding", image=sail.images[0], segmenter=path)
    assert (found.total, found.parts) == (expected.total, expected.parts)
    assert "masks of [20.0, 20.0, 60.0, 60.0] and of target 1: IoU" in str(found)


# --- detection ---

ANSWER = "<answer>[{'Position': [100, 100, 300, 300]}, {'Position': [480, 500, 900, 900]}]</answer>"


def test_boxes_on_an_augmented_image_are_segmented_on_the_original(path: str, tmp_path: Path) -> None:
    segmenter = load_segmenter(path, device=torch.device("cpu"))
    original = sails((10, 10, 30, 30), (50, 50, 90, 90), image=save_masked_image(tmp_path))
    view = Augmentation(crop=(4.0, 8.0, 92.0, 94.0), horizontal_flip=True)
    size, segment = original.target_size, MaskReward(segmenter=segmenter, cache=FeatureCache())
    seen = replace(
        original, augmentation=view, target=augment_target(view, "detection", original.target, original.target_size)
    )
    pairs = [BoxPair(box(10, 10, 30, 30), 0, iou=1.0), BoxPair(box(48, 50, 90, 90), 1, iou=0.9)]
    moved = [one._replace(box=augment_box(view, one.box, size)) for one in pairs]
    expected, found = segment(original, pairs), segment(seen, moved)
    assert [one.iou for one in found] == pytest.approx([one.iou for one in expected], abs=1e-3)
    assert [one.pair for one in found] == moved


def test_the_reward_of_several_objects_is_that_of_the_grader(path: str, tmp_path: Path) -> None:
    one = sails((10, 10, 30, 30), (50, 50, 90, 90), image=save_masked_image(tmp_path))
    grader = make_grader(RewardConfig(segmenter=path), PromptConfig(), {}, BoxSpace.RELATIVE_1000)
    expected = grader.grade(ANSWER, one, resized=one.target_size, context=RewardContext())
    assert expected.parts["mask"] > 0
    target = {
        "boxes": [[10, 10, 30, 30], [50, 50, 90, 90]],
        "outlines": [[list(polygon) for polygon in polygons] for polygons in one.outlines],
    }
    found = reward(ANSWER, target, "detection", image=one.images[0], segmenter=path)
    assert (found.total, found.parts) == (expected.total, expected.parts)
    assert str(found).count("\nmasks of ") == 2
    with pytest.raises(ConfigError, match="segmenter needs a target whose objects have masks"):
        reward(ANSWER, target["boxes"], "detection", image=one.images[0], segmenter=path)
