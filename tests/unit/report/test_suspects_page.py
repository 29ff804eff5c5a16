"""The page of suspect labels."""

from __future__ import annotations

from pathlib import Path

from factories import detections, sample, save_image
from virft.evaluation.suspects import Kind, Suspect
from virft.report.render.suspects_page import suspects_page


def suspect(image: Path, score: float, kind: Kind, query: str = "fox") -> Suspect:
    return Suspect(
        sample=sample(detections((4, 4, 20, 20)), query=query, image=str(image)),
        score=score,
        kind=kind,
        consensus=detections((30, 10, 60, 40)),
        agreement=0.875,
        label_score=0.125,
        reliability=0.5,
    )


def page(*suspects: Suspect, num_images: int = 10) -> str:
    return suspects_page(suspects, title="runs/mine", num_images=num_images, source="runs/mine/suspects.jsonl")


def test_a_suspect_shows_both_boxes_reason_and_numbers(tmp_path: Path) -> None:
    html = page(suspect(save_image(tmp_path / "a.png"), 0.75, Kind.BOX))
    assert html.count('<g class="target') == html.count('<g class="hit') == 1
    assert "1. fox" in html and "the model has another box" in html and "score 0.75" in html
    assert "label: 1 box: 4, 4 to 20, 20" in html and "model: 1 box: 30, 10 to 60, 40" in html
    assert "88% agreement of the completions, 12% with the label, 50% on other samples of the class" in html
    assert "data.exclude=runs/mine/suspects.jsonl" in html


def test_at_most_num_images_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    image = save_image(tmp_path / "a.png")
    suspects = [suspect(image, 0.9, Kind.BOX), suspect(image, 0.8, Kind.MISSING), suspect(image, 0.7, Kind.BOX)]
    html = page(*suspects, num_images=2)
    assert "3 suspect labels, the first 2 are shown" in html
    assert "2 box: the model has another box" in html and "1 missing: the model finds an object without a label" in html
    assert html.count("<figure") == 2


def test_names_are_escaped_and_a_lost_image_is_replaced(tmp_path: Path) -> None:
    html = page(suspect(tmp_path / "none.png", 0.9, Kind.EXTRA, query="<b>fox"))
    assert "<b>fox" not in html and "&lt;b&gt;fox" in html
    assert "image missing" in html


def test_no_suspects() -> None:
    assert "0 suspect labels" in page()
