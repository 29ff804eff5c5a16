"""Metrics and example images of a run for TensorBoard, Weights & Biases and Trackio, through accelerate's trackers.

A tracker gets what the run's own logs get and gives nothing back: a run is the same with and without trackers.
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
"""File of the run folder with the id under which a tracker resumes the run."""

_PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX"), "wandb": ("wandb",), "trackio": ("trackio",)}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoggedCompletion:
    """One completion of a group as a tracker displays it."""

    rank: str
    """"best" or "worst" of its group."""
    query: str
    """The class, expression or question of the sample."""
    text: str
    """The completion."""
    reward: float
    """Its total reward."""
    image: Image.Image
    """The prompt's image with target and predicted boxes. Images of one group have equal size."""


def require_installed(names: Sequence[str]) -> None:
    """Raise ``ConfigError`` for the first tracker whose package is not installed."""
    for name in names:
        if not any(find_spec(package) for package in _PACKAGES[name]):
            raise ConfigError(f'run.trackers: "{name}" is not installed; pip install {_PACKAGES[name][0]}')


class Trackers:
    """The experiment trackers of a run. ``start`` begins them; leaving the context ends them.

    ``config``: the run's hyperparameters, flat. ``draw`` renders the completions of a group that are logged as images,
    every ``images_every`` steps; 0 logs none.
    """

    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        *,
        config: Mapping[str, Any],
        draw: Callable[[RolloutGroup], Sequence[LoggedCompletion]],
        images_every: int,
    ) -> None:
        self._names = tuple(dict.fromkeys(names))
        self._folder = folder
        self._config = dict(config)
        self._draw = draw
        self._images_every = images_every
        self._started: list[Any] = []
        self._num_logged = 0

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for tracker in self._started:
            tracker.finish()

    def start(self, *, num_done: int, num_logged: int) -> None:
        """Start at step 0, or resume after ``num_done`` steps of a run that has logged ``num_logged`` steps.

        Steps ``num_done`` to ``num_logged`` are repeated with equal results. TensorBoard hides the earlier records of
        them and gets them again; the other trackers cannot replace a record and get none for these steps. Raises
        ``RunError`` if a tracker does not start.
        """
        if not self._names:
            return
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # accelerate's trackers read from it if this process is the main one
        self._num_logged = num_logged
        for name in self._names:
            tracker = LOGGER_TYPE_TO_CLASS[name](*self._arguments(name), **self._options(name, num_done))
            _start(tracker)
            self._started.append(tracker)
            if name == "tensorboard" and num_done == 0:
                # as text: TensorBoard's own table of hyperparameters would be a second run in its list
                tracker.log(
                    {"config": "\n".join(f"    {key} = {value}" for key, value in self._config.items())}, step=0
                )

    def roll_back(self, *, num_logged: int) -> None:
        """Skip the records of steps below ``num_logged``, which the run repeats with equal results."""
        self._num_logged = max(self._num_logged, num_logged)

    def log(self, record: Mapping[str, float]) -> None:
        """Log a record of ``metrics.jsonl`` at its step."""
        step = int(record["step"])
        values = {name: value for name, value in record.items() if name != "step"}
        for tracker in self._active(step):
            tracker.log(values, step=step)

    def log_group(self, step: int, group: RolloutGroup) -> None:
        """Log the best and the worst completion of a group as images, every ``images_every`` steps."""
        if not self._images_every or step % self._images_every or not (active := self._active(step)):
            return
        completions = self._draw(group)
        for tracker in active:
            _LOG_COMPLETIONS[tracker.name](tracker, completions, step)

    def _active(self, step: int) -> list[Any]:
        """The trackers that take records of this step (see ``start``)."""
        return [one for one in self._started if one.name == "tensorboard" or step >= self._num_logged]

    def _arguments(self, name: str) -> tuple[Any, ...]:
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
    """Start a tracker. Raises ``RunError`` if its service or folder cannot be used, for example without a login."""
    try:
        tracker.start()
    except (OSError, getattr(sys.modules.get(tracker.name), "Error", OSError)) as error:
        reason = " ".join(str(error).split())
        raise RunError(
            f"run.trackers: {tracker.name} does not start: {reason}; resolve this, then resume with --resume"
        ) from error


def _log_to_tensorboard(tracker: Any, completions: Sequence[LoggedCompletion], step: int) -> None:
    images = np.stack([np.asarray(one.image) for one in completions])  # (num_completions, height, width, 3)
    tracker.log_images({"rollout": images}, step=step, dataformats="NHWC")
    tracker.log({f"rollout_{one.rank}": _caption(one) for one in completions}, step=step)


def _log_to_wandb(tracker: Any, completions: Sequence[LoggedCompletion], step: int) -> None:
    import wandb

    rows = [[one.rank, one.query, one.text, one.reward, wandb.Image(one.image)] for one in completions]
    tracker.log_table("rollout", columns=["rank", "query", "text", "reward", "image"], data=rows, step=step)


def _log_to_trackio(tracker: Any, completions: Sequence[LoggedCompletion], step: int) -> None:
    import trackio

    tracker.log(
        {f"rollout_{one.rank}": trackio.Image(one.image, caption=_caption(one)) for one in completions}, step=step
    )


def _caption(one: LoggedCompletion) -> str:
    return f"{one.query}\n\n    {one.text}\n\nreward {one.reward:.3f}"


_LOG_COMPLETIONS = {"tensorboard": _log_to_tensorboard, "wandb": _log_to_wandb, "trackio": _log_to_trackio}
