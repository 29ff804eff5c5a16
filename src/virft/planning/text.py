"""Text of a plan: memory by part, and the settings to write into the config."""

from __future__ import annotations

from virft.generation.slow_sampler import slow_sampler_warning
from virft.planning.device import GIB
from virft.planning.fit import USABLE_FRAC, Fit
from virft.planning.memory import Memory, Planner


def format_verdict(planner: Planner, fit: Fit | None, *, memory: int) -> str:
    """Format whether the config's run fits into ``memory`` bytes."""
    peak, usable = planner.memory(planner.configured).peak, int(USABLE_FRAC * memory)
    numbers = f"peak {peak / GIB:.2f} GiB, usable {usable / GIB:.2f} GiB ({USABLE_FRAC:.0%})"
    if peak <= usable:
        return f"This config fits into {memory / GIB:.4g} GiB: {numbers}."
    rest = "nothing does, see the last lines" if fit is None else "the settings in the last lines do"
    return f"THIS CONFIG DOES NOT FIT into {memory / GIB:.4g} GiB: {numbers}; {rest}."


def format_plan(planner: Planner) -> str:
    """Format the sizes of the config's run and a table of its memory."""
    parameters = list(planner.loaded.model.parameters())
    total = sum(one.numel() for one in parameters)
    trained = sum(one.numel() for one in parameters if one.requires_grad)
    prompt, option = planner.prompt, planner.configured
    row = planner.row_shape(option.microbatch_tokens)
    lines = [
        f"model       {total:,} parameters, {trained:,} of them trained",
        f"precision   {planner.config.model.dtype}",
        f"prompt      {prompt.prompt_tokens} tokens: {prompt.image_tokens} of an image of "
        f"{prompt.image.width} x {prompt.image.height}, {prompt.text_tokens} of text",
        f"row         {planner.row_tokens(row):,} tokens: {row.groups} x (prompt + {row.completions} x "
        f"{planner.config.sampling.max_completion_tokens})",
        f"layers      {'checkpointed' if option.gradient_checkpointing else 'not checkpointed'}",
        *_processes_line(planner),
        "",
        format_memory(planner.memory(option)),
    ]
    return "\n".join(lines)


def _processes_line(planner: Planner) -> list[str]:
    """The line about processes; none for a process that is alone."""
    processes = planner.processes
    if processes.count == 1:
        return []
    shared = "" if processes.group in (1, processes.count) else f" over groups of {processes.group}"
    return [f"processes   {processes.count}, {processes.strategy}{shared}; the memory below is that of one of them"]


def format_memory(memory: Memory) -> str:
    """Format a table in GiB: what is allocated throughout, on the host, each stage with its parts, the peak."""
    lines = ["throughout the run", *(_line(name, size) for name, size in memory.held.items())]
    if memory.host:
        lines += ["in main memory, not counted", *(_line(name, size) for name, size in memory.host.items())]
    for stage, parts in memory.stages.items():
        lines += [f"{stage}, while it runs", *(_line(name, size) for name, size in parts.items())]
    return "\n".join([*lines, _line("peak: throughout + largest stage", memory.peak, indent=0)])


def format_fit(planner: Planner, fit: Fit | None, *, memory: int) -> str:
    """Format the settings of a run that fits into ``memory`` bytes as TOML, or a comment that nothing fits."""
    device = f"{memory / GIB:.4g} GiB"
    if fit is None:
        held = sum(planner.held.values()) / GIB
        lines = [
            f"# Nothing fits into {USABLE_FRAC:.0%} of {device}: {held:.1f} GiB are allocated throughout. Smaller: "
            'model.train = "lora",',
            '# model.dtype = "bfloat16", grpo.kl_coef = 0 in a full training (no reference), a smaller model.',
        ]
        return "\n".join(lines)
    peak = fit.memory.peak / GIB
    head = f"# The largest that fits into {USABLE_FRAC:.0%} of {device}, with a peak of {peak:.1f} GiB:"
    return "\n".join([head, *_settings(planner, fit)])


def _settings(planner: Planner, fit: Fit) -> list[str]:
    lines = [f"model.gradient_checkpointing = {str(fit.option.gradient_checkpointing).lower()}"]
    if fit.max_pixels is not None:
        lines.append(f"model.max_pixels = {fit.max_pixels}")
    lines.append(f"{planner.method}.microbatch_tokens = {fit.option.microbatch_tokens}")
    if planner.method == "grpo":
        lines.append(f"sampling.prompts_per_batch = {fit.option.prompts_per_batch}")
    if fit.needs_exact_weights:
        lines.append('sampling.weights = "exact"  # no merged copy of the adapters: sampling is slower')
    return lines


def format_warnings(planner: Planner) -> str:
    """Format the warning that another engine would sample faster, with an empty line before it; "" without one."""
    warning = slow_sampler_warning(
        planner.config,
        planner.method,
        num_parameters=sum(one.numel() for one in planner.loaded.model.parameters()),
        on_vllm=planner.loaded.family.on_vllm,
        on_gpu=not planner.on_cpu,
    )
    return "" if warning is None else f"\n\nwarning: {warning}"


def _line(name: str, size: int, *, indent: int = 2) -> str:
    return f"{' ' * indent}{name}".ljust(40) + f"{size / GIB:8.2f} GiB"
