"""Suggest the setting that an unknown key probably means."""

from __future__ import annotations

import difflib

from virft.config.other_names import OTHER_SECTIONS, find_other_name
from virft.config.schema import MIXTURE, sections, settings


def suggest_setting(key: str) -> str:
    """Return the end of a message about an unknown key: the setting that was probably meant, or those of its section.

    Suggested keys have their section, as they are written on the command line.

    >>> suggest_setting("grpo.group_sise")
    'did you mean grpo.group_size?'
    >>> suggest_setting("lr"), suggest_setting("sft.lr")
    ('did you mean grpo.learning_rate or sft.learning_rate?', 'did you mean sft.learning_rate?')
    >>> suggest_setting("top_p")
    'completions are sampled from the whole distribution: top-k and top-p are always off'
    """
    return nearest_setting(key) or _list_section(key)


def nearest_setting(key: str) -> str | None:
    """Return the setting that an unknown key probably means, as ``suggest_setting`` does; None if none is near."""
    written = key
    if key.startswith("mixture."):
        key = f"{MIXTURE}.{key.rpartition('.')[2]}"
    section, _, name = key.rpartition(".")
    known = [setting.key for setting in settings()]
    # the correct name in the wrong section comes before a similar name in the correct one
    moved = [other for other in known if other.rpartition(".")[2] == name and not other.startswith(MIXTURE)]
    other = find_other_name(key)
    if moved:
        return _did_you_mean(moved, section)
    if other is not None and not other.keys:
        return other.note
    if other is not None:
        return " ".join([_did_you_mean(list(other.keys), section), other.note]).rstrip()
    if section and (close := difflib.get_close_matches(key, known, n=1, cutoff=0.75)):
        return _did_you_mean([close[0].replace(MIXTURE, written.rpartition(".")[0])], section)
    # a name without its section, or in the wrong one, is compared with the last parts of all keys
    names = {setting.rpartition(".")[2] for setting in known}
    if close := difflib.get_close_matches(name, names, n=1, cutoff=0.85 if section else 0.75):
        return nearest_setting(f"{section}.{close[0]}".removeprefix("."))
    return None


def _did_you_mean(keys: list[str], section: str) -> str:
    """Return the question; of several keys only that of the section, or of the section that it is a misspelling of."""
    near = difflib.get_close_matches(section, list(sections()), n=1)
    own = [key for key in keys if near and key.rpartition(".")[0] == near[0]]
    return f"did you mean {' or '.join(own or keys)}?"


def _list_section(key: str) -> str:
    """Return the settings of the section of a key; if there is no such section, the nearest one or all of them."""
    section = key.rpartition(".")[0]
    if section in sections():
        names = [one.key.rpartition(".")[2] for one in settings() if one.key.rpartition(".")[0] == section]
        return f"[{section}] has {', '.join(names)}"
    first = key.partition(".")[0]
    near = OTHER_SECTIONS.get(first) or next(iter(difflib.get_close_matches(first, list(sections()), n=1)), None)
    return f"did you mean the section {near}?" if near else f"expected seed or a key of {', '.join(sections())}"
