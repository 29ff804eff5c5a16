"""Checkpoints that do not fit together are refused with a reason; what can be corrected is corrected and reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from broken_models import BROKEN, SOUND, forget_end_of_turn, make_broken, rewrite, save_adapters
from tiny_folders import TILED, save_tiny_folder
from virft.data.images import load_image
from virft.errors import ModelError
from virft.models.load import load_model
from virft.models.renderer import Renderer
from virft.models.stop_tokens import end_of_turn_id, end_token_id, stop_token_ids
from virft.models.tiny import TINY_NAME, tiny_folder


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_checkpoint_is_refused_with_the_reason(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_broken(BROKEN[name], tmp_path / "model")
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    message = str(caught.value)
    assert BROKEN[name].message in message
    assert "trust_remote_code" not in message
    assert "\n" not in message
    assert len(message) < 1000
    assert "LOAD REPORT" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_checkpoint_of_another_shape_loads_without_a_note(name: str, tmp_path: Path) -> None:
    expected = load_model(TINY_NAME)
    folder = Path(shutil.copytree(tiny_folder(), tmp_path / "möd el"))
    SOUND[name](folder)
    loaded = load_model(str(folder))
    assert loaded.notes == ()
    Renderer(loaded, load_image).check(thinking=False)
    weights = dict(loaded.model.named_parameters())
    assert all(torch.equal(weights[key], weight) for key, weight in expected.model.named_parameters())
    assert loaded.image_processor.size == expected.image_processor.size


def test_an_original_internvl_leads_to_its_conversion(tmp_path: Path) -> None:
    folder = make_broken(BROKEN["internvl_chat"], tmp_path / "model")
    with pytest.raises(ModelError, match=r"whose hub id ends in -hf$"):
        load_model(str(folder))


def test_a_tied_output_layer_is_not_missing(tmp_path: Path) -> None:
    loaded = load_model(TINY_NAME)
    loaded.model.lm_head.weight = loaded.model.get_input_embeddings().weight
    loaded.save(tmp_path / "tied")
    config = json.loads((tmp_path / "tied" / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]) == (True, True)
    again = load_model(str(tmp_path / "tied")).model
    assert again.lm_head.weight is again.get_input_embeddings().weight


@pytest.mark.parametrize("outer", [True, None])
def test_an_untied_output_layer_is_saved_as_untied(tmp_path: Path, outer: bool | None) -> None:
    folder = shutil.copytree(tiny_folder(), tmp_path / "base")
    rewrite(folder / "config.json", tie_word_embeddings=outer)
    rewrite(folder / "config.json", "text_config", tie_word_embeddings=True)
    loaded = load_model(str(folder))
    assert not torch.equal(loaded.model.lm_head.weight, loaded.model.get_input_embeddings().weight)
    loaded.save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]) == (False, False)
    again = load_model(str(tmp_path / "saved")).model
    assert torch.equal(again.lm_head.weight, loaded.model.lm_head.weight)


def test_weights_that_are_not_part_of_the_model_are_a_note(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(tiny_folder(), tmp_path / "m")
    weights = load_file(folder / "model.safetensors") | {"value_head.weight": torch.ones(1)}
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (note,) = load_model(str(folder)).notes
    assert note == "weights in its files that are not part of the model are not used: value_head.weight"
    assert load_model(TINY_NAME).notes == ()


def test_merging_adapters_leaves_every_weight_trainable(tmp_path: Path) -> None:
    loaded = load_model(str(save_adapters(tmp_path / "a")))
    assert not loaded.model.lm_head.weight.requires_grad
    loaded.merge_adapters()
    assert all(parameter.requires_grad for parameter in loaded.model.parameters())


def test_a_relative_base_is_found_above_its_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = tmp_path / "project"
    shutil.copytree(tiny_folder(), project / "bases" / "mine")
    monkeypatch.chdir(project)
    adapters = save_adapters(project / "runs" / "a" / "model", "bases/mine")
    assert json.loads((adapters / "adapter_config.json").read_text())["base_model_name_or_path"] == "bases/mine"
    monkeypatch.chdir(tmp_path)
    loaded = load_model("project/runs/a/model")
    assert loaded.adapters is not None
    assert loaded.folder == project / "bases" / "mine"


def test_adapters_of_a_missing_base_say_where_its_name_is(tmp_path: Path) -> None:
    folder = make_broken(BROKEN["adapters whose base is elsewhere"], tmp_path / "model")
    with pytest.raises(ModelError, match=r"; base_model_name_or_path in .*/model/adapter_config\.json names the base$"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["config.json", "adapter_config.json"])
def test_the_parent_of_a_model_folder_leads_to_it(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / name).write_text("{}")
    with pytest.raises(ModelError, match=rf"no config\.json in this folder; did you mean {tmp_path}/model\?"):
        load_model(str(tmp_path))


def test_the_end_of_a_turn_is_a_stop_token_whatever_the_generation_config_says(tmp_path: Path) -> None:
    folder = forget_end_of_turn(Path(shutil.copytree(tiny_folder(), tmp_path / "m")))
    loaded = load_model(str(folder))
    assert stop_token_ids(loaded.model) == {882, 883}
    assert loaded.notes == ("generation_config.json has no stop token <|im_end|>; sampling and saved files use it too",)
    assert end_token_id(loaded.model, loaded.tokenizer) == 882
    loaded.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "generation_config.json").read_text())["eos_token_id"] == [883, 882]
    assert load_model(str(tmp_path / "saved")).notes == ()


def test_the_end_of_a_turn_is_learnt_where_the_tokenizer_names_another_end(tmp_path: Path) -> None:
    # as in Gemma 3: the tokenizer ends texts with <eos>, the chat template ends turns with <end_of_turn>
    folder = shutil.copytree(tiny_folder(), tmp_path / "m")
    rewrite(folder / "tokenizer_config.json", eos_token="<|endoftext|>")
    (folder / "generation_config.json").unlink()
    rewrite(folder / "config.json", "text_config", eos_token_id=883)
    loaded = load_model(str(folder))
    assert loaded.tokenizer.eos_token_id == 883
    assert stop_token_ids(loaded.model) == {882, 883}
    assert end_token_id(loaded.model, loaded.tokenizer) == 882


@pytest.mark.parametrize("model_type", TILED)
def test_the_end_of_a_turn_is_that_of_the_chat_template(tmp_path: Path, model_type: str) -> None:
    loaded = load_model(str(save_tiny_folder(tmp_path / "m", model_type)))
    expected = {"gemma3": "<end_of_turn>", "smolvlm": "<end_of_utterance>", "idefics3": "<end_of_utterance>"}
    end = end_of_turn_id(loaded.tokenizer)
    assert loaded.tokenizer.convert_ids_to_tokens(end) == expected.get(model_type, "<|im_end|>")
    assert loaded.notes == ()


def test_a_template_without_an_end_of_turn_leaves_the_tokenizers_end() -> None:
    loaded = load_model(TINY_NAME)
    loaded.tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %} and on"
    assert end_of_turn_id(loaded.tokenizer) is None
    assert end_token_id(loaded.model, loaded.tokenizer) == 882
