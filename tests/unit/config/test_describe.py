"""`virft config` explains every setting; the JSON Schema accepts what the parser accepts."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from virft.cli import main as cli
from virft.config.describe import EXAMPLES, FIRST, describe, example_of, format_default, toml_value
from virft.config.json_schema import config_schema
from virft.config.other_names import OTHER_NAMES
from virft.config.schema import sections, setting_at, settings
from virft.config.setting import REQUIRED, Setting
from virft.config.toml_file import parse
from virft.errors import ConfigError

ROOT = Path(__file__).parents[3]
KEYS = [setting.key for setting in settings()]
SCHEMA = jsonschema.Draft202012Validator(config_schema())


def faults(toml: str) -> list[str]:
    """Return the messages of the schema about a TOML text."""
    return [error.message for error in SCHEMA.iter_errors(tomllib.loads(toml))]


@pytest.mark.parametrize("key", KEYS)
def test_a_setting_is_explained_with_its_facts(key: str) -> None:
    setting = setting_at(key)
    text = describe(key, width=400)
    assert text.startswith(f"{key}\n\n{setting.help}\n")
    assert re.search(rf"^default +{re.escape(format_default(setting))}$", text, re.MULTILINE)
    assert re.search(rf"^allowed +{re.escape(setting.allowed)}$", text, re.MULTILINE)
    for name, other in OTHER_NAMES.items():
        assert (name in text.partition("in other trainers")[2].split("\n")[0].replace(",", "").split()) == (
            key in other.keys
        )


@pytest.mark.parametrize("setting", settings(), ids=lambda setting: setting.key)
def test_the_example_of_a_setting_is_a_valid_value(setting: Setting) -> None:
    value = example_of(setting)
    assert value is not None and value is not REQUIRED
    assert (setting.key in EXAMPLES) == (setting.default in (None, (), {}) or setting.default is REQUIRED)
    setting.check(tuple(value) if isinstance(value, list) else value)
    # the printed line is TOML, and the schema accepts it
    assert faults(f"{setting.key} = {toml_value(value)}") == [] or setting.key.startswith("mixture.")


def test_a_setting_of_another_dataset_of_a_mixture_is_explained() -> None:
    assert "[mixture.planes]\n" in describe("mixture.planes.weight")
    assert describe("mixture").startswith("[mixture.NAME]: ")


@pytest.mark.parametrize("section", sections())
def test_a_section_lists_its_settings(section: str) -> None:
    shown = [line.split()[0] for line in describe(section).splitlines() if line.startswith(f"  {section}.")]
    assert shown == [key for key in KEYS if key.rpartition(".")[0] == section]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_lines_fit_the_terminal(width: int) -> None:
    for name in ("", "grpo", "grpo.kl_coef", "reward.weights"):
        # the first two columns are never broken
        assert max(map(len, describe(name, width=width).splitlines())) <= max(width, 80)


def test_the_settings_to_change_first_exist_and_come_first() -> None:
    assert set(FIRST) <= set(KEYS)
    first, *_ = describe().split("\n\n")
    assert re.findall(r"^ {2}([a-z]\S+)", first, re.MULTILINE) == list(FIRST)


def test_the_verb_prints_and_suggests(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "model.lora_rank"]) == 0
    out = capsys.readouterr().out
    for line in (
        'has effect if +model.train = "lora"',
        "in a file +\\[model\\]\n +lora_rank = 32",
        "on the command line +model.lora_rank=32",
        "in other trainers +lora_r, r",
    ):
        assert re.search(line, out), line
    assert cli.main(["config", "lora_r"]) == 2
    assert capsys.readouterr().err.startswith("virft: lora_r is not a setting; did you mean model.lora_rank?")
    assert cli.main(["config", "grpo.stepz"]) == 2
    assert capsys.readouterr().err == "virft: grpo.stepz is not a setting; did you mean grpo.steps?\n"
    assert cli.main(["config", "--out", "x"]) == 2
    assert "it needs --schema" in capsys.readouterr().err
    assert cli.main(["config", "grpo", "--schema"]) == 2
    assert "expected no KEY, found 'grpo'" in capsys.readouterr().err


def test_the_verb_writes_the_schema(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--schema", "--out", str(tmp_path / "s.json")]) == 0
    assert f"#:schema {tmp_path / 's.json'}" in capsys.readouterr().out
    assert cli.main(["config", "--schema"]) == 0
    assert json.loads((tmp_path / "s.json").read_text()) == json.loads(capsys.readouterr().out) == config_schema()


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.name)
def test_the_schema_accepts_every_config(path: Path) -> None:
    assert faults(path.read_text(encoding="utf-8")) == []


def test_the_schema_is_one_and_its_defaults_are_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(config_schema())
    tree: dict[str, Any] = {}
    for setting in settings():
        if not setting.key.startswith("mixture.") and setting.default is not None and setting.default is not REQUIRED:
            section, _, name = setting.key.rpartition(".")
            default = list(setting.default) if isinstance(setting.default, tuple) else setting.default
            (tree.setdefault(section, {}) if section else tree)[name] = default
    assert [error.message for error in SCHEMA.iter_errors(tree)] == []
    properties = config_schema()["properties"]
    assert properties["grpo"]["properties"]["steps"]["default"] == 200
    assert "default" not in properties["model"]["properties"]["max_pixels"]


@pytest.mark.parametrize(
    "toml",
    [
        "grpo.stepz = 3",
        "grop.steps = 3",
        "grpo.steps = 0",
        "grpo.steps = '3'",
        "grpo.group_size = 1",
        "grpo.learning_rate = 0",
        "grpo.learning_rate = 2",
        "grpo.scale_by_std = 1",
        "model.train = 'lore'",
        "run.dir = ''",
        "run.trackers = ['wandbb']",
        "reward.weights = {iou = -1}",
        "mixture.a.weight = 1",
        "mixture.a = {data = 'x', wieght = 1}",
        "mixture.'a b'.data = 'x'",
    ],
)
def test_the_schema_refuses_what_the_parser_refuses(toml: str) -> None:
    assert len(faults(toml)) == 1
    smallest = {"run.dir": "r"} if toml.startswith("mixture") else {"run.dir": "r", "data.train": "d"}
    with pytest.raises(ConfigError):
        parse(toml, origin="x.toml", keywords={key: one for key, one in smallest.items() if key not in toml})


def test_the_schema_accepts_numbers_and_tables() -> None:
    toml = "seed = 3\ngrpo.learning_rate = 1e-4\ngrpo.kl_coef = 0\nreward.weights = {iou = 1, format = 0.5}\n"
    assert faults(toml + "[mixture.coco-8]\ndata = 'x'\nthinking = true") == []
