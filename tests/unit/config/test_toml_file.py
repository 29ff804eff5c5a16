"""TOML to the tree and back; every mistake is reported with the file or command line that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virft.config.schema import MixtureConfig
from virft.config.toml_file import SettingDifference, dump, first_difference, load_config, parse
from virft.errors import ConfigError

SMALLEST = 'data.train = "coco8"\nrun.dir = "runs/a"\n'


def message_of(text: str, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text, origin="x.toml", overrides=overrides)
    return str(caught.value)


def test_smallest_file_gives_the_defaults() -> None:
    loaded = parse(SMALLEST, origin="x.toml")
    assert loaded.config.data.train == "coco8"
    assert loaded.config.grpo.steps == 200
    assert loaded.explicit == {"data.train", "run.dir"}


def test_override_wins_over_the_file() -> None:
    loaded = parse(SMALLEST + "[grpo]\nsteps = 5", origin="x.toml", overrides=["grpo.steps=7", "grpo.kl_coef=0"])
    assert loaded.config.grpo.steps == 7
    assert loaded.config.grpo.kl_coef == 0.0
    assert type(loaded.config.grpo.kl_coef) is float
    assert loaded.explicit == {"data.train", "run.dir", "grpo.steps", "grpo.kl_coef"}


def test_override_of_a_text_needs_no_quotes() -> None:
    loaded = parse(SMALLEST, origin="x", overrides=["model.path=2024", "model.train=lora", 'run.dir="a b"'])
    assert loaded.config.model.path == "2024"
    assert loaded.config.model.train == "lora"
    assert loaded.config.run.dir == "a b"


def test_override_takes_lists_and_entries_of_a_table() -> None:
    overrides = ["reward.extra=['a.py:f', 'b.py:g']", "reward.weights.format=0", "reward.weights.iou=2"]
    loaded = parse(SMALLEST + "reward.weights = {iou = 1, confidence = 3}", origin="x.toml", overrides=overrides)
    assert loaded.config.reward.extra == ("a.py:f", "b.py:g")
    assert loaded.config.reward.weights == {"iou": 2.0, "confidence": 3.0, "format": 0.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grpo]\ngroup_sise = 4", "x.toml: grpo.group_sise is not a setting; did you mean grpo.group_size?"),
        ("[grpo]\nlora_rank = 4", "x.toml: grpo.lora_rank is not a setting; did you mean model.lora_rank?"),
        ("[gpro]\nsteps = 4", "x.toml: gpro.steps is not a setting; did you mean grpo.steps?"),
        ("sead = 4", "x.toml: sead is not a setting; did you mean seed?"),
        ("quite = 'other'", "x.toml: quite is not a setting; expected seed or a key of model, data, augment, "),
        ("lr = 1e-4", "x.toml: lr is not a setting; did you mean grpo.learning_rate or sft.learning_rate?"),
        ("[sft]\nlr = 1e-4", "x.toml: sft.lr is not a setting; did you mean sft.learning_rate?"),
        ("[grpo]\nnum_generations = 4", "x.toml: grpo.num_generations is not a setting; did you mean grpo.group_size?"),
        (
            "[grpo]\nmax_completion_length = 4",
            "x.toml: grpo.max_completion_length is not a setting; did you mean sampling",
        ),
        ("[augment]\nzoom = 0.3", "x.toml: augment.zoom is not a setting; did you mean augment.resized_crop?"),
        ("[actor.optim]\nlr = 1", "x.toml: actor.optim.lr is not a setting; did you mean grpo.learning_rate or sft."),
        ("[prompt]\nxyz = 1", "x.toml: prompt.xyz is not a setting; [prompt] has template, thinking, zoom_calls"),
        ("grpo = 3", "x.toml: grpo is 3; expected a table [grpo]"),
        ("model.path = ''", "x.toml: model.path is empty; expected a text"),
        ("data.validation = ' '", "x.toml: data.validation is empty; expected a folder"),
        ("grpo.steps = 2.0", "x.toml: grpo.steps is 2.0; expected an integer of at least 1"),
        ("grpo.steps = '2'", 'x.toml: grpo.steps is "2"; expected an integer of at least 1'),
        ("grpo.scale_by_std = 1", "x.toml: grpo.scale_by_std is 1; expected true or false"),
        ("grpo.steps = [1]", "x.toml: grpo.steps is [1]; expected an integer of at least 1"),
        ("grpo.kl_coef = inf", "x.toml: grpo.kl_coef is inf; expected a number of at least 0"),
        ("reward.preset = 'robst'", 'x.toml: reward.preset is "robst"; expected one of "robust", "paper"'),
        ("reward.extra = 'a.py:f'", 'x.toml: reward.extra is "a.py:f"; expected a list of strings'),
        ("reward.weights.iou = 'a'", "x.toml: reward.weights is {'iou': 'a'}; expected a table of numbers, each of"),
        ("model.lora_rank = 8", 'x.toml: model.lora_rank has no effect: it needs model.train = "lora", which is "full'),
        ("grpo.clip_range = 0.1", "x.toml: grpo.clip_range has no effect: it needs grpo.updates_per_batch above 1"),
        ("seed = 1979-05-27", "x.toml: seed is 1979-05-27; expected an integer of at least 0"),
        ("seed = ", "x.toml: not valid TOML: "),
    ],
)
def test_mistake_in_a_file_says_where_found_and_allowed(text: str, message: str) -> None:
    assert message_of(SMALLEST + text).startswith(message)


def test_mistake_on_the_command_line_says_so() -> None:
    assert message_of(SMALLEST, ("grpo.steps=many",)) == (
        'command line: grpo.steps is "many"; expected an integer of at least 1'
    )
    assert message_of(SMALLEST, ("steps",)) == (
        "command line: 'steps' is no override; expected key=value, such as grpo.steps=10"
    )
    assert message_of(SMALLEST, ("grpo.clip_range=0.1",)).startswith("command line: grpo.clip_range has no effect")


def test_missing_setting_is_named() -> None:
    assert message_of("run.dir = 'a'").startswith("x.toml: data.train is missing; expected a folder")
    assert message_of("data.train = 'a'").startswith("x.toml: run.dir is missing; expected a folder")
    assert message_of(SMALLEST, ("run.dir=",)) == "command line: run.dir is empty; expected a folder"


MIXED = """
run.dir = "runs/a"

[mixture.coco-8]
data = "coco8"
weight = 3

[mixture.planes]
data = "planes"
thinking = true
preset = "paper"
"""


def test_a_mixture_is_a_table_for_each_set() -> None:
    config = parse(MIXED, origin="x.toml", overrides=["mixture.planes.weight=0.5", "mixture.planes.data=2024"]).config
    assert list(config.mixture) == ["coco-8", "planes"]
    assert config.mixture["coco-8"] == MixtureConfig(data="coco8", weight=3.0)
    assert config.mixture["planes"] == MixtureConfig(data="2024", weight=0.5, thinking=True, preset="paper")
    assert parse(dump(config), origin="config.toml").config == config


def test_a_third_set_can_be_added_on_the_command_line() -> None:
    config = parse(MIXED, origin="x.toml", overrides=["mixture.cars.data=cars"]).config
    assert list(config.mixture) == ["coco-8", "planes", "cars"]
    assert first_difference(parse(MIXED, origin="x").config, config) == SettingDifference(
        "mixture.cars.data", None, "cars"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (MIXED + "wieght = 2", "x.toml: mixture.planes.wieght is not a setting; did you mean mixture.planes.weight?"),
        (MIXED + "weight = 0", "x.toml: mixture.planes.weight is 0; expected a number above 0"),
        (MIXED + "weight = 'a'", 'x.toml: mixture.planes.weight is "a"; expected a number above 0'),
        (MIXED + "[mixture.cars]\nweight = 1", "x.toml: mixture.cars.data is missing; expected a folder"),
        ("run.dir = 'a'\nmixture = 3", "x.toml: mixture is 3; expected tables [mixture.NAME]"),
        ("run.dir = 'a'\nmixture.data = 'x'", "x.toml: mixture is {'data': 'x'}; expected tables [mixture.NAME]"),
        ("run.dir = 'a'\nmixture.'a b'.data = 'x'", "x.toml: mixture.a b.data is not a setting"),
        (MIXED + "[data]\ntrain = 'c'", 'x.toml: data.train is "c" with a mixture'),
    ],
)
def test_a_mistake_in_a_mixture_names_its_dataset(text: str, message: str) -> None:
    assert message_of(text).startswith(message)


def test_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read \(No such file"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "mine.toml").touch()
    with pytest.raises(ConfigError, match=rf"mine\.tml: cannot be read .*; did you mean {tmp_path}/mine\.toml\?"):
        load_config(tmp_path / "mine.tml")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    with pytest.raises(ConfigError, match=r"latin\.toml: not UTF-8 text"):
        load_config(tmp_path / "latin.toml")


@given(
    steps=st.integers(1, 10**6),
    rate=st.floats(1e-12, 1.0),
    train=st.sampled_from(["full", "lora"]),
    extra=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=3),
    weight=st.floats(0, 100),
    pixels=st.none() | st.integers(1, 10**9),
)
def test_resolved_text_reads_back_as_the_same_tree(
    steps: int, rate: float, train: str, extra: list[str], weight: float, pixels: int | None
) -> None:
    config = parse(SMALLEST, origin="x", overrides=[f"model.train={train}"]).config
    object.__setattr__(config.grpo, "steps", steps)
    object.__setattr__(config.grpo, "learning_rate", rate)
    object.__setattr__(config.reward, "extra", tuple(extra))
    object.__setattr__(config.reward, "weights", {"iou": weight})
    object.__setattr__(config.model, "max_pixels", pixels)
    again = parse(dump(config), origin="config.toml").config
    assert again == config
    assert first_difference(again, config) is None


def test_resolved_text_leaves_out_what_has_no_effect() -> None:
    text = dump(parse(SMALLEST, origin="x").config)
    assert "\nlora_rank" not in text
    assert '# model.lora_rank has no effect: it needs model.train = "lora", which is "full"' in text
    assert "# model.max_pixels is not set" in text


def test_first_difference_follows_the_order_of_the_tree() -> None:
    left = parse(SMALLEST, origin="x", overrides=["grpo.steps=5", "seed=1"]).config
    right = parse(SMALLEST, origin="x", overrides=["grpo.steps=6", "seed=2"]).config
    found = first_difference(left, right)
    assert found == ("seed", 1, 2)
    assert first_difference(left, left) is None


def test_difference_without_effect_does_not_count() -> None:
    left = parse(SMALLEST, origin="x").config
    right = parse(SMALLEST, origin="x").config
    object.__setattr__(right.model, "lora_rank", 99)
    assert first_difference(left, right) is None


@pytest.mark.parametrize("value", ["[" * 100_000, "9" * 5000], ids=["brackets", "a number of 5,000 digits"])
def test_a_value_that_no_parser_takes_is_refused_with_its_file(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^x\.toml: not valid TOML"):
        parse(f"grpo.steps = {value}", origin="x.toml")
    with pytest.raises(ConfigError, match=r"^command line: grpo\.steps"):
        parse("", origin="x.toml", overrides=[f"grpo.steps={value}"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grpo]\nlearning_rate = " + "9" * 400, "x.toml: has an integer of more than 300 digits; expected one "),
        ("seed = 0x" + "f" * 5000, "x.toml: has an integer of more than 300 digits; expected one that a float can"),
        ("[[grpo.steps]]\na = [[0x" + "f" * 5000 + "]]", "x.toml: has an integer of more than 300 digits"),
        ("grpo." + "a." * 400 + "b = 1", "x.toml: has tables or lists nested over 8 deep; expected settings in"),
        ("seed = " + "[" * 100 + "]" * 100, "x.toml: has tables or lists nested over 8 deep"),
        ("seed = " + "[" * 3000, "x.toml: not valid TOML: "),
        ("a" * 100_000 + " = 1", "x.toml: " + "a" * 80 + " is not a setting; expected seed or a key of model"),
    ],
)
def test_a_monster_is_refused_with_its_file(text: str, message: str) -> None:
    found = message_of(text)
    assert found.startswith(message)
    assert len(found) < 400


def test_a_monster_on_the_command_line_is_refused() -> None:
    assert message_of(SMALLEST, ("seed=0x" + "f" * 5000,)).startswith("command line: has an integer of more than 300")


def test_a_file_of_megabytes_is_not_read_as_a_config(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text("# " + "x" * 2**20)
    with pytest.raises(ConfigError, match=r"x\.toml: larger than 1 MiB; expected a TOML file of settings"):
        load_config(tmp_path / "x.toml")


def test_the_old_name_of_a_section_leads_to_the_new_one() -> None:
    with pytest.raises(ConfigError, match=r"guards\.max_kl is not a setting; did you mean monitors\.max_kl\?"):
        parse("[guards]\nmax_kl = 1.0", origin="x.toml")
