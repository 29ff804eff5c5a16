"""Write tests/data/lvis_perturbed.json: the metrics of lvis-api for perturbed ground truth.

pip install lvis        # not one of the pinned packages: it needs OpenCV and matplotlib
python scripts/make_lvis_golden.py SHARED_DATA/lvis_val100/lvis_val_100.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from lvis import LVIS, LVISEval, LVISResults

np.float = float  # lvis 0.5.3 was written for NumPy before 1.24
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from coco_factories import LVIS_NAMES, perturbed  # noqa: E402


def main(annotations: Path) -> None:
    """Write the metrics of three seeds."""
    golden = {}
    for seed in range(3):
        truth = LVIS(str(annotations))
        evaluation = LVISEval(truth, LVISResults(truth, perturbed(annotations, seed)), "bbox")
        evaluation.run()
        golden[seed] = {
            LVIS_NAMES[name]: float(value) for name, value in evaluation.get_results().items() if value >= 0
        }
    (ROOT / "tests" / "data" / "lvis_perturbed.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
