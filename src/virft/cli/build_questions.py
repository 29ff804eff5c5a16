"""Sources of ``virft build`` with questions of their own: expressions, rows of any task, and Visual-RFT datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from virft.cli import arguments
from virft.cli.build_options import (
    add_images,
    add_number_of_expressions,
    add_options,
    add_out,
    add_source,
)
from virft.cli.parsers import Verbs, add_task
from virft.geometry.boxes import BoxSpace
from virft.recipes.build_options import DEFAULT_OPTIONS, BuildOptions, Cards, require_images, source_of


def add_lisa(sources: Verbs) -> None:
    """Add the parser of ``lisa``."""
    verb = add_source(sources, "lisa", "ReasonSeg folder of instructions and masks: grounding", build_lisa)
    verb.add_argument(
        "folder", metavar="FOLDER", type=Path, help="folder of LabelMe JSON files with `text`, next to their images"
    )
    add_out(verb)
    add_number_of_expressions(verb)
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


def add_refcoco(sources: Verbs) -> None:
    """Add the parser of ``refcoco``."""
    verb = add_source(sources, "refcoco", "JSON of referring expressions and boxes: grounding", build_refcoco)
    verb.add_argument(
        "expressions", metavar="JSON", type=Path, help="list of records, or a COCO file whose annotations have captions"
    )
    add_images(verb)
    add_out(verb)
    verb.add_argument("--box-format", choices=("xywh", "xyxy"), default="xywh", help="format of bbox, in pixels")
    verb.add_argument(
        "--instances", metavar="JSON", type=Path, help="COCO's instances.json, with the boxes of records with an ann_id"
    )
    verb.add_argument("--ref-split", metavar="NAME", help="use only records of this split, such as val (default: all)")
    add_number_of_expressions(verb)
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


def add_rows(sources: Verbs) -> None:
    """Add the parser of ``rows``."""
    verb = add_source(sources, "rows", "JSON rows of image, question and target: any task", build_rows)
    verb.add_argument(
        "rows", metavar="FILE", type=Path, help="a .json list, or JSON lines, by the schema docs/rows.schema.json"
    )
    add_images(verb)
    add_out(verb)
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


def add_visual_rft(sources: Verbs) -> None:
    """Add the parser of ``visual-rft``."""
    verb = add_source(
        sources, "visual-rft", "Hugging Face dataset with image, problem, solution: any task", build_visual_rft
    )
    verb.add_argument(
        "source",
        metavar="SOURCE",
        help='folder of a saved dataset, parquet file, or hub id; needs the extra hf (pip install -e ".[hf]")',
    )
    add_out(verb)
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
