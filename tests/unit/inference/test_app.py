"""Errors before the page is served; the page itself is in ``tests/e2e/test_app.py``."""

from __future__ import annotations

import os
import socket
import sys

import pytest

from runs import virft
from virft.errors import ConfigError
from virft.inference.app import listen


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
