"""One function per verb of the command line: read, build the parts, run, say what came of it.

Imports stand inside the functions: a verb that needs no model must not wait for PyTorch.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from virft.errors import CheckFailed, ConfigError, DataError, PartlyDone
from virft.types import ImageSize

if TYPE_CHECKING:
    from virft.config.schema import Config
    from virft.data.store import Store
    from virft.evaluation.masks import MaskMaker


def check(*, data: Path) -> None:
    """Read a data set whole, every picture too, and print what it holds."""
    from virft.data.counts import Counts, count_sample, counts_text
    from virft.data.store import Store

    store = Store(data)
    if store.has_pictures:
        store.check(decode=True)
    counts: Counts = {}
    for sample in store:
        count_sample(sample, counts)
    print(counts_text(counts))
    pictures = "every picture can be read" if store.has_pictures else "built without pictures"
    told_skipped = _told_skipped(store.card.get("num_skipped", 0))
    print(f"{len(store)} questions, hash {store.hash[:12]}; {pictures}{told_skipped}")


def look(*, data: Path, out: Path | None = None, limit: int = 60) -> None:
    """Write one HTML page of at most ``limit`` questions, evenly spread over a data set, with their targets."""
    from virft.data.store import Store
    from virft.report.render.samples import write_samples_page

    store = Store(data)
    store.check()
    number = min(limit, len(store))
    chosen = (store[i * len(store) // number] for i in range(number))
    goal = out or store.folder / "look.html"
    intro = f"{number} of {len(store)} questions" + _told_skipped(store.card.get("num_skipped", 0))
    with goal.open("w", encoding="utf-8") as file:
        file.writelines(write_samples_page(chosen, title=store.folder.absolute().name, intro=intro))
    _say(str(goal))


def export(
    *,
    data: Path,
    out: Path,
    format: Literal["coco", "trl", "llama-factory"],
    template: str = "paper",
    thinking: bool = False,
    space: str = "relative_1000",
) -> Path:
    """Write a data set in another's format into the folder ``out``; the file's path."""
    from virft.data.store import Store
    from virft.geometry.boxes import BoxSpace
    from virft.integrations.export import export_coco, export_llama_factory, export_trl
    from virft.text.prompts import read_template

    store = Store(data)
    if format != "coco" or store.has_pictures:
        store.check()
    text = read_template(template)
    match format:
        case "coco":
            path = export_coco(store, out)
        case "trl":
            path = export_trl(store, out, template=text, thinking=thinking, space=BoxSpace(space))
        case "llama-factory":
            path = export_llama_factory(store, out, template=text, space=BoxSpace(space))
    _say(f"{path}: {len(store)} questions")
    return path


def explain(
    *,
    text: str | None = None,
    file: Path | None = None,
    task: str,
    target: str,
    preset: Literal["robust", "paper"] = "robust",
    iou_threshold: float = 0.5,
    image_size: ImageSize,
    resized: ImageSize | None = None,
    space: str = "relative_1000",
    thinking: bool = False,
) -> None:
    """Print the reward of one completion with every matched pair. ``target`` is written like an answer."""
    from virft.geometry.boxes import BoxSpace
    from virft.tasks import TASKS
    from virft.tasks.explain import explain_reward
    from virft.tasks.reward import RewardRule

    if text is None:
        text = _read_text(file)
    read = partial(TASKS[task].read, space=BoxSpace(space), original=image_size, resized=resized or image_size)
    known = read(f"<answer>{target}</answer>", thinking=False)
    if fault := TASKS[task].target_fault(known.answer):
        raise ConfigError(f"--target {target!r}: {fault}; expected an answer of {task}, such as {TASKS[task].example}")
    rule = RewardRule(preset=preset, iou_threshold=iou_threshold)
    print(explain_reward(rule, task, read(text, thinking=thinking), known.answer))


def score(
    *,
    predictions: Path,
    data: Path,
    out: Path | None = None,
    intervals: bool = True,
    class_groups: Sequence[tuple[str, Sequence[str]]] = (),
    seeds: Sequence[Path] = (),
    against: Sequence[Path] = (),
    masks: str | None = None,
) -> Mapping[str, Any]:
    """Score the texts of ``predictions`` (a file, or a run folder) against a data set; no model is needed.

    ``seeds``: further predictions of the same system; ``against``: those of another one. ``masks``: measure masks of
    grounding too: ``box``, the boxes filled, or a segmenter's folder or hub id.
    """
    from virft.data.class_sets import expand_class_sets
    from virft.data.store import Store
    from virft.evaluation.comparison import compare as compare_measured
    from virft.evaluation.comparison import comparisons_to_text, measure
    from virft.evaluation.predictions import find_predictions
    from virft.evaluation.score import score_predictions, scores_to_text, seeds_to_text, write_scores

    store = Store(data)
    groups = {name: expand_class_sets(classes) for name, classes in class_groups}
    find = partial(find_predictions, data_name=store.folder.absolute().name)
    paths, others = [find(place) for place in (predictions, *seeds)], [find(place) for place in against]
    with _mask_maker(masks, store) as maker:
        scores, *further = (
            score_predictions(
                path, store, with_intervals=intervals and path == paths[0], class_groups=groups, masks=maker
            )
            for path in paths
        )
    both = [[measure(path, store) for path in side] for side in (others, paths)] if others else []
    comparisons = compare_measured(*both) if both else ()
    written = write_scores(
        scores, out or paths[0].with_name("scores.json"), predictions=paths[0], comparisons=comparisons
    )
    print(scores_to_text(scores))
    if further:
        print(seeds_to_text([scores, *further]))
    if comparisons:
        print(comparisons_to_text(comparisons, first=str(against[0]), second=str(predictions)))
    return written


def grpo(*, config: Path, overrides: Sequence[str] = (), resume: bool = False, dry_run: bool = False) -> None:
    """Reinforce a model as a config file says; the trained model lands in ``run.dir/model``."""
    from virft.config.toml_file import dump, load

    settings = load(config, overrides).config
    if not dry_run:
        _train(settings, "grpo", resume=resume)
        return
    print(dump(settings), end="")
    from virft.recipes.estimate import estimate
    from virft.recipes.setup import load_for_training, make_trainer
    from virft.recipes.train import training_data

    data = training_data(settings, "grpo")
    data.check()
    with closing(make_trainer(settings, load_for_training(settings), (sample.query for sample in data))) as trainer:
        num_samples = sum(map(len, data.stores.values()))
        print(estimate(settings, trainer, next(iter(data)), num_samples=num_samples))


def sft(*, config: Path, overrides: Sequence[str] = (), resume: bool = False) -> None:
    """Fine-tune a model on the right answers, as a config file says; it lands in ``run.dir/model``."""
    from virft.config.toml_file import load

    _train(load(config, overrides).config, "sft", resume=resume)


def plan(
    *,
    config: Path,
    overrides: Sequence[str] = (),
    memory: float | None = None,
    image: ImageSize,
    text_tokens: int = 150,
    trainer: Literal["grpo", "sft"] = "grpo",
) -> None:
    """Print what a config's run needs of a device's memory, part by part, and which settings make it fit."""
    from virft.config.toml_file import load

    settings = load(config, overrides).config
    from virft.planning.device import device_memory
    from virft.planning.fit import find_fit
    from virft.planning.memory import Planner
    from virft.planning.text import fit_text, plan_text
    from virft.training.distributed import device

    size = int(memory * 2**30) if memory is not None else device_memory()
    on_cpu = memory is None and device().type == "cpu"
    planner = Planner(settings, image=image, text_tokens=text_tokens, trainer=trainer, on_cpu=on_cpu)
    _say(plan_text(planner))
    _say("")
    fit = find_fit(settings, planner, memory=size, image=image, text_tokens=text_tokens)
    _say(fit_text(planner, fit, memory=size))


def compare(*, config: Path, overrides: Sequence[str] = (), resume: bool = False) -> None:
    """Train and measure base, SFT and RFT as a config file says, and say what the difference is."""
    from virft.config.toml_file import load

    settings = load(config, overrides).config
    from virft.recipes.compare.page import compare_page
    from virft.recipes.compare.runs import RESULT, run_compare
    from virft.recipes.compare.text import compared_text

    found = run_compare(settings, resume=resume, say=_say)
    page = Path(settings.run.dir) / REPORT
    told = compare_page(
        found,
        title="Base, supervised, reinforced",
        intro=f"The same examples in several ways, by the same budget ({settings.compare.budget}), asked the same. "
        f"Seeds of each: {settings.compare.seeds}.",
    )
    page.write_text(told, encoding="utf-8", errors="backslashreplace")
    _say(compared_text(found))
    _say(f"all numbers: {Path(settings.run.dir) / RESULT}; pictures: {page}")


def audit(*, config: Path, overrides: Sequence[str] = (), limit: int = 500, num_groups: int | None = None) -> None:
    """Print the rewards of reward-hacking probes and oracle answers; ``CheckFailed`` if a probe is rewarded more.

    ``num_groups``: sample so many groups of the config's model too.
    """
    from virft.config.toml_file import load

    settings = load(config, overrides).config
    from virft.audit.audit import audit_reward
    from virft.audit.groups import judge_groups, sample_groups
    from virft.audit.text import audit_text, groups_text
    from virft.geometry.boxes import BoxSpace
    from virft.recipes.setup import load_for_training, make_grader, make_trainer
    from virft.recipes.train import training_data

    data = training_data(settings, "grpo")
    samples = list(data)
    number = min(limit, len(samples))
    chosen = [samples[i * len(samples) // number] for i in range(number)]
    with _progress_bar("questions") as show:
        reports = audit_reward(chosen, make_grader(settings, BoxSpace.RELATIVE_1000), progress=show)
    for report in reports:
        _say(audit_text(report))
    if num_groups is not None:
        trainer = make_trainer(settings, load_for_training(settings), (sample.query for sample in samples))
        asked = list(islice(chain.from_iterable(map(data.batch, count())), num_groups))
        with _progress_bar("groups") as show:
            groups = sample_groups(trainer, asked, progress=show)
        _say(groups_text(judge_groups(groups)))
    if failed := [report for report in reports if report.margin <= 0]:
        told = "; ".join(f"{one.best_probe.name} ({one.task}, margin {one.margin:+.3f})" for one in failed)
        raise CheckFailed(f"the reward can be hacked: {told}; change reward.preset, reward.weights or the data")


def predict(
    *,
    model: str,
    data: Path,
    out: Path,
    template: str = "auto",
    thinking: bool | None = None,
    max_completion_tokens: int = 256,
    limit: int | None = None,
    resume: bool = False,
    dry_run: bool = False,
) -> None:
    """Write a model's answers to a data set into ``out``, and score them. ``dry_run``: only say how many."""
    from virft.data.store import Store
    from virft.evaluation.prediction_run import count_answers, require_free
    from virft.evaluation.predictions import PREDICTIONS

    require_free(out, resume=resume)
    store = Store(data)
    if dry_run:
        print(f"{count_answers(islice(store, limit))}, at most {max_completion_tokens} tokens each")
        return
    store.check(decode=True)
    from virft.evaluation.score import scores_to_text, write_scores
    from virft.inference.prompting import asks_thinking
    from virft.models.load import load_model
    from virft.recipes.evaluate import Asking, evaluate
    from virft.training.distributed import is_main_process

    loaded = load_model(model)
    with _progress_bar() as show:
        asking = Asking(
            template=template,
            thinking=asks_thinking(loaded, thinking),
            max_completion_tokens=max_completion_tokens,
            model_name=model,
            resume=resume,
            progress=show,
        )
        scores = evaluate(loaded, store, out, asking=asking, limit=limit, with_intervals=is_main_process())
    if not is_main_process():
        return
    write_scores(scores, out / "scores.json", predictions=out / PREDICTIONS)
    print(scores_to_text(scores))


def presence(
    *,
    model: str,
    data: Path,
    out: Path,
    question: str | None = None,
    thinking: bool | None = None,
    max_completion_tokens: int = 64,
    resume: bool = False,
) -> None:
    """Ask a model which classes of a data set are in which of its images, and write that into ``out/map.json``."""
    from virft.data.store import Store
    from virft.evaluation.prediction_run import require_free

    require_free(out, resume=resume)
    store = Store(data)
    store.check(decode=True)
    from virft.evaluation.predictions import read_predictions
    from virft.evaluation.presence import QUESTION, PresenceQuestions, asked_map, write_asked_map
    from virft.inference.prompting import asks_thinking
    from virft.models.load import load_model
    from virft.recipes.evaluate import Asking, answer
    from virft.training.distributed import is_main_process

    text = question or QUESTION
    if "{query}" not in text:
        raise ConfigError(f"--question {text!r}: expected a text with {{query}} in it, where the class goes")
    loaded = load_model(model)
    questions = PresenceQuestions(store, question=text)
    if is_main_process():
        _say(f"{len(questions)} questions")
    with _progress_bar() as show:
        asking = Asking(
            template="auto",
            thinking=asks_thinking(loaded, thinking),
            max_completion_tokens=max_completion_tokens,
            model_name=model,
            resume=resume,
            progress=show,
        )
        card = asking.card(loaded, data=store, num_samples=len(questions))
        card = replace(card, settings=card.settings | {"template": text})
        path = answer(loaded, out, card, sample_at=questions.__getitem__, number=len(questions), asking=asking)
    if is_main_process():
        write_asked_map(out / MAP, asked_map(questions, read_predictions(path).items()))
        _say(f"{out / MAP}: for `virft build coco ... --ask map:{out / MAP}`")


def ask(
    *,
    model: str,
    image: str,
    question: str | None = None,
    task: str = "detection",
    template: str = "auto",
    thinking: bool | None = None,
    out: Path | None = None,
    overwrite: bool = False,
    max_completion_tokens: int = 256,
    temperature: float = 0.0,
    seed: int | None = None,
) -> None:
    """Print a model's reasoning and answer about a picture, and write the picture with the answer's boxes.

    ``image`` "-": read many questions from standard input, and print a record of JSON for each.
    """
    if (image == "-") != (question is None):
        raise ConfigError("ask: expected IMAGE and QUESTION, or - alone for questions from standard input")
    if seed is not None and temperature == 0:
        raise ConfigError("--seed has no effect: it needs --temperature above 0; take it out")
    from virft.data.images import load_image
    from virft.inference.annotated_image import default_path, require_free, save_picture
    from virft.inference.questions import make_question
    from virft.inference.result import in_lines
    from virft.text.prompts import read_template

    if template != "auto":
        read_template(template)
    asked = None if question is None else make_question(image, question, task)
    if asked is not None:
        load_image(asked.image)
        out = out or default_path(asked.image, Path(), set())
        require_free(out, image=asked.image, overwrite=overwrite)
    elif out is not None and out.exists() and not out.is_dir():
        raise ConfigError(f"--out {out}: is a file; with - expected a folder for the pictures")
    from virft.inference.asker import Asker
    from virft.inference.json_lines import answer_lines
    from virft.models.load import load_model

    asker = Asker(
        load_model(model),
        template=template,
        thinking=thinking,
        max_completion_tokens=max_completion_tokens,
        temperature=temperature,
        seed=seed or 0,
    )
    if asked is None:
        _print_records(answer_lines(sys.stdin.buffer, asker, task=task, folder=out or Path(), overwrite=overwrite))
        return
    assert out is not None
    answered = asker.answer(asked)
    save_picture(out, answered)
    for line in in_lines(answered):
        _say(line)
    _say(f"picture: {out}")


def app(
    *,
    model: str,
    base: str | None = None,
    host: str = "127.0.0.1",
    port: int = 7860,
    template: str = "auto",
    thinking: bool | None = None,
    max_completion_tokens: int = 256,
) -> None:
    """Serve a page in which a model is asked, beside the model it was tuned from if ``base`` names that."""
    from virft.inference.app import import_gradio, listen, serve

    import_gradio()
    with listen(host, port) as listening:
        from virft.inference.asker import Asker
        from virft.models.load import load_model

        models = {"base": base, "tuned": model} if base is not None else {"model": model}
        asker = partial(Asker, template=template, thinking=thinking, max_completion_tokens=max_completion_tokens)
        serve({name: asker(load_model(path)) for name, path in models.items()}, listening, say=_say)


def report(*, folders: Sequence[Path], out: Path | None = None, num_pictures: int = 40, intervals: bool = True) -> None:
    """Write one HTML page about run folders and folders of predictions.

    It lands in the first run, or here if there is none: beside predictions there must be nothing that ``predict`` does
    not know.
    """
    from virft.report.read import report_folders
    from virft.report.read.runs import is_run

    page = report_folders(folders, num_pictures=num_pictures, with_intervals=intervals)
    goal = out or next(filter(is_run, folders), Path()) / REPORT
    goal = goal / REPORT if goal.is_dir() else goal
    goal.parent.mkdir(parents=True, exist_ok=True)
    goal.write_text(page, encoding="utf-8", errors="backslashreplace")
    _say(f"{goal}: {len(page.encode(errors='replace')) / 1e6:.1f} MB")


def doctor(*, config: Path | None = None, overrides: Sequence[str] = ()) -> None:
    """Print what this machine has and lacks, line by line; ``CheckFailed`` where something must be put right."""
    settings = None
    if config is not None:
        from virft.config.toml_file import load

        settings = load(config, overrides).config
    from virft.recipes.doctor import State, examine

    broken = []
    for finding in examine(settings, folder=Path(settings.run.dir if settings else "runs")):
        _say(f"{finding.state:4}  {finding.about:12}{finding.told}")
        if finding.cure:
            _say(f"{'':18}-> {finding.cure}")
        broken += [finding.about] if finding.state is State.BROKEN else []
    if broken:
        raise CheckFailed(f"to be put right: {', '.join(broken)}")
    _say("nothing to be put right")


def merge(*, adapters: Path, out: Path, dtype: Literal["float32", "bfloat16"] = "float32") -> None:
    """Make one model folder of adapters and their base. Weights of type ``dtype``; float32 gives the same answers."""
    from virft.errors import ModelError, RunError

    if not (adapters / ADAPTERS).is_file():
        raise ModelError(f"{adapters}: holds no adapters; expected a folder with {ADAPTERS}, such as RUN/model")
    if out.exists():
        raise RunError(f"{out}: is there already; name a new folder")
    import torch

    from virft.models.load import load_model
    from virft.publishing.model_card import card_of_model

    loaded = load_model(str(adapters))
    loaded.merge_adapters()
    loaded.model.to(getattr(torch, dtype))
    loaded.save(out, readme=card_of_model(adapters, adapters=False))
    _say(f"the merged model: {out}")


def push(*, model: Path, repo: str, private: bool = True) -> None:
    """Upload a model folder, or the model of a run, to the Hugging Face Hub; its card gets the scores of the run."""
    from huggingface_hub import HfApi

    from virft.models.load import check_folder
    from virft.publishing.hub import push_folder
    from virft.publishing.model_card import renew_card

    folder = model / "model" if (model / "config.toml").is_file() else model
    check_folder(folder, str(folder))
    renew_card(folder)
    _say(f"pushed: {push_folder(folder, repo, api=HfApi(), private=private)}")


def quickstart(*, out: Path, seed: int = 0, steps: int | None = None, resume: bool = False) -> None:
    """Teach the built-in model new classes by reward and by right answers, and show scores and pictures."""
    from virft.recipes.quickstart import run_quickstart

    run_quickstart(out, seed=seed, steps=steps, resume=resume, say=_say)


@contextmanager
def _mask_maker(named: str | None, store: Store) -> Iterator[MaskMaker | None]:
    """How boxes become masks; a segmenter is loaded when the set is known to need it, and shows its progress."""
    from virft.evaluation.masks import BOX, MaskMaker, require_masks

    if named is None:
        yield None
        return
    require_masks(store)
    if named == BOX:
        yield MaskMaker()
        return
    store.check(decode=True)
    from virft.recipes.setup import make_segmenter

    segment = make_segmenter(named)
    with _progress_bar("masks") as show:
        # A folder by its name: scores name no folder of this machine.
        name = Path(named).absolute().name if Path(named).is_dir() else named
        yield MaskMaker(name=name, segment=segment, progress=show)


ADAPTERS = "adapter_config.json"
MAP = "map.json"
REPORT = "report.html"


@contextmanager
def _progress_bar(what: str = "answers") -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left, from the first on; told how many of them there are, and of how many."""
    from tqdm import tqdm

    from virft.training.distributed import is_main_process

    with ExitStack() as stack:
        bars: list[Any] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(tqdm(total=total, desc=what, unit="", disable=not is_main_process())))
            bars[0].update(done - bars[0].n)

        yield show


def _train(config: Config, trainer: Literal["grpo", "sft"], *, resume: bool) -> None:
    from virft.recipes.train import train
    from virft.training.distributed import is_main_process
    from virft.training.run import BEST

    model = train(config, trainer, resume=resume, say=_say)
    if not is_main_process():
        return
    _say(f"the trained model: {model}")
    if (best := model.with_name(BEST)).exists():
        _say(f"the best one by validation: {best}")


def _say(line: str) -> None:
    print(line, flush=True)


def _print_records(records: Iterable[Mapping[str, Any]]) -> None:
    """One JSON object a line, each as it comes; ``PartlyDone`` in the end if some hold an error."""
    num_records = num_errors = 0
    for record in records:
        _say(json.dumps(record))
        num_records += 1
        num_errors += "error" in record
    if num_errors:
        raise PartlyDone(f"{num_errors} of {num_records} lines could not be used; each has its record with an error")


def _read_text(file: Path | None) -> str:
    """The text of a file without its last line break."""
    if file is None:
        raise ConfigError("explain: no text; expected TEXT or --file")
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); expected the text of one completion") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text; expected the text of one completion") from error


def _told_skipped(number: int) -> str:
    return f"; {number} records of the source were skipped, see card.json" if number else ""
