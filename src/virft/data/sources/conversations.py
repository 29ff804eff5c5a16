"""Question and answer in rows of other training tools.

Forms: ``problem`` and ``solution`` (Visual-RFT, VLM-R1's lists), ``conversations`` of ``from`` and ``value`` (LLaVA,
ShareGPT, VLM-R1), ``messages`` of ``role`` and ``content`` (OpenAI, Qwen, LLaMA-Factory, ms-swift), and ``query`` and
``response`` (ms-swift).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from virft.errors import DataError

_HUMAN = ("human", "user")
_MODEL = ("gpt", "assistant", "model", "bot")
IMAGE_KEYS = ("image", "images", "image_path", "image_paths")
"""Keys of the images of a row, in the order in which they are tried."""


class Turn(NamedTuple):
    """The last turn of a row."""

    question: Any
    """Text of the last human turn."""
    answer: Any
    """Text of the answer to it; lists and numbers of ``solution`` as they are."""
    column: str
    """Key of the answer, for messages."""


def turn_of(row: dict[str, Any]) -> Turn | None:
    """Return the last turn of a row; None if the row has none of the forms.

    Raises ``DataError`` for a conversation without a human turn that the model answers.
    """
    if "target" in row:
        return None
    for key in ("conversations", "messages"):
        if key in row:
            return _last_turn(row[key], key)
    for question, answer in (("problem", "solution"), ("query", "response")):
        if question in row and answer in row:
            return Turn(row[question], row[answer], answer)
    return None


def row_images(row: dict[str, Any]) -> list[str]:
    """Return the image paths of a row. Raises ``DataError`` if it has none, or something else."""
    given = [key for key in IMAGE_KEYS if key in row and row[key] is not None]
    if len(given) > 1:
        raise DataError(f"{given[0]} and {given[1]} are both given; expected one of them")
    found = row[given[0]] if given else _images_of_messages(row)
    paths = [_path_of(one) for one in (found if isinstance(found, list) else [found])]
    if not given and not paths:
        raise DataError("image is missing; expected a path inside the folder of the images")
    if not paths or not all(isinstance(path, str) and path.strip() for path in paths):
        raise DataError(f"{given[0] if given else 'image'} is {found!r:.60}; expected a path, or a list of paths")
    return [str(path) for path in paths]


def _path_of(value: Any) -> Any:
    """Return the path of {"path": ..}, as Hugging Face datasets and ms-swift write it; any other value unchanged."""
    return value["path"] if isinstance(value, dict) and isinstance(value.get("path"), str) else value


def _images_of_messages(row: dict[str, Any]) -> list[Any]:
    """Return the images in the parts of messages, as Qwen writes them."""
    found = []
    for message in row["messages"] if isinstance(row.get("messages"), list) else []:
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else []:
            if isinstance(part, dict) and part.get("image") is not None:
                image = part["image"]
                found.append(image.removeprefix("file://") if isinstance(image, str) else image)
    return found


def _last_turn(messages: Any, key: str) -> Turn:
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise DataError(f"{key} is {messages!r:.60}; expected a list of turns")
    said = [
        (message.get("role", message.get("from")), message.get("content", message.get("value"))) for message in messages
    ]
    for number in range(len(said) - 1, 0, -1):
        (before, question), (role, answer) = said[number - 1], said[number]
        if role in _MODEL and before in _HUMAN:
            return Turn(_text_of(question), _text_of(answer), "answer")
    raise DataError(f"{key} has no question of {_HUMAN[0]} or {_HUMAN[1]} that {_MODEL[0]} or {_MODEL[1]} answers")


def _text_of(content: Any) -> Any:
    """Return the text of a message: itself, or its text parts."""
    if not isinstance(content, list):
        return content
    texts = [part.get("text") for part in content if isinstance(part, dict) and part.get("text") is not None]
    return "\n".join(map(str, texts))
