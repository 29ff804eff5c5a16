"""Verb ``compare``: base, SFT, RFT and mix on the same data and budget. Imports are inside: help needs none of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from virft.cli.output import say
from virft.cli.parsers import Verbs, add_config, add_resume, add_verb
from virft.report import REPORT


def add_compare(verbs: Verbs) -> None:
    """Add the parser of ``compare``."""
    verb = add_verb(verbs, "compare", "compare base, SFT and GRPO on the same data and budget", compare)
    add_config(verb, example="compare.seeds=1", sections=("data", "compare", "model", "grpo", "sft", "reward", "run"))
    add_resume(verb, "a comparison")


def compare(*, config: Path | None, overrides: Sequence[str] = (), resume: bool = False) -> None:
    """Train and evaluate the systems of a config; print the differences and write a page of them."""
    compare_and_report(config, overrides, resume=resume)


def compare_and_report(
    config: Path | None,
    overrides: Sequence[str] = (),
    *,
    resume: bool,
    after_run: Callable[[], None] | None = None,
) -> None:
    """As ``compare``, with ``after_run`` as in ``run_compare``."""
    from virft.recipes.compare.page import compare_page
    from virft.recipes.compare.runs import COMPARE, RESULT, run_compare
    from virft.recipes.fitting import load_fitted_config, untuned_warnings

    loaded = load_fitted_config(config, overrides, method="compare", saved=COMPARE if resume else None)
    settings, warnings = loaded.config, untuned_warnings(loaded)
    from virft.recipes.compare.text import compared_text

    found = run_compare(settings, resume=resume, log=say, warnings=warnings, after_run=after_run)
    page = Path(settings.run.dir) / REPORT
    html = compare_page(
        found,
        title="Base, supervised, reinforced",
        intro="The same samples, the same budget "
        f"({settings.compare.budget}) and the same tests for each method. Seeds per method: {settings.compare.seeds}."
        + "".join(f" Warning: {warning}." for warning in warnings),
    )
    page.write_text(html, encoding="utf-8", errors="backslashreplace")
    say(compared_text(found))
    for warning in warnings:
        say(f"warning: {warning}")
    say(f"all numbers: {Path(settings.run.dir) / RESULT}; report: {page}")
