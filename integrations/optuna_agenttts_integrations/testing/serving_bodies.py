"""What bodies of requests to `serving` hold, and bodies of replies.

Readers raise `RefusedError` for values that TGI refuses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

from optuna_agenttts.llm import Completion, Message, Usage
from optuna_agenttts_integrations.testing.serving_http import Dialect, RefusedError


def json_object(content: bytes) -> Mapping[str, Any]:
    """The JSON object that a body is."""
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise RefusedError(422, "the body is no JSON object", "validation")
    return values


def messages_of(values: Mapping[str, Any]) -> tuple[Message, ...]:
    """The conversation that a chat request holds."""
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusedError(422, "`messages` must be a list of messages", "validation")
    return tuple(_message(message) for message in messages)


def _message(values: Any) -> Message:
    role = values.get("role") if isinstance(values, dict) else None
    content = values.get("content") if isinstance(values, dict) else None
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise RefusedError(422, "each message needs `role` and `content`", "validation")
    return Message(role, content)


def positive_integer(values: Mapping[str, Any], name: str, default: int) -> int:
    """A whole number above 0."""
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RefusedError(422, f"`{name}` must be strictly positive", "validation")
    return value


def temperature_of(values: Mapping[str, Any], *, least: float) -> float:
    """The temperature, 1 unless given; ``top_p`` is checked and not used."""
    value = values.get("temperature")
    value = 1.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
        raise RefusedError(422, "`temperature` must be strictly positive", "validation")
    top = values.get("top_p")
    if top is not None and not (isinstance(top, (int, float)) and 0 < top < 1):
        raise RefusedError(422, "`top_p` must be > 0.0 and < 1.0", "validation")
    return float(value)


def stops_of(values: Mapping[str, Any], *, most: int, dialect: Dialect) -> tuple[str, ...]:
    """The strings that end a reply; OpenAI's API takes a single one, too."""
    stop = values.get("stop") or []
    if isinstance(stop, str) and dialect == "openai":
        stop = [stop]
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise RefusedError(422, "`stop` must be a list of strings", "validation")
    if len(stop) > most:
        raise RefusedError(422, f"`stop` holds more than {most}", "validation")
    return tuple(stop)


def schema_of(values: Mapping[str, Any], *, dialect: Dialect) -> str | None:
    """The JSON schema that a reply should follow, as JSON text, in the dialect's own form.

    TGI refuses other forms, servers of OpenAI's dialect ignore them.
    """
    form = values.get("response_format")
    if form is None:
        return None
    if dialect == "tgi" and not (isinstance(form, dict) and "value" in form):
        raise RefusedError(422, "response_format: missing field `value`", "validation")
    values = form if isinstance(form, dict) else {}
    kind, schema = values.get("type"), values.get("value" if dialect == "tgi" else "json_schema")
    if kind == "json_schema":
        schema = schema.get("schema") if isinstance(schema, dict) else None
    elif kind not in ("json", "json_object"):
        schema = None
    return schema if schema is None or isinstance(schema, str) else json.dumps(schema)


def texts_of(values: Mapping[str, Any]) -> list[str]:
    """The texts to embed."""
    found = values.get("input")
    texts = [found] if isinstance(found, str) else found
    if isinstance(texts, list) and texts and all(isinstance(t, str) and t for t in texts):
        return texts
    raise RefusedError(422, "`input` must be a text or a list of texts", "validation")


def chat_body(model: str, completion: Completion, usage: Usage, *, system: str) -> dict[str, Any]:
    """The body of a reply with a chat completion.

    Args:
        model: The model's name.
        completion: The completion.
        usage: Tokens used.
        system: What the server calls itself.
    """
    return {
        "id": "",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "system_fingerprint": system,
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": completion.text},
                "logprobs": None,
                "finish_reason": completion.finish_reason,
            }
        ],
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        },
    }
