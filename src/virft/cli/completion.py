"""Verb ``completion``: shell scripts that complete verbs, options, settings and their values with Tab.

The scripts call ``virft completion --words ...``, so that one function completes for all shells, without PyTorch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, get_args, get_origin

from virft.cli.output import say
from virft.cli.parsers import Verbs, add_verb
from virft.errors import ConfigError

Shell = Literal["bash", "zsh", "fish"]

# A printed word that ends with = or . is not complete: the shells add no space after it. Nothing printed: file names.
_SCRIPTS: Mapping[str, str] = {
    "bash": """\
# for ~/.bashrc: eval "$(virft completion bash)"
_virft() {
    local line=${COMP_LINE:0:COMP_POINT} words word
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    word=${words[-1]}
    mapfile -t COMPREPLY < <(virft completion --words "${words[@]:1}" 2> /dev/null)
    # bash begins a new word after =
    if [[ $word == *=* && $COMP_WORDBREAKS == *=* ]]; then COMPREPLY=("${COMPREPLY[@]#"${word%%=*}="}"); fi
    if [[ ${COMPREPLY[*]} == *[=.] ]]; then compopt -o nospace; fi
}
complete -o default -F _virft virft
""",
    "zsh": """\
# for ~/.zshrc, after compinit: eval "$(virft completion zsh)"
_virft() {
    local -a found=("${(@f)$(virft completion --words "${(@)words[2,CURRENT]}" 2> /dev/null)}")
    found=(${found:#})
    if (( ${#found} )); then
        compadd -S '' -- ${(M)found:#*[=.]}
        compadd -- ${found:#*[=.]}
    else
        compset -P '*='
        _files
    fi
}
compdef _virft virft
""",
    "fish": """\
# for ~/.config/fish/config.fish: virft completion fish | source
function __virft_complete
    set -l words (commandline -opc)
    set -l word (commandline -ct)
    set -l found (virft completion --words $words[2..] "$word" 2> /dev/null)
    if test (count $found) -gt 0
        string join \\n -- $found
    else if string match -q '*=*' -- "$word"
        set -l key (string replace -r '=.*' '=' -- "$word")
        for path in (__fish_complete_path (string replace -r '^[^=]*=' '' -- "$word"))
            echo "$key$path"
        end
    else
        __fish_complete_path "$word"
    end
end
complete -c virft -f -a '(__virft_complete)'
""",
}


def add_completion(verbs: Verbs) -> None:
    """Add the parser of ``completion``."""
    verb = add_verb(verbs, "completion", "print the script that completes commands with Tab", completion)
    verb.add_argument(
        "shell",
        metavar="SHELL",
        nargs="?",
        choices=get_args(Shell),
        help="bash, zsh or fish (default: that of $SHELL); the first line of the script says how to install it",
    )
    verb.add_argument(
        "--words",
        nargs=argparse.REMAINDER,
        metavar="WORD",
        help="used by the script: print the completions of the last word of a command",
    )


def completion(*, shell: Shell | None = None, words: Sequence[str] | None = None) -> None:
    """Print the completion script of a shell, or the completions of the last one of ``words``.

    Raises ``ConfigError`` without ``shell`` if ``$SHELL`` is none of the three.
    """
    if words is not None:
        for found in completions(words):
            say(found)
        return
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in _SCRIPTS:
        raise ConfigError(f"completion: $SHELL is {name!r}; expected {', '.join(_SCRIPTS)}")
    say(_SCRIPTS[name].rstrip("\n"))


def completions(words: Sequence[str]) -> list[str]:
    """Return the completions of the last word of a command, given without ``virft``; empty where a file is expected.

    >>> completions(["comp"]), completions(["grpo", "--re"]), completions(["grpo", "model.train=l"])
    (['compare', 'completion'], ['--resume'], ['model.train=lora'])
    """
    from virft.cli.main import find_parser, make_parser

    *given, last = words or [""]
    parser = find_parser(make_parser(), given)
    options = parser._option_string_actions
    previous = options.get(given[-1]) if given else None
    if previous is not None and previous.nargs != 0:
        found = [str(choice) for choice in previous.choices or ()]
    elif last.startswith("-"):
        found = [name for name in options if name.startswith("--") and name not in given]
    elif subs := [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]:
        is_known = len(given) == len(parser.prog.split()) - 1
        found = list(subs[0].choices) if is_known else []
    else:
        found = _positionals(parser, given, last)
    return [one for one in found if one.startswith(last)]


def _positionals(parser: argparse.ArgumentParser, given: Sequence[str], last: str) -> list[str]:
    """Return what may come in the place of a positional argument of a verb."""
    places = [action for action in parser._actions if not action.option_strings]
    num_given = _count_positionals(parser, given)
    place = places[min(num_given, len(places) - 1)] if places else None
    if place is None or (num_given >= len(places) and place.nargs not in ("*", "+")):
        return []
    if place.choices is not None:
        return [str(choice) for choice in place.choices]
    if place.dest in ("config", "overrides", "settings"):
        return [*_settings(last), *(_toml_files(last) if place.dest == "config" else [])]
    if place.dest == "model" and place.type is None:
        return _model_names()
    if place.dest == "name":  # of `virft config`
        return [one.rstrip("=") for one in _settings(last)]
    return []


def _count_positionals(parser: argparse.ArgumentParser, given: Sequence[str]) -> int:
    """Return the number of positional arguments among the words after the verb and its source."""
    options = parser._option_string_actions
    num_verbs = len(parser.prog.split()) - 1
    number, is_value = 0, False
    for word in given[num_verbs:]:
        is_option = word in options
        number += not is_option and not is_value and not word.startswith("-")
        is_value = is_option and options[word].nargs != 0
    return number


def _toml_files(word: str) -> list[str]:
    """Return the TOML files whose path begins with a word; with ``runs/a`` those in the folder ``runs``."""
    folder = word.rpartition("/")[0]
    prefix = word[: len(folder) + 1] if "/" in word else ""
    return [prefix + file.name for file in sorted(Path(prefix or ".").glob("*.toml"))]


def _model_names() -> list[str]:
    """Return the names of models that need no folder: the built-in ones, and hub ids."""
    from virft.models.built_in import BUILT_IN_MODELS
    from virft.models.known_models import known_model_ids

    return [*BUILT_IN_MODELS, *known_model_ids()]


def _settings(word: str) -> list[str]:
    """Return sections (``grpo.``), settings of a section (``grpo.steps=``), or values of a setting."""
    from virft.config.schema import MIXTURE, sections, setting_at, settings
    from virft.config.setting import alternatives

    key, equals, _ = word.partition("=")
    if not equals and "." not in word:
        return [*(f"{name}." for name in sections() if name != MIXTURE), "mixture.", "seed="]
    if not equals:
        return [f"{setting.key}=" for setting in settings() if setting.key.rpartition(".")[0] != MIXTURE]
    try:
        kinds = alternatives(setting_at(key).kind)
    except KeyError:
        return []
    names = [name for kind in kinds if get_origin(kind) is Literal for name in get_args(kind)]
    names += ["true", "false"] if bool in kinds else []
    names += _model_names() if key == "model.path" else []
    return [f"{key}={name}" for name in names]
