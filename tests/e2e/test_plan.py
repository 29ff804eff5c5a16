"""`virft plan` on a config whose data need not exist, without loading weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from runs import virft
from tiny_segmenters import save_segmenter
from virft.config.toml_file import parse
from virft.models.known_models import known_models

TOML = """
data.train = "nowhere"
run.dir = "runs/a"
model.train = "lora"
model.dtype = "bfloat16"
sampling.max_completion_tokens = 16
grpo.prompts_per_step = 2
grpo.group_size = 2
"""


def test_what_is_printed_can_be_pasted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(TOML)
    assert virft("plan", tmp_path / "c.toml", "grpo.group_size=3", "--memory", "8", "--image", "112x112") == 0
    output = capsys.readouterr().out
    assert output.startswith("This config fits into 8 GiB: peak ")
    assert "prompt      166 tokens: 16 of an image of 112 x 112, 150 of text" in output
    table, _, settings = output.partition("# The largest that fits into 90% of 8 GiB")
    assert "peak: throughout + largest stage" in table
    # 2 groups of 166 + 3 x 16 tokens
    pasted = parse(TOML + settings.partition(":\n")[2], origin="pasted").config
    assert (pasted.grpo.microbatch_tokens, pasted.sampling.prompts_per_batch) == (428, 2)


def test_a_model_that_is_not_there_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "c.toml").write_text(TOML)
    (tmp_path / "m").mkdir()
    assert virft("plan", tmp_path / "c.toml", f"model.path={tmp_path / 'm'}", "--memory", "8") == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 2
    assert output.startswith(f"reading the shapes of {tmp_path / 'm'}\nvirft: ")
    assert "cannot be loaded" in output
    assert "a folder with the model's config.json" in output


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty cache folder for every test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def plan(*arguments: object) -> int:
    return virft("plan", *arguments, "--memory", "24", "--image", "320x240")


SMALL = ("sampling.max_completion_tokens=16", "grpo.prompts_per_step=2", "grpo.group_size=2", "model.dtype=bfloat16")


def test_a_known_model_is_planned_without_files_and_like_its_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("virft.models.hub_files._unreachable", lambda: pytest.fail("the hub must not be needed"))
    hub_id = "Qwen/Qwen3-VL-2B-Instruct"
    assert plan("--model", hub_id, *SMALL) == 0
    shipped = capsys.readouterr()
    assert "reading the shapes of Qwen/Qwen3-VL-2B-Instruct\ncounting activations: " in shipped.err
    (tmp_path / "folder").mkdir()
    known_models()[hub_id].write_files(tmp_path / "folder")
    assert plan("--no-cache", "--model", tmp_path / "folder", "model.train=lora", *SMALL) == 0
    assert capsys.readouterr().out == shipped.out
    # 2,127,532,032 of the base; adapters of rank 32 on 28 layers: in + out of q, k, v, o, gate, up, down are
    # 2 * (2048 + 2048) + 2 * (2048 + 1024) + 3 * (2048 + 6144) = 38,912
    assert f"model       {2_127_532_032 + 28 * 32 * 38_912:,} parameters, {28 * 32 * 38_912:,} of them" in shipped.out


def test_the_second_plan_is_read_from_the_cache(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert plan("--model", "virft-tiny", *SMALL) == 0
    first = capsys.readouterr()
    (file,) = (tmp_path / "virft" / "plans").iterdir()
    assert file.read_text() + "\n" == first.out
    monkeypatch.setattr("virft.planning.fit.find_fit", lambda *args, **kwargs: pytest.fail("must not be computed"))
    assert plan("--model", "virft-tiny", *SMALL) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err == f"cached: {file} (--no-cache computes the plan again)\n"
    # other settings make another plan
    with pytest.raises(pytest.fail.Exception):
        plan("--model", "virft-tiny", *SMALL, "grpo.group_size=3")
    with pytest.raises(pytest.fail.Exception):
        plan("--model", "virft-tiny", *SMALL, f"reward.segmenter={save_segmenter(tmp_path / 'sam', 'sam')}")
    with pytest.raises(pytest.fail.Exception):
        plan("--no-cache", "--model", "virft-tiny", *SMALL)


def test_an_unknown_model_without_network_is_one_message_that_suggests_a_known_one(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object) -> None:
        raise OSError(-2, "Name or service not known")

    monkeypatch.setattr("socket.create_connection", refuse)
    for verb in (("plan", "--model", "Qwen/Qwen2.5-VL-3B", "--memory", "24"), ("app", "Qwen/Qwen2.5-VL-3B")):
        if verb[0] == "app":
            monkeypatch.setattr("virft.inference.app.import_gradio", lambda: None)
        assert virft(*verb, *(["--port", "0"] if verb[0] == "app" else [])) == 2
        message = capsys.readouterr().err.splitlines()[-1]
        assert message.startswith("virft: Qwen/Qwen2.5-VL-3B: no such folder, no network to the Hugging Face hub (hug")
        assert "did you mean Qwen/Qwen2.5-VL-3B-Instruct?" in message


def test_neither_config_nor_model_is_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        virft("plan", "--memory", "24")
    assert "expected a TOML file of settings" in capsys.readouterr().err


def test_a_model_with_dynamic_rotary_positions_is_planned(capsys: pytest.CaptureFixture[str]) -> None:
    assert plan("--model", "OpenGVLab/InternVL3-1B-hf", *SMALL) == 0
    # 320 x 240 are 4 x 3 tiles of 448 pixels and a thumbnail, of 256 tokens each
    assert "3328 of an image of 320 x 240" in capsys.readouterr().out


def test_samplers_are_planned_by_memory_throughput_and_idle_time(capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("sampling.engine=vllm", "sampling.vllm_gpu_memory=0.3", "sampling.max_completion_tokens=512")
    model = ("--model", "Qwen/Qwen2-VL-2B-Instruct", *settings)
    alone = (plan(*model, "--processes", "1"), capsys.readouterr().out)[1]
    assert plan(*model, "--processes", "1", "--samplers", "2", "--gpu", "L4", "--completion-tokens", "200") == 0
    output = capsys.readouterr().out
    assert "# 1 trainers and 2 samplers, each a L4. Estimated by rates of its data sheet, not measured." in output
    # the trainers have no vLLM
    assert [line.split()[1] for text in (alone, output) for line in text.splitlines() if line.startswith("  vLLM")] == [
        "7.20",
        "0.00",
    ]
    rows = {line[:34].strip(): line[34:].split() for line in output.splitlines() if line.endswith("%")}
    off, strict, shared = (
        float(rows[name][0])
        for name in ("sampling.max_staleness = 1", "sampling.max_staleness = 0", "3 that sample and update in turn")
    )
    assert off < strict
    assert shared < strict


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), '--samplers with sampling.engine = "builtin", which samples in the trainers; expected "vllm"'),
        (("sampling.engine=vllm", "--method", "sft"), "--samplers with --method sft, which does not sample"),
        (("sampling.engine=vllm", "--samplers", "3"), "grpo.prompts_per_step is 2 with 3 samplers; expected at least"),
        (("sampling.engine=vllm", "--memory", "3"), "a sampler of 3 GiB has no room for a completion next to its"),
    ],
)
def test_samplers_that_a_run_cannot_have_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    model = ("--model", "Qwen/Qwen2-VL-2B-Instruct", *SMALL)
    assert virft("plan", *model, "--memory", "24", "--image", "320x240", "--samplers", "2", *arguments) == 2
    assert message in capsys.readouterr().err
