"""Throughput and precision of a run, from its logs and its card."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, NamedTuple

from virft.config.schema import DtypeName
from virft.models.peak_rates import peak_rate
from virft.report.render.reported import ReportedRun
from virft.text.records import is_json_number
from virft.training.step import UPDATE_FLOPS, update_mfu

TOKENS_PER_S, MFU = "tokens_per_s", "update_mfu"
NO_CHART = frozenset({UPDATE_FLOPS})
"""Metrics that are not drawn: the MFU is."""
_BFLOAT16: DtypeName = "bfloat16"


class _TimedStep(NamedTuple):
    """A step whose tokens and seconds are known; ``mfu``: of its update, a fraction, None if it is not known."""

    step: int
    num_tokens: float
    seconds: float
    update_seconds: float
    mfu: float | None


def throughput(run: ReportedRun) -> list[dict[str, float]]:
    """Return ``tokens_per_s``, and ``update_mfu`` where the peak rate is known, of each step, with its ``step``."""
    return [
        {"step": one.step, TOKENS_PER_S: one.num_tokens / one.seconds} | ({} if one.mfu is None else {MFU: one.mfu})
        for one in _timed_steps(run)
    ]


def describe_throughput(run: ReportedRun) -> str:
    """Return mean tokens/s over the steps of a run, and the mean MFU of its updates; "" if no step was timed.

    >>> timings = [{"step": 0, "sampling": 3.0, "update": 1.0}, {"step": 1, "sampling": 4.0, "update": 2.0}]
    >>> describe_throughput(ReportedRun(name="a", folder="a", timings=timings, metrics=[
    ...     {"step": 0, "num_tokens": 4000}, {"step": 1, "num_tokens": 5000}]))
    '900 tokens/s'
    """
    steps = _timed_steps(run)
    if not steps:
        return ""
    text = f"{sum(one.num_tokens for one in steps) / sum(one.seconds for one in steps):,.0f} tokens/s"
    updates = [(one.mfu, one.update_seconds) for one in steps if one.mfu is not None]
    if not updates:
        return text
    mfu = sum(value * seconds for value, seconds in updates) / sum(seconds for _, seconds in updates)
    return f"{text}, update MFU {mfu:.0%}"


def _timed_steps(run: ReportedRun) -> list[_TimedStep]:
    peak = _peak_flops(run)
    metrics = {record["step"]: _numbers(record) for record in run.metrics if "num_tokens" in record}
    found = []
    for record in run.timings:
        own, timings = metrics.get(record["step"], {}), _numbers(record)
        if "num_tokens" in own and (seconds := sum(timings.values())) > 0:
            mfu = update_mfu(own, timings, peak)
            found.append(_TimedStep(record["step"], own["num_tokens"], seconds, timings.get("update", 0.0), mfu))
    return found


def describe_precision(run: ReportedRun) -> str:
    """Return the precision that a run computed in, as its card resolved it, of which weights; "" if it is not recorded.

    >>> describe_precision(ReportedRun(name="a", folder="a", card={"dtype": "bfloat16"},
    ...     settings={"model.load_in_4bit": True, "model.train": "lora"}))
    'bfloat16, language model in 4 bits, LoRA adapters in float32'
    >>> describe_precision(ReportedRun(name="a", folder="a", card={"dtype": "float32", "device": "NVIDIA A100"}))
    'float32, products in TF32'
    """
    dtype = run.card.get("dtype")
    if not isinstance(dtype, str):
        return ""
    parts = [dtype]
    if run.settings.get("model.load_in_4bit"):
        parts.append("language model in 4 bits")
    if run.settings.get("model.train") == "lora":
        parts.append("LoRA adapters in float32")
    elif dtype == _BFLOAT16:
        parts.append("trained weights in float32")
    is_gpu = str(run.card.get("device", "cpu")) != "cpu"
    if dtype != _BFLOAT16 and is_gpu and run.settings.get("model.tf32", True):
        parts.append("products in TF32")
    return ", ".join(parts)


def describe_devices(run: ReportedRun) -> str:
    """Return the device of a run, with the number of processes if there are several; "" if it is not recorded."""
    name, number = run.card.get("device"), run.card.get("num_processes", 1)
    return "" if name is None else str(name) if number == 1 else f"{number} x {name}"


def _peak_flops(run: ReportedRun) -> float | None:
    """Peak rate of all devices of a run; None if it is not known, or the run is not in bfloat16."""
    rate = peak_rate(str(run.card.get("device", ""))) if run.card.get("dtype") == _BFLOAT16 else None
    number = run.card.get("num_processes", 1)
    return None if rate is None or not isinstance(number, int) else rate * number


def _numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Values of a record that are finite numbers, without its step."""
    return {
        name: value for name, value in record.items() if name != "step" and is_json_number(value) and isfinite(value)
    }
