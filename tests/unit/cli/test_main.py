"""The command line starts fast, documents itself, and prints a user's mistake as one message."""

from __future__ import annotations

import argparse
import inspect
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch.distributed as dist

from factories import save_coco
from virft.cli import data, evaluate, train
from virft.cli import main as cli
from virft.cli.parsers import OTHER_VERBS
from virft.data.store import Store
from virft.errors import RunStopped
from virft.recipes.build_options import BuildOptions
from virft.scenes.patches import REFERENCE_SIZE
from virft.scenes.sets import ABSENT_FRAC

TWO = {"a.png": [("cat", [10, 10, 20, 30])], "b.png": [("dog", [0, 0, 64, 48])]}


def run(*argv: object) -> int:
    return cli.main([str(argument) for argument in argv])


def leaves_of(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Every parser without sub-parsers."""
    subs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return [leaf for sub in subs for child in sub.choices.values() for leaf in leaves_of(child)] if subs else [parser]


@pytest.mark.parametrize(
    "module",
    [
        "virft",
        "virft.cli.main",
        "virft.cli.build",
        "virft.cli.evaluate",
        "virft.tasks.reward",
        "virft.tasks.explain",
        "virft.integrations.easyr1",
        "virft.integrations.ms_swift",
        "virft.integrations.trl",
        "virft.integrations.verl",
        "virft.metrics.detection",
        "virft.data.store",
        "virft.data.sources.coco",
        "virft.data.sources.scenes",
        "virft.scenes.sets",
        "virft.tasks",
        "virft.evaluation.score",
        "virft.inference.annotated_image",
        "virft.geometry.masks",
        "virft.report.read",
        "virft.recipes.run_evaluation",
        "virft.models.model_folders",
        "virft.config.toml_file",
    ],
)
def test_import_leaves_pytorch_alone(module: str) -> None:
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'transformers'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("eval", "runs/min", "data"), "runs/min: does not exist; expected a run folder"),
        (("ask", "runs/mine/modell", "x.png", "cat"), "runs/mine/modell: there is no such folder; expected"),
        (("predict", "virft-tny", "data", "out"), "virft-tny: there is no such folder; did you mean virft-tiny?"),
        (("presence", "virft-tny", "data", "out"), "virft-tny: there is no such folder; did you mean virft-tiny?"),
    ],
)
def test_a_wrong_path_is_refused_before_pytorch_is_imported(
    words: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    code = "import sys; from virft.cli.main import main; print(main(sys.argv[1:]), 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert (done.stdout, done.stderr.partition(message)[0]) == ("2 False\n", "virft: ")


@pytest.mark.parametrize("is_launched", [False, True])
def test_a_process_of_a_launcher_ends_without_the_interpreters_clean_up(is_launched: bool, tmp_path: Path) -> None:
    code = "import atexit; from virft.cli.main import run; atexit.register(print, 'cleaned up'); run()"
    command = [sys.executable, "-c", code, "check", str(tmp_path / "nowhere")]
    launched = {"LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "1"} if is_launched else {}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **launched})
    assert done.returncode == cli.EXIT_USER_ERROR
    assert done.stderr.startswith(f"virft: {tmp_path / 'nowhere'}")  # printed text is not lost
    assert done.stdout == ("" if is_launched else "cleaned up\n")


def test_help_names_the_verbs_and_imports_next_to_nothing() -> None:
    code = "import sys\nfrom virft.cli.main import main\ntry:\n main(['--help'])\nexcept SystemExit as end:\n"
    code += " sys.exit(end.code or 10 * bool({'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for verb in (
        "build",
        "check",
        "preview",
        "grpo",
        "sft",
        "plan",
        "compare",
        "audit",
        "doctor",
        "eval",
        "predict",
        "score",
        "report",
        "explain",
        "ask",
        "app",
        "quickstart",
    ):
        assert verb in done.stdout


def test_every_option_is_an_argument_of_its_function() -> None:
    leaves = leaves_of(cli.make_parser())
    assert len(leaves) == 41
    for leaf in leaves:
        function = leaf.get_default("function")
        given = {action.dest for action in leaf._actions if action.dest != "help"}
        given |= leaf._defaults.keys() - {"verb", "function"}
        arguments = set(inspect.signature(function).parameters)
        if "options" in arguments:
            arguments = arguments - {"options"} | {field.name for field in fields(BuildOptions)}
            # images that are not files cannot be linked; expressions and rows have no classes of a file
            given |= {"link", "class_notes"}
        assert given == arguments, leaf.prog


def test_defaults_of_the_command_line_are_those_of_the_functions() -> None:
    for leaf in leaves_of(cli.make_parser()):
        parameters = inspect.signature(leaf.get_default("function")).parameters
        for action in leaf._actions:
            known = parameters[action.dest].default if action.dest in parameters else inspect.Parameter.empty
            if action.option_strings and not action.required and known is not inspect.Parameter.empty:
                assert action.default == known or (action.default, known) == ([], ()), (leaf.prog, action.dest)


@pytest.mark.parametrize("leaf", leaves_of(cli.make_parser()), ids=lambda leaf: leaf.prog)
def test_every_verb_and_argument_has_help_without_raw_defaults(leaf: argparse.ArgumentParser) -> None:
    assert leaf.description
    for action in leaf._actions:
        assert action.help, action.dest
    for raw in ("default: None", "default: True", "default: False", "default: ()", "default: []", "ImageSize"):
        assert raw not in leaf.format_help()
    # argparse adds the default, so a help text that states it would print it twice
    assert not re.search(r"\(default[^)]*\)\s+\(default", leaf.format_help())


def test_help_prints_the_defaults_that_say_something(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, expected in (
        (["plan", "--help"], "in pixels (default: 640x480)"),
        (["build", "scenes", "--help"], "novel, heldout (default: novel)"),
        (["build", "scenes", "--help"], f"does not show (default: {ABSENT_FRAC})"),
        (["build", "scenes", "--help"], f"one token of a model (default: {REFERENCE_SIZE}, with --grid"),
        (["build", "coco", "--help"], "does not show (default: 0)"),
        (["ask", "--help"], "task of the question (default: detection)"),
        (["push", "--help"], "only you and your organization can see it\n"),
    ):
        with pytest.raises(SystemExit):
            cli.main(argv)
        assert expected in re.sub(r"\n {8,}", " ", capsys.readouterr().out)


def test_built_data_set_can_be_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_coco(tmp_path, TWO)
    assert run("build", "coco", tmp_path / "annotations.json", tmp_path / "images", tmp_path / "d") == 0
    assert "d: 2 questions on 2 images, 0% about an absent class, hash " in capsys.readouterr().out
    assert len(Store(tmp_path / "d")) == 2


def test_skipped_records_are_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_coco(tmp_path, TWO | {f"{i}.png": [("cat", [1, 1, 0, 0])] for i in range(7)})
    assert run("build", "coco", tmp_path / "annotations.json", tmp_path / "images", tmp_path / "d") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("skipped annotations.json: annotation 3 (0.png): box [1, 1, 1, 1] has x2 <= x1")
    assert lines[-2] == "and 2 more skipped: see card.json"


def test_scenes_are_built(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("build", "scenes", tmp_path / "s", "--classes", "panda", "--shots", 2, "--task", "classification") == 0
    assert "s: 2 questions on 2 images, hash" in capsys.readouterr().out
    assert run("build", "scenes", tmp_path / "t", "--shots", 2, "--questions", 2) == 2
    assert "expected either --shots (a training set) or --questions (a test set)" in capsys.readouterr().err


def test_explain_prints_every_pair(capsys: pytest.CaptureFixture[str]) -> None:
    text = "<answer>[{'Position':[0,0,100,100],'Confidence':0.5},{'Position':[500,500,600,600]}]</answer>"
    assert run("explain", text, "--task", "detection", "--target", "[[0,0,100,100]]") == 0
    out = capsys.readouterr().out
    assert "target 1, IoU 1.000, hit" in out
    assert "no target, best IoU 0.000, miss" in out


def test_explain_reads_a_file_and_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("<think>left</think><answer>(0,0),(32,24)</answer>\n")
    options = ["--task", "grounding", "--target", "(0,0),(32,48)", "--space", "original_pixels"]
    assert run("explain", "--file", tmp_path / "text", *options, "--image-size", "64x48", "--thinking") == 0
    assert "box [0.0, 0.0, 32.0, 24.0], target [0.0, 0.0, 32.0, 48.0], IoU 0.500" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (("build", "coco", "none.json", ".", "out"), "virft: none.json: cannot be read (No such file or directory)"),
        (
            ("build", "coco", "none.json", "nowhere", "out"),
            "virft: nowhere: no such folder; expected the folder of the",
        ),
        (("score", "none", "nowhere"), "virft: nowhere: does not exist; expected a dataset made by `virft build`"),
        (("explain", "x", "--task", "detection", "--target", "?"), "virft: --target '?': neither a list of boxes nor"),
        (("explain", "x", "--task", "grounding", "--target", "(1,1)"), "virft: --target '(1,1)': "),
        (
            ("explain", "x", "--task", "detection", "--target", "[[1,2,3]]"),
            "virft: --target '[[1,2,3]]': 3 values in a",
        ),
        (("explain", "--file", "none", "--task", "detection", "--target", "[]"), "virft: none: cannot be read (No su"),
        (("ask", "virft-tiny", "a.png"), "virft: ask: expected IMAGE and QUESTION, or - alone for questions from"),
        (("ask", "virft-tiny", "-", "fox"), "virft: ask: expected IMAGE and QUESTION, or - alone for questions from"),
        (("ask", "virft-tiny", "a.png", " "), "virft: the query is empty; expected a class name such as fox"),
        (("ask", "virft-tiny", "none.png", "fox"), "virft: none.png: no such image"),
        (("ask", "virft-tiny", "a.png", "fox", "--seed", "1"), "virft: --seed has no effect: it needs --temperature"),
        (("ask", "virft-tiny", "-", "--template", "none"), "virft: prompt.template: cannot read none (No such file"),
        (("build", "scenes", "out", "--classes", "pandda", "--shots", "1"), "virft: class 'pandda' is not in the bui"),
    ],
)
def test_users_mistake_is_one_message(
    argv: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*argv) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(message)
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ((), "VERB"),
        (("finetune",), "'finetune' is not a verb; did you mean `virft train` or `virft sft`?"),
        (("trian",), "'trian' is not a verb; did you mean `virft train`?"),
        (("comprae",), "'comprae' is not a verb; did you mean `virft compare`?"),
        (("look", "data/mine"), "'look' is not a verb; did you mean `virft preview`?"),
        (("xyzzy",), "'xyzzy' is not a verb; expected one of quickstart, doctor, "),
        (("build", "cocco", "a"), "'cocco' is not a source of `virft build`; did you mean `virft build coco`?"),
        (("build", "coco", "a", "b", "c", "--test-fraction", "0.2"), "--test-fraction; did you mean --test-frac?"),
        (("predict", "a", "b", "c", "--max_tokens", "9"), "--max_tokens; did you mean --max-completion-tokens?"),
        (("predict", "--templat", "paper"), "unrecognized arguments: --templat; did you mean --template?"),
        (("predict", "a"), "the following arguments are required: DATA, OUT"),
        (("export", "a", "b", "--format", "coko"), "'coko'; did you mean coco? expected one of coco, yolo, trl, ms"),
        (("grpo", "a.toml", "--lr", "1e-4"), "--lr; settings are written KEY=VALUE, without --: did you mean grpo.l"),
        (("sft", "a.toml", "--num-train-epochs=3"), "without --: did you mean sft.steps? steps = epochs x train"),
        (("grpo",), "expected a TOML file of settings, or settings such as data.train=data/mine/train run.dir="),
        (("explain", "--task", "detection", "--target", "[]"), "one of the arguments TEXT --file is required"),
        (("explain", "x", "--task", "detect", "--target", "[]"), "'detect'; expected one of detection, cl"),
        (("explain", "x", "--task", "detection", "--target", "[]", "--image-size", "64"), "'64'; expected a size such"),
        (("build", "coco", "a", "b", "c", "--shots", "0"), "0; expected an integer of at least 1"),
        (("build", "coco", "a", "b", "c", "--test-frac", "1"), "1; expected a number of at least 0 and below 1"),
        (("build", "scenes", "a", "--shots", "1", "--seed", "-1"), "-1; expected an integer of at least 0"),
        (("build", "scenes", "a", "--shots", "1", "--size", "8"), "8; expected an integer of at least 28, in pixels"),
        (("quickstart", "a", "--steps", "0"), "0; expected an integer of at least 1"),
        (("grpo", "a.toml", "--dry-run", "b=1", "--frist"), "unrecognized arguments: --frist"),
        (("ask", "a", "b", "c", "--temperature", "-1"), "-1; expected a number from 0 to 10"),
        (("app", "a", "--port", "70000"), "70000; expected an integer from 0 to 65535"),
        (("plan", "a", "--memory", "0"), "0; expected a number above 0 and below 1e+06, in GiB"),
        (("score", "a", "b", "--class-group", "x"), "'x'; expected a name and its classes, such as base=cat,dog"),
        (("report", "a", "--images", "many"), "invalid integer value: 'many'"),
        (("predict", "a", "b", "c", "d"), "unrecognized arguments: d"),
        (("build", "coco", "a", "b", "c", "--neg", "0.1"), "unrecognized arguments: --neg"),
    ],
)
def test_an_invalid_argument_says_what_is_allowed(
    argv: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        run(*argv)
    assert end.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv",
    [
        ("grpo", "a.toml", "x=1", "y=2", "--dry-run"),
        ("grpo", "a.toml", "--dry-run", "x=1", "y=2"),
        ("grpo", "--dry-run", "a.toml", "x=1", "y=2"),
        ("grpo", "a.toml", "x=1", "--dry-run", "y=2"),
    ],
)
def test_overrides_may_be_before_and_after_options(argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(train, "grpo", lambda **arguments: seen.update(arguments))
    assert run(*argv) == 0
    assert seen == {
        "config": Path("a.toml"),
        "overrides": ["x=1", "y=2"],
        "from_run": None,
        "resume": False,
        "dry_run": True,
    }


@pytest.mark.parametrize(
    "argv",
    [
        ("grpo", "x.y=1", "z=2", "--dry-run"),
        ("grpo", "--dry-run", "x.y=1", "z=2"),
        ("grpo", "x.y=1", "--dry-run", "z=2"),
    ],
)
def test_settings_may_replace_the_file(argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(train, "grpo", lambda **arguments: seen.update(arguments))
    assert run(*argv) == 0
    assert (seen["config"], seen["overrides"], seen["dry_run"]) == (None, ["x.y=1", "z=2"], True)


def test_another_run_needs_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(train, "grpo", lambda **arguments: seen.update(arguments))
    assert run("grpo", "--from", "runs/a", "run.dir=runs/b") == 0
    assert (seen["config"], seen["overrides"], seen["from_run"]) == (None, ["run.dir=runs/b"], Path("runs/a"))
    assert run("grpo", "--from", "runs/a") == 0


def test_a_file_whose_name_looks_like_a_setting_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, object] = {}
    monkeypatch.chdir(tmp_path)
    Path("lr=1.toml").touch()
    monkeypatch.setattr(train, "grpo", lambda **arguments: seen.update(arguments))
    assert run("grpo", "lr=1.toml", "x=1") == 0
    assert (seen["config"], seen["overrides"]) == (Path("lr=1.toml"), ["x=1"])


def test_a_missing_setting_without_a_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("plan", "data.train=data/mine/train") == 2
    assert capsys.readouterr().err.startswith("virft: command line: run.dir is missing; expected a folder")


def test_help_lists_every_verb_with_its_stage_in_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    shown = [match[1] for line in lines if (match := re.match(r" {2}(?:[a-z]+ +| {10})([a-z]+) {2,}[a-z]", line))]
    verbs = next(
        iter(action for action in cli.make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    )
    assert shown == list(verbs.choices)
    assert sum(line.startswith("  virft ") for line in lines) == 3  # the first commands


@pytest.mark.parametrize("verb", ["train", "grpo", "sft"])
def test_help_of_training_ends_with_the_settings(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([verb, "--help"])
    text = capsys.readouterr().out
    assert re.search(r"data\.train +not set +always", text)
    assert ("grpo.group_size" in text) == (verb != "sft")
    for section in ("model", "run", "augment"):
        assert f"  {section:10}" in text
    assert "gradient_checkpointing" in text


def test_help_with_settings_needs_no_pytorch() -> None:
    code = "import sys\nfrom virft.cli.main import main\ntry:\n main(['grpo', '--help'])\nexcept SystemExit as end:\n"
    code += " sys.exit(end.code or 10 * bool({'torch', 'numpy', 'scipy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0


def test_suggested_verbs_exist() -> None:
    verbs = next(
        iter(action for action in cli.make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    )
    for name, meant in OTHER_VERBS.items():
        assert set(meant) & set(verbs.choices), name


def test_a_run_that_was_stopped_ends_with_130_and_says_how_to_resume(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(**_: object) -> None:
        raise RunStopped("stopped after step 3; resume with --resume")

    monkeypatch.setattr(train, "grpo", stop)
    assert run("grpo", "a.toml") == 130
    assert capsys.readouterr().err == "virft: stopped after step 3; resume with --resume\n"


def test_interrupt_ends_with_130(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def stop(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "score", stop)
    assert run("score", "a", "b") == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f'"{sys.executable}" -m virft config --schema | head -1'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("{\n", "")


def test_our_own_bug_crashes_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(evaluate, "score", fail)
    with pytest.raises(ZeroDivisionError):
        run("score", "a", "b")


@pytest.mark.parametrize("end", [None, RunStopped("stopped")])
def test_a_launched_process_leaves_its_group(
    end: RunStopped | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def verb(**_: object) -> None:
        dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
        if end is not None:
            raise end

    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(data, "check", verb)
    assert cli.main(["check", "nowhere"]) == (130 if end else 0)
    assert not dist.is_initialized()


def test_a_launcher_is_refused_for_verbs_of_one_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    # some platforms use this name for the number of machines
    assert cli.main(["check", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("RANK", "1")
    for argv, verb in (
        (["check", "nowhere"], "check"),
        (["build", "rows", "a", "b", "c"], "build rows"),
        (["grpo", "c.toml", "--dry-run"], "grpo --dry-run"),
    ):
        assert cli.main(argv) == 2
        assert capsys.readouterr().err == (
            f"virft (process 1): virft {verb} runs in one process, and 2 were started; "
            "expected no launcher, or one of train, grpo, sft, predict, presence\n"
        )


@pytest.mark.parametrize(
    "command",
    [
        "build coco a.json images OUT --shots 3",
        "build scenes OUT",
        "preview data --out OUT",
        "export data OUT --format coco",
        "init OUT --model virft-tiny",
        "predict virft-tiny data OUT",
        "presence virft-tiny data OUT",
        "score predictions data --out OUT",
        "report run --out OUT",
        "merge adapters OUT",
        "config --schema --out OUT",
        "quickstart OUT",
        "ask virft-tiny a.png cat --out OUT",
    ],
)
def test_output_that_cannot_be_written_is_refused_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    (tmp_path / "file").write_text("mine")
    out = f"{tmp_path}/file/a.png"
    assert run(*command.replace("OUT", out).split()) == 2
    assert capsys.readouterr().err == f"virft: {out}: cannot be written (Not a directory)\n"


def test_folder_and_annotations_in_the_wrong_order_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "images").mkdir()
    assert run("build", "coco", tmp_path / "images", tmp_path / "a.json", tmp_path / "out") == 2
    expected = "is a file; expected the folder of the images (the annotations come first)"
    assert capsys.readouterr().err == f"virft: {tmp_path / 'a.json'}: {expected}\n"


@pytest.mark.parametrize(("verb", "what"), [("eval", "predictions that were"), ("grpo", "a run that was")])
def test_help_of_resume_is_a_sentence(verb: str, what: str) -> None:
    assert f"resume {what} interrupted" in " ".join(cli.find_parser(cli.make_parser(), [verb]).format_help().split())


def test_folder_of_an_output_file_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "--schema", "--out", tmp_path / "a" / "b" / "c.json") == 0
    assert (tmp_path / "a" / "b" / "c.json").is_file()


def test_folder_in_place_of_an_output_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("config", "--schema", "--out", tmp_path) == 2
    assert f"virft: {tmp_path}: cannot be written (Is a directory)" in capsys.readouterr().err
