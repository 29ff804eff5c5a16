"""Curves and pictures of a run for TensorBoard, Weights & Biases and Trackio, through accelerate's trackers.

They are told what the run's own logs get, and nothing comes back: a run is the same with and without them.
"""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from virft.errors import ConfigError, RunError
from virft.files import write_text
from virft.types import RolloutGroup

PROJECT = "virft"
RUN_ID = "tracker_id"
"""A file of the run folder: by this name a tracker finds the run again."""

_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownAnswer:
    """One answer of a group as a tracker shows it. ``rank``: "best" or "worst"; pictures of a group are of one size."""

    rank: str
    question: str
    text: str
    reward: float
    picture: Image.Image


def require_installed(names: Sequence[str]) -> None:
    """``ConfigError`` for the first tracker whose package is not there."""
    for name in names:
        if not any(find_spec(package) for package in _PACKAGES[name]):
            raise ConfigError(f'run.trackers: "{name}" is not installed; pip install {_PACKAGES[name][0]}')


class Trackers:
    """The trackers of a run: ``start`` them when it is known where the run stands; leaving the context ends them.

    ``config``: what they show beside the run. ``draw`` gives the answers to show of a group; every
    ``images_every`` steps one is drawn, 0: never.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        config: Mapping[str, Any],
        draw: Callable[[RolloutGroup], Sequence[ShownAnswer]],
        images_every: int,
    ) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._folder = folder
        self._config = dict(config)
        self._draw = draw
        self._images_every = images_every
        self._started: list[Any] = []
        self._num_told = 0

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for tracker in self._started:
            tracker.finish()

    def start(self, *, num_done: int, num_told: int) -> None:
        """Begin, or go on after ``num_done`` steps, where the run was told of ``num_told`` before it was stopped.

        The steps between are done again and come out the same. TensorBoard hides what it was told of them; the others
        are not told again.
        """
        if not self._names:
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers ask it whether this process is the one that writes
        self._num_told = num_told
        for name in self._names:
            tracker = LOGGER_TYPE_TO_CLASS[name](*self._place(name), **self._options(name, num_done))
            _start(tracker)
            self._started.append(tracker)
            if name == "tensorboard" and num_done == 0:
                tracker.log(
                    {"config": "\n".join(f"    {key} = {value}" for key, value in self._config.items())}, step=0
                )

    def go_back(self, *, num_told: int) -> None:
        """The run does steps again of which it was told: they come out the same and are not told again."""
        self._num_told = max(self._num_told, num_told)

    def log(self, record: Mapping[str, float]) -> None:
        """The numbers of a line of ``metrics.jsonl``, at its step."""
        step = int(record["step"])
        values = {name: value for name, value in record.items() if name != "step"}
        for tracker in self._wanting(step):
            tracker.log(values, step=step)

    def show(self, step: int, group: RolloutGroup) -> None:
        """The best and the worst answer of a group, if it is time for a picture."""
        if not self._images_every or step % self._images_every or not (wanting := self._wanting(step)):
            return
        answers = self._draw(group)
        for tracker in wanting:
            _SHOW[tracker.name](tracker, answers, step)

    def _wanting(self, step: int) -> list[Any]:
        return [one for one in self._started if one.name == "tensorboard" or step >= self._num_told]

    def _place(self, name: str) -> tuple[Any, ...]:
        return (name, self._folder) if name == "tensorboard" else (PROJECT,)

    def _options(self, name: str, num_done: int) -> dict[str, Any]:
        if name == "tensorboard":
            return {"purge_step": num_done}
        run_id = self._run_id()
        if name == "wandb":
            return {
                "dir": str(self._folder),
                "id": run_id,
                "name": self._folder.name,
                "config": self._config,
                "resume": "allow",
            }
        return {"name": f"{self._folder.name}-{run_id}", "config": self._config, "resume": "allow"}

    def _run_id(self) -> str:
        path = self._folder / RUN_ID
        if not path.exists():
            write_text(path, uuid.uuid4().hex[:12] + "\n")
        return path.read_text().strip()


def _start(tracker: Any) -> None:
    """``RunError`` where the tracker's own service or folder is in the way, such as a missing login."""
    try:
        tracker.start()
    except (OSError, getattr(sys.modules.get(tracker.name), "Error", OSError)) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"run.trackers: {tracker.name} does not start: {reason}; mend that, go on with --resume"
        ) from error


def _show_in_tensorboard(tracker: Any, answers: Sequence[ShownAnswer], step: int) -> None:
    pictures = np.stack([np.asarray(one.picture) for one in answers])
    tracker.log_images({"rollout": pictures}, step=step, dataformats="NHWC")
    tracker.log({f"rollout_{one.rank}": _in_words(one) for one in answers}, step=step)


def _show_in_wandb(tracker: Any, answers: Sequence[ShownAnswer], step: int) -> None:
    import wandb

    rows = [[one.rank, one.question, one.text, one.reward, wandb.Image(one.picture)] for one in answers]
    tracker.log_table("rollout", columns=["rank", "question", "text", "reward", "picture"], data=rows, step=step)


def _show_in_trackio(tracker: Any, answers: Sequence[ShownAnswer], step: int) -> None:
    import trackio

    tracker.log(
        {f"rollout_{one.rank}": trackio.Image(one.picture, caption=_in_words(one)) for one in answers}, step=step
    )


def _in_words(one: ShownAnswer) -> str:
    return f"{one.question}\n\n    {one.text}\n\nreward {one.reward:.3f}"


_SHOW = {"tensorboard": _show_in_tensorboard, "wandb": _show_in_wandb, "trackio": _show_in_trackio}
