"""Every setting that a documentation page names exists, and names of other trainers mean the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from virft.config.other_names import find_other_name
from virft.config.schema import sections, setting_at

DOCS = Path(__file__).parents[3] / "docs"
TUTORIALS = ("tutorial_16_images.md", "tutorial_coco_to_report.md", "tutorial_qwen_24gb.md")
PAGES = ("migration.md", "faq.md", "grpo.md", "rewards.md", "glossary.md", *TUTORIALS)
_SECTIONS = "|".join(name for name in sections() if "." not in name)
_KEY = re.compile(rf"(?<![\w./-])(?:(?:{_SECTIONS})|mixture\.[A-Za-z0-9_-]+)\.[a-z][a-z0-9_]*")
"""A dotted key in a code span. Keys of other tools begin with `worker.`, `data.` and so on."""
OTHER_TOOLS = {
    "data.train_files", "data.val_files", "data.rollout_batch_size", "data.train_batch_size",
    "data.max_response_length", "data.max_pixels", "data.min_pixels",
}  # fmt: skip
"""Keys of EasyR1 and verl in the tables of migration.md, whose first parts are also sections of virft."""


COMMANDS = {"torchrun"}
"""Programs in the tables of migration.md, which are no settings."""


def named_keys(page: str) -> set[str]:
    """Return the settings that a page names in code spans and blocks of TOML and shell."""
    spans = re.findall(r"```.*?```|`[^`]+`", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    found = {match[0] for span in spans for match in _KEY.finditer(span)}
    files = {key for key in found if key.rpartition(".")[2] in ("py", "toml", "md", "jsonl")}
    return {key for key in found - files - OTHER_TOOLS if not key.startswith("reward.weights.")}


def exists(key: str) -> bool:
    try:
        setting_at(key)
    except KeyError:
        return False
    return True


@pytest.mark.parametrize("page", PAGES)
def test_settings_named_by_a_page_exist(page: str) -> None:
    assert {key for key in named_keys(page) if not exists(key)} == set()


def test_the_migration_page_names_most_settings_of_grpo() -> None:
    # the check above would pass on a page without keys
    assert len(named_keys("migration.md")) >= 40


def test_an_unknown_setting_is_found() -> None:
    assert not exists("grpo.group_sise")


def flags_of_other_trainers() -> Iterator[tuple[str, str, set[str]]]:
    """Section, flag and settings of each flag in the tables of migration.md; no settings: it has no counterpart."""
    section = ""
    for line in (DOCS / "migration.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line.removeprefix("## ")
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if section in ("Datasets", "Versions") or "three different units" in section or not line.startswith("| `"):
            continue
        is_verl = section.startswith("EasyR1")  # its tables have two columns of names
        names, virft = (" ".join(cells[:2]), cells[2]) if is_verl else (cells[0], cells[1])
        keys = {key for key in re.findall(r"`([^`]*)`", virft) if exists(key)}
        for span in re.findall(r"`([^`]*)`", names):
            # "--reward_funcs accuracy format" and "kl_loss_type=low_var_kl" begin with the name
            if (name := re.split(r"[ =:]", span.removeprefix("--"))[0].lower()) not in COMMANDS:
                yield section, name, keys


@pytest.mark.parametrize(("section", "flag", "keys"), list(flags_of_other_trainers()))
def test_a_flag_on_the_migration_page_is_recognized_with_the_same_meaning(
    section: str, flag: str, keys: set[str]
) -> None:
    other = find_other_name(flag)
    if other is None:
        # a name that virft uses too, such as max_grad_norm or learning_rate, needs no entry
        assert any(key.rpartition(".")[2] == flag.rpartition(".")[2] for key in keys)
    else:
        assert (set(other.keys) & keys) or not (other.keys or keys)


def test_the_migration_page_names_most_flags_of_other_trainers() -> None:
    assert len(list(flags_of_other_trainers())) >= 120
