"""Verb ``build``: one parser and one function per source. Imports are inside the functions: help needs none of them.

A source reads its format; ``BuildOptions.write`` writes the datasets; the command and a summary are logged at the end.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from virft.cli import arguments
from virft.cli.build_options import add_options, report_build
from virft.cli.parsers import Parser, Verbs, add_class_notes, add_parser, add_task, add_verb
from virft.errors import ConfigError
from virft.geometry.boxes import BoxSpace
from virft.recipes.build_options import DEFAULT_OPTIONS, BuildOptions, Cards, require_images, source_of
from virft.scenes import SCENE_TASKS
from virft.tasks import TASKS

if TYPE_CHECKING:
    from virft.data.annotations import AnnotatedSet
    from virft.data.sources.rf100vl import TrainAnnotations
    from virft.data.upright import ExifReading

_TASKS_FROM_BOXES = [task.name for task in TASKS.values() if task.is_from_boxes]
_FROM_BOXES = ", ".join(_TASKS_FROM_BOXES)


def add_build(verbs: Verbs) -> None:
    """Add the parser of ``build``, with one of its own for each source."""
    sources = add_parser(verbs, "build", "convert annotations to a dataset").add_subparsers(
        metavar="SOURCE", required=True, parser_class=Parser
    )
    _add_coco(sources)
    _add_files(sources)
    _add_rf100vl(sources)
    _add_folders(sources)
    _add_csv(sources)
    _add_csv_boxes(sources)
    _add_hf(sources)
    _add_lisa(sources)
    _add_refcoco(sources)
    _add_rows(sources)
    _add_visual_rft(sources)
    _add_scenes(sources)


def _add_source(sources: Verbs, name: str, help: str, build: Callable[..., Cards]) -> argparse.ArgumentParser:
    """Add the parser of a source. Arguments that are fields of ``BuildOptions`` reach ``build`` as its ``options``."""

    @wraps(build)
    def build_with_options(**given: Any) -> Cards:
        options = {field.name: given.pop(field.name) for field in fields(BuildOptions) if field.name in given}
        return report_build(build(options=BuildOptions(**options), **given))

    return add_verb(sources, name, help, build_with_options)


def _add_out(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "out", metavar="OUT", type=Path, help="dataset folder; with a split, the folder of train, validation and test"
    )


def _add_images(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("images", metavar="IMAGES", type=Path, help="folder of the images")


def _add_negatives(verb: argparse.ArgumentParser, *, default: float | None) -> None:
    verb.add_argument(
        "--negatives-frac",
        type=arguments.fraction,
        metavar="F",
        default=default,
        help="fraction of questions about a class that the image does not show"
        + ("" if default is not None else " (default: 0.3)"),
    )


def _add_exif(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--exif",
        choices=("auto", "raw", "upright"),
        default="auto",
        help="pixels that the boxes of images with an EXIF orientation are in: of the stored image, or of the upright "
        "one; auto decides by the stated sizes, and by what all boxes fit",
    )


def _add_detection_arguments(verb: argparse.ArgumentParser, *, has_outlines: bool = False) -> None:
    _add_out(verb)
    verb.add_argument(
        "--classes",
        type=arguments.names,
        default=(),
        metavar="A,B",
        help="class names, or @coco-8, @coco-base-65, @coco-novel-15, @lvis-6, @lvis-rare-13 (default: all)",
    )
    tasks = verb.add_mutually_exclusive_group()
    add_task(
        tasks,
        choices=_TASKS_FROM_BOXES,
        help="task of the questions, one for each class of an image; multiclass_detection: one for each image",
    )
    tasks.add_argument(
        "--per-image",
        dest="task",
        action="store_const",
        const="multiclass_detection",
        default="detection",
        help="one question about all classes of an image, like --task multiclass_detection",
    )
    verb.add_argument(
        "--max-classes-per-question",
        type=arguments.positive,
        metavar="K",
        help="with --per-image: list at most K classes, present ones first, then drawn absent ones (default: all)",
    )
    verb.add_argument(
        "--shots", type=arguments.positive, metavar="K", help="few-shot: K questions per class (default: all)"
    )
    _add_negatives(verb, default=0.0)
    if has_outlines:
        verb.add_argument(
            "--outlines",
            action="store_true",
            help="detection: store the polygons of objects, for reward.segmenter and virft score --masks (pointing "
            "always has them)",
        )
    add_class_notes(verb)
    add_options(verb)


def _add_label_arguments(verb: argparse.ArgumentParser) -> None:
    _add_out(verb)
    verb.add_argument("--domain", required=True, help='what the labels name, such as "aircraft"; part of the question')
    verb.add_argument("--classes", type=arguments.names, default=(), metavar="A,B", help="labels (default: all)")
    verb.add_argument(
        "--aliases", type=Path, metavar="JSON", help="JSON file {label: [other names that count as correct]}"
    )
    verb.add_argument(
        "--shots", type=arguments.positive, metavar="K", help="few-shot: K images per label (default: all)"
    )
    add_class_notes(verb)
    add_options(verb)


def _add_number_of_expressions(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--questions", type=arguments.positive, metavar="N", help="number of training questions (default: all)"
    )


def _add_coco(sources: Verbs) -> None:
    for name, federated in (("coco", False), ("lvis", True)):
        verb = _add_source(sources, name, f"{name.upper()} JSON and its images: {_FROM_BOXES}", build_coco_or_lvis)
        verb.set_defaults(federated=federated)
        verb.add_argument("annotations", metavar="JSON", type=Path, help=f"{name.upper()} annotation file")
        verb.add_argument(
            "images",
            metavar="IMAGES",
            type=arguments.folder_or_none,
            help="folder of the images; - builds without images",
        )
        verb.add_argument(
            "--protocol",
            metavar="PROTOCOL",
            help="test sets: `all` queries every class on every image, `map:FILE` the classes that a JSON file lists "
            "for each image (default: the classes that the image shows)",
        )
        _add_exif(verb)
        _add_detection_arguments(verb, has_outlines=True)


def build_coco_or_lvis(
    *,
    annotations: Path,
    images: Path | None,
    out: Path,
    classes: Sequence[str] = (),
    shots: int | None = None,
    negatives_frac: float = 0.0,
    federated: bool = False,
    protocol: str | None = None,
    task: str = "detection",
    max_classes_per_question: int | None = None,
    exif: ExifReading = "auto",
    outlines: bool = False,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build datasets from a COCO file, or (``federated``) an LVIS file; return their cards by folder.

    ``task``: one whose targets follow from boxes of classes. ``max_classes_per_question``: see ``QuestionPlan``.

    ``images`` None: build without images, see ``Store.has_images``. ``classes``: names, or an ``@set`` of
    ``virft.data.class_sets``. ``protocol``: ``all`` or ``map:FILE``, see ``QuestionPlan``; ``ConfigError`` for others.
    ``exif``: the pixels that boxes of images with an EXIF orientation are in, see ``virft.data.upright.settle_exif``.
    ``outlines``: store the outlines of objects, see ``QuestionPlan.with_outlines``.
    """
    from virft.recipes.datasets import build_from_coco

    return build_from_coco(
        annotations,
        images,
        out,
        classes=classes,
        shots=shots,
        negatives_frac=negatives_frac,
        federated=federated,
        protocol=protocol,
        task=task,
        max_classes_per_question=max_classes_per_question,
        exif=exif,
        outlines=outlines,
        options=options,
    )


def _add_files(sources: Verbs) -> None:
    for kind, description in (
        ("labelme", "LabelMe JSON files next to their images"),
        ("voc", "Pascal VOC XML files, images in JPEGImages or next to them"),
        ("yolo", "YOLO text files, with images, labels and names"),
    ):
        verb = _add_source(sources, kind, f"{description}: {_FROM_BOXES}", build_files)
        verb.set_defaults(kind=kind, first_pixel=None, exif="auto")
        verb.add_argument("root", metavar="FOLDER", type=Path, help="folder of the annotations")
        _add_detection_arguments(verb, has_outlines=kind != "voc")
        if kind != "yolo":
            _add_exif(verb)
        if kind == "voc":
            verb.add_argument(
                "--first-pixel",
                type=int,
                choices=(0, 1),
                help="number of the first pixel in the files (default: 1 if they name a VOC database, else 0)",
            )


def _exif_fact(exif: str) -> dict[str, Any]:
    """Return what the card says about the option."""
    return {} if exif == "auto" else {"exif": exif}


def build_files(
    *,
    kind: Literal["labelme", "voc", "yolo"],
    root: Path,
    out: Path,
    classes: Sequence[str] = (),
    shots: int | None = None,
    negatives_frac: float = 0.0,
    task: str = "detection",
    max_classes_per_question: int | None = None,
    first_pixel: Literal[0, 1] | None = None,
    exif: ExifReading = "auto",
    outlines: bool = False,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build datasets from a folder with one annotation file per image; return their cards by folder.

    ``task``: as for ``build_coco``. ``first_pixel``: as for ``read_voc``; other formats have none. ``exif``: as for
    ``build_coco``; YOLO states no sizes and has none. ``outlines``: as for ``build_coco``; VOC has none.
    """
    from virft.data.class_sets import expand_class_sets
    from virft.data.detection_questions import QuestionPlan, write_detection_stores
    from virft.data.sources.labelme import read_labelme
    from virft.data.sources.voc import read_voc
    from virft.data.sources.yolo import read_yolo

    skipped = options.skipped()
    read: Callable[..., AnnotatedSet] = {"labelme": read_labelme, "voc": read_voc, "yolo": read_yolo}[kind]
    more: dict[str, Any] = {} if first_pixel is None else {"first_pixel": first_pixel}
    if kind != "yolo":
        more["exif"] = exif
    annotated = read(root, classes=expand_class_sets(classes), skipped=skipped, **more)
    split = options.split(annotated.published)
    plan = QuestionPlan(
        task=task,
        shots=shots,
        negatives_frac=negatives_frac,
        max_classes=max_classes_per_question,
        with_outlines=outlines,
        split=split,
    )
    source = source_of(kind, name=root.absolute().name, **_exif_fact(exif))
    return options.write(write_detection_stores, annotated, out, plan=plan, source=source, skipped=skipped)


def _add_rf100vl(sources: Verbs) -> None:
    verb = _add_source(
        sources, "rf100vl", f"RF100-VL and RF20-VL folders with class instructions: {_FROM_BOXES}", build_rf100vl
    )
    verb.add_argument(
        "folder",
        metavar="FOLDER",
        type=Path,
        help="one dataset (train, valid and test), or a folder of datasets, each of which is built in OUT/NAME",
    )
    verb.add_argument(
        "--train-annotations",
        choices=("auto", "complete", "sparse"),
        default="auto",
        help="sparse: training images have boxes of some objects only, so no class is queried as absent on them; auto: "
        "sparse for few-shot projects (fsod in the name of the folder or in README.dataset.txt)",
    )
    _add_detection_arguments(verb, has_outlines=True)


def build_rf100vl(
    *,
    folder: Path,
    out: Path,
    classes: Sequence[str] = (),
    shots: int | None = None,
    negatives_frac: float = 0.0,
    task: str = "detection",
    max_classes_per_question: int | None = None,
    train_annotations: TrainAnnotations = "auto",
    outlines: bool = False,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build the datasets of an RF100-VL folder, with their published splits; return their cards by folder.

    Validation and test sets query every class on every image, as the benchmark does. ``train_annotations``: as
    ``train`` of ``read_rf100vl``. Everything is read before anything is written. Raises ``ConfigError`` for class
    instructions of several datasets.
    """
    from virft.data.class_sets import expand_class_sets
    from virft.data.detection_questions import QuestionPlan, write_detection_stores
    from virft.data.sources.rf100vl import README, find_rf100vl, read_readme, read_rf100vl

    found = find_rf100vl(folder)
    if options.class_notes is not None and len(found) > 1:
        raise ConfigError(f"--class-notes: {folder} holds {len(found)} datasets; expected the folder of one of them")
    read = []
    for name, place in found.items():
        skipped = options.skipped()
        annotated = read_rf100vl(
            place,
            classes=expand_class_sets(classes),
            train=train_annotations,
            outlines=outlines or TASKS[task].uses_outlines,
            skipped=skipped,
        )
        plan = QuestionPlan(
            task=task,
            shots=shots,
            negatives_frac=negatives_frac,
            max_classes=max_classes_per_question,
            every_class_in_tests=True,
            with_outlines=outlines,
            split=options.split(annotated.published),
        )
        read.append((name, place, annotated, plan, skipped))
    cards: Cards = {}
    for name, place, annotated, plan, skipped in read:
        own = replace(options, licence=options.licence or read_readme(place / README).licence)
        source = source_of("rf100vl", name=name)
        target = out / name if len(found) > 1 or place != folder else out
        cards |= own.write(write_detection_stores, annotated, target, plan=plan, source=source, skipped=skipped)
    return cards


def _add_folders(sources: Verbs) -> None:
    verb = _add_source(sources, "folders", "a folder of images for each class: classification", build_folders)
    verb.add_argument("root", metavar="FOLDER", type=Path, help="folder that holds one folder per class")
    _add_label_arguments(verb)


def build_folders(
    *,
    root: Path,
    out: Path,
    domain: str,
    classes: Sequence[str] = (),
    aliases: Path | None = None,
    shots: int | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build classification datasets from a folder of images for each class; return their cards by folder."""
    from virft.data.label_questions import LabelPlan, write_label_stores
    from virft.data.sources.labels import read_aliases, read_label_folders

    skipped = options.skipped()
    known = read_aliases(aliases) if aliases else {}
    labelled = read_label_folders(root, classes=classes, aliases=known, skipped=skipped)
    plan = LabelPlan(domain=domain, shots=shots, split=options.split(labelled.published))
    source = source_of("folders", name=root.absolute().name)
    return options.write(write_label_stores, labelled, out, plan=plan, source=source, skipped=skipped)


def _add_csv(sources: Verbs) -> None:
    verb = _add_source(sources, "csv", "a CSV file of paths and labels: classification", build_csv)
    verb.add_argument("table", metavar="CSV", type=Path, help="CSV file with the columns path and label")
    _add_images(verb)
    _add_label_arguments(verb)


def build_csv(
    *,
    table: Path,
    images: Path,
    out: Path,
    domain: str,
    classes: Sequence[str] = (),
    aliases: Path | None = None,
    shots: int | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build classification datasets from a CSV file with the columns path and label; return their cards by folder."""
    from virft.data.label_questions import LabelPlan, write_label_stores
    from virft.data.sources.labels import read_aliases, read_label_csv

    require_images(images, table)
    skipped = options.skipped()
    known = read_aliases(aliases) if aliases else {}
    labelled = read_label_csv(table, images, classes=classes, aliases=known, skipped=skipped)
    plan = LabelPlan(domain=domain, shots=shots, split=options.split())
    source = source_of("csv", table)
    return options.write(write_label_stores, labelled, out, plan=plan, source=source, skipped=skipped)


def _add_csv_boxes(sources: Verbs) -> None:
    verb = _add_source(sources, "csv-boxes", f"a CSV file with one row per box: {_FROM_BOXES}", build_csv_boxes)
    verb.add_argument(
        "table", metavar="CSV", type=Path, help="CSV file with columns such as filename, class, xmin, ymin, xmax, ymax"
    )
    _add_images(verb)
    _add_detection_arguments(verb)
    _add_exif(verb)
    verb.add_argument(
        "--class-names",
        type=Path,
        metavar="CSV",
        help="CSV file with the id and the name of each class, such as class-descriptions-boxable.csv of Open Images",
    )
    verb.add_argument(
        "--columns",
        type=arguments.names,
        default=(),
        metavar="KEY=NAME,..",
        help="columns of image, class, xmin, ymin, xmax, ymax (default: by their usual names)",
    )


def build_csv_boxes(
    *,
    table: Path,
    images: Path,
    out: Path,
    columns: Sequence[str] = (),
    class_names: Path | None = None,
    classes: Sequence[str] = (),
    exif: ExifReading = "auto",
    shots: int | None = None,
    negatives_frac: float = 0.0,
    task: str = "detection",
    max_classes_per_question: int | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build datasets from a CSV file of boxes; return their cards by folder.

    ``columns``: texts such as image=file; ``ConfigError`` for others. ``class_names``, ``exif``: as for
    ``read_detection_csv``.
    """
    from virft.data.class_sets import expand_class_sets
    from virft.data.detection_questions import QuestionPlan, write_detection_stores
    from virft.data.sources.detection_csv import read_detection_csv

    require_images(images, table)
    if unclear := [one for one in columns if "=" not in one]:
        raise ConfigError(f"--columns {unclear[0]}: expected KEY=NAME, such as image=file")
    named = {key.strip(): name.strip() for key, _, name in (one.partition("=") for one in columns)}
    skipped = options.skipped()
    annotated = read_detection_csv(
        table,
        images,
        columns=named,
        class_names=class_names,
        classes=expand_class_sets(classes),
        exif=exif,
        skipped=skipped,
    )
    plan = QuestionPlan(
        task=task,
        shots=shots,
        negatives_frac=negatives_frac,
        max_classes=max_classes_per_question,
        split=options.split(),
    )
    source = source_of("csv-boxes", table, **_exif_fact(exif))
    return options.write(write_detection_stores, annotated, out, plan=plan, source=source, skipped=skipped)


def _add_hf(sources: Verbs) -> None:
    verb = _add_source(
        sources,
        "hf",
        f"Hugging Face dataset with objects or label: {_FROM_BOXES}, classification",
        build_hf,
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help='folder of a saved dataset, parquet file, or hub id; needs the extra hf (pip install -e ".[hf]")',
    )
    _add_detection_arguments(verb)
    verb.add_argument("--domain", help='for label: what the labels name, such as "aircraft"; part of the question')
    verb.add_argument(
        "--box-format", choices=("xywh", "xyxy"), help="for objects: format of bbox, in pixels (default: by the boxes)"
    )
    verb.add_argument("--hf-split", metavar="NAME", help="use only this split of the source (default: all)")


def build_hf(
    *,
    source: str,
    out: Path,
    classes: Sequence[str] = (),
    domain: str | None = None,
    box_format: Literal["xywh", "xyxy"] | None = None,
    hf_split: str | None = None,
    shots: int | None = None,
    negatives_frac: float = 0.0,
    task: str = "detection",
    max_classes_per_question: int | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build datasets from a Hugging Face dataset with ``objects`` or ``label``; return their cards by folder.

    Raises ``ConfigError`` for an argument that the source does not use, or lacks.
    """
    from tempfile import TemporaryDirectory

    from virft.data.class_sets import expand_class_sets
    from virft.data.detection_questions import QuestionPlan, write_detection_stores
    from virft.data.label_questions import LabelPlan, write_label_stores
    from virft.data.sources.hf import has_objects, read_hf_labels, read_hf_objects
    from virft.data.sources.hf_images import one_split, open_splits

    if options.link:
        raise ConfigError("--link: the images of this source are no files; expected no --link")
    splits = open_splits(source)
    if hf_split is not None:
        splits = {hf_split: one_split(splits, source, hf_split)}
    skipped = options.skipped()
    name = Path(source).name if Path(source).exists() else source
    origin = source_of("hf", name=name) | ({"hf_split": hf_split} if hf_split else {})
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if has_objects(splits, name):
            if domain is not None:
                raise ConfigError("--domain has no effect: the source has boxes; remove it")
            annotated = read_hf_objects(
                splits,
                folder,
                classes=expand_class_sets(classes),
                box_format=box_format,
                where=name,
                skipped=skipped,
            )
            split = options.split(annotated.published)
            plan = QuestionPlan(
                task=task, shots=shots, negatives_frac=negatives_frac, max_classes=max_classes_per_question, split=split
            )
            return options.write(write_detection_stores, annotated, out, plan=plan, source=origin, skipped=skipped)
        if domain is None:
            raise ConfigError(f"{name}: has labels; expected --domain, what they name, such as --domain aircraft")
        if box_format is not None or negatives_frac or task != "detection" or max_classes_per_question is not None:
            options_of_boxes = "--box-format, --negatives-frac, --task, --per-image and --max-classes-per-question"
            raise ConfigError(f"{options_of_boxes} have no effect: the source has labels")
        labelled = read_hf_labels(splits, folder, classes=classes, where=name, skipped=skipped)
        label_plan = LabelPlan(domain=domain, shots=shots, split=options.split(labelled.published))
        return options.write(write_label_stores, labelled, out, plan=label_plan, source=origin, skipped=skipped)


def _add_lisa(sources: Verbs) -> None:
    verb = _add_source(sources, "lisa", "ReasonSeg folder of instructions and masks: grounding", build_lisa)
    verb.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder of LabelMe JSON files with `text`, next to their images"
    )
    _add_out(verb)
    _add_number_of_expressions(verb)
    add_options(verb)


def build_lisa(
    *, folder: Path, out: Path, questions: int | None = None, options: BuildOptions = DEFAULT_OPTIONS
) -> Cards:
    """Build grounding datasets from a ReasonSeg folder, with masks; return their cards by folder."""
    from virft.data.grounding_questions import GroundingPlan, write_grounding_stores
    from virft.data.sources.lisa import read_lisa

    skipped = options.skipped()
    referring = read_lisa(folder, skipped=skipped)
    plan = GroundingPlan(questions=questions, split=options.split())
    source = source_of("lisa", name=folder.absolute().name)
    return options.write(write_grounding_stores, referring, out, plan=plan, source=source, skipped=skipped)


def _add_refcoco(sources: Verbs) -> None:
    verb = _add_source(sources, "refcoco", "JSON of referring expressions and boxes: grounding", build_refcoco)
    verb.add_argument(
        "expressions", metavar="JSON", type=Path, help="list of records, or a COCO file whose annotations have captions"
    )
    _add_images(verb)
    _add_out(verb)
    verb.add_argument("--box-format", choices=("xywh", "xyxy"), default="xywh", help="format of bbox, in pixels")
    verb.add_argument(
        "--instances", metavar="JSON", type=Path, help="COCO's instances.json, with the boxes of records with an ann_id"
    )
    verb.add_argument("--ref-split", metavar="NAME", help="use only records of this split, such as val (default: all)")
    _add_number_of_expressions(verb)
    add_options(verb)


def build_refcoco(
    *,
    expressions: Path,
    images: Path,
    out: Path,
    box_format: Literal["xywh", "xyxy"] = "xywh",
    instances: Path | None = None,
    ref_split: str | None = None,
    questions: int | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build grounding datasets from a JSON file of referring expressions; return their cards by folder.

    ``instances`` and ``ref_split``: as ``instances`` and ``split`` of ``read_refcoco``.
    """
    from virft.data.grounding_questions import GroundingPlan, write_grounding_stores
    from virft.data.sources.refcoco import read_refcoco

    require_images(images, expressions)
    skipped = options.skipped()
    referring = read_refcoco(
        expressions, images, box_format=box_format, instances=instances, split=ref_split, skipped=skipped
    )
    plan = GroundingPlan(questions=questions, split=options.split())
    source = source_of("refcoco", expressions, box_format=box_format)
    source |= {"ref_split": ref_split} if ref_split else {}
    return options.write(write_grounding_stores, referring, out, plan=plan, source=source, skipped=skipped)


def _add_rows(sources: Verbs) -> None:
    verb = _add_source(sources, "rows", "JSON rows of image, question and target: any task", build_rows)
    verb.add_argument(
        "rows", metavar="FILE", type=Path, help="a .json list, or JSON lines, by the schema docs/rows.schema.json"
    )
    _add_images(verb)
    _add_out(verb)
    add_task(verb, default=None, help="task of answers as texts (default: each row's, recognized by its answer)")
    verb.add_argument(
        "--space",
        type=arguments.one_of(BoxSpace),
        choices=[BoxSpace.RELATIVE_1000, BoxSpace.ORIGINAL_PIXELS],
        help="coordinates of boxes in answers as texts (default: as the question says)",
    )
    add_options(verb)


def build_rows(
    *,
    rows: Path,
    images: Path,
    out: Path,
    task: str | None = None,
    space: str | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build datasets of any task from rows of JSON; return their cards by folder.

    ``task`` and ``space``: of rows whose answer is a text, such as conversations.
    """
    from virft.data.sources.rows import write_row_stores

    require_images(images, rows)
    return options.write(
        write_row_stores,
        rows,
        images,
        out,
        split=options.split(),
        task=task,
        space=BoxSpace(space) if space else None,
        source=source_of("rows", rows) | ({"space": space} if space else {}),
        skipped=options.skipped(),
    )


def _add_visual_rft(sources: Verbs) -> None:
    verb = _add_source(
        sources, "visual-rft", "Hugging Face dataset with image, problem, solution: any task", build_visual_rft
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help='folder of a saved dataset, parquet file, or hub id; needs the extra hf (pip install -e ".[hf]")',
    )
    _add_out(verb)
    add_task(verb, default=None, help="task of all rows (default: each row's, recognized by its solution)")
    verb.add_argument(
        "--space",
        type=arguments.one_of(BoxSpace),
        choices=[BoxSpace.RELATIVE_1000, BoxSpace.ORIGINAL_PIXELS],
        default=BoxSpace.RELATIVE_1000,
        help="coordinates of the boxes: relative_1000 is 0 to 1000 of width and height",
    )
    verb.add_argument("--hf-split", metavar="NAME", help="split of the source; required if it has several")
    add_options(verb, can_link=False)


def build_visual_rft(
    *,
    source: str,
    out: Path,
    task: str | None = None,
    space: str = BoxSpace.RELATIVE_1000,
    hf_split: str | None = None,
    options: BuildOptions = DEFAULT_OPTIONS,
) -> Cards:
    """Build datasets from a Hugging Face dataset with the columns of Visual-RFT; return their cards by folder."""
    from virft.data.sources.visual_rft import VisualRFTPlan, open_rows, write_visual_rft_stores

    rows = open_rows(source, split=hf_split)
    plan = VisualRFTPlan(task=task, space=BoxSpace(space), split=options.split())
    origin = source_of("visual_rft", name=Path(source).name if Path(source).exists() else source)
    return options.write(write_visual_rft_stores, rows, out, plan=plan, source=origin, skipped=options.skipped())


def _add_scenes(sources: Verbs) -> None:
    @wraps(build_scenes)
    def build_and_report(**given: Any) -> Cards:
        return report_build(build_scenes(**given))

    tasks = [name for name, task in TASKS.items() if name in SCENE_TASKS or task.from_annotation is not None]
    verb = add_verb(
        sources,
        "scenes",
        f"synthetic scenes drawn from built-in assets: {', '.join(tasks)}",
        build_and_report,
    )
    verb.add_argument("out", metavar="OUT", type=Path, help="dataset folder")
    add_task(verb, choices=tasks)
    verb.add_argument(
        "--classes",
        type=arguments.names,
        default=("novel",),
        metavar="A,B",
        help="class names, or the sets base, novel, heldout",
    )
    verb.add_argument(
        "--shots", type=arguments.positive, metavar="K", help="make a few-shot training set of K scenes per class"
    )
    verb.add_argument("--questions", type=arguments.positive, metavar="N", help="make a test set of N questions")
    verb.add_argument(
        "--kind",
        choices=("train", "train_other_style", "same_sprites", "other_style"),
        help="assets of the scenes (default: train with --shots, same_sprites with --questions)",
    )
    _add_negatives(verb, default=None)
    verb.add_argument(
        "--size",
        type=arguments.number(int, at_least=28, unit="pixels"),
        metavar="PIXELS",
        help="side of the images; at least 28, one token of a model (default: 112)",
    )
    verb.add_argument(
        "--object-scale",
        type=arguments.number(float, above=0, at_most=1),
        metavar="F",
        default=1.0,
        help="factor of the sizes of objects: 0.3 with --size 448 makes objects for zoom calls",
    )
    verb.add_argument("--seed", type=arguments.not_negative, metavar="N", default=0, help="random seed of the scenes")
    verb.add_argument("--overwrite", action="store_true", help="replace a dataset that exists")


def build_scenes(
    *,
    out: Path,
    task: str = "detection",
    classes: Sequence[str] = ("novel",),
    shots: int | None = None,
    questions: int | None = None,
    kind: str | None = None,
    negatives_frac: float | None = None,
    size: int | None = None,
    object_scale: float = 1.0,
    seed: int = 0,
    overwrite: bool = False,
) -> Cards:
    """Build a dataset of synthetic scenes: ``shots`` per class for training, or ``questions`` for a test.

    ``kind`` is a ``SceneKind``; default: ``train`` for shots and ``same_sprites`` for questions. Raises ``ConfigError``
    for both or none of the two.
    """
    from virft.data.sources.scenes import scene_classes_named, write_few_shot_scenes, write_test_scenes
    from virft.scenes.patches import REFERENCE_SIZE
    from virft.scenes.sets import ABSENT_FRAC, SceneKind

    common: dict[str, Any] = {
        "task": task,
        "classes": scene_classes_named(classes),
        "seed": seed,
        "negatives_frac": ABSENT_FRAC if negatives_frac is None else negatives_frac,
        "size": size or REFERENCE_SIZE,
        "object_scale": object_scale,
        "overwrite": overwrite,
    }
    if shots is not None and questions is None:
        card = write_few_shot_scenes(out, shots=shots, kind=SceneKind(kind or "train"), **common)
    elif questions is not None and shots is None:
        card = write_test_scenes(out, num_questions=questions, kind=SceneKind(kind or "same_sprites"), **common)
    else:
        raise ConfigError("build scenes: expected either --shots (a training set) or --questions (a test set)")
    return {str(out): card}
