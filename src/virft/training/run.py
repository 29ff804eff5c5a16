"""A run folder: its config, its card, its logs; refused, started or resumed."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from virft import __version__
from virft.config.schema import Config
from virft.config.toml_file import dump, first_difference, load
from virft.errors import RunError
from virft.files import UNFINISHED, make_folder, put_back, sync, write_text

SCHEMA_VERSION = 1
CONFIG, CARD = "config.toml", "card.json"
METRICS, ROLLOUTS, TIMINGS = "metrics.jsonl", "rollouts.jsonl", "timings.jsonl"
EVENTS = "events.jsonl"
"""What guards saw and did, and what happened to the run. It differs between a run left alone and one that was not."""
BEST, MODEL = "best", "model"

_LOGS = (METRICS, ROLLOUTS, TIMINGS, EVENTS)
INCIDENT = "incident"
"""In a record of ``events.jsonl``: true of what would not come again if its step were done again."""

_MAY_CHANGE = (
    "model.gradient_checkpointing",
    "model.compile",
    "sampling.prompts_per_batch",
    "grpo.microbatch_tokens",
    "sft.microbatch_tokens",
    "run.save_every",
    "run.keep_checkpoints",
    "run.log_every",
)
"""Settings that bound memory or time, or say when something is written: a run may go on with others, as with guards."""

_OF_THE_START = {CARD, CARD + UNFINISHED, CONFIG + UNFINISHED}
"""What a run that was killed as it began leaves behind, without having begun."""


class RunFolder:
    """Where a run writes. ``metrics`` and ``rollouts`` hold deterministic values only: equal runs make equal files.

    Of several processes one writes; in the others ``writes`` is off, and they only read.
    """

    def __init__(self, folder: Path, *, writes: bool = True) -> None:
        self.folder = folder
        self._writes = writes

    @classmethod
    def join(cls, config: Config) -> RunFolder:
        """The folder that another process has opened; ``RunError`` if it cannot be seen from here."""
        if not (Path(config.run.dir) / CONFIG).exists():
            raise RunError(
                f"{config.run.dir}: the first process has opened it, but it is not there on the machine of this one; "
                "expected run.dir on a file system that all machines share"
            )
        return cls(Path(config.run.dir), writes=False)

    @classmethod
    def open(cls, config: Config, *, resume: bool, card: Mapping[str, Any]) -> RunFolder:
        """The folder of ``config.run.dir``, new or to be resumed; refused as ``require_free`` says."""
        require_free(config, resume=resume, data_hash=card["data_hash"], trainer=card["trainer"])
        run = cls(Path(config.run.dir))
        if not (run.folder / CONFIG).exists():
            make_folder(run.folder)
            write_text(run.folder / CARD, json.dumps(card, indent=2, sort_keys=True) + "\n")
            # last: a folder with a config is a run
            write_text(run.folder / CONFIG, dump(config))
        else:
            run._take_over(config)
        for name in (BEST, MODEL):
            put_back(run.folder / name)
        return run

    def _take_over(self, config: Config) -> None:
        """Settings that may change have changed."""
        there = load(self.folder / CONFIG).config
        if (difference := first_difference(there, config)) is not None:
            told = f"goes on with other settings: {difference.describe('before', 'now')}"
            self.append(EVENTS, {"step": 0, "event": "settings", "did": "went on", "told": told, INCIDENT: True})
            write_text(self.folder / CONFIG, dump(config))

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """One JSON line; a record without spaces, keys in the order given."""
        if not self._writes:
            return
        with (self.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(record, ensure_ascii=False, separators=(",", ":")) + "\n")

    def sync_logs(self) -> None:
        """Go on when all that was logged would outlast a power cut."""
        if self._writes:
            for name in _LOGS:
                if (self.folder / name).exists():
                    sync(self.folder / name)
            sync(self.folder)

    def records(self, name: str) -> list[dict[str, Any]]:
        """The records of a log, without a last line that was cut."""
        return [json.loads(line) for line in _lines(self.folder / name) if _step_of(line) < float("inf")]

    def cut_logs(self, num_steps: int) -> None:
        """Drop the lines of steps from ``num_steps`` on, which a resumed run will do again."""
        for name in _LOGS if self._writes else ():
            path = self.folder / name
            if not path.exists():
                continue
            kept = [line for line in _lines(path) if _step_of(line) < num_steps or _is_incident(line)]
            write_text(path, "".join(line + "\n" for line in kept))


def require_free(config: Config, *, resume: bool, data_hash: str, trainer: str) -> None:
    """``RunError`` unless ``config.run.dir`` can be written by this run. Touches nothing.

    It holds a run and ``resume`` is off; or a run of another config, of which the first setting that differs is
    named; or a run on other data, or of another ``trainer`` ("grpo" or "sft"); or other files.
    """
    folder = Path(config.run.dir)
    if (folder / CONFIG).exists():
        if not resume:
            raise RunError(f"{folder}: already holds a run; go on with --resume, or name another run.dir")
        there = _with_changes(load(folder / CONFIG).config, config)
        if (difference := first_difference(there, config)) is not None:
            raise RunError(
                f"{folder}: holds a run of another config: {difference.describe('there', 'now')}; "
                "resume with the same settings, or name another run.dir"
            )
        started = json.loads((folder / CARD).read_text(encoding="utf-8"))
        if started["data_hash"] != data_hash:
            raise RunError(
                f"{folder}: was started on other data (hash {started['data_hash'][:12]}, now {data_hash[:12]}); "
                "expected data.train as it was, or another run.dir"
            )
        if started["trainer"] != trainer:
            raise RunError(f"{folder}: holds a run of `virft {started['trainer']}`; name another run.dir")
    elif folder.exists() and (not folder.is_dir() or {one.name for one in folder.iterdir()} - _OF_THE_START):
        raise RunError(f"{folder}: is not empty and holds no run; name another run.dir")


def _lines(path: Path) -> list[str]:
    """Lines of a log, none where there is no file. A completion may hold other line breaks than ours, or half of one.

    ``str.splitlines`` would split at those too, and a crash may cut a character in two.
    """
    return path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []


def _step_of(line: str) -> float:
    """The step of a log line; a line cut by a crash counts as endless, so it is dropped."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _is_incident(line: str) -> bool:
    try:
        return bool(json.loads(line).get(INCIDENT))
    except (ValueError, AttributeError):
        return False


def _with_changes(there: Config, now: Config) -> Config:
    """A run's settings, with those that may change as they are now."""
    sections: dict[str, dict[str, Any]] = {}
    for key in _MAY_CHANGE:
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = getattr(getattr(now, section), name)
    parts: dict[str, Any] = {name: replace(getattr(there, name), **found) for name, found in sections.items()}
    return replace(there, **parts, guards=now.guards)


def run_card(
    *, trainer: str, commit: str | None, data_hash: str, model: str, seed: int = 0, num_processes: int = 1, **facts: Any
) -> dict[str, Any]:
    """Where a run came from: command, commit, versions, machine, processes, seed, data, and further ``facts``."""
    return {
        "schema_version": SCHEMA_VERSION,
        "trainer": trainer,
        "argv": sys.argv,
        "commit": commit,
        "virft": __version__,
        "versions": {name: version(name) for name in ("torch", "transformers", "peft", "numpy", "tokenizers")},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "num_processes": num_processes,
        "model": model,
        "seed": seed,
        "data_hash": data_hash,
        **facts,
    }
