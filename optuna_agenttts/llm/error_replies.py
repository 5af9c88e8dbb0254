"""Errors that servers reply, by HTTP status or in the body, and those of `huggingface_hub`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from optuna_agenttts.llm.client import setup_error
from optuna_agenttts.llm.outages import (
    NO_QUOTA,
    OVERLOADED,
    REMEDIES,
    connection_error,
    lacks_quota,
)
from optuna_agenttts.llm.port import (
    ChatError,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Usage,
    prompt_usage,
)
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.llm.token_counts import counted, first_mapping
from optuna_agenttts.llm.untrusted import as_mapping
from optuna_agenttts.support.plain import one_line

_RETRYABLE_STATUSES = {408, 409, 424, 425, 429, 499}
"""HTTP statuses below 500 of requests that may succeed later."""
_GATEWAY_TIMEOUT = 504
"""HTTP status of a gateway whose server did not reply in time."""
_MAX_TEXT = 20_000
"""Characters of an error that are searched; chosen by hand, far above the length of any."""
_MAX_NESTING = 5
"""Errors within errors that are read; chosen by hand."""
_REQUEST_AT_FAULT = re.compile(
    r"exceed\w{0,20} [^.]{0,40}context|context_(?:length|size|window)|model_not_found"
    r"|(?:prompt|input|request)s? (?:is |are )?too (?:long|large)",
    re.I,
)
"""Words of a server (llama.cpp, OpenAI, One API) that refuses a request with status 429 or 5xx."""
_SERVER_AT_FAULT = re.compile(
    r"model (?:was |is )?(?:unloaded|loading|not loaded)|has crashed", re.I
)
"""Words of a server (LM Studio) that replies with status 400 while its model restarts."""


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds that headers ask to wait, at least 0; None without valid ones.

    Reads ``Retry-After`` (RFC 9110, 10.2.3), ``retry-after-ms`` (Azure), and ``x-ratelimit-reset``
    of limits that are used up (OpenAI, Groq, OpenRouter).
    """
    found = {name.lower(): value.strip() for name, value in headers.items()}
    now = now or datetime.now(timezone.utc)
    resets = [
        _seconds(value, now)
        for name, value in found.items()
        if name.startswith("x-ratelimit-reset")
        and found.get(name.replace("reset", "remaining")) == "0"
    ]
    waits = (
        _seconds(found.get("retry-after-ms", "") + "ms", now),
        _seconds(found.get("retry-after", ""), now),
        max((wait for wait in resets if wait is not None), default=None),
    )
    return next((wait for wait in waits if wait is not None), None)


_DURATION = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)(ms|[smhd])")
_UNITS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_EPOCH = 1e9
"""Seconds since 1970 of the year 2001: larger numbers are times, in seconds or milliseconds."""


def _seconds(value: str, now: datetime) -> float | None:
    """Return the seconds in a header: a number, a duration ("6m0s"), or the time until a date."""
    if _DURATION.sub("", value) == "" and value:
        return sum(float(number) * _UNITS[unit] for number, unit in _DURATION.findall(value))
    try:
        seconds = float(value)
        if seconds >= _EPOCH:
            seconds = seconds / (1e3 if seconds >= 1e3 * _EPOCH else 1.0) - now.timestamp()
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=timezone.utc)
        seconds = (date - now).total_seconds()
    return max(0.0, seconds) if seconds < float("inf") else None


def http_error(status: int, headers: Mapping[str, str], text: str, where: str) -> ChatError:
    """Build the error for an HTTP status.

    Args:
        status: HTTP status.
        headers: Headers of the reply.
        text: Body of the reply, without secrets.
        where: Model and server, for the message.
    """
    kind, text = f"HTTP {status}", text[:_MAX_TEXT]
    body = one_line(text).removesuffix(".")
    message = f"{where}: HTTP {status}" + (f": {body}" if body else "")
    if lacks_quota(status, headers, text):
        remedy = REMEDIES[NO_QUOTA]
        return ChatUnavailableError(f"{message}. {remedy}", kind=NO_QUOTA, permanent=True)
    if kind in REMEDIES:
        message += f". {REMEDIES[kind]}"
    if 300 <= status < 400:
        message += f": it redirects to {one_line(headers.get('location', 'no URL'))}"
    if status == 400 and _SERVER_AT_FAULT.search(text):
        return ChatUnavailableError(message, kind=OVERLOADED)
    retryable = status in _RETRYABLE_STATUSES or status >= 500
    if retryable and not _REQUEST_AT_FAULT.search(text):
        # A gateway that stops waiting does not stop the model behind it.
        lost = status == _GATEWAY_TIMEOUT
        return ChatUnavailableError(
            message, kind=kind, retry_after=retry_after(headers), lost=lost
        )
    return ChatRefusedError(message, kind=kind)


_ENDED_BY = {
    "content_filter": re.compile(
        r"content_filter|content management policy|content_policy_violation"
        r"|data_?inspection_?failed",
        re.I,
    ),
    "length": re.compile(r"max_tokens or model output limit was reached", re.I),
}
"""Words of replies with status 400 that report how a completion ended (Azure and DashScope,
OpenAI)."""


def parse_refusal(
    status: int, headers: Mapping[str, str], text: str, request: ChatRequest, where: str
) -> Completion:
    """Parse a reply whose status is not 200.

    Args:
        status: HTTP status.
        headers: Headers of the reply.
        text: Body of the reply, without secrets.
        request: The request, to estimate its tokens.
        where: Model and server, for the message.

    Returns:
        An empty completion if the model thought up to `max_tokens`, or if the prompt was filtered.

    Raises:
        ChatError: The reply is an error.
    """
    start = text[:_MAX_TEXT]
    reasons = (reason for reason, words in _ENDED_BY.items() if words.search(start))
    if status != 400 or (reason := next(reasons, None)) is None:
        raise http_error(status, headers, text, where)
    generated = request.max_tokens if reason == "length" else 0
    return Completion("", Usage(prompt_usage(request).prompt_tokens, generated), reason)


def hub_error(error: Exception, *, key: str | None, where: str) -> ChatError:
    """Build the error for an exception of `huggingface_hub`, redacting the key that was sent."""
    kind = type(error).__name__
    if isinstance(error, httpx2.HTTPError):
        response = getattr(error, "response", None)
        if response is None:
            found = connection_error(error, where)
            # No completion was requested yet.
            found.lost = False
            return found
        text = redact(response.text, [key])
        return http_error(response.status_code, response.headers, text, where)
    if isinstance(error, ImportError):
        return setup_error(error)
    if isinstance(error, (ValueError, TypeError, AttributeError, LookupError)):
        # No token, an unknown provider, or a reply with an unexpected structure.
        return ChatRefusedError(f"{where}: {one_line(redact(str(error), [key]))}", kind=kind)
    return ChatUnavailableError(f"{where}: {kind}", kind=kind)


def error_of(reply: Mapping[str, Any]) -> Any:
    """Return the error in the body of a reply with status 200: a field, or the body itself."""
    error = reply.get("error") or reply.get("errors")
    if error and not isinstance(error, str):
        return error
    # The code of an error that is a text is beside it.
    if error or reply.get("object") == "error" or (not reply.get("choices") and _words(reply)):
        return reply
    # MiniMax.
    status = as_mapping(reply.get("base_resp"))
    return status if status.get("status_code") else None


def _error_fields(error: Any) -> dict[str, Any]:
    """Return the fields of an error and of the errors in it, which may be JSON in a text."""
    fields: dict[str, Any] = {}
    for _ in range(_MAX_NESTING):
        if isinstance(error, str) and error.lstrip().startswith("{"):
            with suppress(ValueError, RecursionError):
                error = json.loads(error, strict=False)
        if isinstance(error, str):
            fields["message"] = error
        error = as_mapping(error) or first_mapping(error)
        fields |= error
        error = next(filter(None, map(error.get, ("error", "detail", "message"))), None)
        if isinstance(error, list):
            break
    return fields


def _words(error: Any) -> str:
    """Return the server's description of an error."""
    fields = _error_fields(error)
    names = ("message", "detail", "status_msg", "msg", "title", "error")
    words = next(filter(None, map(fields.get, names)), "")
    words = words if isinstance(words, str) else json.dumps(words, default=str)
    # OpenRouter: the words of the provider behind it.
    raw = as_mapping(fields.get("metadata")).get("raw")
    return f"{words}: {raw}" if isinstance(raw, str) and raw else words


_PERMANENT = re.compile(
    r"quota|credit|billing|balance|auth|api.?key|permission|forbidden|not.?found|no such"
    r"|unexpected endpoint|invalid|unsupported|validation|context.?(?:length|window)|too long",
    re.IGNORECASE,
)
_TRANSIENT = re.compile(
    r"rate.?limit|too.?many|overload|throttl|exhausted|busy|time.?out|unavailable|again|loading",
    re.IGNORECASE,
)


def error_in_body(
    error: Any, where: str, headers: Mapping[str, str], usage: Usage | None
) -> ChatError:
    """Build the error for a body that is one despite HTTP status 200."""
    fields, words = _error_fields(error), _words(error)
    # Names of errors, such as "rate_limit_exceeded", are in these fields.
    labels = [fields.get(name) for name in ("code", "type", "error_type", "status")]
    texts = (label for label in labels if isinstance(label, str) and not label.isdecimal())
    names = " ".join(text for text in texts if text not in words)
    names = (f"{words} ({names})" if names else words)[:_MAX_TEXT]
    codes = (counted(fields, n) for n in ("code", "status", "status_code", "statusCode"))
    code = next((code for code in codes if 400 <= code < 600), 0)
    if not code and lacks_quota(429, headers, names):
        code = 429
    if code:
        found = http_error(code, headers, names, where)
    else:
        message = f"{where}: error in the reply: {one_line(words) or 'no description'}"
        transient, refused = bool(_TRANSIENT.search(names)), bool(_PERMANENT.search(names))
        kind = ChatRefusedError if refused and not transient else ChatUnavailableError
        label = OVERLOADED if transient and not refused else "error in reply"
        found = kind(message, kind=label, retry_after=retry_after(headers))
    found.usage = usage
    return found
