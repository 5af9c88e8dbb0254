"""Meaning of what servers reply: completions, also in unusual forms, and errors in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna_agenttts.llm.error_replies import error_in_body, error_of
from optuna_agenttts.llm.port import (
    FAILED_REASONS,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    usual_reason,
)
from optuna_agenttts.llm.token_counts import first_mapping, generated_tokens, read_usage
from optuna_agenttts.llm.untrusted import as_mapping
from optuna_agenttts.support.plain import one_line

_EVENT_FIELDS = ("data:", "event:", "id:", "retry:", ":")
"""Beginnings of lines of server-sent events; the last one is that of comments."""
_MAX_EVENTS = 60_000
"""Events of a reply, one a token at most servers. Chosen by hand: 4 MB, the default of
`max_reply_bytes`, hold fewer tokens in this form."""
_THOUGHT_FIELDS = (
    "reasoning_content",
    "reasoning",
    "thinking",
    "reasoning_details",
    "thinking_blocks",
)
"""Fields of a message with thoughts (vLLM and DeepSeek, OpenRouter and Groq, Ollama, OpenRouter,
LiteLLM)."""


def parse_completion(
    body: bytes, request: ChatRequest, where: str, headers: Mapping[str, str] | None = None
) -> Completion:
    """Parse the body of a chat completion.

    Args:
        body: Body of the reply, with HTTP status 200.
        request: The request, to estimate its tokens if the server does not count them.
        where: Model and server, for the message.
        headers: Headers of the reply.

    Returns:
        The completion; its text is empty if the model wrote none.

    Raises:
        ChatUnavailableError: The body is not JSON or has no text, or the server failed; a later
            reply may differ.
        ChatRefusedError: The body is an error that does not pass with time.
    """
    text = body.decode(json.detect_encoding(body), "replace").lstrip()
    events = text.startswith(_EVENT_FIELDS)
    try:
        values = _merged_events(text) if events else json.loads(text, strict=False)
        return completion_from_json(values, request, where, headers)
    except (ValueError, RecursionError) as error:
        raise ChatUnavailableError(
            f"{where}: the reply is not JSON ({type(error).__name__}): {one_line(text, 60)!r}",
            kind="no JSON",
            # Half a reply, rather than the page of a proxy.
            lost=events or text.startswith("{"),
        ) from None


def _merged_events(text: str) -> Any:
    """Return server-sent events, or JSON after comments (OpenRouter), as one completion."""
    # Not `splitlines`: texts may have other separators, such as U+2028.
    text = text.replace("\r", "\n")
    if text.count("\ndata:") >= _MAX_EVENTS:
        raise ValueError(f"more than {_MAX_EVENTS} events")
    lines = text.split("\n")
    data = [line[5:].strip() for line in lines if line.startswith("data:")]
    if not data:
        return json.loads("\n".join(x for x in lines if not x.startswith(":")), strict=False)
    parts = [part for part in data if part and part != "[DONE]"]
    # Decoded as one list, which takes a third of the time.
    decoded = json.loads(f"[{','.join(parts)}]", strict=False)
    if len(decoded) != len(parts):
        raise ValueError("an event is not a JSON value")
    events = [event for event in decoded if isinstance(event, dict)]
    merged = {key: value for event in events for key, value in event.items() if value}
    choices = [choice for event in events if (choice := first_mapping(event.get("choices")))]
    if not choices:
        return merged
    merged["choices"] = [{key: value for c in choices for key, value in c.items() if value}]
    choice = merged["choices"][0]
    if not ("finish_reason" in choice or "error" in merged or "[DONE]" in data):
        raise ValueError("the events have no end")
    # Chunks of text completions have neither.
    deltas = [
        as_mapping(c.get("delta") or c.get("message") or {"content": c.get("text")})
        for c in choices
    ]
    contents = [delta.get("content") for delta in deltas]
    message: dict[str, Any] = {
        name: "".join(filter(None, (_text(delta[name]) for delta in deltas if delta.get(name))))
        for name in ("refusal", *_THOUGHT_FIELDS)
    }
    message["content"] = [p for c in contents for p in (c if isinstance(c, list) else [c])]
    reason = "error" if "error" in merged else "stop"
    merged["choices"] = [{"finish_reason": reason, **choice, "message": message}]
    return merged


def completion_from_json(
    values: Any, request: ChatRequest, where: str, headers: Mapping[str, str] | None = None
) -> Completion:
    """Build a completion from decoded JSON; see `parse_completion`."""
    # Gemini's errors are in a list.
    reply = as_mapping(values) or {"error": first_mapping(values).get("error")}
    choice = first_mapping(reply.get("choices"))
    message = choice.get("message") or choice.get("delta")
    message = {"content": message} if isinstance(message, str) else as_mapping(message)
    content = message.get("content")
    # Text completions have no message.
    content = choice.get("text") if content is None else content
    text, thoughts = _text(content), _text(content, thoughts=True)
    places = (message, as_mapping(message.get("provider_specific_fields")), choice)
    fields = [place.get(name) for place in places for name in _THOUGHT_FIELDS]
    texts = (_text(field) or _text(field, thoughts=True) for field in fields)
    thoughts = thoughts or next(filter(None, texts), "")
    reason = choice.get("finish_reason")
    # SGLang's own form is an object.
    reason = as_mapping(reason).get("type", reason)
    own = reason if isinstance(reason, str) else ""
    reason = usual_reason(own)
    # The second one is Moonshot's, the third one Groq's.
    groq = as_mapping(reply.get("x_groq"))
    counts = as_mapping(reply.get("usage") or choice.get("usage") or groq.get("usage"))
    error = choice.get("error") or message.get("error") or error_of(reply)
    if error and not (text and reason and reason not in FAILED_REASONS):
        usage = read_usage(counts, request, text or "", where=where) if counts else None
        raise error_in_body(error, where, headers or {}, usage)
    parts = content if isinstance(content, list) else []
    refused = message.get("refusal") or any(as_mapping(p).get("type") == "refusal" for p in parts)
    # An empty list of choices is all that some servers send of a reply that was filtered.
    generated = (message or reply.get("choices") == []) and generated_tokens(counts)
    if content is None and (reason or thoughts or refused or generated):
        # Thoughts up to `max_tokens`, a refusal, a tool call, or nothing.
        text = ""
    if text is None:
        raise ChatUnavailableError(
            f"{where}: the reply has no text",
            kind="no text in reply",
            usage=read_usage(counts, request, "", where=where) if counts else None,
            # A message is there, so a model ran.
            lost=bool(message) and not counts,
        )
    reason = "refusal" if refused and not text else reason or "stop"
    usage = read_usage(counts, request, thoughts + text, reason, where)
    model = reply.get("model")
    found = Completion(text, usage, reason, thoughts, model if isinstance(model, str) else "")
    if found.failed:
        raise ChatUnavailableError(
            f"{where}: the server ended the reply early (finish reason {one_line(own, 40)!r})",
            kind="reply ended early",
            usage=usage if counts else None,
            lost=not counts,
        )
    return found


def _text(content: Any, *, thoughts: bool = False) -> str | None:
    """Return the text, or the thoughts, in the content of a message; None if there is none."""
    if isinstance(content, Mapping):
        # One part, or the object that a JSON schema asked for.
        content = [content] if {"type", "text"} & content.keys() else json.dumps(content)
    if isinstance(content, str):
        return None if thoughts else content
    if not isinstance(content, list):
        return None
    texts = []
    for part in content:
        fields = as_mapping(part) or {"text": part}
        kind = str(fields.get("type", "text"))
        thought = bool(fields.get("thought")) or "think" in kind or "reason" in kind
        if thought is thoughts and kind != "refusal":
            names = ("text", kind, "summary", "content")
            value = next(filter(None, map(fields.get, names)), None)
            value = as_mapping(value).get("value") or value
            value = None if isinstance(value, Mapping) else value
            texts.append(_text(value) or _text(value, thoughts=True) or "")
    return "".join(texts)
