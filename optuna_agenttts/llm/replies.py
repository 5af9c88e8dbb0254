"""What servers answer, and what `huggingface_hub` raises: to a completion or a named error."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from huggingface_hub.errors import InferenceTimeoutError, OfflineModeIsEnabled

from optuna_agenttts.llm.port import (
    ChatError,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Usage,
)
from optuna_agenttts.llm.secrets import one_line, redact

_WORTH_REPEATING = {408, 409, 424, 425, 429}

HUB_ERRORS = (
    httpx2.HTTPError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
)
"""What `huggingface_hub`'s client raises where a call gives nothing."""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks for: a number, or a date (RFC 9110, 10.2.3)."""
    value = next((v for k, v in headers.items() if k.lower() == "retry-after"), "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - (now or datetime.now(timezone.utc))).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None


def error_of(status: int, headers: Mapping[str, str], text: str, where: str) -> ChatError:
    """The error that an HTTP status means.

    Args:
        status: The status.
        headers: The headers of the reply.
        text: Its body, without secrets.
        where: Who answered, for the message.
    """
    kind = f"HTTP {status}"
    said = one_line(text)
    message = f"{where}: HTTP {status}" + (f": {said}" if said else "")
    if status in _WORTH_REPEATING or status >= 500:
        return ChatUnavailableError(message, kind=kind, retry_after=retry_after(headers))
    return ChatRefusedError(message, kind=kind)


def hub_error(error: Exception, *, key: str | None, where: str, timeout: float) -> ChatError:
    """The error that one of `HUB_ERRORS` means.

    Args:
        error: What the client raised.
        key: The key that was sent.
        where: Who answers, for the message.
        timeout: The most seconds that the call might take.
    """
    if isinstance(error, OfflineModeIsEnabled):
        return ChatRefusedError(
            f"{where}: HF_HUB_OFFLINE is set: unset it, or give the URL of a server",
            kind="offline",
        )
    if isinstance(error, InferenceTimeoutError):
        return ChatUnavailableError(f"{where}: no reply within {timeout:g} s", kind="timeout")
    kind = type(error).__name__
    if isinstance(error, httpx2.HTTPError):
        response = getattr(error, "response", None)
        if response is None:
            return ChatUnavailableError(f"{where}: {kind}", kind=kind)
        text = redact(response.text, [key])
        return error_of(response.status_code, response.headers, text, where)
    if isinstance(error, (ValueError, TypeError, AttributeError, KeyError)):
        # No token, no such provider, or a reply of unexpected shape: the client says so.
        return ChatRefusedError(f"{where}: {one_line(redact(str(error), [key]))}", kind=kind)
    return ChatUnavailableError(f"{where}: {kind}", kind=kind)


def parse_completion(body: bytes, request: ChatRequest, where: str) -> Completion:
    """Read a chat completion.

    Raises:
        ChatUnavailableError: It is none: no JSON, or without a text. A later reply may be one.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        start = one_line(body[:200].decode("utf-8", "replace"), 60)
        raise ChatUnavailableError(
            f"{where}: the reply is no JSON ({type(error).__name__}): {start!r}", kind="no JSON"
        ) from None
    return completion_of(values, request, where)


def completion_of(values: Any, request: ChatRequest, where: str) -> Completion:
    """Read a chat completion from decoded JSON; see `parse_completion`."""
    choices = values.get("choices") if isinstance(values, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, Mapping) else None
    text = message.get("content") if isinstance(message, Mapping) else None
    # An empty text is a completion: a model may have nothing to say.
    if not isinstance(first, Mapping) or not isinstance(text, str):
        raise ChatUnavailableError(f"{where}: the reply has no text", kind="no text in reply")
    reason = first.get("finish_reason")
    usage = values.get("usage")
    counts = usage if isinstance(usage, Mapping) else {}
    asked = sum(len(m.content) for m in request.messages)
    return Completion(
        text,
        Usage(
            _count(counts.get("prompt_tokens"), asked),
            _count(counts.get("completion_tokens"), len(text)),
        ),
        reason if isinstance(reason, str) else "stop",
    )


def plain(reply: Any) -> dict[str, Any]:
    """What huggingface_hub read, as JSON-ready values; its fields may be missing."""
    choice = (getattr(reply, "choices", None) or [None])[0]
    message = getattr(choice, "message", None)
    usage = getattr(reply, "usage", None)
    return {
        "choices": [
            {
                "message": {"content": getattr(message, "content", None)},
                "finish_reason": getattr(choice, "finish_reason", None),
            }
        ],
        "usage": {
            name: getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")
        },
    }


def _count(value: Any, characters: int) -> int:
    """A number of tokens; where the server states none, guessed at four characters each."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9:
        return value
    return characters // 4
