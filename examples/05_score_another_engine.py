"""Score the answers of any other engine: write predictions.jsonl and card.json, then run `virft score`.

python examples/05_score_another_engine.py [DATA OUT]

Replace ``complete`` with a call of your engine. Without DATA, it answers questions about twelve synthetic scenes.
"""

import json
import sys
from pathlib import Path

from virft.cli.main import main
from virft.data.sources.scenes import write_few_shot_scenes


def complete(image: Path, query: str) -> str:
    """Return the text that the engine answers; this one finds one box in the middle of every image."""
    return "<answer>[{'Position': [250, 250, 750, 750], 'Confidence': 0.5}]</answer>"


def write_predictions(data: Path, out: Path) -> None:
    """Answer every question of a dataset. Nothing of virft is needed: both files are plain JSON."""
    lines = (data / "samples.jsonl").read_text(encoding="utf-8").splitlines()
    samples = [json.loads(line) for line in lines]
    out.mkdir(parents=True, exist_ok=True)
    with (out / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for sample in samples:
            image = sample["images"][sample.get("target_image", 0)]
            prediction = {
                "sample_id": sample["id"],
                "text": complete(data / image["path"], sample["query"]),
                "finish_reason": "stop",  # "length" if the token limit cut the text
                # The size that the model saw; it matters for the box space "resized_pixels" only.
                "resized": [image["width"], image["height"]],
            }
            file.write(json.dumps(prediction) + "\n")
    card = {
        "schema_version": 1,
        "model": "another engine",
        "data": str(data),
        "data_hash": json.loads((data / "card.json").read_text(encoding="utf-8"))["hash"],
        "num_samples": len(samples),
        "box_space": "relative_1000",  # the unit of the boxes in the texts
        "thinking": False,  # True if the prompt requested a think block
        "settings": {},  # additional facts: prompt, version, date
    }
    (out / "card.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    data, out = (Path(name) for name in (sys.argv[1:3] if len(sys.argv) > 2 else ("scenes", "answers")))
    if len(sys.argv) < 3:
        write_few_shot_scenes(data, task="detection", classes=["dog", "cat", "apple"], shots=4, seed=0, size=224)
    write_predictions(data, out)
    main(["score", str(out), str(data)])
