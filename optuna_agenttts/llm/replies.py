"""Conversion of replies, HTTP errors and `huggingface_hub` exceptions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2
from huggingface_hub.errors import InferenceTimeoutError, OfflineModeIsEnabled

from optuna_agenttts.llm.outages import NO_QUOTA, REMEDIES, connection_error, lacks_quota
from optuna_agenttts.llm.port import (
    ChatError,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Usage,
    prompt_usage,
)
from optuna_agenttts.llm.secrets import one_line, redact

_RETRYABLE_STATUSES = {408, 409, 424, 425, 429}
"""HTTP statuses below 500 of requests that may succeed later."""
_GATEWAY_TIMEOUT = 504
"""HTTP status of a gateway whose server did not reply in time."""

HUB_ERRORS = (
    httpx2.HTTPError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    OSError,
    RuntimeError,
)
"""Exceptions that `huggingface_hub`'s client raises for failed calls."""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Parse a ``Retry-After`` header: seconds or a date (RFC 9110, 10.2.3).

    Args:
        headers: Headers of a reply.
        now: Current time. Default: the system's.

    Returns:
        Seconds to wait, at least 0; None if the header is missing or invalid.
    """
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


def http_error(status: int, headers: Mapping[str, str], text: str, where: str) -> ChatError:
    """Build the error for an HTTP status.

    Args:
        status: HTTP status.
        headers: Headers of the reply.
        text: Body of the reply, without secrets.
        where: Model and server, for the message.
    """
    kind = f"HTTP {status}"
    body = one_line(text)
    message = f"{where}: HTTP {status}" + (f": {body}" if body else "")
    if lacks_quota(status, headers, text):
        remedy = REMEDIES[NO_QUOTA]
        return ChatUnavailableError(f"{message}. {remedy}", kind=NO_QUOTA, permanent=True)
    if kind in REMEDIES:
        message += f". {REMEDIES[kind]}"
    if status in _RETRYABLE_STATUSES or status >= 500:
        # A gateway that stops waiting does not stop the model behind it.
        lost = status == _GATEWAY_TIMEOUT
        return ChatUnavailableError(
            message, kind=kind, retry_after=retry_after(headers), lost=lost
        )
    return ChatRefusedError(message, kind=kind)


def hub_error(error: Exception, *, key: str | None, where: str, timeout: float) -> ChatError:
    """Build the error for an exception of `huggingface_hub`.

    Args:
        error: Instance of one of `HUB_ERRORS`.
        key: API key that was sent, to redact it.
        where: Model and server, for the message.
        timeout: Timeout of the call, in seconds.
    """
    if isinstance(error, OfflineModeIsEnabled):
        return ChatRefusedError(
            f"{where}: HF_HUB_OFFLINE is set: unset it, or pass the URL of a server",
            kind="offline",
        )
    if isinstance(error, InferenceTimeoutError):
        return ChatUnavailableError(
            f"{where}: no reply within {timeout:g} s", kind="timeout", lost=True
        )
    kind = type(error).__name__
    if isinstance(error, httpx2.HTTPError):
        response = getattr(error, "response", None)
        if response is None:
            return connection_error(error, where)
        text = redact(response.text, [key])
        return http_error(response.status_code, response.headers, text, where)
    if isinstance(error, (ValueError, TypeError, AttributeError, KeyError)):
        # No token, an unknown provider, or a reply with an unexpected structure.
        return ChatRefusedError(f"{where}: {one_line(redact(str(error), [key]))}", kind=kind)
    return ChatUnavailableError(f"{where}: {kind}", kind=kind)


def parse_completion(body: bytes, request: ChatRequest, where: str) -> Completion:
    """Parse the body of a chat completion.

    Args:
        body: Body of the reply.
        request: The request, to estimate its tokens if the server does not count them.
        where: Model and server, for the message.

    Returns:
        The completion.

    Raises:
        ChatUnavailableError: The body is not JSON or has no text; a later reply may differ.
    """
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        start = one_line(body[:200].decode("utf-8", "replace"), 60)
        raise ChatUnavailableError(
            f"{where}: the reply is not JSON ({type(error).__name__}): {start!r}",
            kind="no JSON",
            # Half a reply, rather than the page of a proxy.
            lost=body.lstrip().startswith(b"{"),
        ) from None
    return completion_from_json(values, request, where)


def completion_from_json(values: Any, request: ChatRequest, where: str) -> Completion:
    """Build a completion from decoded JSON; see `parse_completion`."""
    choices = values.get("choices") if isinstance(values, Mapping) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, Mapping) else None
    text = message.get("content") if isinstance(message, Mapping) else None
    usage = values.get("usage") if isinstance(values, Mapping) else None
    counts = usage if isinstance(usage, Mapping) else {}
    reason = first.get("finish_reason") if isinstance(first, Mapping) else None
    if isinstance(message, Mapping) and text is None and reason == "length":
        # A model that thought up to `max_tokens`; other servers reply with an empty text.
        text = ""
    # An empty text is a valid completion.
    if not isinstance(text, str):
        raise ChatUnavailableError(
            f"{where}: the reply has no text",
            kind="no text in reply",
            usage=_usage(counts, request, "") if counts else None,
            # A message is there, so a model ran.
            lost=isinstance(message, Mapping) and not counts,
        )
    return Completion(
        text, _usage(counts, request, text), reason if isinstance(reason, str) else "stop"
    )


def _usage(counts: Mapping[str, Any], request: ChatRequest, text: str) -> Usage:
    """Return the tokens that a server counted, thoughts included; estimates of those missing."""
    prompt = _count(counts.get("prompt_tokens"))
    generated = _count(counts.get("completion_tokens"))
    total = _count(counts.get("total_tokens"))
    details = counts.get("completion_tokens_details")
    cached = counts.get("prompt_tokens_details")
    cached = cached.get("cached_tokens") if isinstance(cached, Mapping) else None
    thoughts = _count(details.get("reasoning_tokens") if isinstance(details, Mapping) else None)
    # Some servers (xAI) count thoughts apart from the completion, and in the total.
    generated += thoughts if thoughts > generated else 0
    generated = max(generated, total - prompt if prompt else 0)
    return Usage(
        prompt or prompt_usage(request).prompt_tokens,
        # At least the token that ends the reply.
        generated or max(1, len(text) // 4),
        # DeepSeek has a field of its own.
        cached_tokens=min(prompt, _count(cached) or _count(counts.get("prompt_cache_hit_tokens"))),
    )


def hub_reply_to_json(reply: Any) -> dict[str, Any]:
    """Convert `huggingface_hub`'s reply object, any field of which may be missing, to JSON."""
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
            name: getattr(usage, name, None)
            for name in (
                "prompt_tokens",
                "completion_tokens",
                "total_tokens",
                "completion_tokens_details",
                "prompt_tokens_details",
                "prompt_cache_hit_tokens",
            )
        },
    }


def _count(value: Any) -> int:
    """Return a server's token count; 0 if it is missing or invalid."""
    # Far above any context length; chosen by hand.
    valid = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**9
    return value if valid else 0
