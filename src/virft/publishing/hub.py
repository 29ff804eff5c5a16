"""Upload a model folder to the Hugging Face Hub, on request only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

from virft.errors import ModelError


class Api(Protocol):
    """The methods of ``huggingface_hub.HfApi`` that an upload calls."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def repo_info(self, repo_id: str) -> Any: ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any: ...


def push_folder(folder: Path, repo: str, *, api: Api, private: bool) -> str:
    """Upload a model folder to the repository ``repo`` ("owner/name") and return its address.

    A new repository is created ``private``; an existing public one is refused if ``private``. The upload uses the
    current login (``hf auth login``, ``HF_TOKEN``); the token is never requested or printed. Raises ``ModelError`` if
    the Hub refuses, or without a login.
    """
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise ModelError(f"{repo}: exists and is public; expected --public, or the name of another repository")
        uploaded = api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="Upload with virft")
    except LocalTokenNotFoundError as error:
        raise ModelError(f"{repo}: not logged in to the Hub; expected `hf auth login` before, or HF_TOKEN") from error
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        raise ModelError(f"{repo}: cannot be pushed: {_without_token(str(error))}") from error
    return str(getattr(uploaded, "repo_url", None) or repo)


def _without_token(message: str) -> str:
    """Return a message on one line with the token replaced, in case the error quotes it."""
    token = get_token()
    return " ".join((message.replace(token, "hf_...") if token else message).split())
