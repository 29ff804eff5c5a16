"""The tests in ``cases`` need a simulated CUDA device, so only ``run.py`` collects them."""

from __future__ import annotations

import sys
from pathlib import Path

_IS_SIMULATED = Path(sys.argv[0]).resolve() == Path(__file__).resolve().with_name("run.py")

collect_ignore = [] if _IS_SIMULATED else ["cases"]
