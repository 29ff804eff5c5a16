"""The page of ``virft app``: drop a picture, ask about it, watch the answer being written.

Gradio makes it (``virft[app]``). The page asks no host but its own: no fonts, no scripts, no counting of visitors.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from virft.errors import ConfigError, DataError
from virft.inference.asker import Asker
from virft.inference.panels import Panel, first_panel, panels
from virft.inference.questions import make_question
from virft.tasks import TASKS

MAX_UPLOAD = "20mb"

_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""A browser holds the page to it: nothing is fetched from elsewhere, whatever Gradio's own page names."""


def _meaning() -> str:
    """What a question says, by task."""
    return "; ".join(f"{task.name}: {task.query_hint}" for task in TASKS.values())


def import_gradio() -> Any:
    """Gradio, told before it is loaded to call no one; ``ConfigError`` where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ConfigError("app: the page needs Gradio; pip install virft[app]") from error
    return gradio


def listen(host: str, port: int) -> socket.socket:
    """A socket that visitors can reach; port 0 takes any that is free. ``ConfigError`` if it cannot be had."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be listened on ({error.strerror})") from error


def serve(askers: Mapping[str, Asker], listening: socket.socket, *, say: Callable[[str], None]) -> None:
    """Serves the page until Ctrl-C. What visitors upload is deleted in the end."""
    import_gradio()
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="virft-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        # an open page holds a connection for as long as it is open
        settings = uvicorn.Config(make_app(askers), log_level="warning", timeout_graceful_shutdown=1)
        host, port, *_ = listening.getsockname()
        say(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops it)")
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        except KeyboardInterrupt:
            say("stopped")


def make_app(askers: Mapping[str, Asker]) -> Any:
    """An ASGI application with the page at ``/``."""
    gr = import_gradio()
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_OwnHostOnly)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.mount_gradio_app(
        app,
        make_page(askers),
        path="",
        show_error=False,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        theme=gr.themes.Default(**fonts),
    )


def make_page(askers: Mapping[str, Asker]) -> Any:
    """A page that puts each question to every model; their answers stand beside each other, under their names."""
    gr = import_gradio()
    with gr.Blocks(title="virft", analytics_enabled=False) as page:
        with gr.Row():
            with gr.Column(min_width=280):
                # Gradio's own picture field opens files itself, and says nothing of those it cannot open
                file = gr.File(file_types=["image"], label="Picture", height=160)
                task = gr.Radio(list(TASKS), value=next(iter(TASKS)), label="Task")
                query = gr.Textbox(label="Question", info=_meaning(), max_length=2000)
                button = gr.Button("Ask", variant="primary")
            places = [_place(gr, name) for name in askers]

        def look(path: str | None) -> list[Any]:
            with _explained(gr, path):
                shown = None if path is None else first_panel(Path(path))
                return _values(gr, [shown] * len(askers), cleared=True)

        def ask(path: str | None, task_name: str, text: str) -> Iterator[list[Any]]:
            with _explained(gr, path):
                if path is None:
                    raise DataError("no picture; drop one on the left")
                question = make_question(path, text, task_name)
                yield look(path)
                for number, asker in enumerate(askers.values()):
                    for panel in panels(asker, question):
                        yield _values(gr, [panel if i == number else None for i in range(len(askers))])

        parts = [part for place in places for part in place]
        options = {"show_progress": "minimal", "api_visibility": "private"}
        file.change(look, inputs=[file], outputs=parts, **options)
        # one question at a time, others wait
        gr.on(
            [button.click, query.submit], ask, inputs=[file, task, query], outputs=parts, concurrency_limit=1, **options
        )
    page.queue(max_size=16)
    return page


@contextmanager
def _explained(gr: Any, path: str | None) -> Iterator[None]:
    """What cannot be used, told on the page, without the folder that the file lies in on this machine."""
    try:
        yield
    except DataError as error:
        told = str(error).replace(path, Path(path).name) if path else str(error)
        raise gr.Error(told, print_exception=False) from error


def _place(gr: Any, name: str) -> list[Any]:
    """Where a model's panel stands; in the order of ``_values``."""
    with gr.Column(min_width=280):
        return [
            gr.Image(
                label=f"{name}: picture",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id=f"{name}-picture",
            ),
            gr.Textbox(label=f"{name}: reasoning", lines=2, elem_id=f"{name}-reasoning"),
            gr.Textbox(label=f"{name}: answer as written", lines=2, elem_id=f"{name}-answer"),
            gr.Textbox(label=f"{name}: reading", lines=2, elem_id=f"{name}-reading"),
        ]


def _values(gr: Any, shown: Sequence[Panel | None], *, cleared: bool = False) -> list[Any]:
    """What goes where; a place without a panel stays as it is, or is cleared."""
    values: list[Any] = []
    for one in shown:
        if one is None:
            values += [None] * 4 if cleared else [gr.skip()] * 4
        else:
            # a picture is encoded each time it is given
            values += [one.picture or gr.skip(), one.reasoning, one.answer, one.reading]
    return values


class _OwnHostOnly:
    """Adds the policy to every answer."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", _POLICY)]
            await send(message)

        await self._app(scope, receive, send_with_policy)
