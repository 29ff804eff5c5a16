"""The shipped classes, sprites and photographs."""

import json
from collections import Counter
from importlib.resources import files
from pathlib import Path

import pytest

from virft.scenes.assets import (
    BASE_STYLES,
    TEST_STYLES,
    THING,
    TRAIN_STYLES,
    Split,
    Style,
    background,
    background_files,
    class_names,
    group_names,
    group_of,
    scene_classes,
    sprite,
    styles_of,
    thing_names,
)

ASSETS = files("virft.scenes") / "assets"
BACKGROUNDS = json.loads((ASSETS / "backgrounds.json").read_text())
MAY_BE_SHIPPED = {"CC0-1.0", "public domain", "CC-BY-2.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0"}


def test_there_are_64_base_8_novel_and_8_heldout_classes() -> None:
    assert [len(class_names(split)) for split in ("base", "novel", "heldout")] == [64, 8, 8]
    assert len(class_names()) == 80


def test_every_group_has_one_novel_and_one_heldout_class() -> None:
    assert len(group_names()) == 8
    for split in ("novel", "heldout"):
        assert Counter(scene_classes()[name].group for name in class_names(split)) == dict.fromkeys(group_names(), 1)


def test_look_alike_sets_have_at_least_three_classes_of_one_group() -> None:
    sets: dict[str, list[str]] = {}
    for row in scene_classes().values():
        if row.lookalikes:
            sets.setdefault(row.lookalikes, []).append(row.group)
    assert len(sets) >= 10
    for groups in sets.values():
        assert len(groups) >= 3
        assert len(set(groups)) == 1


def test_no_class_name_is_a_group_name() -> None:
    assert set(class_names()).isdisjoint(group_names())


@pytest.mark.parametrize("style", (*TRAIN_STYLES, *TEST_STYLES))
def test_every_class_has_a_sprite_that_fills_its_frame(style: Style) -> None:
    for name in class_names():
        image = sprite(name, style)
        left, top, right, bottom = image.getchannel("A").point(lambda alpha: 255 * (alpha > 16)).getbbox() or (
            9,
            9,
            0,
            0,
        )
        # Shrinking a sprite can leave a faint row at an edge.
        assert max(left, top, image.width - right, image.height - bottom) <= 1, name
        assert 48 <= max(image.size) <= 96, name


@pytest.mark.parametrize("style", TRAIN_STYLES)
def test_every_thing_has_a_sprite_in_the_training_styles(style: Style) -> None:
    assert len(thing_names()) > 300
    for name in thing_names():
        assert 40 <= max(sprite(name, style).size) <= 64, name


def test_the_additional_styles_of_the_models_training_have_only_base_classes_and_things() -> None:
    additional = tuple(style for style in BASE_STYLES if style not in TRAIN_STYLES)
    assert set(additional).isdisjoint(TEST_STYLES)
    for split in ("novel", "heldout"):
        for name in class_names(split):
            assert styles_of(name, BASE_STYLES) == TRAIN_STYLES, name
            with pytest.raises(KeyError):
                sprite(name, additional[0])
    drawn = [style for name in (*class_names("base"), *thing_names()) for style in styles_of(name, additional)]
    assert min(Counter(drawn).values()) > 300
    for name in ("hot dog", "cat", "anchor"):
        assert styles_of(name, BASE_STYLES) == BASE_STYLES
        for style in additional:
            assert 40 <= max(sprite(name, style).size) <= 64


def test_no_thing_is_a_class() -> None:
    assert set(thing_names()).isdisjoint(name.replace(" ", "_") for name in class_names())
    assert group_of("anchor") == THING
    assert group_of("cat") == "animal"


def test_no_photograph_serves_both_training_and_test() -> None:
    train, test = background_files(Split.TRAIN), background_files(Split.TEST)
    assert (len(train), len(test)) == (26, 11)
    assert set(train).isdisjoint(test)
    assert len({row["origin"] for row in BACKGROUNDS}) == len(BACKGROUNDS) == 37


def test_every_photograph_is_large_enough_to_crop() -> None:
    for row in BACKGROUNDS:
        assert min(background(row["file"]).size) >= 112, row["file"]


def test_every_photograph_may_be_shipped_and_is_named_in_notice() -> None:
    notice = (Path(__file__).parents[3] / "NOTICE").read_text()
    for row in BACKGROUNDS:
        assert row["licence"] in MAY_BE_SHIPPED, row["file"]
        assert f"{row['author']}; {row['origin']}; {row['licence']}" in notice, row["file"]


def test_the_assets_are_small() -> None:
    folder = Path(str(ASSETS))
    sprites = sum(path.stat().st_size for path in folder.glob("sprites/*/*.webp"))
    photographs = sum(path.stat().st_size for path in folder.glob("backgrounds/*.jpg"))
    things = sum(path.stat().st_size for path in folder.glob("things/*.zip"))
    assert sprites < 3 * 2**20
    assert things < 3 * 2**20
    assert photographs < 3 * 2**20
    assert sprites + things + photographs < 8 * 2**20
