"""The precision of a model: as requested, else as it was trained, else as suits the device; and of what is saved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from virft.errors import ModelError
from virft.models.load import load_as_trained, load_model
from virft.models.precision import Precision, find_precision, precision_card, resolve_dtype, trained_precision
from virft.models.tiny import TINY_NAME

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(("supports", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_auto_is_bfloat16_on_a_gpu_that_supports_it(
    supports: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: calls.append(options) or supports)
    assert resolve_dtype("auto", GPU) == expected
    assert calls == [{"including_emulation": False}]
    assert resolve_dtype("auto", CPU) == resolve_dtype("auto") == "float32"  # this machine has no GPU
    assert [resolve_dtype(one, device) for one in ("float32", "bfloat16") for device in (CPU, GPU)] == [
        *("float32", "float32"),
        *("bfloat16", "bfloat16"),
    ]


def _folder(path: Path, *, card: object = None, config: str = "") -> Path:
    path.mkdir(parents=True)
    if card is not None:
        (path / "virft_card.json").write_text(json.dumps(card))
    if config:
        (path.parent / "config.toml").write_text(config)
    return path


def test_a_request_goes_before_the_training_and_that_before_the_device(tmp_path: Path) -> None:
    plain = _folder(tmp_path / "plain" / "model")
    half = _folder(tmp_path / "half" / "model", card=precision_card(Precision("bfloat16", in_4bit=True)))
    assert find_precision(None) == find_precision(plain) == Precision("float32")
    assert find_precision(half) == Precision("bfloat16", in_4bit=True)
    assert find_precision(half, dtype="float32", in_4bit=False) == Precision("float32")
    assert find_precision(half, dtype="float32") == Precision("float32", in_4bit=True)
    assert find_precision(plain, dtype="bfloat16", in_4bit=True) == Precision("bfloat16", in_4bit=True)


def test_without_a_card_the_config_of_the_run_says_how_a_model_was_trained(tmp_path: Path) -> None:
    older = '[model]\ndtype = "bfloat16"\nload_in_4bit = true\n'
    assert trained_precision(_folder(tmp_path / "a" / "best", config=older)) == Precision("bfloat16", in_4bit=True)
    # "auto" does not say on which device
    assert trained_precision(_folder(tmp_path / "b" / "model", config='[model]\ndtype = "auto"\n')) is None
    assert trained_precision(_folder(tmp_path / "c" / "model", config="not TOML")) is None
    of_card = _folder(tmp_path / "d" / "model", card={"dtype": "float32"}, config=older)
    assert trained_precision(of_card) == Precision("float32")


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ({"dtype": "float16"}, r"virft_card.json: dtype is 'float16'; expected float32 or bfloat16$"),
        ({"dtype": "float32", "load_in_4bit": 1}, r"load_in_4bit is 1; expected true or false$"),
        ([1], r"is not an object"),
    ],
)
def test_an_invalid_card_is_refused(card: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=message):
        find_precision(_folder(tmp_path / "m", card=card))


def test_a_model_is_loaded_as_its_card_says(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    loaded.card |= precision_card(Precision("bfloat16"))
    loaded.save(tmp_path / "m")
    again = load_as_trained(str(tmp_path / "m"))
    assert again.model.dtype == torch.bfloat16
    assert again.precision == Precision("bfloat16")
    whole = load_as_trained(str(tmp_path / "m"), dtype="float32")
    assert (whole.model.dtype, whole.precision) == (torch.float32, Precision("float32"))
    assert load_as_trained(TINY_NAME).model.dtype == torch.float32


def test_weights_are_saved_in_the_requested_precision(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    layer = "model.language_model.layers.0.mlp.up_proj.weight"
    with torch.no_grad():
        loaded.model.get_parameter(layer).add_(1e-4)  # the weights of the file are bfloat16
    loaded.save(tmp_path / "whole")
    loaded.save(tmp_path / "half", dtype="bfloat16")
    whole, half = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    # the output layer is tied to the embeddings in both
    assert whole.keys() == half.keys()
    assert {one.dtype for one in half.values()} == {torch.bfloat16}
    assert {one.dtype for one in whole.values()} == {torch.float32}
    assert any(not torch.equal(one, half[name].float()) for name, one in whole.items())
    for name, one in whole.items():
        assert torch.equal(half[name], one.to(torch.bfloat16)), name
    assert loaded.model.dtype == torch.float32
    configs = [json.loads((tmp_path / name / "config.json").read_text()) for name in ("whole", "half")]
    assert [one["dtype"] for one in configs] == ["float32", "bfloat16"]
    assert configs[0] | {"dtype": "bfloat16"} == configs[1]
    assert load_model(str(tmp_path / "half")).model.get_parameter(layer).dtype == torch.float32
