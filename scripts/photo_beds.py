"""Test beds on photographs: a training, a validation and test sets of one bed.

    python scripts/photo_beds.py BED OUT --data DIR [--cutouts DIR] [--shots 16] [--seed 0]
    python scripts/photo_beds.py --blind FOLDER ..

BED is ``bccd``, ``white_cells``, ``raccoon`` or ``raccoon_mosaic``, which read ``--data`` (the folder that holds
``bccd`` and ``raccoon``), or ``composites``, ``lookalikes`` or ``relations``, which read ``--cutouts`` (the folder that
``photo_assets.py`` writes). ``--shots`` is the number of training photographs, for look-alikes those of each name.
Photographs, cut-outs of held-out names and backgrounds are in one part only, and near-duplicates in the same part.
With the same seed, validation and test sets are equal for every number of shots, and fewer shots are among more.

``--blind`` prints the blind baselines of datasets that were built, and the best box over the test set itself.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps

from virft.data.annotations import AnnotatedImage, AnnotatedSet, Skipped
from virft.data.detection_questions import QuestionPlan, write_detection_stores
from virft.data.duplicates import find_duplicates, image_hash
from virft.data.sampling import SplitPlan, shuffled
from virft.data.sources.coco import open_coco, read_coco
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.evaluation.blind import score_blind
from virft.evaluation.joined import JoinedPredictions
from virft.evaluation.predictions import PredictionsCard
from virft.geometry.boxes import BoxSpace
from virft.types import (
    Box,
    Detection,
    Detections,
    FinishReason,
    ImageSize,
    JoinedPrediction,
    Label,
    Prediction,
    Reading,
    Sample,
    Unreadable,
)

if TYPE_CHECKING:
    from photo_scenes import Assets

    from virft.scenes.render import Scene

PHOTOGRAPHS = Path(__file__).resolve().parents[1] / "benchmarks/photographs"
CELLS = {"WBC": "white blood cell", "RBC": "red blood cell", "Platelets": "platelet"}
"""Class of BCCD -> name in the questions."""
RACCOON = "raccoon"
TEST_FRAC, VALIDATION_FRAC = 0.45, 0.18
ABSENT_FRAC = 1 / 3
"""Fraction of photographs (mosaics) without a raccoon, and of composites' questions about an absent name."""
MOSAIC_SIDE = 336
MOSAIC_COUNTS = (1, 1, 2)
"""Raccoon photographs of the mosaics that have any, in turn."""
NUM_TEST, NUM_VALIDATION = 200, 60
"""Mosaics, composites, or questions of the test and validation sets."""
NUM_LOOKALIKES = 12
"""Names of a category that the questions of look-alikes distinguish."""
LOOKALIKES = ("mammal", "bird")
PARTS = ("train", "validation", "test")


def without_duplicates_across(hashes: Mapping[str, int], split: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return the split with every near-duplicate moved to the part of the first of its kind, sorted names.

    ``hashes``: ``image_hash`` of each name. Names are moved until no two parts share a near-duplicate.
    """
    parts = {part: dict.fromkeys(names) for part, names in split.items()}
    while pairs := find_duplicates({part: {name: hashes[name] for name in names} for part, names in parts.items()}):
        (goal, _), (part, name) = (_part_and_name(one) for one in pairs[0])
        del parts[part][name]
        parts[goal][name] = None
    return {part: sorted(names) for part, names in parts.items()}


def _part_and_name(text: str) -> tuple[str, str]:
    part, _, name = text.partition("/")
    return part, name


def split_photographs(files: Mapping[str, Path], *, seed: int) -> dict[str, list[str]]:
    """Return the names of train, validation and test, split by photograph; train in random order, the others sorted."""
    plan = SplitPlan(test_frac=TEST_FRAC, validation_frac=VALIDATION_FRAC, seed=seed)
    hashes = {}
    for name, file in files.items():
        with Image.open(file) as image:
            hashes[name] = image_hash(image)
    parts = without_duplicates_across(hashes, plan.split(files))
    return parts | {"train": shuffled(parts["train"], seed=seed, purpose="photographs")}


def read_boxes(folder: Path, renamed: Mapping[str, str]) -> AnnotatedSet:
    """Return the photographs of a folder with ``annotations.json``, with the classes of ``renamed`` under new names.

    Raises ``DataError`` for a file that is missing or no COCO file, ``ConfigError`` for a class that it does not have.
    """
    coco = open_coco(folder / "annotations.json")
    annotated = read_coco(coco, folder, classes=tuple(renamed), skipped=Skipped(strict=True))
    images = {
        name: replace(image, boxes={new: image.boxes[old] for old, new in renamed.items() if old in image.boxes})
        for name, image in annotated.images.items()
    }
    return replace(annotated, images=images, classes=tuple(sorted(renamed.values())))


def write_photographs(
    annotated: AnnotatedSet, parts: Mapping[str, Sequence[str]], out: Path, *, bed: str, seed: int, shots: int
) -> dict[str, dict[str, Any]]:
    """Write the datasets of ``parts``: every class is queried on every photograph."""
    published = {name: part for part, names in parts.items() for name in names}
    images = {name: annotated.images[name] for name in published}
    plan = QuestionPlan(every_class=True, split=SplitPlan(seed=seed, published=published))
    return write_detection_stores(
        replace(annotated, images=images),
        out,
        plan=plan,
        source={"kind": "photo_bed", "bed": bed, "photographs": shots},
        skipped=Skipped(strict=True),
        overwrite=True,
    )


def build_cells(out: Path, data: Path, *, bed: str, shots: int, seed: int) -> None:
    """BCCD: all classes, or white blood cells only."""
    annotated = read_boxes(data / "bccd", CELLS)
    # a micrograph without any box may be unlabelled
    labelled = {name: image for name, image in annotated.images.items() if any(image.boxes.values())}
    parts = split_photographs({name: _file(image) for name, image in labelled.items()}, seed=seed)
    if bed == "white_cells":
        annotated = replace(annotated, classes=(CELLS["WBC"],))
    write_photographs(annotated, few(parts, shots), out, bed=bed, seed=seed, shots=shots)


def few(parts: Mapping[str, Sequence[str]], shots: int) -> dict[str, list[str]]:
    """Return the parts with the first ``shots`` training photographs. Raises ``SystemExit`` if there are fewer."""
    if len(parts["train"]) < shots:
        raise SystemExit(f"--shots {shots}: the training part has {len(parts['train'])} photographs")
    return {part: list(names[:shots]) if part == "train" else list(names) for part, names in parts.items()}


def _file(image: AnnotatedImage) -> Path:
    assert image.file is not None  # read with a folder of images
    return image.file


def raccoon_parts(data: Path, negatives: Path, *, seed: int) -> tuple[AnnotatedSet, dict[str, dict[str, list[str]]]]:
    """Return photographs with and without a raccoon, and the names of both in each part ("with", "without")."""
    annotated = read_boxes(data / "raccoon", {RACCOON: RACCOON})
    others = {}
    for row in json.loads((negatives / "photographs.json").read_text(encoding="utf-8")):
        name = f"without/{row['file']}"
        others[name] = AnnotatedImage(name=name, file=negatives / row["file"], declared=None, boxes={})
    with_one = split_photographs({name: _file(image) for name, image in annotated.images.items()}, seed=seed)
    without = split_photographs({name: _file(image) for name, image in others.items()}, seed=seed)
    parts = {part: {"with": with_one[part], "without": without[part]} for part in PARTS}
    return replace(annotated, images={**annotated.images, **others}), parts


def build_raccoon(out: Path, data: Path, negatives: Path, *, shots: int, seed: int) -> None:
    """Photographs with and without a raccoon, the latter ``ABSENT_FRAC`` of all; all are queried for raccoons."""
    annotated, found = raccoon_parts(data, negatives, seed=seed)
    parts = {}
    for part, names in found.items():
        number = shots if part == "train" else round(len(names["without"]) / ABSENT_FRAC)
        num_without = round(number * ABSENT_FRAC)
        parts[part] = names["with"][: number - num_without] + names["without"][:num_without]
        if part == "train":
            few({part: parts[part]}, shots)
    write_photographs(annotated, parts, out, bed=RACCOON, seed=seed, shots=shots)


def build_mosaics(out: Path, data: Path, negatives: Path, *, shots: int, seed: int) -> None:
    """Squares of 2 x 2 photographs with 0 to 2 raccoon photographs; a third has none. All are queried for raccoons."""
    annotated, parts = raccoon_parts(data, negatives, seed=seed)
    for part, names in parts.items():
        number = shots if part == "train" else NUM_VALIDATION if part == "validation" else NUM_TEST
        with StoreWriter(out / part, overwrite=True) as writer:
            for index in range(number):
                rng = np.random.default_rng([seed, PARTS.index(part), index])
                count = 0 if index % 3 == 2 else MOSAIC_COUNTS[(index // 3 + index) % 3]
                chosen = _draw(rng, names["with"], count) + _draw(rng, names["without"], 4 - count)
                image, boxes = mosaic([annotated.images[chosen[i]] for i in rng.permutation(4)])
                path = writer.add_image(f"{index:04d}.png", image)
                writer.add(_detection(f"{index:04d}", path, image.size, RACCOON, boxes))
            writer.finish(source=_source("raccoon_mosaic", part, shots), seed=seed)


def _draw(rng: np.random.Generator, names: Sequence[str], count: int) -> list[str]:
    return [names[i] for i in rng.permutation(len(names))[:count]]


def mosaic(photographs: Sequence[AnnotatedImage]) -> tuple[Image.Image, list[Box]]:
    """Return four photographs in a square, each cut to its central square, and the boxes of raccoons in them.

    A box is clipped to the square of its photograph; one with less than a quarter of its area inside is dropped.
    """
    half = MOSAIC_SIDE // 2
    canvas = Image.new("RGB", (MOSAIC_SIDE, MOSAIC_SIDE))
    boxes = []
    for index, photograph in enumerate(photographs):
        with Image.open(_file(photograph)) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        x0, y0 = index % 2 * half, index // 2 * half
        square = (left, top, left + side, top + side)
        canvas.paste(image.resize((half, half), Image.Resampling.BICUBIC, box=square, reducing_gap=3.0), (x0, y0))
        zoom = half / side
        for x1, y1, x2, y2 in photograph.boxes.get(RACCOON, ()):
            ax, bx = (min(max((x - left) * zoom, 0.0), half) for x in (x1, x2))
            ay, by = (min(max((y - top) * zoom, 0.0), half) for y in (y1, y2))
            if (bx - ax) * (by - ay) >= 0.25 * (x2 - x1) * (y2 - y1) * zoom**2:
                corners = (round(x0 + ax, 2), round(y0 + ay, 2), round(x0 + bx, 2), round(y0 + by, 2))
                boxes.append(Box(x1=corners[0], y1=corners[1], x2=corners[2], y2=corners[3]))
    return canvas, sorted(boxes, key=lambda box: (box.x1, box.y1))


def _detection(name: str, path: str, size: tuple[int, int], query: str, boxes: Sequence[Box]) -> Sample:
    return Sample(
        id=f"{name}:{query}",
        task="detection",
        images=(path,),
        image_sizes=(ImageSize(*size),),
        query=query,
        target=Detections(items=tuple(Detection(box=box) for box in boxes)),
    )


def _source(bed: str, part: str, shots: int) -> dict[str, Any]:
    return {"kind": "photo_bed", "bed": bed, "split": part, "photographs": shots}


def _assets(cutouts: Path, names: str, backgrounds: str) -> Assets:
    from photo_scenes import load_assets

    return load_assets(cutouts, names=names, backgrounds=backgrounds).without_drawings()


Ask = Callable[["Scene", "Assets", np.random.Generator, int], Sequence[Sample]]
"""Questions about a scene, without its image."""


def write_composites(
    out: Path,
    assets: Assets,
    number: int,
    *,
    ask: Ask,
    plan: Callable[..., list[str]],
    source: dict[str, Any],
    seed: int,
    stream: int,
) -> None:
    """Write ``number`` scenes with the questions of ``ask``; scenes that ``ask`` has none of are drawn again.

    ``stream``: number of the random stream, different for each dataset of all beds.
    """
    from photo_scenes import render

    with StoreWriter(out, overwrite=True) as writer:
        for index in range(number):
            for attempt in range(50):
                rng = np.random.default_rng([seed, stream, index, attempt])
                scene = render(rng, assets, plan(rng, assets, index))
                # a small rotated cut-out of a thin object may have no pixel in its mask
                if not all(o.visible_frac > 0 for o in scene.objects):
                    continue
                if samples := ask(scene, assets, rng, index):
                    break
            else:
                raise ValueError(f"no question in 50 scenes with {len(assets.photographic)} names")
            path = writer.add_image(f"{index:05d}.png", Image.fromarray(scene.image))
            size = ImageSize(*scene.image.shape[1::-1])
            for one in samples:
                writer.add(replace(one, id=f"{index:05d}:{one.query}", images=(path,), image_sizes=(size,)))
        writer.finish(source=source, seed=seed)


def _photo_plan(rng: np.random.Generator, assets: Assets, index: int) -> list[str]:
    from photo_scenes import random_plan

    pool = [name for name in assets.photographic if assets.categories[name]]
    return [name for name in random_plan(rng, assets, pool[int(rng.integers(len(pool)))]) if name in pool]


def ask_names(scene: Scene, assets: Assets, rng: np.random.Generator, index: int) -> list[Sample]:
    """One present name; on every second scene also an absent one."""
    names = list(dict.fromkeys(o.class_name for o in scene.objects))
    shown = {c for name in names for c in assets.categories[name]} | set(names)
    # A name such as "tree" that is also a category of a shown object is not absent.
    absent = [name for name in assets.photographic if name not in shown]
    return _ask(scene, rng, index, names, absent, lambda name: {name})


def ask_categories(scene: Scene, assets: Assets, rng: np.random.Generator, index: int) -> list[Sample]:
    """One present category; on every second scene also an absent one."""
    fits = {name: {*assets.categories[name], name} for name in assets.photographic}
    shown = list(dict.fromkeys(assets.categories[o.class_name][0] for o in scene.objects))
    known = {c for o in scene.objects for c in fits[o.class_name]}
    return _ask(scene, rng, index, shown, [c for c in assets.kin if c not in known], lambda name: fits[name])


def _ask(
    scene: Scene,
    rng: np.random.Generator,
    index: int,
    shown: Sequence[str],
    absent: Sequence[str],
    fits: Callable[[str], set[str]],
) -> list[Sample]:
    if not shown or (index % 2 == 0 and not absent):
        return []
    queries = [shown[int(rng.integers(len(shown)))]]
    if index % 2 == 0:
        queries.append(absent[int(rng.integers(len(absent)))])
    made = []
    for query in queries:
        boxes = sorted((o.box for o in scene.objects if query in fits(o.class_name)), key=lambda box: (box.x1, box.y1))
        made.append(_detection("", "", scene.image.shape[1::-1], query, boxes))
    return made


def ask_relation(scene: Scene, assets: Assets, rng: np.random.Generator, index: int) -> list[Sample]:
    """One referring expression by place, size, order or relation; none that a name alone answers."""
    from virft.scenes.questions import grounding_questions, sample_by_kind

    grouped = replace(
        scene, objects=tuple(replace(o, group=assets.categories[o.class_name][-1]) for o in scene.objects)
    )
    fitting = [one for one in grounding_questions(grouped) if one.kind not in ("name", "only")]
    size = ImageSize(*scene.image.shape[1::-1])
    return [
        Sample(id="", task="grounding", images=("",), image_sizes=(size,), query=one.query, target=one.target)
        for one in sample_by_kind(rng, fitting, 1)
    ]


def build_composites(out: Path, cutouts: Path, *, shots: int, seed: int) -> None:
    """Detection of cut-outs: names of training scenes, names and categories of held-out cut-outs, new backgrounds."""
    for number, (part, size, names, backgrounds, ask) in enumerate(
        (
            ("train", shots, "base", "train", ask_names),
            ("validation", NUM_VALIDATION, "base", "train", ask_names),
            ("known_names", NUM_TEST, "base", "test", ask_names),
            ("heldout_names", NUM_TEST, "heldout", "test", ask_names),
            ("heldout_categories", NUM_TEST, "heldout", "test", ask_categories),
        )
    ):
        source = _source("composites", part, shots)
        assets = _assets(cutouts, names, backgrounds)
        write_composites(out / part, assets, size, ask=ask, plan=_photo_plan, source=source, seed=seed, stream=number)


def build_relations(out: Path, cutouts: Path, *, shots: int, seed: int) -> None:
    """Grounding of cut-outs by place, size and relation."""
    for number, (part, size, backgrounds) in enumerate(
        (("train", shots, "train"), ("validation", NUM_VALIDATION, "train"), ("test", NUM_TEST, "test"))
    ):
        write_composites(
            out / part,
            _assets(cutouts, "base", backgrounds),
            size,
            ask=ask_relation,
            plan=_photo_plan,
            source=_source("relations", part, shots),
            seed=seed,
            stream=10 + number,
        )


def build_lookalikes(out: Path, cutouts: Path, *, shots: int, seed: int) -> None:
    """Classification: which mammal, which bird, of ``NUM_LOOKALIKES`` names each; ``shots`` scenes of each name."""
    base = _assets(cutouts, "base", "train")
    chosen = [
        (category, name)
        for category in LOOKALIKES
        for name in shuffled(base.kin.get(category, ()), seed=seed, purpose="look-alikes")[:NUM_LOOKALIKES]
    ]

    def plan(rng: np.random.Generator, assets: Assets, index: int) -> list[str]:
        return [chosen[index % len(chosen)][1]]

    def ask(scene: Scene, assets: Assets, rng: np.random.Generator, index: int) -> list[Sample]:
        category, name = chosen[index % len(chosen)]
        size = ImageSize(*scene.image.shape[1::-1])
        target = Label(text=name, aliases=())
        return [Sample(id="", task="classification", images=("",), image_sizes=(size,), query=category, target=target)]

    for number, (part, per_name, backgrounds) in enumerate(
        (("train", shots, "train"), ("validation", 3, "train"), ("test", 10, "test"))
    ):
        write_composites(
            out / part,
            _assets(cutouts, "base", backgrounds),
            per_name * len(chosen),
            ask=ask,
            plan=plan,
            source=_source("lookalikes", part, shots) | {"labels": sorted(name for _, name in chosen)},
            seed=seed,
            stream=20 + number,
        )


PHOTOGRAPH_BEDS = ("bccd", "white_cells", "raccoon", "raccoon_mosaic")
COMPOSITE_BEDS = {"composites": build_composites, "lookalikes": build_lookalikes, "relations": build_relations}
BEDS = (*PHOTOGRAPH_BEDS, *COMPOSITE_BEDS)


def build(
    bed: str, out: Path, *, data: Path | None = None, cutouts: Path | None = None, shots: int = 16, seed: int = 0
) -> None:
    """Build one bed in ``out``: ``train``, ``validation`` and test sets. Raises ``SystemExit`` without its folder."""
    if bed in PHOTOGRAPH_BEDS:
        if data is None:
            raise SystemExit(f"{bed}: expected --data, the folder that holds bccd and raccoon")
        if bed == "raccoon":
            build_raccoon(out, data, PHOTOGRAPHS, shots=shots, seed=seed)
        elif bed == "raccoon_mosaic":
            build_mosaics(out, data, PHOTOGRAPHS, shots=shots, seed=seed)
        else:
            build_cells(out, data, bed=bed, shots=shots, seed=seed)
    elif cutouts is None:
        raise SystemExit(f"{bed}: expected --cutouts, the folder that photo_assets.py writes")
    else:
        COMPOSITE_BEDS[bed](out, cutouts, shots=shots, seed=seed)


def blind_values(train: Store, test: Store) -> dict[str, float]:
    """Return the headline metric of each blind baseline on ``test``: fitted on ``train``, and with "test: " on itself.

    Fitting a box or a label on the test set itself gives an upper bound of what any constant answer reaches.
    """
    rows = defaultdict(list)
    for sample in test:
        unanswered = Reading(text="", well_formed=False, answer=Unreadable(reason="no model"))
        none = Prediction(sample_id=sample.id, text="", finish_reason=FinishReason.STOP)
        rows[sample.task].append(JoinedPrediction(sample, none, unanswered))
    card = PredictionsCard(
        model="none",
        data=str(test.folder),
        data_hash=test.hash,
        num_samples=len(test),
        box_space=BoxSpace.RELATIVE_1000,
        thinking=False,
        settings={},
    )
    joined = JoinedPredictions(card=card, by_task=rows, num_questions={task: len(one) for task, one in rows.items()})
    return {
        f"{prefix}{baseline.name}": baseline.values[scores.metric]
        for prefix, store in (("", train), ("test: ", test))
        for scores in score_blind(joined, test, list(store), with_intervals=False)
        for baseline in scores.baselines
    }


def blind_table(folders: Sequence[Path]) -> Iterator[str]:
    """Yield the rows of a Markdown table: number of questions and blind baselines of each test set of beds."""
    yield "| test set | photographs | questions | absent | best on training | best on the test set itself |"
    yield "|---|---|---|---|---|---|"
    for folder in folders:
        train = Store(folder / "train")
        for place in sorted(folder.iterdir()):
            if place.name in ("train", "validation") or not (place / "card.json").is_file():
                continue
            test = Store(place)
            values = blind_values(train, test)
            bests = []
            for fitted_on_test in (False, True):
                of = {
                    name: value
                    for name, value in values.items()
                    # with a question or two of each name, a box of the name fitted on the test set repeats its answer
                    if name.startswith("test: ") == fitted_on_test and not (fitted_on_test and "of the class" in name)
                }
                name = max(of, key=lambda key: of[key])
                bests.append(f"{of[name]:.3f} ({name.removeprefix('test: ')})")
            absent = test.card["negatives_frac"]
            share = "" if absent is None else f"{absent:.2f}"
            yield (
                f"| {folder.name}: {place.name} | {test.card['num_images']} | {len(test)} | {share} | "
                f"{bests[0]} | {bests[1]} |"
            )


def main() -> None:
    """Build one bed, or print blind baselines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bed", nargs="?", choices=BEDS)
    parser.add_argument("out", nargs="?", type=Path)
    parser.add_argument("--data", type=Path, help="folder that holds bccd and raccoon")
    parser.add_argument("--cutouts", type=Path, help="folder that photo_assets.py writes")
    parser.add_argument("--shots", type=int, default=16, help="training photographs (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="seed of split and composites (default: 0)")
    parser.add_argument("--blind", type=Path, nargs="+", metavar="FOLDER", help="print blind baselines of built beds")
    args = parser.parse_args()
    if args.blind:
        print("\n".join(blind_table(args.blind)))
        return
    if args.bed is None or args.out is None:
        parser.error("expected BED and OUT, or --blind")
    build(args.bed, args.out, data=args.data, cutouts=args.cutouts, shots=args.shots, seed=args.seed)
    for card in sorted(args.out.glob("*/card.json")):
        tree = json.loads(card.read_text(encoding="utf-8"))
        print(
            f"{card.parent}: {tree['num_samples']} questions on {tree['num_images']} images, hash {tree['hash'][:12]}"
        )


if __name__ == "__main__":
    main()
