"""MkDocs hook, listed in mkdocs.yml: pages that are not files of docs/, namely the reference, and linked files.

A link out of docs/ must point to a file or folder of the repository: the file becomes a page of the site, and a folder
a page that lists its files.
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
    """Add the pages of the reference, one per top-level module or package, to the navigation."""
    config.nav.append({"Reference": [{name: f"reference/{name}.md"} for name in reference()]})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the pages of docs/."""
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
    """Replace links out of docs/ by links to the generated pages."""
    here = posixpath.dirname(page.file.src_uri)

    def replacement(match: re.Match[str]) -> str:
        target = match[1]
        name = f"{target}/index.md" if (ROOT / target).is_dir() else _page_of(target)
        return f"]({posixpath.relpath(name, here or '.')})"

    return LINK_OUT.sub(replacement, markdown)


def reference() -> dict[str, list[str]]:
    """Return the modules of each page of the reference by its name, without private modules."""
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
