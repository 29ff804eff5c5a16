"""The command line: arguments in, one function of ``virft.cli.verbs`` called. No logic."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from virft.errors import CheckFailed, ConfigError, PartlyDone, RunStopped, VirftError
from virft.origin import version_and_commit
from virft.scenes import SCENE_TASKS
from virft.tasks import TASKS
from virft.types import ImageSize

EXIT_NOT_ALL_WELL = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130

_SHARED_VERBS = ("grpo", "sft", "predict", "presence")
"""Verbs whose work several processes do together."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return the exit status. An error of the user's is one message, not a traceback."""
    arguments = _arguments(argv)
    verb = arguments.pop("verb")
    try:
        _require_shared(verb, dry_run=arguments.get("dry_run", False))
        from virft.cli import build, verbs

        if "strict" in arguments:
            names = [field.name for field in fields(build.BuildChoices) if field.name in arguments]
            arguments["choices"] = build.BuildChoices(**{name: arguments.pop(name) for name in names})
        getattr(build if verb.startswith("build_") else verbs, verb)(**arguments)
        _leave_launcher()
    except RunStopped as stopped:
        _leave_launcher()
        if not _rank():
            _tell(stopped)
        return EXIT_INTERRUPTED
    except (PartlyDone, CheckFailed) as error:
        _tell(error)
        return EXIT_NOT_ALL_WELL
    except VirftError as error:
        _tell(error)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        _tell("interrupted")
        return EXIT_INTERRUPTED
    return 0


def run() -> NoReturn:
    """``main`` as a program.

    A process that a launcher started ends here and now, without the interpreter's clean-up: a thread of gloo may let go
    of its last tensor only then, which aborts a process whose work is done, and with it the run.
    """
    status = main()
    if _is_launched():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _rank() -> int:
    """The number of this process among those of a launcher; 0 for one that was started by itself."""
    return int(os.environ.get("RANK", 0)) if _is_launched() else 0


def _is_launched() -> bool:
    return "LOCAL_RANK" in os.environ


def _leave_launcher() -> None:
    """After an end that all processes come to; after an error of one alone, the launcher ends the others."""
    if _is_launched():
        from virft.training.distributed import leave_processes

        leave_processes()


def _tell(what: object) -> None:
    """On standard error; a process that is not the first says which one it is, as it may be the only one to know."""
    print(f"virft (process {_rank()}): {what}" if _rank() else f"virft: {what}", file=sys.stderr)


def _require_shared(verb: str, *, dry_run: bool) -> None:
    """``ConfigError`` if a launcher started several processes for what one does."""
    count = int(os.environ.get("WORLD_SIZE", 1)) if _is_launched() else 1
    if count > 1 and (dry_run or verb not in _SHARED_VERBS):
        told = f"{verb} --dry-run" if dry_run else verb
        raise ConfigError(
            f"virft {told} runs in one process, and {count} were started; "
            f"expected no launcher, or one of {', '.join(_SHARED_VERBS)}"
        )


def _arguments(argv: Sequence[str] | None) -> dict[str, Any]:
    """The parsed arguments; ``key=value`` may also stand behind an option, where argparse by itself takes none."""
    parser = _parser()
    parsed, rest = parser.parse_known_args(argv)
    if hasattr(parsed, "overrides"):
        parsed.overrides += [word for word in rest if not word.startswith("-")]
        rest = [word for word in rest if word.startswith("-")]
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return vars(parsed)


class _Version(argparse.Action):
    """Asks for the commit only when the version is asked for: in a checkout that takes git."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"virft {version_and_commit()}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    """Every destination is an argument of the verb's function, or a field of ``BuildChoices``."""
    parser = argparse.ArgumentParser(
        prog="virft", description="Fine-tune vision-language models by reinforcement, with visual rewards."
    )
    told = "show version and commit, and exit"
    parser.add_argument("--version", action=_Version, nargs=0, default=argparse.SUPPRESS, help=told)
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    _add_quickstart(verbs)
    doctor = _add_verb(verbs, "doctor", "look at this machine, and at a run's model and data", function="doctor")
    doctor.add_argument("config", metavar="CONFIG", type=Path, nargs="?", help="a TOML file whose run is looked at too")
    doctor.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings over the file")
    _add_build(verbs)
    check = _add_verb(verbs, "check", "read a data set whole and print what it holds", function="check")
    check.add_argument("data", metavar="DATA", type=Path, help="folder of a data set")
    look = _add_verb(verbs, "look", "make a page of a data set's pictures and targets", function="look")
    look.add_argument("data", metavar="DATA", type=Path, help="folder of a data set")
    look.add_argument("--out", type=Path, help="the page (look.html in the data set by default)")
    look.add_argument("--limit", type=_at_least_one, metavar="N", default=60, help="questions at most, evenly spread")
    _add_export(verbs)
    _add_grpo(verbs)
    _add_sft(verbs)
    _add_plan(verbs)
    _add_compare(verbs)
    _add_audit(verbs)
    _add_predict(verbs)
    _add_presence(verbs)
    _add_score(verbs)
    _add_report(verbs)
    _add_explain(verbs)
    _add_ask(verbs)
    _add_app(verbs)
    _add_merge(verbs)
    _add_push(verbs)
    return parser


_SPACES = ("relative_1000", "resized_pixels", "original_pixels")
_Verbs: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def _add_verb(verbs: _Verbs, name: str, help: str, *, function: str | None = None) -> argparse.ArgumentParser:
    verb = verbs.add_parser(
        name, help=help, description=help, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    if function:
        verb.set_defaults(verb=function)
    return verb


def _add_quickstart(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "quickstart", "teach the built-in model new classes, in minutes", function="quickstart")
    verb.add_argument("out", metavar="OUT", type=Path, nargs="?", default=Path("runs/quickstart"), help="run folder")
    verb.add_argument("--seed", type=_not_negative, default=0)
    verb.add_argument("--steps", type=_at_least_one, help="training steps (its own number by default)")
    verb.add_argument("--resume", action="store_true", help="go on with a run that was stopped")


def _add_build(verbs: _Verbs) -> None:
    sources = _add_verb(verbs, "build", "make a data set").add_subparsers(metavar="SOURCE", required=True)
    for name, federated in (("coco", False), ("lvis", True)):
        verb = _add_verb(sources, name, f"{name.upper()} JSON with its images: detection", function="build_coco")
        verb.set_defaults(federated=federated)
        verb.add_argument("annotations", metavar="JSON", type=Path)
        verb.add_argument(
            "images", metavar="IMAGES", type=_folder_or_none, help="folder of the images; - builds without pictures"
        )
        verb.add_argument(
            "--ask",
            metavar="PROTOCOL",
            help="for a test set: `all` asks for every class on every image, `map:FILE` for those of a JSON file",
        )
        _add_detection_arguments(verb)
    for kind, what in (
        ("labelme", "LabelMe JSON files beside their images"),
        ("voc", "Pascal VOC XML files, images in JPEGImages or beside"),
        ("yolo", "YOLO text files, with images, labels and names"),
    ):
        verb = _add_verb(sources, kind, f"{what}: detection", function="build_files")
        verb.set_defaults(kind=kind)
        verb.add_argument("root", metavar="FOLDER", type=Path)
        _add_detection_arguments(verb)
    folders = _add_verb(sources, "folders", "a folder of images for each class", function="build_folders")
    folders.add_argument("root", metavar="FOLDER", type=Path, help="folder of the classes' folders")
    _add_label_arguments(folders)
    table = _add_verb(sources, "csv", "a CSV file of paths and labels", function="build_csv")
    table.add_argument("table", metavar="CSV", type=Path, help="its head names the columns path and label")
    table.add_argument("images", metavar="IMAGES", type=Path, help="folder of the images")
    _add_label_arguments(table)
    lisa = _add_verb(sources, "lisa", "ReasonSeg folders: instructions and masks, grounding", function="build_lisa")
    lisa.add_argument("folder", metavar="FOLDER", type=Path, help="LabelMe JSON files with `text`, beside their images")
    lisa.add_argument("out", metavar="OUT", type=Path, help="folder of the data set (of several, with a split)")
    lisa.add_argument("--questions", type=_at_least_one, metavar="N", help="questions in all; every one by default")
    _add_build_choices(lisa)
    refcoco = _add_verb(sources, "refcoco", "JSON of expressions and boxes: grounding", function="build_refcoco")
    refcoco.add_argument("expressions", metavar="JSON", type=Path, help="records, or a COCO file with captions")
    refcoco.add_argument("images", metavar="IMAGES", type=Path, help="folder of the images")
    refcoco.add_argument("out", metavar="OUT", type=Path, help="folder of the data set (of several, with a split)")
    refcoco.add_argument("--box-format", choices=("xywh", "xyxy"), default="xywh", help="what a bbox holds, in pixels")
    refcoco.add_argument("--questions", type=_at_least_one, metavar="N", help="questions in all; every one by default")
    _add_build_choices(refcoco)
    rows = _add_verb(sources, "rows", "rows of JSON: image, question, target; any task", function="build_rows")
    rows.add_argument("rows", metavar="FILE", type=Path, help="a .json list, or JSON lines; docs/rows.schema.json")
    rows.add_argument("images", metavar="IMAGES", type=Path, help="folder of the images")
    rows.add_argument("out", metavar="OUT", type=Path, help="folder of the data set (of several, with a split)")
    _add_build_choices(rows)
    columns = _add_verb(
        sources, "visual-rft", "image, problem, solution: a saved set, parquet, or hub id", function="build_visual_rft"
    )
    columns.add_argument("source", metavar="SOURCE", help="a folder, a parquet file, or a hub id; needs virft[hf]")
    columns.add_argument("out", metavar="OUT", type=Path, help="folder of the data set (of several, with a split)")
    columns.add_argument("--task", choices=list(TASKS), help="of all solutions; by their looks if not")
    columns.add_argument("--space", choices=_SPACES[:1] + _SPACES[2:], default="relative_1000", help="what boxes mean")
    columns.add_argument("--hf-split", metavar="NAME", help="which split of the source, if it has several")
    _add_split_choices(columns)
    scenes = _add_verb(sources, "scenes", "scenes of the built-in world", function="build_scenes")
    scenes.add_argument("out", metavar="OUT", type=Path, help="folder of the data set")
    scenes.add_argument("--task", choices=SCENE_TASKS, default="detection")
    scenes.add_argument(
        "--classes", type=_names, default=("novel",), metavar="A,B", help="class names, or base, novel, heldout"
    )
    scenes.add_argument("--shots", type=_at_least_one, metavar="K", help="a training set of K scenes per class")
    scenes.add_argument("--questions", type=_at_least_one, metavar="N", help="a test set of N questions")
    scenes.add_argument(
        "--kind",
        choices=("train", "train_other_style", "same_sprites", "other_style"),
        help="what the scenes are drawn from (train for shots, same_sprites for questions)",
    )
    scenes.add_argument("--negatives-frac", type=_share, help="share of questions about an absent class")
    scenes.add_argument("--size", type=_side, help="side of the images in pixels")
    scenes.add_argument("--seed", type=_not_negative, default=0)
    scenes.add_argument("--overwrite", action="store_true", help="replace a data set that is there")


def _add_build_choices(verb: argparse.ArgumentParser) -> None:
    """What every build from image files can be told."""
    _add_split_choices(verb)
    verb.add_argument("--link", action="store_true", help="link images instead of copying them")


def _add_split_choices(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--test-frac", type=_share, default=0.0, help="share of images kept for OUT/test")
    verb.add_argument(
        "--validation-frac", type=_share, default=0.0, help="share of images kept for OUT/validation, never of the test"
    )
    verb.add_argument("--seed", type=_not_negative, default=0)
    verb.add_argument("--strict", action="store_true", help="stop at the first broken record")
    verb.add_argument("--overwrite", action="store_true", help="replace a data set that is there")
    verb.add_argument("--licence", help="of the pictures, for the card")


def _add_detection_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("out", metavar="OUT", type=Path, help="folder of the data set (of several, with a split)")
    verb.add_argument(
        "--classes",
        type=_names,
        default=(),
        metavar="A,B",
        help="classes to ask for, or @coco-8, @coco-base-65, @coco-novel-15, @lvis-6, @lvis-rare-13; all by default",
    )
    verb.add_argument(
        "--task",
        choices=[task.name for task in TASKS.values() if task.from_annotation is not None],
        default="detection",
        help="question about each class of an image",
    )
    verb.add_argument("--shots", type=_at_least_one, metavar="K", help="questions per class; all by default")
    verb.add_argument("--negatives-frac", type=_share, default=0.0, help="share of questions about an absent class")
    _add_build_choices(verb)


def _add_label_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("out", metavar="OUT", type=Path, help="folder of the data set (of several, with a split)")
    verb.add_argument("--domain", required=True, help='what the images show, such as "aircraft": the question asks it')
    verb.add_argument("--classes", type=_names, default=(), metavar="A,B", help="labels to ask for; all by default")
    verb.add_argument("--aliases", type=Path, metavar="JSON", help="label -> list of further names that are right")
    verb.add_argument("--shots", type=_at_least_one, metavar="K", help="questions per label; all by default")
    _add_build_choices(verb)


def _add_export(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "export", "write a data set in the format of another tool", function="export")
    verb.add_argument("data", metavar="DATA", type=Path, help="folder of a data set")
    verb.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    verb.add_argument("--format", choices=("coco", "trl", "llama-factory"), required=True)
    verb.add_argument("--template", default="paper", help="paper, short, or a text file with {query} (not for coco)")
    verb.add_argument("--thinking", action="store_true", help="ask for a think block (trl)")
    verb.add_argument("--space", choices=_SPACES, default="relative_1000", help="what boxes in texts mean")


def _add_grpo(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "grpo", "reinforce a model on a data set", function="grpo")
    verb.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file (docs/config.md)")
    verb.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings over the file: grpo.steps=10")
    verb.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    verb.add_argument("--dry-run", action="store_true", help="print the settings and the expected cost, and stop")


def _add_sft(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "sft", "fine-tune a model on the right answers of a data set", function="sft")
    verb.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file (docs/config.md), as for grpo")
    verb.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings over the file: sft.steps=10")
    verb.add_argument("--resume", action="store_true", help="go on with a run that was stopped")


def _add_plan(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "plan", "print the memory that a run needs, and what makes it fit", function="plan")
    verb.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file (docs/config.md), as for grpo")
    verb.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings over the file: model.train=lora")
    verb.add_argument("--memory", type=_gib, metavar="GIB", help="of the device (this machine's by default)")
    verb.add_argument("--image", type=_size, default=ImageSize(640, 480), metavar="WxH", help="size of the pictures")
    verb.add_argument(
        "--text-tokens", type=_at_least_one, default=150, metavar="N", help="of a prompt, beside the picture's"
    )
    verb.add_argument("--trainer", choices=("grpo", "sft"), default="grpo", help="which of the two will run")


def _add_compare(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "compare", "train base, SFT and RFT alike, and hold them side by side", function="compare")
    verb.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file (docs/config.md) with compare.tests")
    verb.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings over the file: compare.seeds=1")
    verb.add_argument("--resume", action="store_true", help="go on with a comparison that was stopped")


def _add_audit(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "audit", "try to cheat the reward of a run, without a model", function="audit")
    verb.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file (docs/config.md), as for grpo")
    verb.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help="settings over the file: reward.preset=paper")
    verb.add_argument("--limit", type=_at_least_one, metavar="N", default=500, help="questions at most, evenly spread")
    verb.add_argument(
        "--model",
        type=_at_least_one,
        metavar="N",
        dest="num_groups",
        help="sample N groups of the config's model too: share without spread, reward against metric",
    )


def _add_predict(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "predict", "write a model's answers to a data set", function="predict")
    verb.add_argument("model", metavar="MODEL", help="virft-tiny, a model folder such as RUN/model, or a hub id")
    verb.add_argument("data", metavar="DATA", type=Path, help="folder of a data set")
    verb.add_argument("out", metavar="OUT", type=Path, help="folder for predictions.jsonl")
    verb.add_argument("--template", default="auto", help="paper, short, auto, or a text file with {query}")
    _add_thinking(verb)
    verb.add_argument("--max-completion-tokens", type=_at_least_one, default=256)
    verb.add_argument("--limit", type=_at_least_one, metavar="N", help="only the first N samples")
    verb.add_argument("--resume", action="store_true", help="go on with predictions that were stopped")
    verb.add_argument("--dry-run", action="store_true", help="print how many answers it takes, and stop")


def _add_thinking(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--thinking",
        action=argparse.BooleanOptionalAction,
        help="ask for a think block or not (as the model was trained; else not)",
    )


def _add_presence(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "presence", "ask a model which classes are in which images", function="presence")
    verb.add_argument("model", metavar="MODEL", help="virft-tiny, a model folder such as RUN/model, or a hub id")
    verb.add_argument("data", metavar="DATA", type=Path, help="folder of a detection data set")
    verb.add_argument("out", metavar="OUT", type=Path, help="folder for the answers and map.json")
    verb.add_argument("--question", help="text with {query} in it, that is answered by yes or no")
    _add_thinking(verb)
    verb.add_argument("--max-completion-tokens", type=_at_least_one, default=64)
    verb.add_argument("--resume", action="store_true", help="go on with answers that were stopped")


def _add_score(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "score", "score written answers, without a model", function="score")
    verb.add_argument("predictions", metavar="PREDICTIONS", type=Path, help="predictions.jsonl, or a folder with one")
    verb.add_argument("data", metavar="DATA", type=Path, help="folder of the data set that was asked")
    verb.add_argument("--out", type=Path, help="file for the scores (scores.json beside the predictions by default)")
    verb.add_argument(
        "--no-intervals", dest="intervals", action="store_false", help="leave out the bootstrap, for large sets"
    )
    verb.add_argument(
        "--class-group",
        dest="class_groups",
        action="append",
        type=_group,
        default=[],
        metavar="NAME=A,B",
        help="also score the questions about these classes (or @set) alone; of several groups their harmonic mean too",
    )
    verb.add_argument(
        "--seeds",
        type=Path,
        nargs="+",
        default=[],
        metavar="P",
        help="the same system with other seeds",
    )
    verb.add_argument(
        "--against", type=Path, nargs="+", default=[], metavar="P", help="another system, a path a seed: the difference"
    )
    verb.add_argument(
        "--masks",
        metavar="SEGMENTER",
        help="measure masks of grounding too: `box` fills the boxes; a folder or hub id of a SAM or SAM 2 model",
    )


def _add_report(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "report", "make one HTML page of runs: scores, curves, pictures", function="report")
    verb.add_argument(
        "folders", metavar="RUN", type=Path, nargs="+", help="run folders, and folders of predictions such as a base's"
    )
    verb.add_argument("--out", type=Path, help="the page (report.html in the first run by default)")
    verb.add_argument(
        "--pictures", dest="num_pictures", type=_pictures, default=40, metavar="N", help="questions shown, 200 at most"
    )
    verb.add_argument(
        "--no-intervals", dest="intervals", action="store_false", help="leave out the bootstrap, for large sets"
    )


def _add_explain(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "explain", "print the reward of one completion, part by part", function="explain")
    given = verb.add_mutually_exclusive_group(required=True)
    given.add_argument("text", metavar="TEXT", nargs="?", help="the completion")
    given.add_argument("--file", type=Path, help="a file that holds the completion")
    verb.add_argument("--task", choices=list(TASKS), required=True)
    verb.add_argument("--target", required=True, help="what is right, written like an answer")
    verb.add_argument("--preset", choices=("robust", "paper"), default="robust")
    verb.add_argument("--iou-threshold", type=float, default=0.5)
    verb.add_argument("--image-size", type=_size, default=ImageSize(1000, 1000), metavar="WxH")
    verb.add_argument("--resized", type=_size, metavar="WxH", help="size that the model sees (as --image-size)")
    verb.add_argument("--space", choices=_SPACES, default="relative_1000")
    verb.add_argument("--thinking", action="store_true", help="a think block is expected")


def _add_ask(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "ask", "ask a model about a picture, and draw its boxes", function="ask")
    verb.add_argument("model", metavar="MODEL", help="virft-tiny, a model folder such as RUN/model, or a hub id")
    verb.add_argument(
        "image", metavar="IMAGE", help="a picture; - reads many questions from standard input, one a line"
    )
    verb.add_argument(
        "question", metavar="QUESTION", nargs="?", help='a class name, a domain such as "animal", or an expression'
    )
    verb.add_argument("--task", choices=list(TASKS), default="detection")
    verb.add_argument("--template", default="auto", help="paper, short, auto, or a text file with {query}")
    _add_thinking(verb)
    verb.add_argument("--out", type=Path, help="the picture with boxes (NAME_answer.png here); of many, their folder")
    verb.add_argument("--overwrite", action="store_true", help="replace a file that is no picture of an answer")
    verb.add_argument("--max-completion-tokens", type=_at_least_one, default=256)
    verb.add_argument(
        "--temperature", type=_temperature, default=0.0, help="0: the likeliest answer; else one is drawn"
    )
    verb.add_argument("--seed", type=_not_negative, help="of a temperature above 0 (0 by default)")


def _add_app(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "app", "ask in a browser; needs virft[app]", function="app")
    verb.add_argument("model", metavar="MODEL", help="virft-tiny, a model folder such as RUN/model, or a hub id")
    verb.add_argument("--base", metavar="MODEL", help="another model, asked the same; its answers stand beside")
    verb.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 lets other machines in")
    verb.add_argument("--port", type=_port, default=7860, help="0 takes any that is free")
    verb.add_argument("--template", default="auto", help="paper, short, auto, or a text file with {query}")
    _add_thinking(verb)
    verb.add_argument("--max-completion-tokens", type=_at_least_one, default=256)


def _add_merge(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "merge", "make one model of adapters and their base", function="merge")
    verb.add_argument("adapters", metavar="ADAPTERS", type=Path, help="folder of adapters, such as RUN/model")
    verb.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    verb.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the weights in OUT")


def _add_push(verbs: _Verbs) -> None:
    verb = _add_verb(verbs, "push", "upload a model to the Hugging Face Hub, private by default", function="push")
    verb.add_argument(
        "model", metavar="RUN_OR_MODEL", type=Path, help="a run folder, or a model folder such as RUN/best"
    )
    verb.add_argument("repo", metavar="REPO", help="owner/name on the Hub")
    verb.add_argument("--public", dest="private", action="store_false", help="everybody may see it")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _group(text: str) -> tuple[str, tuple[str, ...]]:
    name, _, classes = text.partition("=")
    if not name.strip() or not _names(classes):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a name and its classes, such as base=cat,dog")
    return name.strip(), _names(classes)


def _folder_or_none(text: str) -> Path | None:
    return None if text == "-" else Path(text)


def _at_least_one(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number}; expected an integer of at least 1")
    return number


def _not_negative(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number}; expected an integer of at least 0")
    return number


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port < 65536:
        raise argparse.ArgumentTypeError(f"{port}; expected a port from 0 to 65535")
    return port


def _pictures(text: str) -> int:
    number = _not_negative(text)
    if number > 200:
        raise argparse.ArgumentTypeError(f"{number}; expected an integer of at most 200")
    return number


def _side(text: str) -> int:
    side = int(text)
    if side < 28:
        raise argparse.ArgumentTypeError(f"{side}; expected at least 28 pixels, one token of a model")
    return side


def _share(text: str) -> float:
    share = float(text)
    if not 0.0 <= share < 1.0:
        raise argparse.ArgumentTypeError(f"{text}; expected a number of at least 0 and below 1")
    return share


def _temperature(text: str) -> float:
    temperature = float(text)
    if not 0.0 <= temperature <= 10.0:
        raise argparse.ArgumentTypeError(f"{text}; expected a number from 0 to 10")
    return temperature


def _gib(text: str) -> float:
    size = float(text)
    if not 0.0 < size < 1e6:
        raise argparse.ArgumentTypeError(f"{text}; expected GiB above 0, such as 24")
    return size


def _size(text: str) -> ImageSize:
    width, x, height = text.lower().partition("x")
    if not (x and width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise argparse.ArgumentTypeError(f"{text!r}; expected a size such as 640x480")
    return ImageSize(int(width), int(height))
