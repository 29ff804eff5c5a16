"""Trackers get the records of the logs, once; TensorBoard's files are read again."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from accelerate import tracking
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from virft.errors import ConfigError, RunError
from virft.training import trackers as module
from virft.training.trackers import LoggedCompletion, Trackers, require_installed
from virft.types import RolloutGroup

GROUP: Any = object()


def draw(group: RolloutGroup) -> Sequence[LoggedCompletion]:
    assert group is GROUP
    return [
        LoggedCompletion(
            rank=rank, query="fox", text="<answer>", reward=reward, image=Image.new("RGB", (40, 20), colour)
        )
        for rank, reward, colour in (("best", 1.5, "red"), ("worst", 0.0, "blue"))
    ]


def make(folder: Path, *names: str, images_every: int = 2, **more: Any) -> Trackers:
    folder.mkdir(exist_ok=True)
    config = {"seed": 0, "grpo.steps": 5}
    return Trackers(names, folder, **{"config": config, "draw": draw, "images_every": images_every} | more)


def log_steps(trackers: Trackers, *, num_done: int, until: int, num_logged: int = 0) -> None:
    """Steps from ``num_done`` on, with reward 10 x step, and a validation after the last one."""
    with trackers:
        trackers.start(num_done=num_done, num_logged=num_logged)
        for step in range(num_done, until):
            trackers.log({"step": step, "reward": 10.0 * step, "reward@coco": 0.5})
            trackers.log_group(step, GROUP)
        trackers.log({"step": until - 1, "validation_f1": 0.25})


def events(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return found


def curve(found: EventAccumulator, name: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(name)]


class Fake(tracking.GeneralTracker):
    """Remembers what is logged. ``made``: the trackers of a test, in the order of their making."""

    name = "wandb"
    requires_logging_directory = False
    made: ClassVar[list[Any]] = []

    def __init__(self, run_name: str, **options: Any) -> None:
        super().__init__()
        self.run_name, self.options = run_name, options
        self.logged: list[Any] = []
        self.made.append(self)

    @property
    def tracker(self) -> Any:
        return self

    def log(self, values: dict[str, Any], step: int | None = None, **_: Any) -> None:
        self.logged.append((step, values))

    def log_table(self, name: str, columns: list[str], data: list[list[Any]], step: int) -> None:
        self.logged.append((step, {name: [dict(zip(columns, row, strict=True)) for row in data]}))

    def finish(self) -> None:
        self.logged.append("finished")


class FakeTrackio(Fake):
    name = "trackio"


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """wandb and trackio as trackers that remember, in the order they are made."""
    monkeypatch.setattr(Fake, "made", [])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "trackio", FakeTrackio)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(Image=lambda image: image.size, Error=RuntimeError))
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(Image=lambda image, caption: (image.size, caption)))
    return Fake.made


def test_tensorboard_has_every_number_at_its_step(tmp_path: Path) -> None:
    log_steps(make(tmp_path, "tensorboard"), num_done=0, until=3)
    found = events(tmp_path)
    assert curve(found, "reward") == [(0, 0.0), (1, 10.0), (2, 20.0)]
    assert curve(found, "validation_f1") == [(2, 0.25)]
    assert set(found.Tags()["scalars"]) == {"reward", "reward@coco", "validation_f1"}
    (config,) = found.Tensors("config/text_summary")
    assert config.tensor_proto.string_val[0].decode() == "    seed = 0\n    grpo.steps = 5"


def test_tensorboard_has_images_and_texts_every_n_steps(tmp_path: Path) -> None:
    log_steps(make(tmp_path, "tensorboard", images_every=2), num_done=0, until=4)
    found = events(tmp_path)
    # best and worst next to each other, 40 x 20 each
    assert [(one.step, one.width, one.height) for one in found.Images("rollout")] == [(0, 80, 20), (2, 80, 20)]
    texts = [one.tensor_proto.string_val[0].decode() for one in found.Tensors("rollout_best/text_summary")]
    assert texts == ["fox\n\n    <answer>\n\nreward 1.500"] * 2


def test_a_resumed_run_continues_the_same_curve(tmp_path: Path) -> None:
    log_steps(make(tmp_path, "tensorboard"), num_done=0, until=4)
    log_steps(make(tmp_path, "tensorboard"), num_done=2, until=6, num_logged=4)
    found = events(tmp_path)
    assert [step for step, _ in curve(found, "reward")] == [0, 1, 2, 3, 4, 5]
    assert [one.step for one in found.Images("rollout")] == [0, 2, 4]
    assert len(found.Tensors("config/text_summary")) == 1


def test_trackers_that_cannot_replace_records_get_each_once(tmp_path: Path, fakes: list[Any]) -> None:
    log_steps(make(tmp_path / "mine", "wandb", "trackio", images_every=0), num_done=0, until=2)
    log_steps(make(tmp_path / "mine", "wandb", "trackio", images_every=0), num_done=1, until=4, num_logged=2)
    first, _, second, other = fakes
    validation = {"validation_f1": 0.25}
    assert first.logged == [
        (0, {"reward": 0.0, "reward@coco": 0.5}),
        (1, {"reward": 10.0, "reward@coco": 0.5}),
        (1, validation),
        "finished",
    ]
    assert [step for step, _ in second.logged[:-1]] == [2, 3, 3]
    assert other.logged == second.logged
    # the second start finds the run of the first
    assert first.run_name == "virft"
    assert first.options == second.options
    assert first.options["id"] == (tmp_path / "mine" / "tracker_id").read_text().strip()
    assert (first.options["resume"], first.options["name"]) == ("allow", "mine")
    assert other.options["name"] == f"mine-{first.options['id']}"
    assert other.options["config"] == {"seed": 0, "grpo.steps": 5}


def test_other_runs_of_the_same_name_are_other_runs(tmp_path: Path, fakes: list[Any]) -> None:
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        log_steps(make(tmp_path / place / "run", "wandb"), num_done=0, until=1)
    assert fakes[0].options["id"] != fakes[1].options["id"]


def test_completions_are_a_table_in_wandb_and_images_in_trackio(tmp_path: Path, fakes: list[Any]) -> None:
    with make(tmp_path, "wandb", "trackio") as trackers:
        trackers.start(num_done=0, num_logged=0)
        trackers.log_group(4, GROUP)
    wandb, trackio = fakes
    row = {"rank": "best", "query": "fox", "text": "<answer>", "reward": 1.5, "image": (40, 20)}
    assert wandb.logged[0] == (4, {"rollout": [row, row | {"rank": "worst", "reward": 0.0}]})
    step, images = trackio.logged[0]
    assert step == 4
    assert images["rollout_worst"] == ((40, 20), "fox\n\n    <answer>\n\nreward 0.000")


def test_no_image_is_drawn_without_a_tracker(tmp_path: Path) -> None:
    def never(group: RolloutGroup) -> Sequence[LoggedCompletion]:
        raise AssertionError

    log_steps(make(tmp_path / "a", draw=never), num_done=0, until=3)
    log_steps(make(tmp_path / "b", "tensorboard", images_every=0, draw=never), num_done=0, until=3)
    assert list((tmp_path / "a").iterdir()) == []


def test_a_tracker_named_twice_is_started_once(tmp_path: Path, fakes: list[Any]) -> None:
    log_steps(make(tmp_path, "wandb", "wandb"), num_done=0, until=1)
    assert len(fakes) == 1


def test_a_missing_login_is_an_error_and_started_trackers_are_ended(
    tmp_path: Path, fakes: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(self: Fake) -> None:
        raise RuntimeError("No API key\nconfigured.")  # wandb.Error of this test

    monkeypatch.setattr(Fake, "start", start)
    monkeypatch.setattr(FakeTrackio, "start", lambda self: None)
    reason = r"run\.trackers: wandb does not start: No API key configured\.; resolve this, then resume with --resume"
    with pytest.raises(RunError, match=reason), make(tmp_path, "trackio", "wandb") as trackers:
        trackers.start(num_done=0, num_logged=0)
    trackio, _ = fakes
    assert trackio.logged == ["finished"]


def test_a_missing_package_is_a_config_error(monkeypatch: pytest.MonkeyPatch) -> None:
    require_installed(["tensorboard"])
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "wandb" else object())
    require_installed(["tensorboard", "trackio"])
    with pytest.raises(ConfigError, match=r'run\.trackers: "wandb" is not installed; pip install wandb'):
        require_installed(["tensorboard", "wandb"])
