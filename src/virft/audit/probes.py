"""Reward-hacking probes: completions that ignore the image, one text per question."""

from __future__ import annotations

from virft.geometry.boxes import BoxSpace
from virft.tasks import TASKS
from virft.tasks.task import Probes
from virft.types import Sample

_MEGABYTE = 2**20


def probe_texts(sample: Sample, probes: Probes, *, thinking: bool) -> dict[str, str]:
    """Return the text of each probe for this sample, with boxes relative to 1000.

    ``probes``: those of the sample's task for its dataset (``Task.probes``). The others are the same for all tasks.
    """
    think = "<think>I look.</think>" if thinking else ""
    task = TASKS[sample.task]
    prompt = task.format_question(sample, template="paper", thinking=thinking, space=BoxSpace.RELATIVE_1000)
    in_blocks = {name: f"{think}<answer>{write(sample)}</answer>" for name, write in probes.answers.items()}
    return in_blocks | {
        "empty text": "",
        "empty answer": f"{think}<answer></answer>",
        "blank answer": f"{think}<answer> \u200b </answer>",
        "echo of the prompt": prompt,
        "echo of the prompt as the answer": f"{think}<answer>{prompt}</answer>",
        "example of the format": f"{think}<answer>{task.example}</answer>",
        "answer block in an answer block": f"{think}<answer><answer>{probes.usual}</answer></answer>",
        "many answer blocks": think + f"<answer>{probes.usual}</answer>" * 50,
        "a megabyte": f"{think}<answer>{'A' * _MEGABYTE}</answer>",
        "a megabyte of brackets": f"{think}<answer>{'[' * _MEGABYTE}</answer>",
    }
