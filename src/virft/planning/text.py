"""A plan in words: what takes how much, and what to write into the config."""

from __future__ import annotations

from virft.planning.fit import USED, Fit
from virft.planning.memory import Choice, Memory, Planner

GIB = 2**30


def plan_text(planner: Planner) -> str:
    """What the config's run is made of, and a table of its memory."""
    parameters = list(planner.loaded.model.parameters())
    total = sum(one.numel() for one in parameters)
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    question, choice = planner.question, planner.choice
    row = planner.row_shape(choice.microbatch_tokens)
    lines = [
        f"model       {total:,} parameters, {trained:,} of them trained",
        f"prompt      {question.prompt_tokens} tokens: {question.image_tokens} of a picture of "
        f"{question.image.width} x {question.image.height}, {question.text_tokens} of text",
        f"row         {planner.row_tokens(row):,} tokens: {row.groups} x (prompt + {row.completions} x "
        f"{planner.config.sampling.max_completion_tokens})",
        f"layers      {'checkpointed' if choice.gradient_checkpointing else 'not checkpointed'}",
        "",
        memory_text(planner.memory(choice)),
    ]
    return "\n".join(lines)


def memory_text(memory: Memory) -> str:
    """A table in GiB: what is held, each stage with its parts, the peak."""
    lines = ["held all the time", *(_line(name, size) for name, size in memory.held.items())]
    for stage, parts in memory.stages.items():
        lines += [f"{stage}, for its time", *(_line(name, size) for name, size in parts.items())]
    return "\n".join([*lines, _line("peak: held and the largest stage", memory.peak, indent=0)])


def fit_text(planner: Planner, fit: Fit | None, *, memory: int) -> str:
    """The settings to write so that the run fits, as TOML, or that nothing does."""
    named = f"{memory / GIB:.4g} GiB"
    if fit is None:
        held = sum(planner.held.values()) / GIB
        lines = [
            f"# Nothing fits into {USED:.0%} of {named}: {held:.1f} GiB are held all the time. Smaller: "
            'model.train = "lora",',
            '# model.dtype = "bfloat16", grpo.kl_coef = 0 in a full training (no reference), a smaller model.',
        ]
        return "\n".join(lines)
    peak = fit.memory.peak / GIB
    head = f"# The largest that fits into {USED:.0%} of {named}, with a peak of {peak:.1f} GiB:"
    return "\n".join([head, *_settings(planner, fit.choice, fit.max_pixels)])


def _settings(planner: Planner, choice: Choice, max_pixels: int | None) -> list[str]:
    lines = [f"model.gradient_checkpointing = {str(choice.gradient_checkpointing).lower()}"]
    if max_pixels is not None:
        lines.append(f"model.max_pixels = {max_pixels}")
    lines.append(f"{planner.trainer}.microbatch_tokens = {choice.microbatch_tokens}")
    if planner.trainer == "grpo":
        lines.append(f"sampling.prompts_per_batch = {choice.prompts_per_batch}")
    return lines


def _line(name: str, size: int, *, indent: int = 2) -> str:
    return f"{' ' * indent}{name}".ljust(40) + f"{size / GIB:8.2f} GiB"
