"""Verbs that query a model interactively: ask, app. Imports are inside the functions: help needs none of them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from virft.cli import arguments
from virft.cli.output import print_records, resolve_model, say
from virft.cli.parsers import (
    Verbs,
    add_class_notes,
    add_max_completion_tokens,
    add_model,
    add_precision,
    add_prompting,
    add_task,
    add_verb,
)
from virft.errors import ConfigError
from virft.tasks import TASKS

if TYPE_CHECKING:
    from virft.config.schema import Dtype


def add_ask(verbs: Verbs) -> None:
    """Add the parser of ``ask``."""
    verb = add_verb(verbs, "ask", "query a model about an image, and draw the boxes", ask)
    add_model(verb)
    verb.add_argument("image", metavar="IMAGE", help="image file; - reads questions as JSON lines from standard input")
    verb.add_argument(
        "question",
        metavar="QUESTION",
        nargs="?",
        help="; ".join(f"{name}: {task.query_hint}" for name, task in TASKS.items()),
    )
    add_task(verb)
    add_class_notes(verb, "; used are those of the classes in the question")
    add_prompting(verb)
    add_precision(verb)
    verb.add_argument(
        "--out",
        type=Path,
        help="output image (default: NAME_answer.png here); with -: output folder (default: the current one)",
    )
    verb.add_argument(
        "--overwrite", action="store_true", help="also replace a file that was not written by `virft ask`"
    )
    add_max_completion_tokens(verb, 256)
    verb.add_argument(
        "--temperature",
        type=arguments.number(float, at_least=0, at_most=10),
        metavar="T",
        default=0.0,
        help="sampling temperature; 0 decodes greedily",
    )
    verb.add_argument(
        "--seed",
        type=arguments.not_negative,
        metavar="N",
        help="random seed of sampling; needs --temperature above 0 (default: 0)",
    )


def ask(
    *,
    model: str,
    image: str,
    question: str | None = None,
    task: str = "detection",
    class_notes: Path | None = None,
    template: str = "auto",
    thinking: bool | None = None,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    max_completion_tokens: int = 256,
    temperature: float = 0.0,
    seed: int | None = None,
) -> None:
    """Print a model's reasoning and answer about an image, and write the image with the predicted boxes.

    ``image`` "-": read questions from standard input, and print a record of JSON for each. ``class_notes``: file of
    class instructions, see ``virft.data.class_notes.read_class_notes``. ``dtype`` and
    ``load_in_4bit`` as for ``virft.load``. Raises ``ConfigError`` for arguments that do not fit together.
    """
    if (image == "-") != (question is None):
        raise ConfigError("ask: expected IMAGE and QUESTION, or - alone for questions from standard input")
    if seed is not None and temperature == 0:
        raise ConfigError("--seed has no effect: it needs --temperature above 0; remove it")
    model = resolve_model(model)
    from virft.data.class_notes import read_class_notes
    from virft.inference.annotated_image import default_path, require_writable, save_marked
    from virft.inference.queries import make_query
    from virft.inference.result import result_lines
    from virft.text.prompts import read_template

    if template != "auto":
        read_template(template)
    notes = {} if class_notes is None else read_class_notes(class_notes)
    query = None if question is None else make_query(image, question, task, notes=notes)
    if query is not None:
        query.open_image()
        out = out or default_path(Path(image), Path(), set())
        require_writable(out, image=Path(image), overwrite=overwrite)
    elif out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; with - expected a folder for the images")
    from virft.inference.json_lines import answer_lines
    from virft.inference.model import Model
    from virft.models.load import load_as_trained

    loaded = Model(
        load_as_trained(model, dtype=dtype, in_4bit=load_in_4bit),
        template=template,
        thinking=thinking,
        max_completion_tokens=max_completion_tokens,
        temperature=temperature,
        seed=seed or 0,
    )
    if query is None:
        folder = out or Path()
        lines = sys.stdin.buffer
        print_records(answer_lines(lines, loaded, task=task, folder=folder, overwrite=overwrite, notes=notes))
        return
    assert out is not None
    result = loaded.answer(query)
    replaced = " (replaced)" if out.exists() else ""
    save_marked(out, result.annotated())
    for line in result_lines(result):
        say(line)
    say(f"image: {out}{replaced}")


def add_app(verbs: Verbs) -> None:
    """Add the parser of ``app``."""
    verb = add_verb(verbs, "app", "query a model in the browser (needs the extra app)", app)
    add_model(verb)
    verb.add_argument(
        "--base",
        metavar="MODEL",
        help="second model, such as the base of the first; its predictions are shown next to the first one's",
    )
    verb.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 allows other machines")
    verb.add_argument(
        "--port",
        type=arguments.number(int, at_least=0, at_most=65535),
        metavar="N",
        default=7860,
        help="port to listen on; 0 selects a free one",
    )
    verb.add_argument(
        "--examples",
        type=Path,
        metavar="DATA",
        help="dataset folder whose first images and questions are offered as examples (default: for virft-tiny, scenes "
        "such as those that it was trained on, else none)",
    )
    add_class_notes(verb, " (default: those of the dataset of --examples)")
    add_prompting(verb)
    add_precision(verb)
    add_max_completion_tokens(verb, 256)


def app(
    *,
    model: str,
    base: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    examples: Path | None = None,
    class_notes: Path | None = None,
    template: str = "auto",
    thinking: bool | None = None,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
    max_completion_tokens: int = 256,
) -> None:
    """Serve a page that queries a model, and with ``base`` also the model that it was trained from.

    ``examples``: a dataset whose first questions are offered as examples. ``class_notes``: file of class instructions;
    default: those of the dataset. ``dtype`` and ``load_in_4bit`` as for ``virft.load``, for each of the models.
    """
    from virft.data.class_notes import read_class_notes
    from virft.inference.app import import_gradio, listen, serve_app
    from virft.inference.example_queries import data_examples, data_notes, scene_examples
    from virft.models.tiny import TINY_NAME

    import_gradio()
    model, base = resolve_model(model), resolve_model(base) if base is not None else None
    notes = {} if examples is None else data_notes(examples)
    if class_notes is not None:
        notes = read_class_notes(class_notes)
    shown = scene_examples() if examples is None and TINY_NAME in (model, base) else data_examples(examples)
    with listen(host, port) as listening:
        from virft.inference.model import Model
        from virft.models.load import load_as_trained

        paths = {"base": base, "tuned": model} if base is not None else {"model": model}
        make = partial(Model, template=template, thinking=thinking, max_completion_tokens=max_completion_tokens)
        load = partial(load_as_trained, dtype=dtype, in_4bit=load_in_4bit)
        models = {name: make(load(path), name=path) for name, path in paths.items()}
        serve_app(models, listening, report=say, examples=shown, notes=notes)
