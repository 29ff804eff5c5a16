"""One function per source of ``virft build``: read what is there, make questions of it, say what was built.

Imports stand inside the functions: a verb that needs no model must not wait for PyTorch.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from virft.errors import ConfigError, DataError

if TYPE_CHECKING:
    from virft.data.annotations import Skipped
    from virft.data.sampling import SplitPlan


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildChoices:
    """What every build from files can be told; ``licence``: a word for the card."""

    test_frac: float = 0.0
    validation_frac: float = 0.0
    seed: int = 0
    strict: bool = False
    link: bool = False
    overwrite: bool = False
    licence: str | None = None

    def split(self) -> SplitPlan:
        """Shares of the parts."""
        from virft.data.sampling import SplitPlan

        return SplitPlan(test_frac=self.test_frac, validation_frac=self.validation_frac, seed=self.seed)

    def skipped(self) -> Skipped:
        """A new list of what is left out."""
        from virft.data.annotations import Skipped

        return Skipped(strict=self.strict)

    def source(self, kind: str, *, file: Path | None = None, **facts: Any) -> dict[str, Any]:
        """What a card says of where a set comes from; ``file``: by its name and hash."""
        from virft.data.store_writer import file_hash

        if file is not None:
            try:
                facts = {"file": file.name, "sha256": file_hash(file).hex(), **facts}
            except OSError as error:
                raise DataError(f"{file}: cannot be read ({error.strerror})") from error
        return {"kind": kind, **facts, "licence": self.licence}


DEFAULT_CHOICES = BuildChoices()


def build_coco(
    *,
    annotations: Path,
    images: Path | None,
    out: Path,
    classes: Sequence[str] = (),
    shots: int | None = None,
    negatives_frac: float = 0.0,
    federated: bool = False,
    ask: str | None = None,
    task: str = "detection",
    choices: BuildChoices = DEFAULT_CHOICES,
) -> dict[str, dict[str, Any]]:
    """Data sets of a COCO file, or (``federated``) of an LVIS file; their cards by folder.

    ``task``: detection, or another one whose targets follow from the boxes of a class.

    ``images`` None: no pictures are at hand, see ``Store.has_pictures``. ``classes``: names, or ``@set`` of
    ``virft.data.class_sets``. ``ask``: a protocol, ``all`` or ``map:FILE``, see ``QuestionPlan``.
    """
    from virft.data.class_sets import expand_class_sets
    from virft.data.detection_questions import QuestionPlan, write_detection_stores
    from virft.data.query_map import read_asked_map
    from virft.data.sources.coco import open_coco, read_coco

    if images is not None:
        _require_images(images, annotations)
    if ask is not None and ask != "all" and not ask.startswith("map:"):
        raise ConfigError(f"--ask {ask}: expected all, or map:FILE")
    asked_file = Path(ask.removeprefix("map:")) if ask is not None and ask != "all" else None
    skipped = choices.skipped()
    return _close_build(
        write_detection_stores(
            read_coco(
                open_coco(annotations), images, classes=expand_class_sets(classes), federated=federated, skipped=skipped
            ),
            out,
            plan=QuestionPlan(
                task=task,
                shots=shots,
                negatives_frac=negatives_frac,
                every_class=ask == "all",
                asked_map=read_asked_map(asked_file) if asked_file else None,
                split=choices.split(),
            ),
            source=choices.source("lvis" if federated else "coco", file=annotations)
            | ({"map": choices.source("map", file=asked_file)} if asked_file else {}),
            skipped=skipped,
            overwrite=choices.overwrite,
            link=choices.link,
        )
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
    choices: BuildChoices = DEFAULT_CHOICES,
) -> dict[str, dict[str, Any]]:
    """Data sets of a folder with an annotation file for each image; their cards by folder.

    ``task``: as in ``build_coco``.
    """
    from virft.data.class_sets import expand_class_sets
    from virft.data.detection_questions import QuestionPlan, write_detection_stores
    from virft.data.sources.labelme import read_labelme
    from virft.data.sources.voc import read_voc
    from virft.data.sources.yolo import read_yolo

    skipped = choices.skipped()
    read = {"labelme": read_labelme, "voc": read_voc, "yolo": read_yolo}[kind]
    return _close_build(
        write_detection_stores(
            read(root, classes=expand_class_sets(classes), skipped=skipped),
            out,
            plan=QuestionPlan(task=task, shots=shots, negatives_frac=negatives_frac, split=choices.split()),
            source=choices.source(kind, name=root.absolute().name),
            skipped=skipped,
            overwrite=choices.overwrite,
            link=choices.link,
        )
    )


def build_folders(
    *,
    root: Path,
    out: Path,
    domain: str,
    classes: Sequence[str] = (),
    aliases: Path | None = None,
    shots: int | None = None,
    choices: BuildChoices = DEFAULT_CHOICES,
) -> dict[str, dict[str, Any]]:
    """Classification data sets of a folder of images for each class; their cards by folder."""
    from virft.data.label_questions import LabelPlan, write_label_stores
    from virft.data.sources.labels import read_aliases, read_label_folders

    return _close_build(
        write_label_stores(
            read_label_folders(root, classes=classes, aliases=read_aliases(aliases) if aliases else {}),
            out,
            plan=LabelPlan(domain=domain, shots=shots, split=choices.split()),
            source=choices.source("folders", name=root.absolute().name),
            skipped=choices.skipped(),
            overwrite=choices.overwrite,
            link=choices.link,
        )
    )


def build_csv(
    *,
    table: Path,
    images: Path,
    out: Path,
    domain: str,
    classes: Sequence[str] = (),
    aliases: Path | None = None,
    shots: int | None = None,
    choices: BuildChoices = DEFAULT_CHOICES,
) -> dict[str, dict[str, Any]]:
    """Classification data sets of a CSV file with the columns path and label; their cards by folder."""
    from virft.data.label_questions import LabelPlan, write_label_stores
    from virft.data.sources.labels import read_aliases, read_label_csv

    _require_images(images, table)
    skipped = choices.skipped()
    known = read_aliases(aliases) if aliases else {}
    return _close_build(
        write_label_stores(
            read_label_csv(table, images, classes=classes, aliases=known, skipped=skipped),
            out,
            plan=LabelPlan(domain=domain, shots=shots, split=choices.split()),
            source=choices.source("csv", file=table),
            skipped=skipped,
            overwrite=choices.overwrite,
            link=choices.link,
        )
    )


def build_lisa(
    *,
    folder: Path,
    out: Path,
    questions: int | None = None,
    choices: BuildChoices = DEFAULT_CHOICES,
) -> dict[str, dict[str, Any]]:
    """Grounding data sets of a ReasonSeg folder, with masks; their cards by folder."""
    from virft.data.grounding_questions import GroundingPlan, write_grounding_stores
    from virft.data.sources.lisa import read_lisa

    skipped = choices.skipped()
    return _close_build(
        write_grounding_stores(
            read_lisa(folder, skipped=skipped),
            out,
            plan=GroundingPlan(questions=questions, split=choices.split()),
            source=choices.source("lisa", name=folder.absolute().name),
            skipped=skipped,
            overwrite=choices.overwrite,
            link=choices.link,
        )
    )


def build_refcoco(
    *,
    expressions: Path,
    images: Path,
    out: Path,
    box_format: Literal["xywh", "xyxy"] = "xywh",
    questions: int | None = None,
    choices: BuildChoices = DEFAULT_CHOICES,
) -> dict[str, dict[str, Any]]:
    """Grounding data sets of a JSON file of referring expressions; their cards by folder."""
    from virft.data.grounding_questions import GroundingPlan, write_grounding_stores
    from virft.data.sources.refcoco import read_refcoco

    _require_images(images, expressions)
    skipped = choices.skipped()
    return _close_build(
        write_grounding_stores(
            read_refcoco(expressions, images, box_format=box_format, skipped=skipped),
            out,
            plan=GroundingPlan(questions=questions, split=choices.split()),
            source=choices.source("refcoco", file=expressions, box_format=box_format),
            skipped=skipped,
            overwrite=choices.overwrite,
            link=choices.link,
        )
    )


def build_rows(
    *,
    rows: Path,
    images: Path,
    out: Path,
    choices: BuildChoices = DEFAULT_CHOICES,
) -> dict[str, dict[str, Any]]:
    """Data sets of rows of JSON, of any task; their cards by folder."""
    from virft.data.sources.rows import write_row_stores

    _require_images(images, rows)
    return _close_build(
        write_row_stores(
            rows,
            images,
            out,
            split=choices.split(),
            source=choices.source("rows", file=rows),
            skipped=choices.skipped(),
            overwrite=choices.overwrite,
            link=choices.link,
        )
    )


def build_visual_rft(
    *,
    source: str,
    out: Path,
    task: str | None = None,
    space: str = "relative_1000",
    hf_split: str | None = None,
    choices: BuildChoices = DEFAULT_CHOICES,
) -> dict[str, dict[str, Any]]:
    """Data sets of a Hugging Face set with the columns of Visual-RFT; their cards by folder."""
    from virft.data.sources.visual_rft import VisualRFTPlan, open_rows, write_visual_rft_stores
    from virft.geometry.boxes import BoxSpace

    return _close_build(
        write_visual_rft_stores(
            open_rows(source, split=hf_split),
            out,
            plan=VisualRFTPlan(task=task, space=BoxSpace(space), split=choices.split()),
            source=choices.source("visual_rft", name=Path(source).name if Path(source).exists() else source),
            skipped=choices.skipped(),
            overwrite=choices.overwrite,
        )
    )


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
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
    """A data set of built-in scenes: ``shots`` per class to train on, or ``questions`` to test with.

    ``kind``: a ``SceneKind``; ``train`` for shots and ``same_sprites`` for questions if not said.
    """
    from virft.data.sources.scenes import scene_classes_named, write_few_shot_scenes, write_test_scenes
    from virft.scenes.patches import REFERENCE_SIZE
    from virft.scenes.sets import ABSENT_SHARE, SceneKind

    common: dict[str, Any] = {
        "task": task,
        "classes": scene_classes_named(classes),
        "seed": seed,
        "negatives_frac": ABSENT_SHARE if negatives_frac is None else negatives_frac,
        "size": size or REFERENCE_SIZE,
        "overwrite": overwrite,
    }
    if shots is not None and questions is None:
        card = write_few_shot_scenes(out, shots=shots, kind=SceneKind(kind or "train"), **common)
    elif questions is not None and shots is None:
        card = write_test_scenes(out, num_questions=questions, kind=SceneKind(kind or "same_sprites"), **common)
    else:
        raise ConfigError("build scenes: expected either --shots (a training set) or --questions (a test set)")
    return _close_build({str(out): card})


def _require_images(folder: Path, annotations: Path) -> None:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected the folder of the images of {annotations.name}")


def _close_build(cards: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Say what was built, and give it back.

    Command and date go into ``build.log``, so that cards of equal builds are equal.
    """
    import shlex
    from datetime import UTC, datetime

    from virft import __version__

    line = f"{datetime.now(UTC).isoformat(timespec='seconds')}  virft {__version__}  {shlex.join(sys.argv)}\n"
    for folder in cards:
        (Path(folder) / "build.log").write_text(line, encoding="utf-8", errors="surrogateescape")
    _print_cards(cards)
    return cards


def _print_cards(cards: Mapping[str, Mapping[str, Any]]) -> None:
    """One line per data set, the first records that were left out, the first pictures that are in two parts."""
    for folder, card in cards.items():
        line = f"{folder}: {card['num_samples']} questions on {card['num_images']} images"
        if card["negatives_frac"] is not None:
            line += f", {card['negatives_frac']:.0%} about an absent class"
        print(f"{line}, hash {card['hash'][:12]}")
    skipped = [record for card in cards.values() for record in card["skipped"]]
    unique = list(dict.fromkeys((record["where"], record["reason"]) for record in skipped))
    for where, reason in unique[:5]:
        print(f"skipped {where}: {reason}")
    if len(unique) > 5:
        print(f"and {len(unique) - 5} more skipped: see card.json")
    source = next(iter(cards.values()))["source"]
    if number := source.get("num_same_pictures", 0):
        first, second = source["same_pictures"][0]
        print(f"{number} pictures look the same in two parts, such as {first} and {second}: see card.json")
