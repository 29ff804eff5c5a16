"""Tokens that end a completion: one set for sampling, vLLM, SFT targets and saved files."""

from __future__ import annotations

from typing import Any

from jinja2 import TemplateError

TEMPLATE_ERRORS = (
    TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError,
)  # fmt: skip
"""Exceptions of a chat template: it is a program of its own."""
_REPLY = "reply"
"""Text of the assistant in a chat that is formatted to find what follows it."""


def stop_token_ids(model: Any) -> set[int]:
    """Return the stop tokens of the model's generation config, else of its text configuration."""
    found = model.generation_config.eos_token_id if model.generation_config is not None else None
    if found is None:
        found = model.config.get_text_config().eos_token_id
    if found is None:
        return set()
    return set(found) if isinstance(found, list | tuple) else {int(found)}


def end_of_turn_id(tokenizer: Any) -> int | None:
    """Return the special token with which the chat template closes the assistant's turn; None if there is none."""
    parts = [{"type": "text", "text": _REPLY}]
    for content in (parts, _REPLY):
        chat = [{"role": "user", "content": content}, {"role": "assistant", "content": content}]
        try:
            text = str(tokenizer.apply_chat_template(chat, tokenize=False))
        except TEMPLATE_ERRORS:  # a template without assistant turns, or for the other format
            continue
        _, found, after = text.rpartition(_REPLY)
        if not found:
            continue
        ids = tokenizer(after.lstrip(), add_special_tokens=False).input_ids
        special = {token for token, entry in tokenizer.added_tokens_decoder.items() if entry.special}
        return int(ids[0]) if ids and ids[0] in special else None
    return None


def end_token_id(model: Any, tokenizer: Any) -> int:
    """Return the token that ends a completion in an SFT target.

    It is the chat template's end of turn, else the tokenizer's end token, else the smallest stop token.
    """
    for token in (end_of_turn_id(tokenizer), tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return min(stop_token_ids(model))


def complete_stop_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Add the tokenizer's end token and the template's end of turn to the model's generation config.

    Returns the ids that it lacked. Checkpoint mergers of other trainers write a generation config whose only stop token
    is the end of a text, so that a chat model writes on behind its answer.
    """
    known = stop_token_ids(model)
    own = (tokenizer.eos_token_id, end_of_turn_id(tokenizer))
    missing = sorted({int(token) for token in own if token is not None} - known)
    if missing and model.generation_config is not None:
        model.generation_config.eos_token_id = [*sorted(known), *missing]
    return missing
