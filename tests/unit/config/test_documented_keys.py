"""Every setting that a documentation page names exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from virft.config.schema import sections, setting_at

DOCS = Path(__file__).parents[3] / "docs"
PAGES = ("migration.md", "faq.md", "grpo.md", "rewards.md", "glossary.md")
_SECTIONS = "|".join(name for name in sections() if "." not in name)
_KEY = re.compile(rf"(?<![\w./-])(?:(?:{_SECTIONS})|mixture\.[A-Za-z0-9_-]+)\.[a-z][a-z0-9_]*")
"""A dotted key in a code span. Keys of other tools begin with `worker.`, `data.` and so on."""
OTHER_TOOLS = {
    "data.train_files", "data.val_files", "data.rollout_batch_size", "data.train_batch_size",
    "data.max_response_length", "data.max_pixels", "data.min_pixels",
}  # fmt: skip
"""Keys of EasyR1 and verl in the tables of migration.md, whose first parts are also sections of virft."""


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
