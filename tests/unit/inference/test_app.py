"""Errors before the page is served; the page itself is in ``tests/e2e/test_app.py``."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from runs import virft
from virft.errors import ConfigError, DataError
from virft.inference.app import listen
from virft.inference.example_queries import data_examples, scene_examples


def test_a_missing_gradio_is_an_error_before_a_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delenv("GRADIO_ANALYTICS_ENABLED", raising=False)
    assert virft("app", "no/such/model") == 2
    assert capsys.readouterr().err == (
        'virft: app: needs gradio, which is not installed; expected the extra app: pip install -e ".[app]"\n'
    )
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_a_port_in_use_is_an_error() -> None:
    with listen("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(
            ConfigError, match=rf"--host 127\.0\.0\.1 --port {port}: cannot be listened on \(Address al"
        ):
            listen("127.0.0.1", port)


def test_an_unknown_host_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"--host no such host --port 0: cannot be listened on"):
        listen("no such host", 0)


def test_the_default_address_is_this_machine_only() -> None:
    with listen("127.0.0.1", 0) as listening:
        assert listening.family is socket.AF_INET
        assert listening.getsockname()[0] == "127.0.0.1"


def test_examples_of_the_built_in_model_are_scenes() -> None:
    found = scene_examples()
    assert [one.task for one in found].count("detection") == 4
    assert found[0].query == "dog"
    assert found[0].open_image().size == (112, 112)
    assert all(one.query.startswith("the ") for one in found if one.task == "grounding")


def test_examples_of_a_dataset_are_its_first_images(tmp_path: Path) -> None:
    assert virft("build", "scenes", tmp_path / "d", "--classes", "dog,cat", "--questions", 9) == 0
    found = data_examples(tmp_path / "d")
    assert len({one.image for one in found}) == len(found) == 6
    assert {one.query for one in found} <= {"dog", "cat"}
    assert data_examples(None) == ()
    with pytest.raises(DataError, match="does not exist; expected a dataset made by"):
        data_examples(tmp_path / "none")
