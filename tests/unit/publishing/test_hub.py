"""A model is uploaded as private, and errors of the Hub are reported without the token."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub.errors import HFValidationError, LocalTokenNotFoundError

from virft.errors import ModelError
from virft.publishing import hub
from virft.publishing.hub import push_folder

TOKEN = "hf_verysecret"


class FakeHub:
    """One repository that may exist already; ``fails``: raised by every upload."""

    def __init__(self, *, exists: bool = False, is_private: bool = True, fails: Exception | None = None) -> None:
        self.exists, self.is_private, self.fails = exists, is_private, fails
        self.uploads: list[dict[str, Any]] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        assert exist_ok
        if not self.exists:
            self.exists, self.is_private = True, private

    def repo_info(self, repo_id: str) -> Any:
        return SimpleNamespace(private=self.is_private)

    def upload_folder(self, **arguments: Any) -> Any:
        if self.fails is not None:
            raise self.fails
        self.uploads.append(arguments)
        return SimpleNamespace(repo_url="https://huggingface.co/me/foxes")


@pytest.mark.parametrize("private", [True, False])
def test_a_new_repository_is_private_or_public_as_requested(tmp_path: Path, private: bool) -> None:
    api = FakeHub()
    assert push_folder(tmp_path, "me/foxes", api=api, private=private) == "https://huggingface.co/me/foxes"
    assert api.is_private is private
    assert api.uploads == [{"repo_id": "me/foxes", "folder_path": str(tmp_path), "commit_message": "Upload with virft"}]


def test_a_public_repository_needs_the_option_public(tmp_path: Path) -> None:
    api = FakeHub(exists=True, is_private=False)
    with pytest.raises(ModelError, match="me/foxes: exists and is public; expected --public, or the name of another"):
        push_folder(tmp_path, "me/foxes", api=api, private=True)
    assert api.uploads == []
    push_folder(tmp_path, "me/foxes", api=api, private=False)
    assert len(api.uploads) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (LocalTokenNotFoundError("Token is required"), "not logged in to the Hub; expected `hf auth login` before, or"),
        (HFValidationError("bad name"), "cannot be pushed: bad name"),
        (OSError(f"Bearer {TOKEN}\nrefused"), "cannot be pushed: Bearer hf_... refused"),
    ],
)
def test_errors_of_the_hub_are_reported_without_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    monkeypatch.setattr(hub, "get_token", lambda: TOKEN)
    with pytest.raises(ModelError) as caught:
        push_folder(tmp_path, "me/foxes", api=FakeHub(fails=error), private=True)
    assert str(caught.value).startswith(f"me/foxes: {message}")
    assert TOKEN not in str(caught.value)


def test_our_own_bug_crashes(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        push_folder(tmp_path, "me/foxes", api=FakeHub(fails=ZeroDivisionError()), private=True)
