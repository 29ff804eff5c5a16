"""Verbs that measure a model, its predictions, or the reward itself: predict, presence, score, audit, explain.

Imports are inside the functions: a verb without a model does not wait for PyTorch.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from virft.cli import arguments
from virft.cli.output import progress_bar, resolve_model, say
from virft.cli.parsers import (
    Verbs,
    add_all,
    add_blind_data,
    add_config,
    add_data,
    add_engine,
    add_intervals,
    add_max_completion_tokens,
    add_model,
    add_precision,
    add_prompting,
    add_resume,
    add_skip_refused,
    add_task,
    add_thinking,
    add_verb,
)
from virft.config.wording import counted
from virft.errors import CheckFailed, ConfigError, DataError, ModelError
from virft.geometry.boxes import BoxSpace
from virft.types import Detections, ImageSize, LabelledDetections

if TYPE_CHECKING:
    from virft.config.schema import Dtype
    from virft.data.store import Store
    from virft.evaluation.evaluated import EvaluatedPredictions
    from virft.evaluation.masks import MaskMaker

MAP = "map.json"


def add_predict(verbs: Verbs) -> None:
    """Add the parser of ``predict``."""
    verb = add_verb(verbs, "predict", "write and score a model's predictions on a dataset", predict)
    add_model(verb)
    add_data(verb)
    verb.add_argument("out", metavar="OUT", type=Path, help="output folder for predictions.jsonl and scores.json")
    add_prompting(verb)
    add_precision(verb)
    add_engine(verb)
    add_max_completion_tokens(verb, 256)
    verb.add_argument(
        "--zoom-calls",
        action=argparse.BooleanOptionalAction,
        help="offer a zoom call in the prompt, and answer a call with the enlarged region, or not (default: as the "
        "model was trained, else not); see docs/zoom.md",
    )
    verb.add_argument(
        "--limit", type=arguments.positive, metavar="N", help="predict only the first N samples (default: all)"
    )
    verb.add_argument(
        "--yes-no",
        action="store_true",
        help="compute P(yes) to a question about each predicted box, for AP ranked by it (ap_yes): one more forward "
        "pass of the model for each answer with boxes",
    )
    add_skip_refused(verb)
    add_resume(verb, "predictions")
    add_blind_data(verb)
    add_all(verb)
    verb.add_argument(
        "--dry-run", action="store_true", help="print the number of predictions and of tokens; load no model"
    )


def predict(
    *,
    model: str,
    data: Path,
    out: Path,
    template: str = "auto",
    thinking: bool | None = None,
    zoom_calls: bool | None = None,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
    engine: Literal["builtin", "vllm"] = "builtin",
    vllm_gpu_memory: float | None = None,
    max_completion_tokens: int = 256,
    limit: int | None = None,
    yes_no: bool = False,
    skip_refused: bool = False,
    resume: bool = False,
    train: Path | None = None,
    show_all: bool = False,
    dry_run: bool = False,
) -> None:
    """Write a model's predictions on a dataset into ``out``, and score them. ``dry_run``: only print their number.

    ``zoom_calls``: answer zoom calls with the enlarged region; None: as the model's card says, else not.
    ``dtype`` and ``load_in_4bit`` as for ``virft.load``. ``engine`` and ``vllm_gpu_memory`` as the settings
    ``sampling.*``. ``yes_no``: also compute P(yes) of each box. ``skip_refused``: predict without the samples whose
    prompt the model refuses; ``DataError`` names all otherwise. ``train``: training data of the blind baselines.
    ``show_all``: print all scores, not only the headlines. Raises ``ConfigError`` for ``vllm_gpu_memory`` without vLLM.
    """
    if vllm_gpu_memory is not None and engine == "builtin":
        raise ConfigError("--vllm-gpu-memory has no effect without --engine vllm")
    from virft.data.store import Store
    from virft.evaluation.blind_data import find_blind_data, open_blind_data
    from virft.evaluation.prediction_run import describe_workload, require_new_predictions

    model = resolve_model(model)
    require_new_predictions(out, resume=resume)
    store = Store(data)
    if dry_run:
        print(f"{describe_workload(islice(store, limit))}, at most {max_completion_tokens} tokens each")
        return
    if yes_no:
        _require_confidences(store)
    store.check(decode=True)
    blind_data = open_blind_data(train, store) if train else find_blind_data(store, model=model, place=out)
    from virft.config.schema import SamplingConfig
    from virft.evaluation.evaluated import evaluate_predictions
    from virft.inference.prompting import resolve_prompting
    from virft.models.load import load_as_trained
    from virft.recipes.evaluate import PredictionSettings, predict_store, prediction_engine, runtime_of

    loaded = load_as_trained(model, dtype=dtype, in_4bit=load_in_4bit)
    runtime = runtime_of(loaded)
    sampling = SamplingConfig(engine=engine)
    if vllm_gpu_memory is not None:
        sampling = replace(sampling, vllm_gpu_memory=vllm_gpu_memory)
    prompting = resolve_prompting(loaded, template=template, thinking=thinking, zoom=zoom_calls)
    with prediction_engine(loaded, prompting, runtime, sampling) as running, progress_bar() as show:
        settings = PredictionSettings(
            prompting=prompting,
            max_completion_tokens=max_completion_tokens,
            model_name=model,
            resume=resume,
            progress=show,
            yes_no=yes_no,
            skip_refused=skip_refused,
            log=say,
            engine=running,
            reports_stop=True,
        )
        path = predict_store(loaded, store, out, settings=settings, runtime=runtime, limit=limit)
    if not runtime.ranks.is_first:
        return
    evaluated = evaluate_predictions(path, store, blind_data)
    evaluated.write()
    _print_evaluated(evaluated, evaluated.scores_path, show_all=show_all)


def _require_confidences(store: Store) -> None:
    """Raise ``ConfigError`` for a dataset without questions whose answers are boxes with confidences."""
    if not any(isinstance(sample.target, Detections | LabelledDetections) for sample in store):
        tasks = ", ".join(dict.fromkeys(sample.task for sample in store))
        raise ConfigError(f"--yes-no: {store.folder} is of {tasks}; expected detection or multiclass_detection")


def _print_evaluated(found: EvaluatedPredictions, out: Path, *, show_all: bool) -> None:
    """Print the headlines, and all scores if requested; else where they are."""
    from virft.evaluation.evaluated import summary_lines, table_lines

    lines = [*summary_lines(found), *(table_lines(found) if show_all else ())]
    print("\n".join(lines))
    print(f"predictions: {found.path}; all scores: {out}" + ("" if show_all else " (printed with --all)"))


def add_presence(verbs: Verbs) -> None:
    """Add the parser of ``presence``."""
    verb = add_verb(verbs, "presence", "query a model which classes each image shows", presence)
    add_model(verb)
    add_data(verb, "folder of a detection dataset")
    verb.add_argument("out", metavar="OUT", type=Path, help=f"output folder for predictions.jsonl and {MAP}")
    verb.add_argument("--question", help="yes-or-no question with {query} in place of the class name")
    add_thinking(verb)
    add_precision(verb)
    add_max_completion_tokens(verb, 64)
    add_resume(verb, "predictions")


def presence(
    *,
    model: str,
    data: Path,
    out: Path,
    question: str | None = None,
    thinking: bool | None = None,
    dtype: Dtype = "auto",
    load_in_4bit: bool | None = None,
    max_completion_tokens: int = 64,
    resume: bool = False,
) -> None:
    """Query a model which classes of a dataset each of its images shows, and write the result into ``out/map.json``.

    Raises ``ConfigError`` for a question without ``{query}``.
    """
    from virft.data.store import Store
    from virft.evaluation.prediction_run import require_new_predictions

    model = resolve_model(model)
    require_new_predictions(out, resume=resume)
    store = Store(data)
    store.check(decode=True)
    from virft.evaluation.predictions import read_predictions
    from virft.evaluation.presence import QUESTION, PresenceQuestions, query_map, write_query_map
    from virft.inference.prompting import check_prompts, resolve_prompting
    from virft.models.load import load_as_trained
    from virft.recipes.evaluate import PredictionSettings, run_predictions, runtime_of

    text = question or QUESTION
    if "{query}" not in text:
        raise ConfigError(f"--question {text!r}: expected a text with {{query}} in it, in place of the class name")
    loaded = load_as_trained(model, dtype=dtype, in_4bit=load_in_4bit)
    runtime = runtime_of(loaded)
    is_first = runtime.ranks.is_first
    questions = PresenceQuestions(store, question=text)
    if is_first:
        say(counted(len(questions), "question"))
    with progress_bar() as show:
        settings = PredictionSettings(
            prompting=resolve_prompting(loaded, template="auto", thinking=thinking),
            max_completion_tokens=max_completion_tokens,
            model_name=model,
            resume=resume,
            progress=show,
            reports_stop=True,
        )
        check_prompts(loaded, settings.prompting, map(questions.__getitem__, range(len(questions))))
        card = settings.card(loaded, data=store, num_samples=len(questions))
        card = replace(card, settings=card.settings | {"template": text})
        path = run_predictions(
            loaded,
            out,
            card,
            sample_at=questions.__getitem__,
            number=len(questions),
            settings=settings,
            runtime=runtime,
        )
    if is_first:
        write_query_map(out / MAP, query_map(questions, read_predictions(path).items()))
        say(f"{out / MAP}: for `virft build coco ... --protocol map:{out / MAP}`")


def add_score(verbs: Verbs) -> None:
    """Add the parser of ``score``."""
    verb = add_verb(verbs, "score", "score saved predictions against the ground truth", score)
    verb.add_argument(
        "predictions", metavar="PREDICTIONS", type=Path, help="predictions.jsonl, or a folder that holds it"
    )
    add_data(verb, "folder of the dataset that was predicted")
    verb.add_argument("--out", type=Path, help="output file (default: scores.json next to the predictions)")
    add_intervals(verb)
    add_blind_data(verb)
    add_all(verb)
    verb.add_argument(
        "--class-group",
        dest="class_groups",
        action="append",
        type=arguments.class_group,
        default=[],
        metavar="NAME=A,B",
        help="also score the questions about these classes (or an @set) separately; repeat for more groups, whose "
        "harmonic mean is reported too",
    )
    verb.add_argument(
        "--seeds",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="predictions of the same system trained with other seeds: report mean and standard deviation",
    )
    verb.add_argument(
        "--against",
        type=Path,
        nargs="+",
        default=[],
        metavar="PATH",
        help="predictions of a second system, one path per seed: report the difference with its confidence interval",
    )
    verb.add_argument(
        "--masks",
        metavar="SEGMENTER",
        help="measure masks too (IoU of grounding, average precision of detection): `box` fills the boxes; else a "
        "folder or hub id of SAM or SAM 2",
    )


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
    train: Path | None = None,
    show_all: bool = False,
) -> Mapping[str, Any]:
    """Score the texts of ``predictions`` (a file, or a run folder) against a dataset; no model is needed.

    ``train``: training data of the blind baselines. ``show_all``: print all scores, not only the headlines.
    ``seeds``: predictions of the same system with other seeds. ``against``: those of a second system. ``masks``:
    measure masks too, made by ``box`` (filled boxes) or by the segmenter of a folder or hub id.
    """
    from virft.data.class_sets import expand_class_sets
    from virft.data.store import Store
    from virft.evaluation.blind_data import find_blind_data, open_blind_data
    from virft.evaluation.comparison import compare_systems, comparisons_to_text, measure
    from virft.evaluation.evaluated import evaluate_predictions
    from virft.evaluation.predictions import find_predictions, read_predictions_card
    from virft.evaluation.score import score_predictions, seeds_to_text
    from virft.recipes.own_questions import question_warnings

    store = Store(data)
    groups = {name: expand_class_sets(classes) for name, classes in class_groups}
    find = partial(find_predictions, data_name=store.folder.absolute().name)
    paths, others = [find(place) for place in (predictions, *seeds)], [find(place) for place in against]
    path, *other_seeds = paths
    card = read_predictions_card(path)
    model = card.model
    blind_data = open_blind_data(train, store) if train else find_blind_data(store, model=model, place=path.parent)
    with _mask_maker(masks, store) as maker:
        evaluated = evaluate_predictions(
            path, store, blind_data, with_intervals=intervals, class_groups=groups, masks=maker
        )
        scores_of_seeds = [score_predictions(one, store, class_groups=groups, masks=maker) for one in other_seeds]
    both = [[measure(path, store) for path in side] for side in (others, paths)] if others else []
    comparisons = compare_systems(*both) if both else ()
    written = evaluated.write(out, comparisons=comparisons)
    _print_evaluated(evaluated, out or evaluated.scores_path, show_all=show_all)
    for warning in question_warnings(store, thinking=card.thinking, space=card.box_space):
        print(f"warning: {warning}")
    if scores_of_seeds:
        print(seeds_to_text([evaluated.scores, *scores_of_seeds]))
    if comparisons:
        print(comparisons_to_text(comparisons, first=str(against[0]), second=str(predictions)))
    return written


@contextmanager
def _mask_maker(name: str | None, store: Store) -> Iterator[MaskMaker | None]:
    """Give the function that turns boxes into masks; a segmenter is loaded only for a dataset that needs one."""
    from virft.evaluation.masks import BOX, MaskMaker, require_masks

    if name is None:
        yield None
        return
    require_masks(store)
    if name == BOX:
        yield MaskMaker()
        return
    store.check(decode=True)
    from virft.recipes.setup import make_segmenter

    try:
        segment = make_segmenter(name)
    except ModelError as error:
        raise ModelError(f"{error}, or {BOX}") from error
    with progress_bar("masks") as show:
        # a folder by its last name only: scores hold no path of this machine
        short = Path(name).absolute().name if Path(name).is_dir() else name
        yield MaskMaker(name=short, segment=segment, progress=show)


def add_audit(verbs: Verbs) -> None:
    """Add the parser of ``audit``."""
    verb = add_verb(verbs, "audit", "check whether image-blind completions exploit a reward", audit)
    add_config(verb, example="reward.preset=paper")
    verb.add_argument(
        "--limit",
        type=arguments.positive,
        metavar="N",
        default=500,
        help="maximum number of questions, evenly spaced over the dataset",
    )
    verb.add_argument(
        "--groups",
        dest="num_groups",
        type=arguments.positive,
        metavar="N",
        help="also sample N groups of completions of the config's model: fraction of groups without reward variance, "
        "correlation of reward and metric (default: none)",
    )


def audit(
    *, config: Path | None, overrides: Sequence[str] = (), limit: int = 500, num_groups: int | None = None
) -> None:
    """Print the rewards of image-blind probes and of oracle answers of graded quality.

    ``num_groups``: also sample that number of groups of the config's model. Raises ``CheckFailed`` if a probe earns at
    least as much reward as a half-correct answer: the reward can be hacked, or if its metric is as good too, the data
    does not distinguish vision from a constant answer.
    """
    from virft.recipes.fitting import load_fitted_config

    settings = load_fitted_config(config, overrides).config
    from virft.audit.audit import audit_reward
    from virft.audit.groups import judge_groups, sample_groups
    from virft.audit.text import audit_faults, audit_text, groups_text
    from virft.recipes.preflight import training_data
    from virft.recipes.setup import make_grader
    from virft.recipes.trainers import open_grpo_trainer

    data = training_data(settings, "grpo")
    samples = list(data)
    num_probed = min(limit, len(samples))
    probed = [samples[i * len(samples) // num_probed] for i in range(num_probed)]
    with progress_bar("questions") as show:
        grader = make_grader(settings.reward, settings.prompt, settings.mixture, BoxSpace.RELATIVE_1000)
        reports = audit_reward(probed, grader, progress=show)
    for one in reports:
        say(audit_text(one))
    if num_groups is not None:
        trainer = open_grpo_trainer(settings, (sample.query for sample in samples))
        prompted = list(islice(chain.from_iterable(map(data.batch, count())), num_groups))
        with progress_bar("groups") as show:
            groups = sample_groups(trainer, prompted, progress=show)
        say(groups_text(judge_groups(groups)))
    if faults := audit_faults(reports):
        raise CheckFailed("\n".join(faults))


def add_explain(verbs: Verbs) -> None:
    """Add the parser of ``explain``."""
    verb = add_verb(verbs, "explain", "print the reward of one completion, part by part", explain)
    completion = verb.add_mutually_exclusive_group(required=True)
    completion.add_argument("text", metavar="TEXT", nargs="?", help="the completion")
    completion.add_argument("--file", type=Path, help="file with the completion")
    add_task(verb, required=True, help="task of the completion")
    verb.add_argument(
        "--target",
        required=True,
        help="ground truth, written like the content of <answer>, in pointing as boxes; if the task has no "
        'boxes, also the JSON object of a target, such as {"answers": ["12"], "kind": "number"}',
    )
    verb.add_argument("--query", metavar="CLASS", help="class name that labels in boxes are compared with")
    verb.add_argument(
        "--check-labels",
        action="store_true",
        help="a box whose own label names another class than --query is invalid, as reward.check_labels",
    )
    verb.add_argument(
        "--preset", choices=("robust", "paper"), default="robust", help="set of reward formulas, as reward.preset"
    )
    verb.add_argument(
        "--iou-threshold",
        type=arguments.number(float, at_least=0, at_most=1),
        metavar="IOU",
        help="a box matches the ground truth from this IoU on; detection of one class or several (default: 0.5)",
    )
    verb.add_argument(
        "--image-size",
        type=arguments.image_size,
        default=ImageSize(1000, 1000),
        metavar="WxH",
        help="size of the original image, in pixels",
    )
    verb.add_argument("--image", type=Path, metavar="FILE", help="the image, whose size replaces --image-size")
    verb.add_argument(
        "--segmenter",
        metavar="MODEL",
        help="folder or hub id of a SAM or SAM 2 model, as reward.segmenter: also print the reward of the mask; needs "
        '--image, and a target with a mask: {"box": [..], "polygons": [[..]]} in pixels',
    )
    verb.add_argument(
        "--resized",
        type=arguments.image_size,
        metavar="WxH",
        help="size of the image after preprocessing, in pixels (default: --image-size)",
    )
    verb.add_argument(
        "--space",
        type=arguments.one_of(BoxSpace),
        choices=list(BoxSpace),
        default=BoxSpace.RELATIVE_1000,
        help="coordinates of the boxes: relative_1000 is 0 to 1000 of width and height",
    )
    verb.add_argument(
        "--thinking", action="store_true", help="the prompt requires a <think> block: the format reward expects one"
    )


def explain(
    *,
    text: str | None = None,
    file: Path | None = None,
    task: str,
    target: str,
    query: str | None = None,
    check_labels: bool = False,
    preset: Literal["robust", "paper"] = "robust",
    iou_threshold: float | None = None,
    image_size: ImageSize,
    image: Path | None = None,
    segmenter: str | None = None,
    resized: ImageSize | None = None,
    space: str = BoxSpace.RELATIVE_1000,
    thinking: bool = False,
) -> None:
    """Print the reward of one completion with each matched pair of boxes. ``target`` is written like an answer.

    Raises ``ConfigError`` for a target that cannot be parsed or an option without effect, ``DataError`` for a file that
    cannot be read.
    """
    from virft.recipes.single_reward import image_size_of, read_target, reward

    if image is not None:
        image_size = image_size_of(image)
    if text is None:
        text = _read_text(file)
    seen = resized or image_size
    known = read_target(target, task, space=BoxSpace(space), image_size=image_size, resized=seen, where="--target")
    found = reward(
        text,
        known,
        task,
        image_size=image_size,
        resized=seen,
        box_space=space,
        thinking=thinking,
        preset=preset,
        iou_threshold=iou_threshold,
        query=query,
        check_labels=check_labels,
        image=image,
        segmenter=segmenter,
    )
    print(found)


def _read_text(file: Path | None) -> str:
    """Return the text of a file without its last line break."""
    if file is None:
        raise ConfigError("explain: no text; expected TEXT or --file")
    try:
        return file.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise DataError(f"{file}: cannot be read ({error.strerror}); expected the text of one completion") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 text; expected the text of one completion") from error
