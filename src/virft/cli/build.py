"""Verb ``build``: a parser for each source.

Imports of readers are inside the functions: help needs none of them. A source reads its format;
``BuildOptions.write`` writes the datasets; the command and a summary are logged at the end.
"""

from __future__ import annotations

from virft.cli.build_boxes import add_coco, add_csv_boxes, add_files, add_hf, add_rf100vl
from virft.cli.build_labels import add_csv, add_folders
from virft.cli.build_questions import add_lisa, add_refcoco, add_rows, add_visual_rft
from virft.cli.build_scenes import add_scenes
from virft.cli.parsers import Parser, Verbs, add_parser


def add_build(verbs: Verbs) -> None:
    """Add the parser of ``build``, with one of its own for each source."""
    sources = add_parser(verbs, "build", "convert annotations to a dataset").add_subparsers(
        metavar="SOURCE", required=True, parser_class=Parser
    )
    add_coco(sources)
    add_files(sources)
    add_rf100vl(sources)
    add_folders(sources)
    add_csv(sources)
    add_csv_boxes(sources)
    add_hf(sources)
    add_lisa(sources)
    add_refcoco(sources)
    add_rows(sources)
    add_visual_rft(sources)
    add_scenes(sources)
