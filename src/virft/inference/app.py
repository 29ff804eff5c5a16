"""The page of ``virft app``: upload an image, enter a query, and read the answer while it is generated.

Gradio renders it (the extra ``app``). The page sends no request to another host: no fonts, scripts or usage statistics.
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
from virft.inference.live_answer import LiveAnswer, before_answer, live_answers
from virft.inference.model import Model
from virft.inference.queries import make_query
from virft.tasks import TASKS

MAX_UPLOAD = "20mb"

_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Content security policy: the browser fetches nothing from another host, even if Gradio's own page names one."""


def _query_hints() -> str:
    """Return the meaning of a query under each task."""
    return "; ".join(f"{task.name}: {task.query_hint}" for task in TASKS.values())


def import_gradio() -> Any:
    """Import Gradio with its usage statistics off; ``ConfigError`` if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(
            'app: needs gradio, which is not installed; expected the extra app: pip install -e ".[app]" in a clone of virft'
        ) from error
    return gradio


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes any free port. Raises ``ConfigError`` if the address cannot be used."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be listened on ({error.strerror})") from error


def serve_app(models: Mapping[str, Model], listening: socket.socket, *, report: Callable[[str], None]) -> None:
    """Serve the page until Ctrl-C. Uploaded images are deleted at the end. ``report`` gets the address."""
    import_gradio()
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="virft-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        # an open page has an open connection, so a graceful shutdown would never end by itself
        settings = uvicorn.Config(make_app(models), log_level="warning", timeout_graceful_shutdown=1)
        host, port, *_ = listening.getsockname()
        report(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops it)")
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        except KeyboardInterrupt:
            report("stopped")


def make_app(models: Mapping[str, Model]) -> Any:
    """Return an ASGI application with the page at ``/``."""
    gr = import_gradio()
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_OwnHostOnly)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.mount_gradio_app(
        app,
        make_page(models),
        path="",
        show_error=False,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        theme=gr.themes.Default(**fonts),
    )


def make_page(models: Mapping[str, Model]) -> Any:
    """Build a page that sends each query to every model and shows their answers side by side, under their names."""
    gr = import_gradio()
    with gr.Blocks(title="virft", analytics_enabled=False) as page:
        with gr.Row():
            with gr.Column(min_width=280):
                # Gradio's own image field opens files itself, and reports no error for those it cannot open
                file = gr.File(file_types=["image"], label="Image", height=160)
                task = gr.Radio(list(TASKS), value=next(iter(TASKS)), label="Task")
                query = gr.Textbox(label="Query", info=_query_hints(), max_length=2000)
                button = gr.Button("Run", variant="primary")
            columns = [_column(gr, name) for name in models]

        def show_image(path: str | None) -> list[Any]:
            with _errors_on_page(gr, path):
                shown = None if path is None else before_answer(Path(path))
                return _values(gr, [shown] * len(models), clear=True)

        def run(path: str | None, task_name: str, text: str) -> Iterator[list[Any]]:
            with _errors_on_page(gr, path):
                if path is None:
                    raise DataError("no image; upload one on the left")
                image_query = make_query(path, text, task_name)
                yield show_image(path)
                for number, model in enumerate(models.values()):
                    for answer in live_answers(model, image_query):
                        yield _values(gr, [answer if i == number else None for i in range(len(models))])

        outputs = [part for column in columns for part in column]
        options = {"show_progress": "minimal", "api_visibility": "private"}
        file.change(show_image, inputs=[file], outputs=outputs, **options)
        # one query at a time, the others wait in the queue
        gr.on(
            [button.click, query.submit],
            run,
            inputs=[file, task, query],
            outputs=outputs,
            concurrency_limit=1,
            **options,
        )
    page.queue(max_size=16)
    return page


@contextmanager
def _errors_on_page(gr: Any, path: str | None) -> Iterator[None]:
    """Show a ``DataError`` on the page, without the name of this machine's folder."""
    try:
        yield
    except DataError as error:
        message = str(error).replace(path, Path(path).name) if path else str(error)
        raise gr.Error(message, print_exception=False) from error


def _column(gr: Any, name: str) -> list[Any]:
    """The fields of a model's column, in the order of ``_values``."""
    with gr.Column(min_width=280):
        return [
            gr.Image(
                label=f"{name}: image",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id=f"{name}-image",
            ),
            gr.Textbox(label=f"{name}: reasoning", lines=2, elem_id=f"{name}-reasoning"),
            gr.Textbox(label=f"{name}: answer as generated", lines=2, elem_id=f"{name}-answer"),
            gr.Textbox(label=f"{name}: parsed answer", lines=2, elem_id=f"{name}-reading"),
        ]


def _values(gr: Any, shown: Sequence[LiveAnswer | None], *, clear: bool = False) -> list[Any]:
    """The values of all fields; those of a model with None are unchanged, or emptied with ``clear``."""
    values: list[Any] = []
    for one in shown:
        if one is None:
            values += [None] * 4 if clear else [gr.skip()] * 4
        else:
            # Gradio encodes an image each time it gets one, so an unchanged image is skipped
            values += [one.image or gr.skip(), one.reasoning, one.answer, one.reading]
    return values


class _OwnHostOnly:
    """Middleware that adds the content security policy to every response."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def send_with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (b"content-security-policy", _POLICY)]
            await send(message)

        await self._app(scope, receive, send_with_policy)
