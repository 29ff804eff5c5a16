"""Size of the report page of a long run with many images, and the time to make and to open it.

    python benchmarks/report_page.py [--steps 500] [--images 200] [--chromium chromium]

The run is synthetic: logs of 500 steps, and 400 images of 640 x 480 with predictions of a base and a tuned model.
Opening is measured in headless Chromium, from the start of loading to the second frame after the page has loaded; the
best of three.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image, ImageFilter
from record import RESULTS, markdown_table, write_results

from virft.config.schema import Config, DataConfig, GRPOConfig, RunConfig
from virft.data.store import Store
from virft.data.store_writer import StoreWriter
from virft.evaluation.predictions import PredictionsCard, SizedPrediction, write_predictions
from virft.geometry.boxes import BoxSpace
from virft.report.read import report_folders
from virft.training.run import METRICS, ROLLOUTS, TIMINGS, RunFolder, run_card
from virft.types import Box, Detection, Detections, FinishReason, ImageSize, Prediction, Sample

SIZE = ImageSize(640, 480)
CHROMIUM_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-component-update",
    "--disable-background-networking", "--disable-sync", "--window-size=1280,900",
)  # fmt: skip
CLOCK = (
    "<script>addEventListener('load', () => requestAnimationFrame(() => requestAnimationFrame(() => "
    "{ document.title = 'opened in ' + performance.now() + ' ms'; })));</script>"
)


def random_image(rng: random.Random) -> Image.Image:
    """Make an image of blurred random pixels, about as compressible as a photograph."""
    coarse = Image.frombytes("RGB", (160, 120), rng.randbytes(160 * 120 * 3))
    return coarse.resize(SIZE, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))


def random_box(rng: random.Random) -> Box:
    """Return a box of 60 to 200 pixels a side."""
    x, y = rng.randint(0, 400), rng.randint(0, 250)
    return Box(x1=x, y1=y, x2=x + rng.randint(60, 200), y2=y + rng.randint(60, 200))


def make_set(folder: Path, *, number: int, rng: random.Random) -> Store:
    """Write a dataset with one question about each of ``number`` images."""
    with StoreWriter(folder) as writer:
        for i in range(number):
            path = writer.add_image(f"{i}.jpg", random_image(rng))
            target = Detections(items=tuple(Detection(box=random_box(rng)) for _ in range(rng.randint(0, 3))))
            writer.add(
                Sample(
                    id=f"q{i}",
                    task="detection",
                    images=(path,),
                    image_sizes=(SIZE,),
                    query="thing",
                    target=target,
                )
            )
        writer.finish(source={}, seed=0)
    return Store(folder)


def answer(sample: Sample, rng: random.Random, error: float) -> str:
    """Return the ground truth as a completion, each corner moved by up to the fraction ``error`` of the image."""
    assert isinstance(sample.target, Detections)
    rows = []
    for item in sample.target.items:
        corners = (item.box.x1 / 0.64, item.box.y1 / 0.48, item.box.x2 / 0.64, item.box.y2 / 0.48)
        numbers = ",".join(str(min(1000, max(0, round(v + 1000 * rng.uniform(-error, error))))) for v in corners)
        rows.append(f"{{'Position':[{numbers}],'Confidence':{rng.random():.2f}}}")
    return f"<answer>{'[' + ','.join(rows) + ']' if rows else 'No Objects'}</answer>"


def make_run(folder: Path, store: Store, *, steps: int, rng: random.Random) -> None:
    """Write a run folder as after ``steps`` training steps, with the predictions of two models."""
    config = Config(
        data=DataConfig(train=str(store.folder)), grpo=GRPOConfig(steps=steps), run=RunConfig(dir=str(folder))
    )
    run = RunFolder.open(
        config, resume=False, card=run_card(trainer="grpo", commit=None, data_hash=store.hash, model="virft-tiny")
    )
    for step in range(steps):
        progress = step / steps
        record = {name: progress + rng.gauss(0, 0.1) for name in ("reward", "reward_iou", "reward_confidence", "kl")}
        record |= {"completion_tokens": 40 + rng.gauss(0, 4), "unreadable_frac": rng.random() / 20}
        record |= {
            "truncated_frac": rng.random() / 50,
            "nonzero_std_frac": 1 - progress / 2,
            "loss": rng.gauss(0, 1e-3),
        }
        record |= {"grad_norm": abs(rng.gauss(0.5, 0.2)), "learning_rate": 1e-6 * (1 - progress), "sampler_gap": 1e-6}
        run.append(METRICS, {"step": step, **record})
        run.append(TIMINGS, {"step": step, "images": 0.2, "sampling": 2 + rng.random(), "update": 3 + rng.random()})
        sample = store[step % len(store)]
        sides = {
            name: {"reward": reward, "parts": {"iou": reward}, "text": answer(sample, rng, 0.1), "boxes": []}
            for name, reward in (("best", 1.0), ("worst", 0.0))
        }
        run.append(ROLLOUTS, {"step": step, "sample": sample.id, "prompt": "?", "rewards": [0.0, 1.0], **sides})
    for name, model, error in (("base", "virft-tiny", 0.15), ("tuned", str(folder / "model"), 0.05)):
        card = PredictionsCard(
            model=model, data=str(store.folder), data_hash=store.hash, num_samples=len(store),
            box_space=BoxSpace.RELATIVE_1000, thinking=False, settings={},
        )  # fmt: skip
        rows = (
            Prediction(sample_id=one.id, text=answer(one, rng, error), finish_reason=FinishReason.STOP) for one in store
        )
        write_predictions(folder / "eval" / name / "test", card, (SizedPrediction(one, SIZE) for one in rows))


def seconds_to_open(page: str, folder: Path, *, chromium: str) -> float:
    """Open a copy of the page with a timing script in Chromium and return the seconds.

    The page's content security policy would block the script, so it is removed from the copy.
    """
    clocked = re.sub("<meta http-equiv=[^>]*>", "", page, count=1).replace("</body>", CLOCK + "</body>")
    assert clocked.count(CLOCK) == 1
    (folder / "clocked.html").write_text(clocked, encoding="utf-8")
    profile = folder / "profile"
    command = [chromium, *CHROMIUM_OPTIONS, f"--user-data-dir={profile}", "--remote-debugging-port=0"]
    # The debugging port serves the title of the page by plain HTTP.
    with subprocess.Popen([*command, (folder / "clocked.html").as_uri()], stderr=subprocess.DEVNULL) as browser:
        try:
            for _ in range(600):
                time.sleep(0.1)
                if found := re.search(r"opened in ([\d.]+) ms", titles(profile)):
                    return float(found[1]) / 1000
        finally:
            browser.terminate()
    sys.exit(f"{chromium} did not open the page within a minute")


def titles(profile: Path) -> str:
    """Return the titles of all pages of the browser with this profile; "" while it starts."""
    try:
        port = (profile / "DevToolsActivePort").read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=5) as reply:
            return " ".join(one["title"] for one in json.load(reply))
    except (OSError, IndexError):
        return ""


def main(arguments: argparse.Namespace) -> None:
    """Make the run and its page, open the page, write the table."""
    rng = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = make_set(folder / "data", number=2 * arguments.images, rng=rng)
        make_run(folder / "run", store, steps=arguments.steps, rng=rng)
        began = time.perf_counter()
        page = report_folders([folder / "run"], num_images=arguments.images)
        seconds = time.perf_counter() - began
        opened = "not measured"
        if arguments.chromium:
            times = [
                seconds_to_open(page, Path(own), chromium=arguments.chromium)
                for own in (tempfile.mkdtemp(dir=folder) for _ in range(3))
            ]
            opened = f"{min(times):.2f}"
    rows = [
        ["MB", f"{len(page.encode()) / 1e6:.1f}"],
        ["images in it", str(page.count("data:image/webp"))],
        ["seconds to make", f"{seconds:.1f}"],
        ["seconds to open", opened],
    ]
    table = markdown_table(["quantity", "value"], rows)
    text = f"{arguments.steps} steps, {arguments.images} questions with images, 2 systems.\n\n{table}"
    print(text)
    command_line = " ".join(["python benchmarks/report_page.py", *sys.argv[1:]])
    print(write_results("report_page", command=command_line, tables=text, date=arguments.date, folder=arguments.out))
    if arguments.save_page:
        arguments.save_page.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--chromium", default="chromium", help="the browser; empty: do not measure opening")
    parser.add_argument("--save-page", type=Path, help="save the page in this file")
    parser.add_argument("--date", help="date in the result file; default: today")
    parser.add_argument("--out", type=Path, default=RESULTS)
    main(parser.parse_args())
