"""Limits, request bodies and reply bodies of the loopback server.

Readers raise `RefusedError` for values that TGI refuses.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from optuna_agenttts.llm import Completion, Message, Usage
from optuna_agenttts.llm.untrusted import decode_json
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.testing.serving_http import RefusedError

Dialect = Literal["tgi", "openai"]
"""API of a server: TGI's own, or the one that OpenAI-compatible servers share."""


def count_words(text: str) -> int:
    """Return the number of words, separated by white space, of a text.

    Args:
        text: The text.
    """
    return len(text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Limits of a server; requests beyond them are refused as by TGI.

    The defaults are those of a server of a model with 32,768 positions, with TGI's defaults for
    the number of requests and of stop sequences.

    Args:
        max_input_tokens: Maximum number of tokens of a prompt, or of a text to embed.
        max_total_tokens: Maximum number of tokens of a prompt and its reply together. A request
            without a maximum reply length gets ``max_total_tokens - max_input_tokens``.
        max_concurrent_requests: Maximum number of requests in progress; more are answered 429.
        max_stop_sequences: Maximum number of stop strings of a request.
        count: Function from a text to its number of tokens. It decides about the limits, and
            gives the usage if a chat model reports none. Pass a tokenizer for real models.

    Raises:
        PipelineError: The limits leave no room for a request.
    """

    max_input_tokens: int = 32000
    max_total_tokens: int = 32768
    max_concurrent_requests: int = 128
    max_stop_sequences: int = 4
    count: Callable[[str], int] = count_words

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.max_input_tokens < self.max_total_tokens:
            raise PipelineError(
                "ServerLimits: 0 < `max_input_tokens` < `max_total_tokens` must hold, got "
                f"{self.max_input_tokens!r} and {self.max_total_tokens!r}."
            )
        if self.max_concurrent_requests < 1 or self.max_stop_sequences < 0:
            raise PipelineError(
                "ServerLimits: `max_concurrent_requests` must be at least 1 and "
                f"`max_stop_sequences` at least 0, got {self.max_concurrent_requests!r} and "
                f"{self.max_stop_sequences!r}."
            )

    @property
    def default_max_tokens(self) -> int:
        """Maximum number of tokens of a reply if the request does not set it."""
        return self.max_total_tokens - self.max_input_tokens

    def check(self, prompt: int, generated: int) -> None:
        """Raise an error if a request has too many tokens.

        Args:
            prompt: Tokens of the prompt.
            generated: Maximum number of tokens of the reply.

        Raises:
            RefusedError: The request exceeds the limits.
        """
        if prompt + generated > self.max_total_tokens:
            raise RefusedError(
                422,
                f"`inputs` tokens + `max_new_tokens` must be <= {self.max_total_tokens}. Given: "
                f"{prompt} `inputs` tokens and {generated} `max_new_tokens`",
                "validation",
            )
        if prompt > self.max_input_tokens:
            message = f"`inputs` must have at most {self.max_input_tokens} tokens. Given: {prompt}"
            raise RefusedError(422, message, "validation")


def json_object(content: bytes) -> Mapping[str, Any]:
    """Return the JSON object of a body."""
    values = decode_json(content)
    if not isinstance(values, dict):
        raise RefusedError(422, "the body must be a JSON object", "validation")
    return values


def messages_of(values: Mapping[str, Any]) -> tuple[Message, ...]:
    """Return the messages of a chat request."""
    messages = values.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusedError(422, "`messages` must be a list of messages", "validation")
    return tuple(_message(message) for message in messages)


def _message(values: Any) -> Message:
    """Return one message of a chat request."""
    role = values.get("role") if isinstance(values, dict) else None
    content = values.get("content") if isinstance(values, dict) else None
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise RefusedError(422, "each message needs `role` and `content`", "validation")
    return Message(role, content)


def positive_integer(values: Mapping[str, Any], name: str, default: int) -> int:
    """Return an integer above 0, or the default if it is missing."""
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RefusedError(422, f"`{name}` must be strictly positive", "validation")
    return value


def temperature_of(values: Mapping[str, Any], *, least: float) -> float:
    """Return the temperature, by default 1; check ``top_p``, which is not used."""
    value = values.get("temperature")
    value = 1.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
        raise RefusedError(422, "`temperature` must be strictly positive", "validation")
    top = values.get("top_p")
    if top is not None and not (isinstance(top, (int, float)) and 0 < top < 1):
        raise RefusedError(422, "`top_p` must be > 0.0 and < 1.0", "validation")
    return float(value)


def stops_of(values: Mapping[str, Any], *, most: int, dialect: Dialect) -> tuple[str, ...]:
    """Return the stop strings; OpenAI's API also accepts a single string."""
    stop = values.get("stop") or []
    if isinstance(stop, str) and dialect == "openai":
        stop = [stop]
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise RefusedError(422, "`stop` must be a list of strings", "validation")
    if len(stop) > most:
        raise RefusedError(422, f"`stop` must have at most {most} strings", "validation")
    return tuple(stop)


def schema_of(values: Mapping[str, Any], *, dialect: Dialect) -> str | None:
    """Return the JSON schema of ``response_format`` as JSON text, or None.

    Each dialect has its own format of ``response_format``. TGI refuses any other, and
    OpenAI-compatible servers ignore it.
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
    """Return the texts to embed."""
    found = values.get("input")
    texts = [found] if isinstance(found, str) else found
    if isinstance(texts, list) and texts and all(isinstance(t, str) and t for t in texts):
        return texts
    raise RefusedError(422, "`input` must be a text or a list of texts", "validation")


def chat_body(model: str, completion: Completion, usage: Usage, *, system: str) -> dict[str, Any]:
    """Return the body of a reply with a chat completion.

    Args:
        model: Name of the model.
        completion: The completion.
        usage: Tokens of prompt and completion.
        system: Kind of server, sent as ``system_fingerprint``.
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
