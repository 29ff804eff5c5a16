"""Write the photographs of ``virft quickstart --photo``: micrographs of BCCD, made smaller, with boxes of white cells.

    python scripts/make_white_cells.py DATA [OUT]

DATA holds the folder ``bccd`` with ``annotations.json`` (COCO) and ``images``; OUT is by default the folder in the
package. The parts are those of the bed ``white_cells`` of ``photo_beds.py`` with 32 training photographs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from photo_beds import CELLS, few, read_boxes, split_photographs
from PIL import Image

PACKAGED = Path(__file__).resolve().parents[1] / "src/virft/data/white_cells"
SHOTS = 32
SEED = 0
WIDTH = 320
QUALITY = 88


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path, nargs="?", default=PACKAGED)
    args = parser.parse_args(arguments)
    annotated = read_boxes(args.data / "bccd", CELLS)
    # a micrograph without any box may be unlabelled
    files = {name: image.file for name, image in annotated.images.items() if image.file and any(image.boxes.values())}
    parts = few(split_photographs(files, seed=SEED), SHOTS)
    images: list[dict[str, Any]] = []
    boxes: list[dict[str, Any]] = []
    for part in ("train", "test"):
        (args.out / part).mkdir(parents=True, exist_ok=True)
        for name in sorted(parts[part]):
            with Image.open(files[name]) as opened:
                photograph = opened.convert("RGB")
            zoom = WIDTH / photograph.width
            small = photograph.resize((WIDTH, round(photograph.height * zoom)), Image.Resampling.LANCZOS)
            file_name = f"{part}/{Path(name).stem}.jpg"
            small.save(args.out / file_name, quality=QUALITY, optimize=True)
            images.append({"id": len(images), "file_name": file_name, "width": small.width, "height": small.height})
            for box in annotated.images[name].boxes.get(CELLS["WBC"], ()):
                x1, y1, x2, y2 = (round(value * zoom, 2) for value in box)
                one = {"id": len(boxes), "image_id": images[-1]["id"], "category_id": 1}
                boxes.append(one | {"bbox": [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)], "iscrowd": 0})
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": CELLS["WBC"]}]}
    (args.out / "annotations.json").write_text(json.dumps(content) + "\n", encoding="utf-8")
    size = sum(file.stat().st_size for file in args.out.rglob("*") if file.is_file())
    print(f"{args.out}: {len(images)} photographs, {len(boxes)} boxes, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
