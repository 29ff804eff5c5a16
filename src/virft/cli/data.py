"""Verbs that read a dataset: check, preview, export. Imports are inside the functions: help needs none of them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from virft.cli import arguments
from virft.cli.output import describe_skipped, progress_bar, say
from virft.cli.parsers import Verbs, add_data, add_max_completion_tokens, add_precision, add_verb
from virft.config.wording import counted
from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace

if TYPE_CHECKING:
    from virft.config.schema import Dtype
    from virft.data.store import Store
    from virft.models.load import LoadedModel

PREVIEW = "preview.html"
GROUP_SIZE = 8
"""Default number of completions per sample of ``check --suspects``."""
_MOST_PRINTED = 30
"""Suspect labels in the printed table; the file has all."""


_DATA_HELP = "dataset folder made by `virft build`, or the folder of a build with a split"


def add_check(verbs: Verbs) -> None:
    """Add the parser of ``check``."""
    verb = add_verb(verbs, "check", "validate a dataset, or list its suspect labels", check)
    verb.add_argument(
        "data",
        metavar="DATA",
        type=Path,
        nargs="?",
        help=f"{_DATA_HELP}; with --suspects, default: the training data of the run",
    )
    verb.add_argument(
        "--model",
        help="also check that this model accepts every prompt: its length, image sizes, placeholders in questions",
    )
    add_max_completion_tokens(verb, 256)
    verb.add_argument(
        "--suspects",
        type=Path,
        metavar="RUN",
        help="list the labels that the trained model of this run contradicts, ranked, and write suspects.jsonl into "
        "the run",
    )
    verb.add_argument(
        "--group-size",
        type=arguments.number(int, at_least=2),
        metavar="G",
        help=f"completions per sample, with --suspects; at least 2 (default: {GROUP_SIZE})",
    )
    verb.add_argument(
        "--min-score",
        type=arguments.number(float, at_least=0, at_most=1),
        metavar="S",
        help="lowest score of a suspect label, from 0 to 1, with --suspects (default: two standard deviations of the "
        "scores of all samples)",
    )
    add_precision(verb)


def check(
    *,
    data: Path | None = None,
    model: str | None = None,
    max_completion_tokens: int = 256,
    suspects: Path | None = None,
    group_size: int | None = None,
    min_score: float | None = None,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
) -> None:
    """Validate a dataset, decode every image, and print the number of questions and boxes of each class.

    Of a build with a split, each dataset is checked, under a line with its name. Also notes samples that some models
    refuse; with ``model``, those whose prompt leaves no room for a completion of ``max_completion_tokens``, and raises
    ``DataError`` for those that this one refuses.

    With ``suspects``, a run, ranks the labels that its model contradicts instead. ``dtype`` and ``load_in_4bit`` as for
    ``virft.load``. Raises ``ConfigError`` for options that do not fit together.
    """
    if suspects is not None:
        if model is not None:
            raise ConfigError("--model with --suspects; expected one of them: --suspects uses the model of the run")
        _check_labels(
            suspects,
            data,
            group_size=group_size or GROUP_SIZE,
            min_score=min_score,
            dtype=dtype,
            load_in_4bit=load_in_4bit,
        )
        return
    for option, value in (("--group-size", group_size), ("--min-score", min_score)):
        if value is not None:
            raise ConfigError(f"{option} without --suspects RUN; expected both, or none")
    if data is None:
        raise ConfigError("no dataset; expected DATA, a folder made by `virft build`, or --suspects RUN")
    from virft.data.store import open_stores

    stores = open_stores(data)
    loaded: LoadedModel | None = None
    for number, (name, store) in enumerate(stores.items()):
        if name:
            print("\n" * (number > 0) + f"{name}:")
        _print_statistics(store)
        if model is None:
            continue
        from virft.inference.prompting import check_prompts, resolve_prompting
        from virft.models.load import load_as_trained

        loaded = loaded or load_as_trained(model, dtype=dtype, in_4bit=load_in_4bit)
        checked = check_prompts(loaded, resolve_prompting(loaded, template="auto", thinking=None), store)
        if (warning := checked.length_warning(max_completion_tokens)) is not None:
            print(f"note: {warning}")
        print(f"{model} accepts every prompt")


def _print_statistics(store: Store) -> None:
    from virft.data.counts import Counts, count_sample, counts_text
    from virft.data.model_limits import limit_notes

    if store.has_images:
        store.check(decode=True)
    counts: Counts = {}
    for sample in store:
        count_sample(sample, counts)
    print(counts_text(counts))
    images = "all images can be read" if store.has_images else "built without images"
    skipped = describe_skipped(store.card.get("num_skipped", 0))
    print(f"{counted(len(store), 'question')}, hash {store.hash[:12]}; {images}{skipped}")
    for note in limit_notes(store):
        print(f"note: {note}")


def _check_labels(
    run: Path,
    data: Path | None,
    *,
    group_size: int,
    min_score: float | None,
    dtype: Dtype,
    load_in_4bit: bool | None,
) -> None:
    """Print the suspect labels of a run."""
    from virft.recipes.suspects import find_suspects, suspect_lines

    found = find_suspects(
        run,
        data,
        group_size=group_size,
        min_score=min_score,
        dtype=dtype,
        load_in_4bit=load_in_4bit,
        log=say,
        progress=partial(progress_bar, "samples"),
    )
    for line in suspect_lines(found, limit=_MOST_PRINTED):
        print(line)


def add_preview(verbs: Verbs) -> None:
    """Add the parser of ``preview``."""
    verb = add_verb(verbs, "preview", "write an HTML page of images with their ground truth", preview)
    add_data(verb, _DATA_HELP)
    verb.add_argument("--out", type=Path, help=f"output file (default: {PREVIEW} in the dataset folder)")
    verb.add_argument(
        "--limit",
        type=arguments.positive,
        metavar="N",
        default=60,
        help="maximum number of images, evenly spaced over the dataset; each is shown with all of its questions",
    )


def preview(*, data: Path, out: Path | None = None, limit: int = 60) -> None:
    """Write one HTML page of at most ``limit`` images, evenly spaced over a dataset, with all of their targets.

    Of a build with a split, the page has the images of all datasets, each with the name of its dataset.
    """
    from itertools import chain

    from virft.data.store import open_stores
    from virft.files import make_folder
    from virft.report.render.samples import summarize, write_samples_page

    stores = open_stores(data)
    images: list[tuple[str, list[int]]] = []
    for name, store in stores.items():
        store.check()
        places: dict[str, list[int]] = {}
        for number, sample in enumerate(store):
            places.setdefault(sample.images[sample.target_image], []).append(number)
        images += [(name, numbers) for numbers in places.values()]
    num_shown = min(limit, len(images))
    shown = [images[i * len(images) // num_shown] for i in range(num_shown)]
    counts = []
    for name, store in stores.items():
        numbers = [sum(one == name for one, _ in some) for some in (shown, images)]
        skipped = describe_skipped(store.card.get("num_skipped", 0))
        counts.append(f"{name}: " * bool(name) + f"{numbers[0]} of {numbers[1]} images shown{skipped}")
    page = out or data / PREVIEW
    make_folder(page.parent)
    with page.open("w", encoding="utf-8") as file:
        file.writelines(
            write_samples_page(
                ((name, [stores[name][number] for number in numbers]) for name, numbers in shown),
                title=str(data),
                summary=summarize(chain.from_iterable(stores.values()), splits=filter(None, stores)),
                intro=". ".join(counts),
            )
        )
    if any(stores):
        say("\n".join(counts))
    say(str(page))


def add_export(verbs: Verbs) -> None:
    """Add the parser of ``export``."""
    verb = add_verb(verbs, "export", "convert a dataset to the format of another tool", export)
    add_data(verb)
    verb.add_argument("out", metavar="OUT", type=Path, help="output folder; must not exist or be empty")
    verb.add_argument(
        "--format",
        choices=("coco", "yolo", "trl", "ms-swift", "easyr1", "llama-factory", "lmms-eval"),
        required=True,
        help="format to write",
    )
    verb.add_argument(
        "--template",
        help="prompt template: paper, short, or a text file with {query}; all but coco and yolo (default: paper)",
    )
    verb.add_argument(
        "--thinking",
        action="store_true",
        help="prompt for a <think> block before the answer (trl, ms-swift, easyr1, lmms-eval)",
    )
    verb.add_argument(
        "--space",
        type=arguments.one_of(BoxSpace),
        choices=list(BoxSpace),
        help="coordinates of boxes in texts; all but coco and yolo (default: relative_1000, 0 to 1000 of width and "
        "height)",
    )
    verb.add_argument("--name", help="name of the lmms-eval task (default: virft_ and that of the dataset folder)")
    verb.add_argument(
        "--max-completion-tokens",
        type=arguments.positive,
        metavar="N",
        help="maximum length of a completion in the lmms-eval task, in tokens (default: 256)",
    )


_TEXT_FORMATS = ("trl", "ms-swift", "easyr1", "llama-factory", "lmms-eval")
_FORMATS_OF_OPTION = {
    "--template": _TEXT_FORMATS,
    "--space": _TEXT_FORMATS,
    "--thinking": tuple(one for one in _TEXT_FORMATS if one != "llama-factory"),
    "--name": ("lmms-eval",),
    "--max-completion-tokens": ("lmms-eval",),
}
"""Formats that each option of ``export`` has an effect on."""


def export(
    *,
    data: Path,
    out: Path,
    format: Literal["coco", "yolo", "trl", "ms-swift", "easyr1", "llama-factory", "lmms-eval"],
    template: str | None = None,
    thinking: bool = False,
    space: str | None = None,
    name: str | None = None,
    max_completion_tokens: int | None = None,
) -> Path:
    """Write a dataset in the format of another tool into the folder ``out``; return the path of the file.

    ``name``: of the lmms-eval task; ``max_completion_tokens``: its token limit. Defaults are those of the command line.
    Raises ``ConfigError`` for an option that has no effect on the format.
    """
    given = {
        "--template": template,
        "--thinking": thinking or None,
        "--space": space,
        "--name": name,
        "--max-completion-tokens": max_completion_tokens,
    }
    for option, formats in _FORMATS_OF_OPTION.items():
        if given[option] is not None and format not in formats:
            raise ConfigError(
                f"{option} has no effect with --format {format}; remove it, or expected --format {' or '.join(formats)}"
            )
    from virft.data.store import Store
    from virft.integrations.export import (
        export_coco,
        export_easyr1,
        export_llama_factory,
        export_ms_swift,
        export_trl,
        export_yolo,
    )
    from virft.text.prompts import read_template

    store = Store(data)
    if format != "coco" or store.has_images:
        store.check()
    text, place = read_template(template or "paper"), BoxSpace(space or BoxSpace.RELATIVE_1000)
    match format:
        case "coco":
            path = export_coco(store, out)
        case "yolo":
            path = export_yolo(store, out)
        case "trl":
            path = export_trl(store, out, template=text, thinking=thinking, space=place)
        case "ms-swift":
            path = export_ms_swift(store, out, template=text, thinking=thinking, space=place)
        case "easyr1":
            path = export_easyr1(store, out, template=text, thinking=thinking, space=place)
        case "llama-factory":
            path = export_llama_factory(store, out, template=text, space=place)
        case "lmms-eval":
            from virft.integrations.lmms_eval import export_lmms_eval

            path = export_lmms_eval(
                store,
                out,
                name=name or f"virft_{re.sub(r'[^a-zA-Z0-9_]', '_', store.folder.absolute().name)}",
                template=text,
                thinking=thinking,
                space=place,
                max_completion_tokens=max_completion_tokens or 256,
            )
    say(f"{path}: {counted(len(store), 'question')}")
    return path
