"""Score answers of another engine: python examples/05_score_another_engine.py [DATA OUT]"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

from virft.cli.main import main


def write_predictions(data: Path, out: Path, complete: Callable[[Path, str], str]) -> None:
    """Write the two files that `virft score` reads: docs/evaluation.md, "Answers of other engines"."""
    out.mkdir(exist_ok=True)
    lines = []
    for one in map(json.loads, (data / "samples.jsonl").read_text(encoding="utf-8").splitlines()):
        image = one["images"][one.get("target_image", 0)]
        text, size = complete(data / image["path"], one["query"]), [image["width"], image["height"]]
        lines.append(json.dumps({"sample_id": one["id"], "text": text, "finish_reason": "stop", "resized": size}))
    card = {"schema_version": 1, "model": "mine", "data": str(data), "num_samples": len(lines), "settings": {}}
    card |= {"data_hash": json.loads((data / "card.json").read_text())["hash"], "thinking": False}
    (out / "card.json").write_text(json.dumps(card | {"box_space": "relative_1000"}))
    (out / "predictions.jsonl").write_text("\n".join(lines))


if __name__ == "__main__":
    data, out = sys.argv[1:3] or ("scenes", "answers")
    sys.argv[1:] or main(["build", "scenes", data, "--shots", "4"])
    # A call of your engine comes here.
    write_predictions(Path(data), Path(out), lambda image, query: "<answer>[[250, 250, 750, 750]]</answer>")
    main(["score", out, data])
