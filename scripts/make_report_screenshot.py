"""Make a screenshot of a report or of a preview: its first screen, next to a phone in dark mode.

    python scripts/make_report_screenshot.py PAGE OUT.png [--height 900] [--chromium chromium]

Headless Chromium opens the page; no network is used.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip
DESK, PHONE = 1280, 390
"""Widths of the windows, in pixels."""
PAPER = (221, 224, 219)
GAP = 28


def screenshot(page: str, size: tuple[int, int], *, chromium: str, dark: bool) -> Image.Image:
    """Take a screenshot of the top of a page."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "page.html").write_text(page, encoding="utf-8")
        image = folder / "screenshot.png"
        # A window is at least 500 pixels wide, so the page of a phone is a frame in a window.
        frame = f'<body style="margin:0"><iframe src="page.html" width="{size[0]}" height="{size[1]}" style="border:0">'
        (folder / "frame.html").write_text(frame, encoding="utf-8")
        command = [
            chromium, *OPTIONS, f"--user-data-dir={folder / 'profile'}", f"--screenshot={image}",
            f"--window-size={max(500, size[0])},{size[1]}", "--virtual-time-budget=5000",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}", (folder / "frame.html").as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True)
        with Image.open(image) as screen:
            return screen.convert("RGB").crop((0, 0, *size))


def main(arguments: argparse.Namespace) -> None:
    """Combine two screenshots in one image."""
    page = arguments.page.read_text(encoding="utf-8")
    height = arguments.height
    desk = screenshot(page, (DESK, height), chromium=arguments.chromium, dark=False)
    phone = screenshot(page, (PHONE, height), chromium=arguments.chromium, dark=True)
    sheet = Image.new("RGB", (DESK + PHONE + 3 * GAP, height + 2 * GAP), PAPER)
    sheet.paste(desk, (GAP, GAP))
    sheet.paste(phone, (DESK + 2 * GAP, GAP))
    colours = sheet.quantize(256, kmeans=2)
    sheet.quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG).save(arguments.out, optimize=True)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--height", type=int, default=900, help="height of both windows, in pixels")
    parser.add_argument("--chromium", default="chromium")
    main(parser.parse_args())
