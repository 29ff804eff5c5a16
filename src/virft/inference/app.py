"""The page of ``virft app``: upload an image, enter a query, and read the answer while it is generated.

Gradio renders it (the extra ``app``). The page sends no request to another host: no fonts, scripts or usage statistics.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from virft.errors import ConfigError, DataError
from virft.inference.live_answer import LiveAnswer, before_answer, live_answers
from virft.inference.model import Model
from virft.inference.queries import ImageQuery, make_query, notes_for_query
from virft.inference.result import Result
from virft.tasks import TASKS

MAX_UPLOAD = "20mb"

_STYLE = """
.gradio-container { max-width: 1500px !important; margin: 0 auto }
"""

_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Content security policy: the browser fetches nothing from another host, even if Gradio's own page names one."""


def import_gradio() -> Any:
    """Import Gradio with its usage statistics off; ``ConfigError`` if it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        import gradio
    except ImportError as error:
        raise ConfigError(
            'app: needs gradio, which is not installed; expected the extra app: pip install -e ".[app]"'
        ) from error
    return gradio


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket; port 0 takes any free port. Raises ``ConfigError`` if the address cannot be used."""
    try:
        (family, *_, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: cannot be listened on ({error.strerror})") from error


def serve_app(
    models: Mapping[str, Model],
    listening: socket.socket,
    *,
    report: Callable[[str], None],
    examples: Sequence[ImageQuery] = (),
    notes: Mapping[str, str] | None = None,
) -> None:
    """Serve the page until Ctrl-C. Uploaded images are deleted at the end. ``report`` gets the address.

    ``notes``: class instructions {class: text} for the prompts of queries about these classes.
    """
    import_gradio()
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="virft-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        # an open page has an open connection, so a graceful shutdown would never end by itself
        app = make_app(models, examples=examples, folder=Path(uploads), notes=notes)
        settings = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
        host, port, *_ = listening.getsockname()
        report(f"http://{f'[{host}]' if ':' in host else host}:{port} (Ctrl-C stops it)")
        try:
            uvicorn.Server(settings).run(sockets=[listening])
        except KeyboardInterrupt:
            report("stopped")


def make_app(
    models: Mapping[str, Model],
    *,
    examples: Sequence[ImageQuery],
    folder: Path,
    notes: Mapping[str, str] | None = None,
) -> Any:
    """Return an ASGI application with the page at ``/``. ``folder``: for copies of the example images."""
    gr = import_gradio()
    from fastapi import FastAPI

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_OwnHostOnly)
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    return gr.mount_gradio_app(
        app,
        make_page(models, examples=examples, folder=folder, notes=notes),
        path="",
        show_error=False,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        enable_monitoring=False,
        ssr_mode=False,
        theme=gr.themes.Default(primary_hue="green", neutral_hue="stone", **fonts),
        css=_STYLE,
    )


def make_page(
    models: Mapping[str, Model],
    *,
    examples: Sequence[ImageQuery],
    folder: Path,
    notes: Mapping[str, str] | None = None,
) -> Any:
    """Build a page that sends each query to every model and shows their answers side by side, under their names.

    ``examples`` are offered below the query; their images are copied to ``folder``.
    """
    gr = import_gradio()
    with gr.Blocks(title="virft", analytics_enabled=False) as page:
        gr.Markdown("# virft\nUpload or paste an image, choose a task, and type what to look for.")
        with gr.Row():
            with gr.Column(min_width=280):
                image = _image_input(gr)
                first = next(iter(TASKS))
                task = gr.Radio(list(TASKS), value=first, label="Task")
                query = gr.Textbox(label="Query", info=_hint(first), max_length=2000, elem_id="query")
                button = gr.Button("Run", variant="primary")
                threshold = gr.Slider(
                    0, 1, value=0, step=0.01, label="Confidence", info="hide boxes below", elem_id="confidence"
                )
            columns = [_Column.build(gr, role, model) for role, model in models.items()]
        if examples:
            rows = [[_copy_image(one, folder, i), one.task, one.query] for i, one in enumerate(examples)]
            gr.Examples(rows, inputs=[image, task, query], cache_examples=False, label="Examples")

        def show_image(path: str | None) -> list[Any]:
            with _errors_on_page(gr, path):
                shown = None if path is None else before_answer(Path(path))
                return [value for column in columns for value in column.values(gr, shown, clear=True)]

        def run(path: str | None, task_name: str, text: str, least: float) -> Iterator[list[Any]]:
            with _errors_on_page(gr, path):
                if path is None:
                    raise DataError("no image; upload one on the left")
                image_query = make_query(path, text, task_name)
                image_query = replace(image_query, notes=notes_for_query(image_query.query, task_name, notes or {}))
                yield show_image(path)
                for number, model in enumerate(models.values()):
                    for answer in live_answers(model, image_query):
                        yield [
                            value
                            for i, column in enumerate(columns)
                            for value in column.values(gr, answer if i == number else None, least=least)
                        ]

        def filter_boxes(least: float, *results: Result | None) -> list[Any]:
            """Draw the boxes of the last answers again. No model is queried."""
            return [gr.skip() if one is None else one.annotated(min_confidence=least) for one in results]

        outputs = [part for column in columns for part in column.parts]
        options = {"show_progress": "minimal", "api_visibility": "private"}
        image.change(show_image, inputs=[image], outputs=outputs, **options)
        task.change(lambda name: gr.update(info=_hint(name)), inputs=[task], outputs=[query], **options)
        threshold.change(
            filter_boxes,
            inputs=[threshold, *(column.result for column in columns)],
            outputs=[column.image for column in columns],
            trigger_mode="always_last",
            **options,
        )
        # one query at a time, the others wait in the queue
        gr.on(
            [button.click, query.submit],
            run,
            inputs=[image, task, query, threshold],
            outputs=outputs,
            concurrency_limit=1,
            **options,
        )
    page.queue(max_size=16)
    return page


def _hint(task: str) -> str:
    """Return what to type as the query of a task."""
    return TASKS[task].query_hint


def _copy_image(query: ImageQuery, folder: Path, number: int) -> str:
    """Write the image of an example into a folder that the page may serve, and return the path."""
    path = folder / f"example_{number}.png"
    query.open_image().save(path)
    return str(path)


def _image_input(gr: Any) -> Any:
    """A field for an image: upload, drop, paste or webcam, with a preview."""
    image = gr.Image(
        type="filepath",
        image_mode=None,
        sources=["upload", "clipboard", "webcam"],
        label="Image",
        height=240,
        buttons=[],
        elem_id="input-image",
    )
    decode = image.preprocess

    def path_of(payload: Any) -> Any:
        # Gradio opens the file itself, and reports no error on the page for one that it cannot open.
        return payload.path if payload is not None and payload.path is not None else decode(payload)

    image.preprocess = path_of
    return image


@contextmanager
def _errors_on_page(gr: Any, path: str | None) -> Iterator[None]:
    """Show a ``DataError`` on the page, without the name of this machine's folder."""
    try:
        yield
    except DataError as error:
        message = str(error).replace(path, Path(path).name) if path else str(error)
        raise gr.Error(message, print_exception=False) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class _Column:
    """The fields of one model."""

    image: Any
    reading: Any
    text: Any
    result: Any
    """State: the last complete ``Result``, for the slider."""
    reasoning: Any | None
    """None for a model that writes no reasoning."""

    @classmethod
    def build(cls, gr: Any, role: str, model: Model) -> _Column:
        """Add the column of a model to the page, below its role and name."""
        with gr.Column(min_width=280):
            gr.Markdown(f"### {role}: `{model.name or role}`")
            image = gr.Image(
                label="Prediction",
                format="png",
                interactive=False,
                buttons=["download", "fullscreen"],
                elem_id=f"{role}-image",
            )
            reading = gr.Textbox(label="Answer", lines=2, elem_id=f"{role}-reading")
            reasoning = None
            if model.prompting.thinking:
                reasoning = gr.Textbox(label="Reasoning", lines=2, elem_id=f"{role}-reasoning")
            with gr.Accordion("Completion as generated", open=False):
                text = gr.Textbox(show_label=False, lines=2, elem_id=f"{role}-answer")
            return cls(image=image, reading=reading, text=text, result=gr.State(None), reasoning=reasoning)

    @property
    def parts(self) -> list[Any]:
        """The fields in the order of ``values``."""
        parts = [self.image, self.reading, self.text, self.result]
        return [*parts, self.reasoning] if self.reasoning is not None else parts

    def values(self, gr: Any, shown: LiveAnswer | None, *, least: float = 0.0, clear: bool = False) -> list[Any]:
        """The values of the fields; with None they are unchanged, or emptied with ``clear``.

        Until the answer is complete, the text is shown in place of the parsed answer. ``least``: smallest confidence of
        a box that is drawn.
        """
        if shown is None:
            return [None if clear else gr.skip() for _ in self.parts]
        result = shown.result
        # Gradio encodes an image each time it gets one, so an unchanged image is skipped
        image = shown.image if result is None else result.annotated(min_confidence=least)
        reading = shown.answer if result is None else shown.reading
        values = [image or gr.skip(), reading, shown.text, result if result is not None else gr.skip()]
        if clear:
            values[3] = None
        return [*values, shown.reasoning] if self.reasoning is not None else values


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
