"""Make the screenshot of docs/inference.md: the page of `virft app` with an answer of two models.

    virft app TUNED --base BASE --port 7860
    python scripts/make_app_screenshot.py http://127.0.0.1:7860 docs/app.png [--example 1] [--phone] [--dark]

Needs Playwright and Chromium (the extra `browser`). The page must have examples.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def main(given: argparse.Namespace) -> None:
    """Choose an example, run it, and save the page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport=PHONE if given.phone else DESK, color_scheme="dark" if given.dark else "light")
        page.goto(given.address)
        page.locator("#input-image").wait_for()
        page.locator(".gallery-item, tr.tr-body").nth(given.example).click()
        page.locator("#input-image img").wait_for()
        page.get_by_role("button", name="Run").click()
        page.wait_for_function(
            "[...document.querySelectorAll('[id$=-reading] textarea')].every(one => /^answer/.test(one.value))"
        )
        page.wait_for_timeout(1500)
        page.evaluate("document.activeElement.blur(); window.scrollTo(0, 0)")
        taken = page.screenshot(full_page=given.phone)
        browser.close()
    with Image.open(io.BytesIO(taken)) as image:
        image.convert("RGB").quantize(256).save(given.out, optimize=True)
    print(f"{given.out}: {given.out.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("address", help="address of the page")
    parser.add_argument("out", type=Path, help="PNG file")
    parser.add_argument("--example", type=int, default=0, help="number of the example, from 0")
    parser.add_argument("--phone", action="store_true", help="whole page at the width of a phone")
    parser.add_argument("--dark", action="store_true", help="dark mode")
    main(parser.parse_args())
