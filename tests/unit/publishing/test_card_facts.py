"""What a card says of base and data, and that it names no folder of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from factories import sample, save_image
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.geometry.boxes import BoxSpace
from virft.publishing.card_facts import base_facts, card_facts, front_matter


def store(folder: Path, source: dict[str, object]) -> Store:
    save_image(folder / "a.png")
    with StoreWriter(folder / "foxes") as writer:
        writer.add_image_file("a.png", folder / "a.png")
        writer.add(sample())
        writer.finish(source=source, seed=0)
    return Store(folder / "foxes")


def readme(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(text)
    return folder


def test_a_hub_id_is_a_base_by_itself() -> None:
    assert base_facts("Qwen/Qwen2-VL-2B-Instruct") == {
        "name": "Qwen/Qwen2-VL-2B-Instruct",
        "hub_id": "Qwen/Qwen2-VL-2B-Instruct",
        "license": None,
    }


def test_the_built_in_model_says_its_licence() -> None:
    assert base_facts("virft-tiny") == {"name": "virft-tiny", "hub_id": None, "license": "apache-2.0"}


def test_a_folder_says_what_its_own_card_says(tmp_path: Path) -> None:
    folder = readme(tmp_path / "sft", "---\nbase_model: Qwen/Qwen2-VL-2B-Instruct\nlicense: mit\n---\n# a\n")
    assert base_facts(str(folder)) == {"name": "sft", "hub_id": "Qwen/Qwen2-VL-2B-Instruct", "license": "mit"}


@pytest.mark.parametrize(
    "text", ["", "# no head\n---\nlicense: mit\n---\n", "---\nlicense: mit\n", "---\n- a\n---\n", "---\na: [\n---\n"]
)
def test_a_card_without_a_readable_head_says_nothing(tmp_path: Path, text: str) -> None:
    folder = readme(tmp_path / "m", text)
    assert front_matter(folder / "README.md") == {}
    assert base_facts(str(folder)) == {"name": "m", "hub_id": None, "license": None}


@pytest.mark.parametrize(
    ("source", "hub_id"),
    [
        ({"kind": "visual_rft", "name": "laolao77/ViRFT_COCO", "licence": "cc-by-4.0"}, "laolao77/ViRFT_COCO"),
        ({"kind": "visual_rft", "name": "saved", "licence": "cc-by-4.0"}, None),
        ({"kind": "rows", "name": "a/b", "licence": "cc-by-4.0"}, None),
    ],
)
def test_data_are_named_by_hash_and_where_they_are_from(
    tmp_path: Path, source: dict[str, object], hub_id: str | None
) -> None:
    made = store(tmp_path, source)
    facts = card_facts(
        model="virft-tiny",
        box_space=BoxSpace.RELATIVE_1000,
        template="short",
        stores={"": made},
        dtype="bfloat16",
        device="cpu",
    )
    assert (facts["dtype"], facts["device"]) == ("bfloat16", "cpu")
    assert facts["data"] == [
        {
            "name": "foxes",
            "hash": made.hash,
            "num_samples": 1,
            "tasks": ["detection"],
            "hub_id": hub_id,
            "licence": "cc-by-4.0",
        }
    ]
    assert (facts["box_space"], facts["prompt_template"]) == ("relative_1000", "short")
    assert str(tmp_path) not in str(facts)
