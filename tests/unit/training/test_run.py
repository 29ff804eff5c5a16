"""A run folder is new, or resumed with the same settings on the same data, or refused."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from virft.config.schema import Config, DataConfig, GRPOConfig, ModelConfig, MonitorsConfig, RewardConfig, RunConfig
from virft.config.toml_file import load_config
from virft.errors import RunError
from virft.training.run import (
    END,
    EVENTS,
    METRICS,
    RESUME,
    ROLLOUTS,
    TIMINGS,
    RunFolder,
    describe_start,
    require_current_format,
    run_card,
)


def config(folder: Path, **grpo: Any) -> Config:
    return Config(data=DataConfig(train="d"), grpo=GRPOConfig(**grpo), run=RunConfig(dir=str(folder)))


def open_run(settings: Config, *, resume: bool = False, data_hash: str = "0123456789abcdef") -> RunFolder:
    card = run_card(trainer="grpo", commit="abc", data_hash=data_hash, model="virft-tiny")
    return RunFolder.open(settings, resume=resume, card=card)


def test_a_new_run_writes_its_settings_and_provenance(tmp_path: Path) -> None:
    settings = config(tmp_path / "a" / "r", steps=7)
    run = open_run(settings)
    assert load_config(run.folder / "config.toml").config == settings
    card = json.loads((run.folder / "card.json").read_text())
    assert (card["commit"], card["data_hash"], card["model"]) == ("abc", "0123456789abcdef", "virft-tiny")
    assert {"argv", "versions", "machine", "python", "virft", "schema_version"} <= card.keys()
    assert "torch" in card["versions"]


def test_a_folder_with_a_run_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_run(config(tmp_path / "r")).append(METRICS, {"step": 0})
    before = {file.name: file.read_bytes() for file in (tmp_path / "r").iterdir()}
    with pytest.raises(RunError, match=r"already holds a run; resume with --resume, or choose another run\.dir"):
        open_run(config(tmp_path / "r", steps=9))
    assert {file.name: file.read_bytes() for file in (tmp_path / "r").iterdir()} == before


def test_a_run_that_ended_before_it_saved_anything_is_replaced(tmp_path: Path) -> None:
    run = open_run(config(tmp_path))
    run.append(METRICS, {"step": 0})
    run.append_event(0, END, action="stopped", message="stopped during step 1", is_incident=True)
    again = open_run(config(tmp_path, steps=9), data_hash="other")
    assert load_config(tmp_path / "config.toml").config.grpo.steps == 9
    assert json.loads((tmp_path / "card.json").read_text())["data_hash"] == "other"
    assert (again.records(METRICS), again.records(EVENTS)) == ([], [])


@pytest.mark.parametrize("saved", ["checkpoints/step_000002", "best", "base_completions.jsonl"])
def test_a_run_that_ended_after_it_saved_something_is_refused(tmp_path: Path, saved: str) -> None:
    open_run(config(tmp_path)).append_event(2, END, action="stopped", message="stopped", is_incident=True)
    (tmp_path / saved).mkdir(parents=True)
    with pytest.raises(RunError, match="already holds a run; resume with --resume"):
        open_run(config(tmp_path))


def test_a_run_that_was_resumed_after_its_end_is_refused(tmp_path: Path) -> None:
    run = open_run(config(tmp_path))
    for event in (END, RESUME):
        run.append_event(0, event, action="continued", message="", is_incident=True)
    with pytest.raises(RunError, match="already holds a run; resume with --resume"):
        open_run(config(tmp_path))


def test_a_start_that_the_user_may_not_expect_is_described(tmp_path: Path) -> None:
    folder = tmp_path / "r"
    assert describe_start(folder, resume=True) == f"no run in {folder}; starting a new one"
    assert describe_start(folder, resume=False) is None
    open_run(config(folder))
    line = f"the run in {folder} had saved no checkpoint; starting with the first step"
    assert describe_start(folder, resume=True) == line
    (folder / "checkpoints" / "step_000002").mkdir(parents=True)
    assert describe_start(folder, resume=True) is None


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunError, match="is not empty and holds no run"):
        open_run(config(tmp_path))
    with pytest.raises(RunError, match=r"thesis\.tex: is a file; expected a new folder as run\.dir"):
        open_run(config(tmp_path / "thesis.tex"), resume=True)


def test_a_run_killed_as_it_began_leaves_a_folder_that_can_be_taken(tmp_path: Path) -> None:
    for name in ("card.json", "card.json.unfinished", "config.toml.unfinished"):
        (tmp_path / name).write_text("{")
    assert open_run(config(tmp_path)).folder == tmp_path
    assert json.loads((tmp_path / "card.json").read_text())["commit"] == "abc"


def test_a_best_model_that_was_just_being_replaced_is_put_back(tmp_path: Path) -> None:
    open_run(config(tmp_path))
    (tmp_path / "best.old").mkdir()
    open_run(config(tmp_path), resume=True)
    assert (tmp_path / "best").is_dir()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    assert open_run(config(tmp_path)).folder == tmp_path


def test_the_same_settings_resume(tmp_path: Path) -> None:
    open_run(config(tmp_path / "r"))
    assert open_run(config(tmp_path / "r"), resume=True).folder == tmp_path / "r"


def test_resume_without_a_run_begins_one(tmp_path: Path) -> None:
    assert (open_run(config(tmp_path / "r"), resume=True).folder / "config.toml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 9, "group_size": 4}, r"another config: grpo\.steps is 200 \(saved\) and 9 \(now\); resume with"),
        ({"kl_coef": 0.0}, r"another config: grpo\.kl_coef is 0\.04 \(saved\) and 0\.0 \(now\)"),
        ({"loss": "token_mean"}, r'grpo\.loss is "sequence_mean" \(saved\) and "token_mean" \(now\)'),
    ],
)
def test_other_settings_are_refused_and_the_first_is_named(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    open_run(config(tmp_path / "r"))
    with pytest.raises(RunError, match=message):
        open_run(config(tmp_path / "r", **changes), resume=True)


def test_settings_that_bound_memory_and_monitors_may_change(tmp_path: Path) -> None:
    open_run(config(tmp_path / "r")).append(METRICS, {"step": 0})
    changed = replace(config(tmp_path / "r", microbatch_tokens=512), monitors=MonitorsConfig(stop_on=("kl",)))
    run = open_run(changed, resume=True)
    assert load_config(run.folder / "config.toml").config == changed
    (event,) = run.records(EVENTS)
    assert event["message"] == "resumed with other settings: grpo.microbatch_tokens is 4096 (before) and 512 (now)"
    # it happened once, whichever steps are done again
    run.cut_logs(0)
    assert run.records(EVENTS) == [event]
    assert run.records(METRICS) == []


def test_a_setting_without_effect_in_both_runs_does_not_matter(tmp_path: Path) -> None:
    open_run(config(tmp_path / "r"))
    settings = Config(
        model=ModelConfig(lora_rank=4), data=DataConfig(train="d"), run=RunConfig(dir=str(tmp_path / "r"))
    )
    open_run(settings, resume=True)


def test_other_data_under_the_same_name_are_refused(tmp_path: Path) -> None:
    open_run(config(tmp_path / "r"))
    with pytest.raises(RunError, match=r"was started on other data \(hash 0123456789ab, now fedc"):
        open_run(config(tmp_path / "r"), resume=True, data_hash="fedcba9876543210")


def test_log_lines_are_short_and_keep_their_order(tmp_path: Path) -> None:
    run = open_run(config(tmp_path / "r"))
    run.append(METRICS, {"step": 0, "reward": 0.5, "text": "füchse"})
    assert (run.folder / METRICS).read_text(encoding="utf-8") == '{"step":0,"reward":0.5,"text":"füchse"}\n'


def test_records_of_steps_that_are_repeated_are_cut(tmp_path: Path) -> None:
    run = open_run(config(tmp_path / "r"))
    for name in (METRICS, ROLLOUTS, TIMINGS):
        for step in range(4):
            run.append(name, {"step": step})
    with (run.folder / METRICS).open("a") as file:
        file.write('{"step":1,"rew')
    run.cut_logs(2)
    for name in (METRICS, ROLLOUTS, TIMINGS):
        assert (run.folder / name).read_text() == '{"step":0}\n{"step":1}\n'


def test_a_line_that_holds_other_line_breaks_or_was_cut_in_a_character_breaks_no_other(tmp_path: Path) -> None:
    run = open_run(config(tmp_path / "r"))
    run.append(ROLLOUTS, {"step": 0, "text": "a\u2028b\x85c"})
    run.append(ROLLOUTS, {"step": 1, "text": "d"})
    with (run.folder / ROLLOUTS).open("ab") as file:
        file.write('{"step":2,"text":"é'.encode()[:-1])
    assert [record["text"] for record in run.records(ROLLOUTS)] == ["a\u2028b\x85c", "d"]
    run.cut_logs(1)
    assert [record["text"] for record in run.records(ROLLOUTS)] == ["a\u2028b\x85c"]


def test_other_processes_read_but_do_not_write(tmp_path: Path) -> None:
    settings = Config(data=DataConfig(train="d"), run=RunConfig(dir=str(tmp_path / "r")))
    with pytest.raises(RunError, match=r"expected run\.dir on a file system that all machines share"):
        RunFolder.join(tmp_path / "r")
    first = RunFolder.open(settings, resume=False, card={"data_hash": "0", "trainer": "grpo"})
    first.append(METRICS, {"step": 0})
    second = RunFolder.join(tmp_path / "r")
    second.append(METRICS, {"step": 1})
    second.cut_logs(0)
    assert second.records(METRICS) == [{"step": 0}]


def written_by_another_version(folder: Path) -> Path:
    """A run folder as virft wrote it when its schema version was 1."""
    card = json.loads((folder / "card.json").read_text()) | {"schema_version": 1}
    (folder / "card.json").write_text(json.dumps(card))
    text = (folder / "config.toml").read_text()
    (folder / "config.toml").write_text(text.replace("[monitors]", "[guards]"))
    return folder


def test_a_card_without_a_version_is_refused(tmp_path: Path) -> None:
    card = tmp_path / "card.json"
    card.write_text("[]")
    require_current_format(tmp_path)
    card.write_text("{}")
    with pytest.raises(
        RunError, match=f"^{re.escape(str(card))}: schema_version is missing, so another version of virft"
    ):
        require_current_format(tmp_path)


def test_a_run_of_another_format_is_refused_by_its_version(tmp_path: Path) -> None:
    folder = written_by_another_version(open_run(config(tmp_path / "r")).folder)
    with pytest.raises(RunError) as error:
        open_run(config(tmp_path / "r"), resume=True)
    assert str(error.value) == (
        f"{folder / 'card.json'}: schema_version is 1, so another version of virft wrote this run folder; expected 2: "
        "open it with that version, or train into another run.dir"
    )
    require_current_format(tmp_path)  # a folder without a card is not this function's to refuse


def extended(folder: Path, steps: int, **more: Any) -> Config:
    return config(folder, **{"steps": steps, "schedule": "constant"} | more)


def test_a_run_with_a_constant_schedule_may_have_more_steps(tmp_path: Path) -> None:
    open_run(extended(tmp_path / "r", 10))
    run = open_run(extended(tmp_path / "r", 15), resume=True)
    assert load_config(run.folder / "config.toml").config.grpo.steps == 15
    (event,) = run.records(EVENTS)
    assert event["message"] == "resumed with other settings: grpo.steps is 10 (before) and 15 (now)"


def test_a_run_cannot_have_fewer_steps(tmp_path: Path) -> None:
    open_run(extended(tmp_path / "r", 10))
    with pytest.raises(RunError, match=r"grpo\.steps is 10 \(saved\) and 9 \(now\); resume with the same settings"):
        open_run(extended(tmp_path / "r", 9), resume=True)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"schedule": "linear"}, 'grpo.schedule "linear" decays to 0 in the last step'),
        ({"schedule": "cosine"}, 'grpo.schedule "cosine" decays'),
        ({"kl_coef_end": 0.0}, "grpo.kl_coef_end is reached in the last step"),
        ({"refill_rounds": 1}, "grpo.refill_rounds draws samples that depend on the number of steps"),
    ],
)
def test_steps_that_depend_on_the_number_of_steps_forbid_more_of_them(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    open_run(extended(tmp_path / "r", 10, **changes))
    with pytest.raises(RunError) as error:
        open_run(extended(tmp_path / "r", 15, **changes), resume=True)
    assert f"grpo.steps is 10 (saved) and 15 (now); it cannot be extended, because {reason}" in str(error.value)
    assert f"`virft grpo --from {tmp_path / 'r'} run.dir=ANOTHER`" in str(error.value)


@pytest.mark.parametrize(
    ("reward", "reason"),
    [
        (RewardConfig(iou_threshold_end=0.9), "reward.iou_threshold_end is reached in the last step"),
        (RewardConfig(extra=("a.py:f",)), "reward.extra may use the fraction of the run"),
    ],
)
def test_a_reward_that_depends_on_the_number_of_steps_forbids_more_of_them(
    tmp_path: Path, reward: RewardConfig, reason: str
) -> None:
    open_run(replace(extended(tmp_path / "r", 10), reward=reward))
    with pytest.raises(RunError, match=reason):
        open_run(replace(extended(tmp_path / "r", 15), reward=reward), resume=True)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file/r: cannot be written \(Not a directory\)$"):
        open_run(config(tmp_path / "file" / "r"))
