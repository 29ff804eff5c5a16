"""Pages of the documentation site that are no files of docs/: the reference, and files that pages link to.

A hook of MkDocs, named in mkdocs.yml. A link out of docs/ must lead to a file or folder of the repository: the file's
text becomes a part of the site, and a folder a page that lists its files.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "virft"
LINK_OUT = re.compile(r"\]\(\.\./([^)#]+)\)")
TEXTS = (".toml", ".py", ".md")


def on_config(config: Any) -> Any:
    """A page of the reference for each module and each package at the top, below one tab."""
    config.nav.append({"Reference": [{name: f"reference/{name}.md"} for name in reference()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """The pages that are made, among those that are read."""
    for name, modules in reference().items():
        text = "\n".join([f"# {name}", *(f"\n::: {module}" for module in modules), ""])
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    linked = {target for page in (ROOT / "docs").glob("*.md") for target in LINK_OUT.findall(page.read_text("utf-8"))}
    for path in sorted({one for target in linked for one in _files_of(target)}):
        text = path.read_text(encoding="utf-8")
        shown = text if path.suffix == ".md" else f"# {path.name}\n\n```{path.suffix[1:]}\n{text}\n```\n"
        files.append(_unlisted(config, _page_of(path.relative_to(ROOT).as_posix()), shown))
    for target in linked:
        if (ROOT / target).is_dir():
            names = "".join(f"- [{path.name}]({_page_of(path.name)})\n" for path in _files_of(target))
            files.append(_unlisted(config, f"{target}/index.md", f"# {target}\n\n{names}"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links out of docs/ as links to what was made of their files."""
    here = posixpath.dirname(page.file.src_uri)

    def made(match: re.Match[str]) -> str:
        target = match[1]
        name = f"{target}/index.md" if (ROOT / target).is_dir() else _page_of(target)
        return f"]({posixpath.relpath(name, here or '.')})"

    return LINK_OUT.sub(made, markdown)


def reference() -> dict[str, list[str]]:
    """Name of a page -> the modules on it; what begins with an underscore is nobody's business."""
    pages: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1].startswith("_"):
            continue
        pages.setdefault(parts[0], []).append(".".join(("virft", *parts)))
    return dict(sorted(pages.items()))


def _files_of(target: str) -> list[Path]:
    path = ROOT / target
    return [one for one in sorted(path.iterdir()) if one.suffix in TEXTS] if path.is_dir() else [path]


def _page_of(name: str) -> str:
    return name if name.endswith(".md") else f"{name}.md"


def _unlisted(config: Any, name: str, text: str) -> File:
    return File.generated(config, name, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
