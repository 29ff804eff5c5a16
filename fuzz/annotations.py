"""Fuzz test of the files that datasets are built from: each is read, or refused with a ``VirftError``.

python fuzz/annotations.py 20000 --seed 0
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from files import mutated
from mutations import arguments, counted
from PIL import Image

from virft.data.annotations import Skipped
from virft.data.query_map import read_query_map
from virft.data.sources.coco import open_coco, read_coco
from virft.data.sources.labelme import read_labelme
from virft.data.sources.labels import read_aliases, read_label_csv
from virft.data.sources.lisa import read_lisa
from virft.data.sources.refcoco import read_refcoco
from virft.data.sources.rows import read_rows
from virft.data.sources.voc import read_voc
from virft.data.sources.yolo import read_yolo
from virft.data.store import read_card
from virft.errors import VirftError
from virft.publishing.card_facts import front_matter

Read = Callable[[Path], Any]
"""Reader of a folder that has the fuzzed file under its name."""

COCO = (
    '{"images":[{"id":1,"file_name":"a.png","width":64,"height":48}],"categories":[{"id":3,"name":"fox"}],'
    '"annotations":[{"id":5,"image_id":1,"category_id":3,"bbox":[1,2,30,40],"area":1200,"iscrowd":0}]}'
)
REFCOCO = '[{"image":"a.png","expression":["the fox"],"bbox":[1,2,30,40],"width":64,"height":48,"segmentation":[]}]'
LABELME = (
    '{"shapes":[{"label":"fox","shape_type":"rectangle","points":[[1,2],[30,40]]},'
    '{"label":"target","points":[[1,2],[30,2],[30,40]]}],"imageWidth":64,"imageHeight":48,"text":["the fox"]}'
)
VOC = (
    "<annotation><filename>a.png</filename><size><width>64</width><height>48</height></size><object><name>fox</name>"
    "<difficult>0</difficult><bndbox><xmin>2</xmin><ymin>3</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>"
    "</annotation>"
)
CARD = '{"schema_version":2,"hash":"0","counts":{"detection":1},"source":{"name":"a"}}'
FILES: dict[str, tuple[str, Read]] = {
    "coco.json": (COCO, lambda at: read_coco(open_coco(at / "coco.json"), at, skipped=Skipped())),
    "lvis.json": (COCO, lambda at: read_coco(open_coco(at / "lvis.json"), at, federated=True, skipped=Skipped())),
    "refcoco.json": (REFCOCO, lambda at: read_refcoco(at / "refcoco.json", at, skipped=Skipped())),
    "a.json": (LABELME, lambda at: (read_labelme(at, skipped=Skipped()), read_lisa(at, skipped=Skipped()))),
    "a.xml": (VOC, lambda at: read_voc(at, skipped=Skipped())),
    "a.txt": ("0 0.5 0.5 0.25 0.5\n0 0 0 0.5 0 0.25 0.5\n", lambda at: read_yolo(at, skipped=Skipped())),
    "data.yaml": ("names: [fox, dog]\nnc: 2\n", lambda at: read_yolo(at, skipped=Skipped())),
    "rows.jsonl": ('{"image":"a.png","query":"fox","target":{"boxes":[[1,2,30,40]]}}\n', lambda at: _rows(at, "l")),
    "rows.json": ('[{"image":"a.png","query":"fox","target":{"label":"fox"}}]', lambda at: _rows(at, "")),
    "labels.csv": ("path,label\na.png,fox\n", lambda at: read_label_csv(at / "labels.csv", at, skipped=Skipped())),
    "names.json": ('{"fox":["red fox"]}', lambda at: read_aliases(at / "names.json")),
    "map.json": ('{"a.png":["fox"]}', lambda at: read_query_map(at / "map.json")),
    "card.json": (CARD, read_card),
    "README.md": ("---\nlicense: mit\nbase_model: a/b\n---\n# A\n", lambda at: front_matter(at / "README.md")),
}


def _rows(at: Path, ending: str) -> object:
    return list(read_rows(at / f"rows.json{ending}", Skipped()))


def try_file(folder: Path, name: str, text: str) -> None:
    """Check that a file is read, or refused with a ``VirftError`` that names the file or its folder."""
    read = FILES[name][1]
    path = folder / name
    path.write_bytes(text.encode("utf-8", errors="surrogatepass"))
    if name == "data.yaml":
        (folder / "a.txt").write_text(FILES["a.txt"][0], encoding="utf-8")
    if name == "a.txt":
        (folder / "data.yaml").write_text(FILES["data.yaml"][0], encoding="utf-8")
    try:
        read(folder)
    except VirftError as error:
        assert name in str(error) or str(folder) in str(error) or folder.name in str(error), (name, str(error), text)
    finally:
        path.unlink()


def main() -> None:
    """Check mutated files of each kind in turn, from a seed."""
    given = arguments(__doc__).parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as scratch:
        for name in FILES:
            (Path(scratch) / name).mkdir()
            Image.new("RGB", (64, 48)).save(Path(scratch) / name / "a.png")
        names = list(FILES)
        for index in counted(given.number):
            name = names[index % len(names)]
            try_file(Path(scratch) / name, name, mutated(rng, (FILES[name][0],)))
    print(f"{given.number:,} files: each read, or refused by its name")


if __name__ == "__main__":
    main()
