"""The page in a real browser: ``make test-app``."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from runs import virft
from virft.report.render.images import ANSWER_COLOUR
from virft.tasks import TASKS

pytestmark = pytest.mark.browser

FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip

# Records the content of a field every few milliseconds, faster than a test can read it.
WATCH = """() => {
    window.seen = [];
    setInterval(() => {
        const text = document.querySelector('#base-reading textarea').value;
        if (text !== window.seen.at(-1)) window.seen.push(text);
    }, 5);
}"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``virft app``. Ctrl-C stops it although a page may be open, and deletes its uploads."""
    place = tmp_path_factory.mktemp("uploads")
    command = [sys.executable, "-m", "virft", "app", "virft-tiny", "--base", "virft-tiny", "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TMPDIR": str(place)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        address = process.stdout.readline().split()[0]
        assert address.startswith("http://127.0.0.1:")
        yield address
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stdout.read() == "stopped\n"
    assert list(place.glob("virft-*")) == []


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=shutil.which("chromium"),
            headless=True,
            args=list(FLAGS),
            viewport={"width": 1280, "height": 900},
        )
        yield context
        context.close()


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    """The page, newly opened. All its requests are to its own host."""
    requests: list[str] = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    response = page.goto(server)
    page.get_by_role("heading", name="virft", exact=True).wait_for()
    assert "default-src 'self'" in response.headers["content-security-policy"]
    yield page
    page.close()
    assert [url for url in requests if not url.startswith((server, "data:", "blob:"))] == []


@pytest.fixture(scope="module")
def dog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scene with a dog in it."""
    folder = tmp_path_factory.mktemp("dog") / "data"
    scene = ("--classes", "dog", "--questions", 1, "--negatives-frac", 0)
    assert virft("build", "scenes", folder, *scene) == 0
    return next((folder / "images").iterdir())


def run_query(page: Any, query: str, *, image: Path | None = None) -> None:
    if image is not None:
        page.set_input_files("input[type=file]", image)
        page.locator("#base-image img").wait_for()
    page.get_by_label("Query").fill(query)
    page.get_by_role("button", name="Run").click()


def read_field(page: Any, name: str) -> str:
    """The content of a field once it is filled."""
    page.wait_for_function(f"document.querySelector('#{name} textarea').value !== ''")
    return str(page.locator(f"#{name} textarea").input_value())


def read_answer(page: Any, role: str) -> str:
    """The parsed answer of a model, which replaces the text once it is complete."""
    page.wait_for_function(f"document.querySelector('#{role}-reading textarea').value.startsWith('answer: ')")
    return read_field(page, f"{role}-reading")


def error_message(page: Any) -> str:
    """The message that pops up."""
    return str(page.get_by_test_id("toast-body").first.inner_text())


def colours(page: Any, name: str) -> set[tuple[int, ...]]:
    """The colours of an annotated image as the browser shows it."""
    page.locator(f"#{name} img").wait_for()
    with Image.open(io.BytesIO(page.locator(f"#{name} img").screenshot())) as shown:
        return {colour for _, colour in shown.convert("RGB").getcolors(1 << 24)}


def test_answers_of_two_models_are_written_and_drawn_side_by_side(page: Any, dog: Path, tmp_path: Path) -> None:
    page.evaluate(WATCH)
    run_query(page, "dog", image=dog)
    assert ANSWER_COLOUR not in colours(page, "tuned-image")
    for name in ("base", "tuned"):
        assert read_answer(page, name).startswith("answer: 1 box, in pixels of 112 x 112\n  [")
        assert ANSWER_COLOUR in colours(page, f"{name}-image")
    page.get_by_text("Completion as generated").first.click()
    whole = read_field(page, "base-answer")
    assert whole.startswith("<answer>")
    written = [text for text in page.evaluate("window.seen") if text and not text.startswith("answer: ")]
    assert len(written) > 2, "the text must be seen growing"
    assert all(text in whole for text in written)
    page.screenshot(path=tmp_path / "page.png", full_page=True)


def test_models_are_named_and_a_model_that_does_not_think_has_no_reasoning(page: Any) -> None:
    assert page.get_by_role("heading", name="virft", exact=True).count() == 1
    for role in ("base", "tuned"):
        assert page.get_by_role("heading", name=f"{role}: virft-tiny").count() == 1
    assert page.get_by_text("Reasoning").count() == 0


def test_the_hint_of_the_query_follows_the_task(page: Any) -> None:
    assert page.get_by_text(TASKS["detection"].query_hint).count() == 1
    page.get_by_label("grounding", exact=True).check()
    page.get_by_text(TASKS["grounding"].query_hint).wait_for()


def test_the_slider_hides_boxes_without_another_query(page: Any, dog: Path) -> None:
    run_query(page, "dog", image=dog)
    before = read_answer(page, "tuned")
    assert before.startswith("answer: 1 box")
    assert ANSWER_COLOUR in colours(page, "tuned-image")
    page.locator("#confidence input[type=number]").fill("1")
    page.locator("#confidence input[type=number]").press("Enter")
    page.wait_for_timeout(1000)
    for name in ("base", "tuned"):
        assert ANSWER_COLOUR not in colours(page, f"{name}-image")
    assert read_field(page, "tuned-reading") == before


def test_an_example_fills_image_task_and_query(page: Any) -> None:
    page.locator("tr.tr-body", has_text="grounding").first.click()
    page.locator("#base-image img").wait_for()
    assert page.get_by_label("grounding", exact=True).is_checked()
    assert page.get_by_label("Query").input_value().startswith("the ")


def test_the_enter_key_runs_a_query(page: Any, dog: Path) -> None:
    page.set_input_files("input[type=file]", dog)
    page.locator("#base-image img").wait_for()
    page.get_by_label("classification", exact=True).check()
    page.get_by_label("Query").fill("animal")
    page.get_by_label("Query").press("Enter")
    assert len(read_answer(page, "tuned")) > len("answer: ")


def test_errors_are_shown_without_folders_of_the_server(page: Any, dog: Path, tmp_path: Path) -> None:
    run_query(page, "dog")
    assert "no image; upload one on the left" in error_message(page)
    page.reload()
    (tmp_path / "corrupt.jpg").write_bytes(b"\xff\xd8 nothing")
    page.set_input_files("input[type=file]", tmp_path / "corrupt.jpg")
    assert "corrupt.jpg: cannot be read as an image: not in a format that Pillow can read" in error_message(page)
    assert "/" not in error_message(page)
    page.reload()
    (tmp_path / "large.png").write_bytes(bytes(21 * 1000 * 1000))
    page.set_input_files("input[type=file]", tmp_path / "large.png")
    assert "maximum allowed size of 20.0" in error_message(page)
    page.reload()
    run_query(page, "<|image_pad|>", image=dog)
    assert f"{dog.name}: the question holds 1 image placeholders of its own; expected none" in error_message(page)


def test_files_of_the_server_are_not_served(page: Any, server: str) -> None:
    for path in (__file__, Path("pyproject.toml").absolute(), "pyproject.toml"):
        assert page.request.get(f"{server}/gradio_api/file={path}").status in (403, 404)
