"""Documents, docstrings, comments and messages use the field's standard terms.

One term for one thing, so that a reader who searches for "ground truth" or "KV cache" finds it.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# each entry: a pattern, and what to write instead
REPLACEMENTS = {
    r"told|tells?": "reported, printed, logged, recorded; 'distinguished' for 'told apart'",
    r"asked|asks|asking": "prompted, queried, evaluated, requested",
    r"paid|pays?|paying|worth": "rewarded, reward",
    r"right answers?|what is right|is right|are right": "ground truth, target, correct",
    r"pictures?": "image",
    r"another look|looks? (?:at|like|into)|looked|looking": "augmentation, preview, inspect",
    r"go(?:es)? on|going on|gone on|went on": "resume, continue",
    r"shared? out|shares out|sharing out": "shard, sharded",
    r"shares? of|the share|a share": "fraction",
    r"so many|so often|so much|that many": "N, every N steps",
    r"spread": "reward standard deviation, non-zero reward variance; 'evenly spaced'",
    r"in words": "format, describe, as text",
    r"of this set|how sure|how far a number": "for this dataset; confidence interval",
    r"taken for": "confusion matrix, mistaken for",
    r"cheat(?:s|ed|ing|er)?": "reward hacking, exploit, probe",
    r"stands?|stood": "is stored, is listed, is shown next to",
    r"noise": "random numbers, random stream",
    r"at once": "in one batch, concurrently, immediately",
    r"further": "additional, more",
    r"to be had|is there|are there": "available, exists",
    r"by hand": "manually",
    r"left out|leaves? out|leaving out": "skipped, excluded",
    r"spoilt|broken": "non-finite, invalid, corrupt",
    r"kept|keeps": "cached, retained, saved",
    r"fast way|a way back|way back": "fast path, rollback",
    r"beside": "next to, in addition to",
    r"nobody|no one|everybody": "name the subject",
}
_BANNED = re.compile(r"(?<![\w`./-])(?:" + "|".join(REPLACEMENTS) + r")(?![\w`/-])", re.IGNORECASE)

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CODE_OF_CONDUCT.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "src" / "virft").rglob("*.jinja")),
    *sorted((ROOT / "src" / "virft").rglob("*.html")),
    *sorted((ROOT / "configs").glob("*.toml")),
]
SOURCES = [
    path
    for folder in ("src", "examples", "scripts", "benchmarks", "fuzz")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

FINDABLE = (
    "ground truth",
    "confidence interval",
    "KV cache",
    "prefix sharing",
    "confusion matrix",
    "early stopping",
    "hyperparameter",
    "batch size",
    "gradient accumulation",
    "throughput",
    "reward hacking",
    "cross-entropy",
    "sharded",
    "out of memory",
    "OOM",
    "world size",
    "overfitting",
    "ablation",
    "baseline",
    "speedup",
    "on-policy",
    "off-policy",
    "rollout",
    "checkpoint",
    "logits",
    "tokenizer",
    "learning-rate schedule",
    "data augmentation",
    "horizontal flip",
    "colour jitter",
    "random resized crop",
    "few-shot",
    "zero-shot",
    "open-vocabulary",
    "mAP",
)


PROMPTS = ('QUESTION = "Is there {query} in this image?',)
"""Lines that a model reads: their wording is part of an experiment."""

_STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}


def _prose_of_code(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each comment and of each string with a space in it: docstrings, help, messages."""
    for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string
        elif token.type in _STRINGS and " " in token.string:
            for offset, line in enumerate(token.string.split("\n")):
                if not line.lstrip().startswith((">>>", "...")):
                    yield token.start[0] + offset, line


def _prose_of_document(path: Path) -> Iterator[tuple[int, str]]:
    is_code = False
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        is_code ^= line.lstrip().startswith("```")
        if not is_code:
            yield number, re.sub(r"`[^`]*`", "", line)


def _found(lines: Iterator[tuple[int, str]]) -> list[str]:
    prose = [(number, line) for number, line in lines if not any(one.split(" = ")[1] in line for one in PROMPTS)]
    return [f"{number}: {match[0]!r} in {line.strip()!r}" for number, line in prose for match in _BANNED.finditer(line)]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_use_the_standard_terms(path: Path) -> None:
    assert _found(_prose_of_document(path)) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_comments_and_messages_use_the_standard_terms(path: Path) -> None:
    assert _found(_prose_of_code(path)) == []


@pytest.mark.parametrize("term", FINDABLE)
def test_a_reader_finds_the_standard_term(term: str) -> None:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))]
    assert any(re.search(rf"\b{re.escape(term)}", text, re.IGNORECASE if term != "mAP" else 0) for text in texts)


_NAME_WORDS = {"told", "tell", "tells", "asked", "asks", "paid", "pays", "picture", "pictures", "spoilt", "cheat"}
_NAME_WORDS |= {"cheats", "cure", "worth", "spread", "stands", "wanted", "among", "looked"}
_NAME_PARTS = ("in_words", "look_at", "go_on", "share_out", "left_to", "so_many")

_MODULES = [path for path in SOURCES if path.is_relative_to(ROOT / "src")]
_NAMED = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py"))]
_Function = ast.FunctionDef | ast.AsyncFunctionDef


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        if isinstance(node, _Function | ast.ClassDef):
            yield node.lineno, node.name
        if isinstance(node, ast.arg):
            yield node.lineno, node.arg
        if isinstance(node, ast.AnnAssign | ast.Assign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield node.lineno, target.id


@pytest.mark.parametrize("path", _NAMED, ids=_relative)
def test_names_use_the_standard_terms(path: Path) -> None:
    found = [
        f"{line}: {name}"
        for line, name in _names(ast.parse(path.read_text(encoding="utf-8")))
        if _NAME_WORDS & set(name.lower().split("_")) or any(part in name for part in _NAME_PARTS)
    ]
    assert found == []


def _public_functions(body: list[ast.stmt]) -> Iterator[_Function]:
    for node in body:
        if isinstance(node, _Function) and (node.name[0] != "_" or node.name == "__call__"):
            yield node
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            yield from _public_functions(node.body)


def _own_nodes(function: _Function) -> Iterator[ast.AST]:
    """All nodes of a function, without those of functions inside of it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, _Function | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(node))


@pytest.mark.parametrize("path", _MODULES, ids=_relative)
def test_a_docstring_begins_with_what_you_get(path: Path) -> None:
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    documented = [node for node in nodes if isinstance(node, _Function | ast.ClassDef | ast.Module)]
    texts = [(getattr(node, "lineno", 1), ast.get_docstring(node) or "") for node in documented]
    opening = re.compile(r"(What|Whether|How|Which|Why|Of|That|Who|Where|When)\b")
    assert [f"{line}: {text.splitlines()[0]}" for line, text in texts if opening.match(text)] == []


_TENSORS = re.compile(r"\b(Tensor|NDArray|ndarray)\b")
_SHAPE = re.compile(r"\[[\w .,*+/()-]+\]|\bshape\b|\bscalar\b|\b[01]-d\b|same shape", re.IGNORECASE)


@pytest.mark.parametrize("path", _MODULES, ids=_relative)
def test_public_functions_on_tensors_state_shapes(path: Path) -> None:
    functions = _public_functions(ast.parse(path.read_text(encoding="utf-8")).body)
    missing = []
    for function in functions:
        arguments = [*function.args.args, *function.args.kwonlyargs, *function.args.posonlyargs]
        annotations = [one.annotation for one in arguments] + [function.returns]
        has_tensors = any(one is not None and _TENSORS.search(ast.unparse(one)) for one in annotations)
        if has_tensors and not _SHAPE.search(ast.get_docstring(function) or ""):
            missing.append(f"{function.lineno}: {function.name}")
    assert missing == []


@pytest.mark.parametrize("path", _MODULES, ids=_relative)
def test_public_functions_name_the_errors_that_they_raise(path: Path) -> None:
    missing = []
    for function in _public_functions(ast.parse(path.read_text(encoding="utf-8")).body):
        text = ast.get_docstring(function) or ""
        for node in _own_nodes(function):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                name = node.exc.func.id
                if name[0] != "_" and name != "AssertionError" and name not in text:
                    missing.append(f"{node.lineno}: {function.name} raises {name}")
    assert missing == []


_LARGE = 6
"""Fields from which on a dataclass has a docstring under each of them."""


def _undocumented_fields(node: ast.ClassDef) -> Iterator[str]:
    fields = [(i, one) for i, one in enumerate(node.body) if isinstance(one, ast.AnnAssign)]
    if len(fields) < _LARGE:
        return
    for i, one in fields:
        following = node.body[i + 1] if i + 1 < len(node.body) else None
        has_docstring = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
        has_help = isinstance(one.value, ast.Call) and any(word.arg == "help" for word in one.value.keywords)
        if not has_docstring and not has_help:
            yield f"{one.lineno}: {node.name}.{ast.unparse(one.target)}"


@pytest.mark.parametrize("path", _MODULES, ids=_relative)
def test_each_field_of_a_large_dataclass_has_a_docstring(path: Path) -> None:
    classes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ClassDef)]
    dataclasses = [one for one in classes if any("dataclass" in ast.unparse(line) for line in one.decorator_list)]
    assert [line for one in dataclasses if one.name[0] != "_" for line in _undocumented_fields(one)] == []


@pytest.mark.parametrize("package", ["models", "generation", "training"])
def test_numeric_code_is_commented(package: str) -> None:
    num_comments = num_lines = 0
    for path in (ROOT / "src" / "virft" / package).rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        num_lines += text.count("\n")
        tokens = tokenize.generate_tokens(io.StringIO(text).readline)
        num_comments += sum(one.type == tokenize.COMMENT for one in tokens)
    assert 1000 * num_comments / num_lines >= 25
