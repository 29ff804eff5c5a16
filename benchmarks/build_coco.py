"""Time and memory of building a few-shot dataset from a COCO file of the size of val2017.

    python benchmarks/build_coco.py [--shots 16]

5,000 JPEG images of 640 x 480 random pixels, 36,000 boxes of 80 classes with frequencies proportional to 1 / rank, a
tenth of them crowds. Goal: at most 20 seconds and 1 GB. The build runs in a separate process, as from the command line;
its peak memory is the one that the operating system reports.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from record import RESULTS, markdown_table, write_results

NUM_IMAGES, NUM_BOXES, NUM_CLASSES, SIZE = 5_000, 36_000, 80, (640, 480)


def make_set(folder: Path) -> Path:
    """Write the images and ``annotations.json``; return the path of the latter."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    encoded = []
    for number, pixels in enumerate(rng.integers(0, 256, (16, 48, 64, 3), dtype=np.uint8)):
        path = folder / f"{number}.jpg"
        Image.fromarray(pixels).resize(SIZE).save(path)
        encoded.append(path.read_bytes())
    for number in range(NUM_IMAGES):
        (folder / "images" / f"{number:012d}.jpg").write_bytes(encoded[number % len(encoded)])
    frequency = 1 / np.arange(1, NUM_CLASSES + 1)
    classes = rng.choice(NUM_CLASSES, NUM_BOXES, p=frequency / frequency.sum()) + 1
    corners = rng.uniform(0, (SIZE[0] - 100, SIZE[1] - 100), (NUM_BOXES, 2))
    sides = rng.uniform(5, 100, (NUM_BOXES, 2))
    boxes = np.hstack([corners, sides]).round(2).tolist()
    tree = {
        "images": [
            {"id": i + 1, "file_name": f"{i:012d}.jpg", "width": SIZE[0], "height": SIZE[1]} for i in range(NUM_IMAGES)
        ],
        "annotations": [
            {
                "id": i + 1,
                "image_id": int(rng.integers(NUM_IMAGES)) + 1,
                "category_id": int(classes[i]),
                "bbox": boxes[i],
                "area": round(boxes[i][2] * boxes[i][3], 2),
                "iscrowd": int(rng.random() < 0.1),
                # of the usual length of an outline
                "segmentation": [rng.integers(0, 480, 60).tolist()],
            }
            for i in range(NUM_BOXES)
        ],
        "categories": [{"id": i + 1, "name": f"class {i + 1}"} for i in range(NUM_CLASSES)],
    }
    path = folder / "annotations.json"
    path.write_text(json.dumps(tree))
    return path


def main(arguments: argparse.Namespace) -> None:
    """Make the source dataset, build from it, write the table."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        annotations = make_set(folder)
        options = ["--shots", str(arguments.shots), "--negatives-frac", "0.2", "--test-frac", "0.2"]
        command = [
            str(Path(sys.executable).with_name("virft")),
            "build",
            "coco",
            str(annotations),
            str(folder / "images"),
        ]
        began = time.perf_counter()
        done = subprocess.run([*command, str(folder / "out"), *options], capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - began
        mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        lines = [line.split(": ", 1)[1] for line in done.stdout.splitlines() if " questions on " in line]
    table = markdown_table(["quantity", "value"], [["seconds", f"{seconds:.1f}"], ["peak MiB", f"{mib:.0f}"]])
    text = f"Train: {lines[0]}. Test: {lines[1]}.\n\n{table}"
    command_line = " ".join(["python benchmarks/build_coco.py", *sys.argv[1:]])
    print(text)
    print(write_results("build_coco", command=command_line, tables=text, date=arguments.date, folder=arguments.out))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shots", type=int, default=16)
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
