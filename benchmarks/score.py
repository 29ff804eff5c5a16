"""Time and memory of scoring 5,000 images x 80 classes with synthetic predictions.

    python benchmarks/score.py [--images 5000] [--classes 80]

About 3 % of the questions have boxes; their predictions are the ground truth with moved corners. ``virft score`` runs
in a separate process, without the bootstrap.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import RESULTS, markdown_table, write_results

from virft.cli.build_boxes import build_coco_or_lvis
from virft.data.store import Store
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.geometry.boxes import BoxSpace
from virft.types import Detections, FinishReason, ImageSize, Prediction, Sample

SIZE = ImageSize(640, 480)


def make_set(folder: Path, *, images: int, classes: int, rng: random.Random) -> Store:
    """Build a dataset of COCO annotations without images, in which every class is queried on every image."""
    annotations = []
    for image in range(1, images + 1):
        for label in rng.sample(range(1, classes + 1), max(1, round(0.03 * classes))):
            for _ in range(rng.randint(1, 5)):
                x, y = rng.uniform(0, 440), rng.uniform(0, 300)
                box = [round(x, 1), round(y, 1), round(rng.uniform(10, 200), 1), round(rng.uniform(10, 180), 1)]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box, "iscrowd": 0}
                )
    tree = {
        "images": [
            {"id": i, "file_name": f"{i:06d}.jpg", "width": SIZE.width, "height": SIZE.height}
            for i in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [{"id": i, "name": f"class {i:02d}"} for i in range(1, classes + 1)],
    }
    (folder / "annotations.json").write_text(json.dumps(tree))
    build_coco_or_lvis(annotations=folder / "annotations.json", images=None, out=folder / "d", protocol="all")
    return Store(folder / "d")


def answer(sample: Sample, rng: random.Random) -> str:
    """Return the ground truth as a completion, each corner moved by up to 1 % of the image, or a false positive."""
    assert isinstance(sample.target, Detections)
    corners = [item.box.xyxy for item in sample.target.items] or ([(10, 10, 99, 99)] if rng.random() < 0.02 else [])
    elements = []
    for x1, y1, x2, y2 in corners:
        moved = [value + rng.uniform(-9, 9) for value in (x1 / 0.64, y1 / 0.48, x2 / 0.64, y2 / 0.48)]
        numbers = ",".join(str(min(1000, max(0, round(value)))) for value in moved)
        elements.append(f"{{'Position':[{numbers}],'Confidence':{rng.random():.2f}}}")
    return f"<answer>{'[' + ','.join(elements) + ']' if elements else 'No Objects'}</answer>"


def main(arguments: argparse.Namespace) -> None:
    """Make the dataset and the predictions, score them, write the table."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        store = make_set(Path(name), images=arguments.images, classes=arguments.classes, rng=rng)
        card = PredictionsCard(
            model="none", data="d", data_hash=store.hash, num_samples=len(store), box_space=BoxSpace.RELATIVE_1000,
            thinking=False, settings={},
        )  # fmt: skip
        answers = (
            Prediction(sample_id=one.id, text=answer(one, rng), finish_reason=FinishReason.STOP) for one in store
        )
        path = write_predictions(Path(name) / "p", card, (SizedPrediction(one, SIZE) for one in answers))
        command = [str(Path(sys.executable).with_name("virft")), "score", str(path), str(store.folder)]
        began = time.perf_counter()
        done = subprocess.run([*command, "--no-intervals"], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
        mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        found = [" ".join(line.split()) for line in done.stdout.splitlines() if line.split()[0] in ("f1", "ap", "ap50")]
    table = markdown_table(["quantity", "value"], [["seconds", f"{seconds:.1f}"], ["peak MiB", f"{mib:.0f}"]])
    text = f"{arguments.images} images x {arguments.classes} classes; {', '.join(found)}.\n\n{table}"
    print(text)
    command_line = " ".join(["python benchmarks/score.py", *sys.argv[1:]])
    print(write_results("score", command=command_line, tables=text, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--classes", type=int, default=80)
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
