"""verifiers evaluates a simulated server with virft's rewards. Skipped where verifiers is not installed."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from factories import box, detections, labelled, sample, save_image
from virft.cli.main import main
from virft.data.store_writer import StoreWriter
from virft.errors import ConfigError, DataError
from virft.integrations.chat_rows import ChatContent, read_exported_rows
from virft.integrations.rows import RowGrader
from virft.integrations.trl import part_means
from virft.tasks import TASKS
from virft.tasks.counting import Count
from virft.tasks.pointing import point_target
from virft.tasks.reward import RewardRule
from virft.types import Label, ShortAnswer

vf = pytest.importorskip("verifiers.v1", reason="verifiers is not installed here (docs/other_trainers.md)")
taskset_module = pytest.importorskip("virft.integrations.verifiers")

BOX = (16, 12, 32, 24)
"""[250, 250, 500, 500] in thousandths of 64 x 48."""
SAMPLES = (
    sample(detections(BOX), id="1"),
    sample(detections(), id="2", query="hen"),
    sample(labelled(("fox", BOX), classes=("fox", "owl")), id="3", task="multiclass_detection", query="fox, owl"),
    sample(Label(text="red fox"), id="4", task="classification", query="animal"),
    sample(box(*BOX), id="5", task="grounding", query="the left one"),
    sample(Count(2), id="6", task="counting", query="foxes"),
    sample(point_target([box(*BOX)]), id="7", task="pointing", query="bird"),
    sample(ShortAnswer(answers=("200",), kind="number"), id="8", task="short_answer", query="What is the weight?"),
    sample(Label(text="crow"), id="9", task="classification", query="bird"),
    sample(box(*BOX), id="10", task="grounding", query="the dark one"),
)


class Reply(NamedTuple):
    """A message of the simulated server; a parser has moved the thoughts out of the content."""

    content: str
    thoughts: str | None = None

    @property
    def text(self) -> str:
        """The text of the model, before the parser."""
        return self.content if self.thoughts is None else f"<think>{self.thoughts}</think>{self.content}"


REPLIES = {
    "1": Reply("<answer>[{'Position':[250,250,500,500],'Confidence':1.0}]</answer>", "on the left"),
    "2": Reply("<answer>No Objects</answer>"),
    "3": Reply("<answer>[{'bbox_2d':[250,250,480,500],'label':'fox'}]</answer>", "one"),
    "4": Reply("<answer>Red fox</answer>", "\nred fur\n"),
    "5": Reply("<answer>(250,250),(500,400)</answer>", "here"),
    "6": Reply("<answer>3</answer>", "one, two, three"),
    "7": Reply("<answer>[{'point_2d':[375,375]}]</answer>", "there"),
    "8": Reply("<answer>200 kg</answer>", "it says 200"),
    "9": Reply("I cannot see a bird."),
    "10": Reply("", "nothing but a thought"),
}


def save_rows(folder: Path, *options: str) -> Path:
    """Export a dataset with samples of every task; return ``rows.jsonl``."""
    assert {one.task for one in SAMPLES} == set(TASKS)
    save_image(folder / "a.png")
    with StoreWriter(folder / "data") as writer:
        writer.add_image_file("a.png", folder / "a.png")
        for one in SAMPLES:
            writer.add(one)
        writer.finish(source={}, seed=0)
    assert main(["export", str(folder / "data"), str(folder / "rows"), "--format", "trl", *options]) == 0
    return folder / "rows" / "rows.jsonl"


@contextmanager
def chat_server(replies: Mapping[str, Reply]) -> Iterator[str]:
    """Serve the chat API on this machine: content of the user's message, as JSON -> reply. Yield the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            (message,) = request["messages"]
            reply = replies.get(json.dumps(message["content"]))
            if reply is None or message["role"] != "user" or not request["stream"]:
                self.send_error(400, "not one of the exported questions")
                return
            deltas = [{"role": "assistant", "reasoning": reply.thoughts}, {"content": reply.content}]
            chunks: list[dict[str, Any]] = [
                {"choices": [{"index": 0, "delta": one, "finish_reason": end}]}
                for one, end in zip(deltas, (None, "stop"), strict=True)
            ]
            chunks += [{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 9, "total_tokens": 18}}]
            same = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": request["model"]}
            events = [*(json.dumps(same | one) for one in chunks), "[DONE]"]
            data = "".join(f"data: {event}\n\n" for event in events).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
@pytest.mark.parametrize("thinking", [False, True])
def test_vf_eval_records_the_rewards_of_the_grader(tmp_path: Path, thinking: bool) -> None:
    if shutil.which("uv") is None:
        pytest.skip("the null harness of verifiers needs uv")
    path = save_rows(tmp_path, *(["--thinking"] if thinking else []))
    names = ["NullHarness", "VirftTaskset"]
    module = f"from virft.integrations.verifiers import {', '.join(names)}\n__all__ = {names}\n"
    (tmp_path / "foxes.py").write_text(module)
    rows = {row["id"]: row for _, row in read_exported_rows(path)}
    content = ChatContent()
    questions = {json.dumps(content.of(row, where=key)): REPLIES[key] for key, row in rows.items()}
    assert len(questions) == len(SAMPLES), "each question is another one"
    with chat_server(questions) as url:
        command = [Path(sys.executable).with_name("vf-eval"), "foxes", "--env.taskset.rows", path]
        command += ["--env.agent.runtime.type", "subprocess", "--env.taskset.task.weights", '{"format": 0.5}']
        command += ["--env.taskset.task.iou-threshold", "0.6"]
        command += ["-m", "simulated", "--client.base-url", url, "--no-push", "--no-rich"]
        command += ["-o", tmp_path / "out", "--run.name", "run"]
        folders = os.pathsep.join([str(tmp_path), *sys.path])
        done = subprocess.run(
            command, env=os.environ | {"PYTHONPATH": folders}, check=False, capture_output=True, text=True
        )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (tmp_path / "out" / "run" / "traces.jsonl").read_text().splitlines()
    traces = [trace for line in lines for trace in json.loads(line)["traces"]]
    found = {one["task"]["key"]: one for one in traces}
    assert [one["errors"] for one in traces] == [[]] * len(SAMPLES)
    assert found.keys() == rows.keys()
    rule = RewardRule(weights={"format": 0.5}, iou_threshold=0.6)
    grader = RowGrader(box_space="relative_1000", thinking=thinking, rule=rule)
    for key, row in rows.items():
        expected = grader.grade(REPLIES[key].text, row)
        assert found[key]["rewards"] == {"virft": {"score": expected.total, "weight": 1.0}}
        assert found[key]["metrics"] == part_means([expected])
    totals = [found[key]["rewards"]["virft"]["score"] for key in rows]
    # the first sample: iou, confidence and half of the format; the last two have no answer block
    assert totals[0] == pytest.approx(2.5 if thinking else 2.0)
    assert totals[-2:] == [0.0, 0.0]


def tasks_of(path: Path, **settings: Any) -> list[Any]:
    """The tasks of a taskset whose reward has these settings."""
    config = taskset_module.VirftTasksetConfig(
        id="foxes", rows=path, task=taskset_module.VirftTaskConfig.model_validate(settings)
    )
    return list(taskset_module.VirftTaskset(config))


def score(task: Any, *replies: Reply) -> Any:
    """Score a trace with these messages of the model, as verifiers does after a rollout."""
    messages = [vf.AssistantMessage(content=one.content or None, reasoning_content=one.thoughts) for one in replies]
    trace = vf.Trace(
        task=vf.TraceTask(type=type(task).__name__, data=task.data, key=task.key),
        agent=vf.AgentInfo(config=vf.AgentConfig()),
        nodes=[vf.MessageNode(message=one, sampled=True) for one in messages],
    )
    asyncio.run(task.score(trace))
    return trace


def test_a_template_that_opens_the_thought_has_the_same_reward_with_and_without_a_parser(tmp_path: Path) -> None:
    first, *_ = tasks_of(save_rows(tmp_path, "--thinking"), think_opened=True)
    answer = REPLIES["1"].content
    parsed = score(first, Reply(answer, "on the left"))
    plain = score(first, Reply(f"on the left</think>{answer}"))
    assert parsed.reward == plain.reward == pytest.approx(3.0)
    assert parsed.metrics == plain.metrics == {"iou": 1.0, "confidence": 1.0, "format": 1.0, "unreadable_frac": 0.0}


def test_the_last_of_several_turns_is_rewarded(tmp_path: Path) -> None:
    task, *_ = tasks_of(save_rows(tmp_path))
    answer = Reply(REPLIES["1"].content)
    assert score(task, Reply("Let me look."), answer).reward == pytest.approx(3.0)
    assert score(task, answer, Reply("Let me look.")).reward == 0.0


def test_a_trace_without_a_message_is_unreadable(tmp_path: Path) -> None:
    task, *_ = tasks_of(save_rows(tmp_path))
    trace = score(task)
    assert trace.reward == 0.0
    assert trace.metrics["unreadable_frac"] == 1.0


def test_boxes_in_pixels_of_the_resized_image_need_the_resizing(tmp_path: Path) -> None:
    path = save_rows(tmp_path, "--space", "resized_pixels")
    # 64 x 48 becomes 112 x 84
    task, *_ = tasks_of(path, resize={"unit": 28, "min_pixels": 9000, "max_pixels": 9999})
    text = "<answer>[{'Position':[28,21,56,42],'Confidence':1.0}]</answer>"
    assert score(task, Reply(text)).reward == pytest.approx(3.0)
    with pytest.raises(ConfigError, match="box_space resized_pixels needs resize"):
        tasks_of(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"think_opened": True}, "think_opened has no effect: thinking is False"),
        ({"resize": {"unit": 28, "min_pixels": 1, "max_pixels": 9}}, "resize has no effect: box_space is"),
        ({"weights": {"fromat": 1}}, "weights: fromat is no part of the robust reward; did you mean format"),
        ({"iou_threshold": 2}, "iou_threshold = 2.0; expected a number from 0 to 1"),
    ],
)
def test_settings_that_do_not_fit_are_an_error_before_the_first_rollout(
    tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tasks_of(save_rows(tmp_path), **settings)


def test_the_path_of_the_rows_is_required() -> None:
    with pytest.raises(ConfigError, match=r"env\.taskset\.rows is not set"):
        tasks_of(None)


def test_an_invalid_row_is_an_error_before_the_first_rollout(tmp_path: Path) -> None:
    path = save_rows(tmp_path)
    path.write_text(path.read_text().replace('"task": "counting"', '"task": "juggling"'))
    with pytest.raises(DataError, match=r"row 6: .*juggling"):
        tasks_of(path)
