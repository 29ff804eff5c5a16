"""The whole page, rendered from reported systems."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from factories import detections, reading, sample, save_image
from report_factories import PageReader, predictions, predictions_on, rollout, scores
from virft.report.render.page import html_table, paragraph
from virft.report.render.reported import ReportedRun, ReportedSystem, Section
from virft.report.render.run_page import render_run_page
from virft.types import Detections, Unreadable

NASTY = "</script><script>alert(1)</script>"


def run(name: str = "a", **more: Any) -> ReportedRun:
    metrics = tuple({"step": step, "reward": step / 2} for step in range(3))
    return ReportedRun(**{"name": name, "folder": f"runs/{name}", "metrics": metrics, "rollouts": (rollout(0),)} | more)


def read(systems: list[ReportedSystem], **more: Any) -> PageReader:
    return PageReader(render_run_page(systems, title="t", **more))


def two_systems(folder: Path) -> list[ReportedSystem]:
    """Two systems and two questions: one prediction improves, one stays incorrect."""
    samples = [sample(id=f"q{i}", image=str(save_image(folder / f"{i}.png", seed=i))) for i in range(2)]
    no, yes = reading(Detections()), reading(detections((10, 10, 30, 40)))
    before = predictions_on(samples, {"q0": no, "q1": no}, {"q0": 0.0, "q1": 0.0})
    after = predictions_on(samples, {"q0": yes, "q1": no}, {"q0": 1.0, "q1": 0.0})
    return [
        ReportedSystem(name="base", predictions={"coins": (before,)}),
        ReportedSystem(name="rft", runs=(run("rft"),), predictions={"coins": (after,)}),
    ]


def test_every_part_has_a_heading_and_a_link(tmp_path: Path) -> None:
    section = Section(heading="Compared", body=paragraph("RFT wins.") + html_table(["", "f1"], [["rft", "1"]]))
    found = read(two_systems(tmp_path), sections=[section], notes=["a note"], intro="an intro")
    ids = {one.get("id") for _, one in found.elements}
    links = [one["href"][1:] for one in found.all("a") if one["href"].startswith("#")]
    assert links[:8] == ["content", "overview", "summary", "scores", "curves", "images", "rollouts", "runs"]
    assert set(links) <= ids
    for text in ("Compared", "RFT wins.", "a note", "an intro", "Largest changes", "Worst failures"):
        assert text in found.texts
    assert "Settings that differ" not in found.texts


def test_an_image_is_embedded_once_however_often_it_is_shown(tmp_path: Path) -> None:
    found = read(two_systems(tmp_path))
    embedded = [one["id"] for one in found.all("image")]
    shown = [one["href"][1:] for one in found.all("use")]
    assert len(embedded) == 2
    # two questions, two systems each, and two examples at the top
    assert sorted(shown) == sorted(embedded * 3)
    assert all(one["href"].startswith("data:image/webp;base64,") for one in found.all("image"))


def test_every_image_and_chart_has_a_text_and_can_be_reached_by_keyboard(tmp_path: Path) -> None:
    found = read(two_systems(tmp_path))
    panels = found.all("svg", cls="panel")
    assert len(panels) == len(found.all("button", cls="zoomable")) == 6
    assert panels[3]["aria-label"] == (
        "Query: fox. Target: 1 box: 10, 10 to 30, 40. Prediction of rft: 1 box: 10, 10 to 30, 40 (confidence 1.00)."
    )
    (chart,) = found.all("figure", cls="chart")
    assert chart["tabindex"] == "0"
    assert chart["aria-label"] == "reward, step 1 to 3: rft 0 to 1"
    assert all(one["tabindex"] == "0" for one in found.all("div", cls="scroll"))


def test_no_text_of_a_model_becomes_markup_of_the_page(tmp_path: Path) -> None:
    image = str(save_image(tmp_path / "a.png"))
    samples = [sample(id="q0", image=image, query=NASTY, question=NASTY)]
    answer = reading(Unreadable(reason=NASTY))
    nasty = rollout(0, prompt=NASTY, best={"reward": 2.0, "parts": {NASTY: 1.0}, "text": NASTY})
    system = ReportedSystem(
        name=NASTY,
        runs=(run(NASTY, rollouts=(nasty,), config=NASTY, card={"argv": [NASTY]}),),
        predictions={NASTY: (predictions_on(samples, {"q0": answer}, {"q0": 0.0}),)},
    )
    page = render_run_page([system], title=NASTY, notes=[NASTY])
    assert "<script>alert" not in page
    assert "</script><script>" not in page
    found = PageReader(page)
    assert len([tag for tag, _ in found.elements if tag == "script"]) == 2  # a chart's figures, the page's own
    assert found.text.count(NASTY) > 8
    assert found.charts()[0]["lines"][0]["name"] == NASTY


def test_seeds_of_a_system_share_a_column_and_a_switch() -> None:
    seeds = tuple(predictions(scores({"f1": value})) for value in (0.25, 0.75))
    systems = [
        ReportedSystem(name="base", predictions={"coins": (predictions(scores({"f1": 0.25})),)}),
        ReportedSystem(name="sft", runs=(run("s0"), run("s1")), predictions={"coins": seeds}),
        ReportedSystem(name="rft", runs=(run("r0"), run("r1"))),
    ]
    found = read(systems)
    assert "0.250 to 0.750, 2 seeds" in found.texts
    assert [one["id"] for one in found.all("input", type="checkbox")] == ["show-1", "show-2"]
    (chart,) = found.charts()
    assert [line["name"] for line in chart["lines"]] == ["sft (s0)", "sft (s1)", "rft (r0)", "rft (r1)"]
    assert [line["system"] for line in chart["lines"]] == [1, 1, 2, 2]


def test_a_run_without_steps_has_a_page_with_notes() -> None:
    text = read([ReportedSystem(name="a", runs=(ReportedRun(name="a", folder="a", problems=("no card",)),))]).text
    assert "No step has been logged yet." in text
    assert "No predictions yet." in text
    assert "no rollouts have been logged yet" in text
    assert "no card" in text


def test_supervised_runs_have_no_rollouts() -> None:
    sft = run(card={"trainer": "sft"}, metrics=({"step": 0, "loss": 1.0},), rollouts=())
    found = read([ReportedSystem(name="a", runs=(sft,))])
    assert "Rollouts" not in found.texts
    assert {"Curves", "Runs", "sft"} <= set(found.texts)


def test_predictions_alone_make_a_page_without_curves() -> None:
    found = read([ReportedSystem(name="base", predictions={"coins": (predictions(scores({"f1": 0.25})),)})])
    headings = [one for one in found.texts if one in ("Overview", "Scores", "Curves", "Runs", "Images")]
    assert headings == ["Overview", "Scores", "Images"] * 2  # links, then parts
    assert "0.250" in found.text


def test_predictions_that_could_not_be_scored_are_listed() -> None:
    found = read([ReportedSystem(name="base", predictions={"coins": (predictions(problem="d: is gone"),)})])
    assert "base on coins: d: is gone" in found.text


def test_equal_input_gives_equal_pages(tmp_path: Path) -> None:
    pages = {render_run_page(two_systems(tmp_path), title="t") for _ in range(2)}
    assert len(pages) == 1


def test_the_page_needs_no_network(tmp_path: Path) -> None:
    page = render_run_page(two_systems(tmp_path), title="t")
    assert re.findall(r"https?://", page) == []
    found = PageReader(page)
    links = [value for _, attrs in found.elements for name, value in attrs.items() if name in ("src", "href")]
    assert all(link.startswith(("data:", "#")) for link in links)


def test_images_can_be_filtered_by_class_and_by_the_outcome_of_each_system(tmp_path: Path) -> None:
    found = read(two_systems(tmp_path))
    cards = found.all("figure", cls="filtered")
    assert [json.loads(one["data-labels"]) for one in cards] == [["fox"], ["fox"]]
    assert [json.loads(one["data-found"]) for one in cards] == [
        {"0": ["miss"], "1": ["hit", "better"]},
        {"0": ["miss"], "1": ["miss"]},
    ]
    # one class: no choice of it
    assert [one["name"] for one in found.all("select")] == ["system", "kind"]
    values = [one.get("value") for one in found.all("option")]
    assert values[:3] == ["0", "1", ""]
    assert {"hit", "miss", "false positive", "better", "worse"} <= set(found.texts)
    (form,) = found.all("form", cls="filters")
    assert "hidden" in form  # until the script shows it


def test_sections_of_sentences_are_folded() -> None:
    sections = [Section(heading=name, body=paragraph("x"), is_folded=name == "b") for name in "ab"]
    found = read([], sections=sections)
    assert [one.get("open") for one in found.all("details")] == ["", None]


def test_nothing_on_the_page_is_blank_outside_the_view(tmp_path: Path) -> None:
    assert "content-visibility: auto" not in render_run_page(two_systems(tmp_path), title="t")
