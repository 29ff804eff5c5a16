"""The documentation site builds without warnings, with a reference made from the docstrings."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import virft

ROOT = Path(__file__).parents[2]

pytest.importorskip("mkdocs", reason="needs virft[docs]")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole site; a broken link, a page outside the navigation or an unknown module would fail here."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_reference_has_signatures_and_examples(site: Path) -> None:
    page = re.sub(r"<[^>]+>", "", (site / "reference" / "geometry.html").read_text(encoding="utf-8"))
    assert "intersection_over_union" in page
    assert "&gt;&gt;&gt; " in page
    assert "geometry.html" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


def test_what_pages_link_to_outside_docs_is_in_the_site(site: Path) -> None:
    assert 'href="examples/index.html"' in (site / "tour.html").read_text(encoding="utf-8")
    listed = (site / "examples" / "index.html").read_text(encoding="utf-8")
    assert 'href="01_reward.py.html"' in listed
    assert (site / "examples" / "01_reward.py.html").is_file()


def test_public_names_and_internal_modules_are_separate(site: Path) -> None:
    public = (site / "reference" / "public.html").read_text(encoding="utf-8")
    names = set(re.findall(r'<h2 id="virft\.(\w+)"', public))
    assert names == set(virft.__all__)
    for result in ("virft.inference.result.Result", "virft.recipes.results.Run"):
        assert f'id="{result}"' in public
    assert "Internal: may change" not in public
    assert "Internal: may change" in (site / "reference" / "recipes.html").read_text(encoding="utf-8")


def test_notebooks_are_pages_with_their_outputs(site: Path) -> None:
    page = (site / "examples" / "quickstart.ipynb.html").read_text(encoding="utf-8")
    assert 'src="data:image/png;base64,' in page
    assert 'href="your_own_images.ipynb.html"' in page
    assert '<th scope="row">confidence</th>' in page


def test_sources_are_no_search_results(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {one["location"].partition("#")[0] for one in index["docs"]}
    assert {"api.html", "examples/quickstart.ipynb.html", "reference/public.html"} <= found
    assert [one for one in found if one.startswith("benchmarks/") or one.endswith(".py.html")] == []


@pytest.mark.parametrize(
    "query",
    [
        "OOM",
        "out of memory",
        "CUDA",
        "notebook",
        "early stopping",
        "bbox_2d",
        "box_start",
        "reward stuck at 0",
        "install",
    ],
)
def test_a_search_finds_the_faq(site: Path, query: str) -> None:
    # the theme ranks a hit in a title above all others, and the FAQ above other pages
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    sections = [one for one in index["docs"] if one["location"].startswith("faq.html#")]
    titles = [re.sub(r"<[^>]+>", " ", one["title"]).lower() for one in sections]
    words_of_titles = [set(re.split(index["config"]["separator"], title)) for title in titles]
    assert any(set(query.lower().split()) <= words for words in words_of_titles)
    assert all(one["boost"] == 2 for one in sections)


def test_the_link_to_the_repository_fetches_nothing(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="https://github.com/virft/virft"' in page
    assert 'data-md-component="source"' not in page


def test_the_site_fetches_nothing_from_another_host(site: Path) -> None:
    page = (site / "index.html").read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|link rel="(?:stylesheet|preconnect)")[^>]*(?:src|href)="https?:', page) == []
