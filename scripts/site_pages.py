"""MkDocs hook, listed in mkdocs.yml: pages that are not files of docs/, namely the reference, and linked files.

A link out of docs/ must point to a file or folder of the repository: the file becomes a page of the site, and a folder
a page that lists its files.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "virft"
LINK_OUT = re.compile(r"\]\(\.\./([^)#]+)\)")
LINK = re.compile(r"\]\(([^):#]+(?:#[^)]*)?)\)")
REPOSITORY = "https://github.com/virft/virft"
TEXTS = (".toml", ".py", ".md", ".ipynb")
PUBLIC = "reference/public.md"
RESULTS = (
    "virft.inference.model.Model",
    "virft.inference.result.Result",
    "virft.recipes.datasets.BuiltDatasets",
    "virft.recipes.results.Run",
    "virft.recipes.results.Records",
    "virft.recipes.results.ReportPage",
    "virft.recipes.results.Evaluation",
    "virft.recipes.single_reward.ExplainedReward",
)
"""Classes that public functions return."""


def on_config(config: Any) -> Any:
    """Add to the reference of the navigation the public API, and the internal modules, one page per package."""
    internals = [{name: f"reference/{name}.md"} for name in reference()]
    (pages,) = (group["Reference"] for group in config.nav if "Reference" in group)
    pages += [{"Public API": [{"Names and results": PUBLIC}]}, {"Internals": internals}]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages to the pages of docs/."""
    files.append(File.generated(config, PUBLIC, content=public_page()))
    for name, modules in reference().items():
        text = "\n".join([f"# {name}", INTERNAL, *(f"\n::: {module}" for module in modules), ""])
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    linked = {target for page in (ROOT / "docs").glob("*.md") for target in LINK_OUT.findall(page.read_text("utf-8"))}
    for path in sorted({one for target in linked for one in _files_of(target)}):
        # sources and benchmark results would be the first hits of many searches
        head = "" if path.suffix == ".ipynb" else NOT_SEARCHED
        files.append(_unlisted(config, _page_of(path.relative_to(ROOT).as_posix()), head + _page_text(path)))
    for target in linked:
        if (ROOT / target).is_dir():
            names = "".join(f"- [{path.name}]({_page_of(path.name)})\n" for path in _files_of(target))
            files.append(_unlisted(config, f"{target}/index.md", f"{NOT_SEARCHED}# {target}\n\n{names}"))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links out of docs/ by links to the generated pages.

    The landing page has no side bars, and the FAQ is the first hit of a search.
    """
    if page.file.src_uri == "index.md":
        page.meta["hide"] = ["navigation", "toc"]
    if page.file.src_uri == "faq.md":
        page.meta["search"] = {"boost": 2}
    here = posixpath.dirname(page.file.src_uri)

    def replacement(match: re.Match[str]) -> str:
        target = match[1]
        name = f"{target}/index.md" if (ROOT / target).is_dir() else _page_of(target)
        return f"]({posixpath.relpath(name, here or '.')})"

    return LINK_OUT.sub(replacement, markdown)


NOT_SEARCHED = "---\nsearch:\n  exclude: true\n---\n\n"
INTERNAL = "\nInternal: may change between versions. The public names are on [Python API](../api.md).\n"


def public_page() -> str:
    """Return the page of the public names and of the classes that they return, from their docstrings."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    (names,) = (ast.literal_eval(node.value) for node in tree.body if _assigns(node, "__all__"))
    lines = ["# Public API", "\nWith examples: [Python API](../api.md).\n"]
    lines += [f"\n::: virft.{name}" for name in sorted(names, key=str.lower)]
    lines += ["\n## Results\n", *(f"\n::: {name}" for name in RESULTS)]
    return "\n".join([*lines, ""])


def notebook_text(path: Path) -> str:
    """Return a notebook as Markdown: its text, its programs, and their outputs with images and tables."""
    parts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = re.sub(r"\]\(\.\./docs/", "](../", source)
            parts.append(re.sub(r"\]\(([\w./]+\.(?:ipynb|py))\)", r"](\1.md)", source))
        else:
            parts += [f"```python\n{source}\n```", *map(_output_text, cell["outputs"])]
    return "\n\n".join([*parts, ""])


def reference() -> dict[str, list[str]]:
    """Return the modules of each page of the reference by its name, without private modules."""
    pages: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1].startswith("_"):
            continue
        pages.setdefault(parts[0], []).append(".".join(("virft", *parts)))
    return dict(sorted(pages.items()))


def _assigns(node: ast.stmt, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(one, ast.Name) and one.id == name for one in node.targets)


def _output_text(output: dict[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})"
    if "text/html" in data:
        return "\n".join(line.strip() for line in "".join(data["text/html"]).splitlines() if line.strip())
    return f"```text\n{''.join(data['text/plain']).rstrip()}\n```"


def _page_text(path: Path) -> str:
    if path.suffix == ".ipynb":
        return notebook_text(path)
    text = path.read_text(encoding="utf-8")
    if path.parent == ROOT and path.suffix == ".md":
        text = LINK.sub(_link_of_root_page, text)
    return text if path.suffix == ".md" else f"# {path.name}\n\n```{path.suffix[1:]}\n{text}\n```\n"


def _link_of_root_page(match: re.Match[str]) -> str:
    """Replace a link of a page such as CONTRIBUTING.md: pages of docs/ are next to it, other files are not."""
    target = match[1]
    if target.startswith("docs/"):
        return f"]({target.removeprefix('docs/')})"
    return f"]({REPOSITORY}/blob/main/{target})" if (ROOT / target.partition("#")[0]).is_file() else match[0]


def _files_of(target: str) -> list[Path]:
    path = ROOT / target
    return [one for one in sorted(path.iterdir()) if one.suffix in TEXTS] if path.is_dir() else [path]


def _page_of(name: str) -> str:
    return name if name.endswith(".md") else f"{name}.md"


def _unlisted(config: Any, name: str, text: str) -> File:
    return File.generated(config, name, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
