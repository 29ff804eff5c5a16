"""Files of a model on the Hugging Face hub: from the hub if it can be reached, else from the local cache."""

from __future__ import annotations

import socket
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from virft.errors import ModelError
from virft.models.known_models import nearest_model_id

_FILES = ("*.json", "*.jinja", "*.txt", "*.model", "*.safetensors", "README.md")
"""Everything that a model folder may need: also the files of processors that transformers does not load here."""
_OTHER_WEIGHTS = ("*/*", "consolidated*", "*.fp16.*", "*.fp32.*")
"""The same weights once more, in other formats."""
_TIMEOUT_S = 5.0
_PORTS = {"http": 80, "https": 443}


def hub_folder(hub_id: str, *, expected: str) -> Path:
    """Return the folder of a model in the local cache of the hub, with its files downloaded if the hub can be reached.

    Raises ``ModelError`` as ``hub_source`` does, and what huggingface_hub raises for a failed download.
    """
    source = hub_source(hub_id, expected=expected)
    if source == hub_id:
        source = snapshot_download(hub_id, allow_patterns=list(_FILES), ignore_patterns=list(_OTHER_WEIGHTS))
    return Path(source)


def hub_source(hub_id: str, *, expected: str) -> str:
    """Return the hub id if the hub can be reached, else the folder of the model in the local cache of the hub.

    Raises ``ModelError`` if neither is possible, after one attempt. ``expected``: end of its message.
    """
    if (problem := _unreachable()) is None:
        return hub_id
    try:
        return snapshot_download(hub_id, local_files_only=True)
    except LocalEntryNotFoundError as error:
        near = nearest_model_id(hub_id)
        guess = f"did you mean {near}? " if near not in (None, hub_id) else ""
        raise ModelError(
            f"{hub_id}: no such folder, {problem}, and {constants.HF_HUB_CACHE} has no copy of the model; "
            f"{guess}expected {expected}"
        ) from error


def _unreachable() -> str | None:
    """Return the reason why the hub cannot be reached; None if its host accepts a connection."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    url = urlsplit(constants.ENDPOINT)
    host = url.hostname or ""
    if (proxy := getproxies().get(url.scheme)) and not proxy_bypass(host):
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    try:
        socket.create_connection((url.hostname or "", url.port or _PORTS.get(url.scheme, 80)), _TIMEOUT_S).close()
    except OSError as error:
        return f"no network to the Hugging Face hub ({url.hostname}: {error.strerror or error})"
    return None
