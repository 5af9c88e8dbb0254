"""Meaning of what servers reply: completions, errors, and `huggingface_hub` exceptions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from optuna_agenttts.llm.client import setup_error
from optuna_agenttts.llm.outages import NO_QUOTA, REMEDIES, connection_error, lacks_quota
from optuna_agenttts.llm.port import (
    FAILED_REASONS,
    ChatError,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Usage,
    prompt_usage,
)
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.llm.untrusted import as_count, as_mapping, estimated_tokens, one_line

_RETRYABLE_STATUSES = {408, 409, 424, 425, 429}
"""HTTP statuses below 500 of requests that may succeed later."""
_GATEWAY_TIMEOUT = 504
"""HTTP status of a gateway whose server did not reply in time."""


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


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhd])")
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
    """Build the error for an HTTP status and a body without secrets."""
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


def parse_completion(
    body: bytes, request: ChatRequest, where: str, headers: Mapping[str, str] | None = None
) -> Completion:
    """Parse the body of a reply with HTTP status 200; the text is empty if there is none.

    Raises:
        ChatUnavailableError: The body is not JSON or has no text, or the server failed; a later
            reply may differ.
        ChatRefusedError: The body is an error that does not pass with time.
    """
    text = body.decode("utf-8-sig", "replace").lstrip()
    try:
        values = _merged_events(text) if text.startswith("data:") else json.loads(text)
        return completion_from_json(values, request, where, headers)
    except (ValueError, RecursionError) as error:
        raise ChatUnavailableError(
            f"{where}: the reply is not JSON ({type(error).__name__}): {one_line(text, 60)!r}",
            kind="no JSON",
            # Half a reply, rather than the page of a proxy.
            lost=text.startswith(("{", "data:")),
        ) from None


def _merged_events(text: str) -> Any:
    """Return server-sent events, which were not asked for, as one completion."""
    lines = [line.removeprefix("data:").strip() for line in text.splitlines() if "data:" in line]
    events = [as_mapping(json.loads(line)) for line in lines if line and line != "[DONE]"]
    choices = [_first(event.get("choices")) for event in events]
    deltas = [as_mapping(choice.get("delta") or choice.get("message")) for choice in choices]
    message = {
        name: "".join(map(_thoughts_in, (delta.get(name) for delta in deltas)))
        for name in _THOUGHT_FIELDS
    }
    message["content"] = "".join(_text(delta.get("content")) or "" for delta in deltas)
    reasons = [choice["finish_reason"] for choice in choices if choice.get("finish_reason")]
    if not reasons and "[DONE]" not in lines and not any("error" in event for event in events):
        raise ValueError("the events have no end")
    merged = {key: value for event in events for key, value in event.items() if value}
    choice = {"message": message, "finish_reason": reasons[-1] if reasons else "stop"}
    return {**merged, "choices": [choice]}


_THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
"""Fields of a message with thoughts (vLLM and DeepSeek, OpenRouter and Groq, Ollama)."""


def _thoughts_in(value: Any) -> str:
    """Return the thoughts in a field of a message: a text, or OpenRouter's list of parts."""
    return _text(value) or _text(value, thoughts=True) or ""


def completion_from_json(
    values: Any, request: ChatRequest, where: str, headers: Mapping[str, str] | None = None
) -> Completion:
    """Build a completion from decoded JSON; see `parse_completion`."""
    # Gemini's errors are in a list.
    reply = as_mapping(values) or {"error": _first(values).get("error")}
    choice = _first(reply.get("choices"))
    message = as_mapping(choice.get("message"))
    # The second one is that of text completions.
    text = _text(message.get("content") if message else choice.get("text"))
    thoughts = _text(message.get("content"), thoughts=True) or next(
        filter(None, (_thoughts_in(message.get(name)) for name in _THOUGHT_FIELDS)), ""
    )
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else ""
    counts = as_mapping(reply.get("usage"))
    error = choice.get("error") or message.get("error") or _error_of(reply)
    if error and not (text and reason and reason.lower() not in FAILED_REASONS):
        usage = _usage(counts, request, text or "") if counts else None
        raise _error_in_body(error, where, headers or {}, usage)
    refused = bool(message.get("refusal"))
    if text is None and message.get("content") is None:
        # Thoughts up to `max_tokens`, a refusal, a tool call, or nothing.
        text = "" if reason or thoughts or refused else None
    if text is None:
        raise ChatUnavailableError(
            f"{where}: the reply has no text",
            kind="no text in reply",
            usage=_usage(counts, request, "") if counts else None,
            # A message is there, so a model ran.
            lost=bool(message) and not counts,
        )
    usage = _usage(counts, request, thoughts + text, reason)
    reason = "refusal" if refused and not text else reason
    model = reply.get("model")
    found = Completion(
        text, usage, reason or "stop", thoughts, model if isinstance(model, str) else ""
    )
    if found.failed:
        raise ChatUnavailableError(
            f"{where}: the server ended the reply early (finish reason {one_line(reason, 40)!r})",
            kind="reply ended early",
            usage=usage if counts else None,
            lost=not counts,
        )
    return found


def _first(values: Any) -> Mapping[str, Any]:
    return as_mapping(values[0]) if isinstance(values, list) and values else {}


def _text(content: Any, *, thoughts: bool = False) -> str | None:
    """Return the text, or the thoughts, in the content of a message; None if there is none."""
    if isinstance(content, str):
        return None if thoughts else content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        fields = as_mapping(part) or {"text": part}
        kind = str(fields.get("type", "text"))
        if ("think" in kind or "reason" in kind) is thoughts:
            value = fields.get("text") or fields.get("summary") or fields.get(kind)
            texts.append(_text(as_mapping(value).get("value", value)) or "")
    return "".join(texts)


def _error_of(reply: Mapping[str, Any]) -> Any:
    """Return the error in the body of a reply: its own field, or the body itself."""
    if error := reply.get("error") or reply.get("errors"):
        return error
    if reply.get("object") == "error" or (not reply.get("choices") and _words(reply)):
        return reply
    # MiniMax.
    status = as_mapping(reply.get("base_resp"))
    return status if status.get("status_code") else None


def _words(error: Any) -> str:
    """Return the server's description of an error."""
    if isinstance(error, list):
        return _words(error[0]) if error else ""
    fields = as_mapping(error)
    names = ("message", "detail", "status_msg", "msg", "error")
    words = error if isinstance(error, str) else next(filter(None, map(fields.get, names)), "")
    # OpenRouter: the words of the provider behind it.
    raw = as_mapping(fields.get("metadata")).get("raw")
    words = words if isinstance(words, str) else json.dumps(words, default=str)
    return f"{words}: {raw}" if isinstance(raw, str) and raw else words


_PERMANENT = re.compile(
    r"quota|credit|billing|balance|auth|api.?key|permission|forbidden|not.?found|no such"
    r"|unexpected endpoint|invalid|unsupported|validation|context.?(?:length|window)|too long",
    re.IGNORECASE,
)
_TRANSIENT = re.compile(
    r"rate.?limit|too.?many|overload|throttl|busy|time.?out|unavailable|again|loading",
    re.IGNORECASE,
)


def _error_in_body(
    error: Any, where: str, headers: Mapping[str, str], usage: Usage | None
) -> ChatError:
    """Build the error for a body that is one despite HTTP status 200."""
    fields = _first(error) if isinstance(error, list) else as_mapping(error)
    words = _words(error)
    for name in ("code", "status", "status_code", "statusCode"):
        code = str(fields.get(name, ""))
        if code.isdecimal() and 400 <= int(code[:9]) < 600:
            found = http_error(int(code), headers, words, where)
            break
    else:
        message = f"{where}: error in the reply: {one_line(words) or 'no description'}"
        # Names of errors, such as "rate_limit_exceeded", are in these fields.
        names = f"{fields.get('code')} {fields.get('type')} {fields.get('error_type')} {words}"
        refused = _PERMANENT.search(names) and not _TRANSIENT.search(names)
        kind = ChatRefusedError if refused else ChatUnavailableError
        found = kind(message, kind="error in reply", retry_after=retry_after(headers))
    found.usage = usage
    return found


def _usage(counts: Mapping[str, Any], request: ChatRequest, text: str, reason: str = "") -> Usage:
    """Return the tokens that a server counted, thoughts included; estimates of those missing."""
    prompt = _count(counts.get("prompt_tokens"))
    generated = _count(counts.get("completion_tokens"))
    total = _count(counts.get("total_tokens"))
    details = as_mapping(counts.get("completion_tokens_details"))
    thoughts = _count(details.get("reasoning_tokens")) or _count(counts.get("reasoning_tokens"))
    # Some servers (xAI) count thoughts apart from the completion, and in the total.
    generated += thoughts if thoughts > generated else 0
    generated = max(generated, total - prompt if prompt else 0)
    # At least the token that ends the reply.
    guess = request.max_tokens if reason == "length" else max(1, int(estimated_tokens(text)))
    cached = _count(as_mapping(counts.get("prompt_tokens_details")).get("cached_tokens"))
    # DeepSeek has a field of its own.
    cached = cached or _count(counts.get("prompt_cache_hit_tokens"))
    missing = {"prompt_tokens": not prompt, "completion_tokens": bool(text) and not generated}
    return Usage(
        prompt or prompt_usage(request).prompt_tokens,
        generated or guess,
        thoughts,
        cached_tokens=min(prompt, cached),
        estimated=tuple(name for name, is_missing in missing.items() if is_missing),
    )


def _count(value: Any) -> int:
    """Return a server's token count; 0 if it is missing or invalid."""
    return as_count(value) or 0
