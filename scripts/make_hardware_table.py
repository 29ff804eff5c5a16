"""Write the hardware table of docs/memory.md: which known models fit on GPUs of 24, 48 and 80 GB, by the planner.

    python scripts/make_hardware_table.py [--check] [MODEL ...]

Takes some minutes. The table is between two markers; everything else on the page stays. ``--check`` compares the rows
of the given models and writes nothing.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from virft.config.schema import Config
from virft.config.toml_file import parse
from virft.models.known_models import known_model_ids, known_models
from virft.planning.fit import USABLE_FRAC
from virft.planning.memory import FitOption, Planner
from virft.types import ImageSize

PAGE = Path(__file__).parents[1] / "docs" / "memory.md"
BEGIN, END = "<!-- hardware table: scripts/make_hardware_table.py -->", "<!-- end of the hardware table -->"
SIZES = (24, 48, 80)
"""Memory of the GPUs in GiB."""

MODES = {
    "full": ('model.train="full"', 'grpo.optimizer="adamw_8bit"', "grpo.kl_coef=0"),
    "LoRA": ('model.train="lora"', "grpo.kl_coef=0.04"),
    "QLoRA": ('model.train="lora"', "grpo.kl_coef=0.04", "model.load_in_4bit=true"),
}
"""Settings of each training mode, in addition to ``COMMON``."""

COMMON = (
    'data.train="none"',
    'run.dir="none"',
    'model.dtype="bfloat16"',
    "grpo.group_size=8",
    "grpo.prompts_per_step=16",
    "sampling.max_completion_tokens=256",
)
IMAGE, TEXT_TOKENS = ImageSize(640, 480), 150


def settings(hub_id: str, mode: str) -> Config:
    """Return the config of a cell's run."""
    overrides = [*COMMON, f'model.path="{hub_id}"', *MODES[mode]]
    return parse("", origin="hardware table", overrides=overrides).config


def peak_gib(planner: Planner, *, checkpointing: bool) -> float:
    """Return the planned peak with one group in a row and four prompts in a sampling batch, in GiB."""
    option = FitOption(
        gradient_checkpointing=checkpointing, microbatch_tokens=planner.group_tokens, prompts_per_batch=4
    )
    return planner.memory(option).peak / 2**30


def row(hub_id: str) -> str:
    """Return the line of a model: for each way to train and size, the planned peak in GiB."""
    billions = known_models()[hub_id].num_parameters / 1e9
    cells = [hub_id, f"{billions:.2f} B"]
    for mode in MODES:
        config = settings(hub_id, mode)
        planner = Planner(config, image=IMAGE, text_tokens=TEXT_TOKENS)
        peaks = {"": peak_gib(planner, checkpointing=False), " c": peak_gib(planner, checkpointing=True)}
        if planner.merges_adapters:
            exact = replace(config, sampling=replace(config.sampling, weights="exact"))
            planner = Planner(exact, image=IMAGE, text_tokens=TEXT_TOKENS)
            peaks[" c e"] = peak_gib(planner, checkpointing=True)
        for size in SIZES:
            fitting = [f"{peak:.1f}{mark}" for mark, peak in peaks.items() if peak <= USABLE_FRAC * size]
            cells.append(fitting[0] if fitting else "no")
    return f"| {' | '.join(cells)} |"


def table(hub_ids: tuple[str, ...]) -> str:
    """Return the whole table."""
    heads = ["model", "parameters", *(f"{mode}, {size} GB" for mode in MODES for size in SIZES)]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for hub_id in hub_ids:
        lines.append(row(hub_id))
        print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> int:
    """Write or check the table; 1 if a checked row differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare rows, write nothing")
    parser.add_argument("models", metavar="MODEL", nargs="*", help="models to check (default: all)")
    given = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    if given.check:
        wrong = [line for hub_id in given.models or known_model_ids() if (line := row(hub_id)) not in page]
        print("\n".join(f"differs: {line}" for line in wrong) or "equal")
        return bool(wrong)
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table(known_model_ids())}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
