"""Builders of small run folders and predictions for tests of report pages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from PIL import Image

from factories import detections, sample
from virft.config.schema import Config, DataConfig, GRPOConfig, RunConfig
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.geometry.boxes import BoxSpace
from virft.report.render.reported import QuestionScore, ReportedPredictions
from virft.training.run import METRICS, ROLLOUTS, TIMINGS, RunFolder, run_card
from virft.types import FinishReason, ImageSize, JoinedPrediction, Prediction, Reading, Sample, Scores

SIZE = ImageSize(64, 48)
NOTHING = "<answer>No Objects</answer>"
RIGHT = "<answer>[{'Position':[0,0,500,500],'Confidence':0.8}]</answer>"
"""The upper left quarter of an image, which is the target of ``make_set``."""


def make_set(folder: Path, *, number: int = 3, query: str = "fox") -> Store:
    """Questions q0, q1, ..., one image each, with one target box in the upper left quarter."""
    with StoreWriter(folder) as writer:
        for i in range(number):
            path = writer.add_image(f"{i}.png", Image.new("RGB", SIZE, (40 * i, 90, 120)))
            writer.add(sample(detections((0, 0, 32, 24)), id=f"q{i}", image=path, query=query))
        writer.finish(source={}, seed=0)
    return Store(folder)


def make_run(folder: Path, data: Store, *, steps: int = 3, **grpo: Any) -> RunFolder:
    """A run with ``steps`` completed steps; all its rollouts are about sample q0."""
    config = Config(data=DataConfig(train=str(data.folder)), grpo=GRPOConfig(**grpo), run=RunConfig(dir=str(folder)))
    card = run_card(trainer="grpo", commit="abc", data_hash=data.hash, model="virft-tiny")
    run = RunFolder.open(config, resume=False, card=card | {"argv": ["virft", "grpo", "a b.toml"]})
    for step in range(steps):
        run.append(METRICS, {"step": step, "reward": 1.0 + step, "reward_iou": 0.5, "nonzero_std_frac": 0.25})
        run.append(ROLLOUTS, rollout(step))
        run.append(TIMINGS, {"step": step, "sampling": 3.0, "update": 1.0})
    return run


def rollout(step: int, **changes: Any) -> dict[str, Any]:
    """A record of ``rollouts.jsonl``: the best completion has the target's box, the worst has none."""
    best = {"reward": 2.0, "advantage": 0.7, "parts": {"iou": 1.0}, "text": RIGHT, "boxes": [[0, 0, 32, 24, 0.8]]}
    worst = {"reward": 0.5, "advantage": -0.7, "parts": {"iou": 0.0}, "text": NOTHING, "boxes": []}
    record = {"step": step, "sample": "q0", "prompt": "Detect fox.", "rewards": [0.5, 2.0]}
    return record | {"best": best, "worst": worst} | changes


def write_texts(folder: Path, store: Store, texts: Sequence[str], *, model: str = "virft-tiny", **card: Any) -> Path:
    """Predictions with these texts for the first samples of a store."""
    facts: dict[str, Any] = {
        "model": model,
        "data": str(store.folder),
        "data_hash": store.hash,
        "num_samples": len(texts),
        "box_space": BoxSpace.RELATIVE_1000,
        "thinking": False,
        "settings": {"template": "auto"},
    }
    rows = [
        SizedPrediction(Prediction(sample_id=store[i].id, text=text, finish_reason=FinishReason.STOP), SIZE)
        for i, text in enumerate(texts)
    ]
    write_predictions(folder, PredictionsCard(**facts | card), rows)
    return folder


def run_with_predictions(folder: Path, store: Store, *, name: str = "mine") -> RunFolder:
    """A run whose model finds two of three foxes; the base model finds none."""
    run = make_run(folder / name, store)
    write_texts(run.folder / "eval" / "base", store, [NOTHING] * 3)
    write_texts(run.folder / "eval" / "test", store, [RIGHT, RIGHT, NOTHING], model=str(run.folder / "model"))
    return run


def edit_config(run: RunFolder, old: str, new: str) -> None:
    """Replace text in a run's ``config.toml``."""
    path = run.folder / "config.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def scores(values: Mapping[str, float], *, task: str = "detection", **more: Any) -> Scores:
    """Scores of ten questions with the hash ``aaaa``."""
    facts = {"protocol": "positives", "data_hash": "aaaa", "num_samples": 10}
    return Scores(task=task, values=values, **facts | more)


def predictions(*of_tasks: Scores, **more: Any) -> ReportedPredictions:
    """Predictions on the dataset with the hash ``aaaa``, scores only."""
    facts: dict[str, Any] = {"data": "d", "data_hash": "aaaa", "settings": {"thinking": False}, "scored": "now"}
    return ReportedPredictions(scores=of_tasks, **facts | more)


def predictions_on(
    samples: Sequence[Sample],
    readings: Mapping[str, Reading],
    question_scores: Mapping[str, float],
    **turns: Any,
) -> ReportedPredictions:
    """Predictions that can be shown on images; every box has the same confidence. ``turns``: ``zoom_text`` .."""

    def join(one: Sample) -> JoinedPrediction:
        found = readings[one.id]
        made = Prediction(sample_id=one.id, text=found.text, finish_reason=FinishReason.STOP, **turns)
        return JoinedPrediction(one, made, found)

    return replace(
        predictions(scores({"f1": 0.5})),
        samples=samples,
        question_scores={name: QuestionScore(score, 0.5) for name, score in question_scores.items()},
        read=lambda samples: {one.id: join(one) for one in samples if one.id in readings},
    )


class PageReader(HTMLParser):
    """The texts and elements of a page; asserts that elements are closed in order."""

    _VOID = ("meta", "br", "input", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in self._VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(" ".join(data.split()))

    @property
    def text(self) -> str:
        """All visible text."""
        return "\n".join(self.texts)

    def all(self, tag: str, **attrs: str) -> list[dict[str, str]]:
        """Attributes of the elements of a tag that match ``attrs`` (``cls``: one of its classes)."""
        cls = attrs.pop("cls", None)
        return [
            found
            for name, found in self.elements
            if name == tag and attrs.items() <= found.items() and (cls is None or cls in found.get("class", "").split())
        ]

    def charts(self) -> list[dict[str, Any]]:
        """The JSON readings of each chart."""
        return [json.loads(text) for text in self.texts if text.startswith('{"left":')]
