"""Sources of ``virft build`` with the boxes of classes: COCO, LVIS, LabelMe, VOC, YOLO, RF100-VL, CSV, Hugging Face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from virft.cli import arguments
from virft.cli.build_options import (
    FROM_BOXES,
    add_detection_arguments,
    add_exif,
    add_images,
    add_source,
)
from virft.cli.parsers import Verbs
from virft.errors import ConfigError
from virft.recipes.build_options import DEFAULT_OPTIONS, BuildOptions, Cards, require_images, source_of
from virft.tasks import TASKS

if TYPE_CHECKING:
    from virft.data.annotations import AnnotatedSet
    from virft.data.sources.rf100vl import TrainAnnotations
    from virft.data.upright import ExifReading


def add_coco(sources: Verbs) -> None:
    """Add the parsers of ``coco`` and ``lvis``."""
    for name, federated in (("coco", False), ("lvis", True)):
        verb = add_source(sources, name, f"{name.upper()} JSON and its images: {FROM_BOXES}", build_coco_or_lvis)
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
        add_exif(verb)
        add_detection_arguments(verb, has_outlines=True)


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


def add_files(sources: Verbs) -> None:
    """Add the parsers of ``labelme``, ``voc`` and ``yolo``."""
    for kind, description in (
        ("labelme", "LabelMe JSON files next to their images"),
        ("voc", "Pascal VOC XML files, images in JPEGImages or next to them"),
        ("yolo", "YOLO text files, with images, labels and names"),
    ):
        verb = add_source(sources, kind, f"{description}: {FROM_BOXES}", build_files)
        verb.set_defaults(kind=kind, first_pixel=None, exif="auto", outlines=False)
        verb.add_argument("root", metavar="FOLDER", type=Path, help="folder of the annotations")
        add_detection_arguments(verb, has_outlines=kind != "voc")
        if kind != "yolo":
            add_exif(verb)
        if kind == "voc":
            verb.add_argument(
                "--first-pixel",
                type=int,
                choices=(0, 1),
                help="number of the first pixel in the files (default: 1 if they name a VOC database, else 0)",
            )


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

    ``task``, ``exif``, ``outlines``: as for ``build_coco_or_lvis``; YOLO states no sizes and has no ``exif``, VOC has
    no outlines. ``first_pixel``: as for ``read_voc``; other formats have none.
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


def add_rf100vl(sources: Verbs) -> None:
    """Add the parser of ``rf100vl``."""
    verb = add_source(
        sources, "rf100vl", f"RF100-VL and RF20-VL folders with class instructions: {FROM_BOXES}", build_rf100vl
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
    add_detection_arguments(verb, has_outlines=True)


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


def add_csv_boxes(sources: Verbs) -> None:
    """Add the parser of ``csv-boxes``."""
    verb = add_source(sources, "csv-boxes", f"a CSV file with one row per box: {FROM_BOXES}", build_csv_boxes)
    verb.add_argument(
        "table", metavar="CSV", type=Path, help="CSV file with columns such as filename, class, xmin, ymin, xmax, ymax"
    )
    add_images(verb)
    add_detection_arguments(verb)
    add_exif(verb)
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


def _exif_fact(exif: str) -> dict[str, Any]:
    """Return what the card says about the option."""
    return {} if exif == "auto" else {"exif": exif}


def add_hf(sources: Verbs) -> None:
    """Add the parser of ``hf``."""
    verb = add_source(
        sources,
        "hf",
        f"Hugging Face dataset with objects or label: {FROM_BOXES}, classification",
        build_hf,
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help='folder of a saved dataset, parquet file, or hub id; needs the extra hf (pip install -e ".[hf]")',
    )
    add_detection_arguments(verb)
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
