"""Query map: the classes that an evaluation queries on each image, as a JSON file {"a.jpg": ["cat", "dog"], ..}.

Visual-RFT queried the classes that the untrained model had named as present. Such a map limits recall and differs
between models, so it is recorded with every score.
"""

from __future__ import annotations

from pathlib import Path

from virft.data.json_files import read_name_lists


def read_query_map(path: Path) -> dict[str, frozenset[str]]:
    """Read the classes by image name. Raises ``DataError`` if the file is not a JSON object of lists of names."""
    lists = read_name_lists(path, expected='{"image": ["class", ..], ..}')
    return {image: frozenset(classes) for image, classes in lists.items()}
