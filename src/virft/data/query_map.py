"""Which classes are asked for on which images, as a JSON file: {"a.jpg": ["cat", "dog"], ..}.

Visual-RFT asked for the classes that the untrained model itself said were there; such a list caps recall, and differs
from model to model, so it stands beside every number.
"""

from __future__ import annotations

import json
from pathlib import Path

from virft.errors import DataError


def read_asked_map(path: Path) -> dict[str, frozenset[str]]:
    """Classes by image name."""
    expected = 'expected {"image": ["class", ..], ..}'
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); {expected}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not valid JSON ({error}); {expected}") from error
    if not isinstance(tree, dict):
        raise DataError(f"{path}: holds a {type(tree).__name__}; {expected}")
    for name, classes in tree.items():
        if not isinstance(classes, list) or not all(isinstance(one, str) for one in classes):
            raise DataError(f"{path}: {name} has {classes!r:.60}; {expected}")
    return {name: frozenset(classes) for name, classes in tree.items()}
