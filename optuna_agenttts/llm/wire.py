"""URLs of servers, and the forms in which they are asked for JSON that follows a schema."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.port import Message
from optuna_agenttts.llm.secrets import one_line

_NO_FORMAT = {400, 415, 422, 501}
"""What servers answer to a form of constraint that they do not know."""


def refuses_form(status: int, text: str) -> bool:
    """Whether an error may be about the form of constraint.

    llama-cpp-python's server (0.3.36) answers 500 to a form that it does not know.
    """
    return status in _NO_FORMAT or (status == 500 and "response_format" in text)


def chat_url(base_url: str) -> str:
    """Where chat completions of a server live: ``/v1/chat/completions`` unless the URL says."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if path.endswith("/v1") else "/v1/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def server_root(base_url: str) -> str:
    """Where ``/info`` and ``/health`` of a server live."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def schema_forms(schema: str | None) -> list[Mapping[str, Any]]:
    """Ways to ask for JSON that follows a schema, as servers read them; the last asks nothing.

    First the form of OpenAI, vLLM, SGLang and llama.cpp's own server. Then that of TGI
    (``value``) and of llama-cpp-python (``schema``), which accept each other's key.
    """
    if schema is None:
        return [{}]
    values = json.loads(schema)
    openai = {"type": "json_schema", "json_schema": {"name": "reply", "schema": values}}
    tgi = {"type": "json_object", "value": values, "schema": values}
    return [{"response_format": openai}, {"response_format": tgi}, {}]


def encoded(body: Mapping[str, Any], messages: tuple[Message, ...]) -> bytes:
    """Encode the body of a chat completion request; the messages are encoded once."""
    return f'{json.dumps(body)[:-1]}, "messages": {_messages_json(messages)}}}'.encode()


@lru_cache(maxsize=256)
def _messages_json(messages: tuple[Message, ...]) -> str:
    """Many samples are asked of the same messages, which may be long."""
    return json.dumps([{"role": m.role, "content": m.content} for m in messages])


def split_url(url: str) -> SplitResult | None:
    """The parts of a sound URL of a server; None if it is none."""
    try:
        parts = urlsplit(url)
        sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if sound and not any(c.isspace() for c in url) else None


def check_base_url(who: str, url: str) -> None:
    """See to it that a URL is that of a server, without a key in it.

    Args:
        who: Whose argument ``base_url`` it is, for the message.
        url: The URL.

    Raises:
        AgentTTSError: It is not.
    """
    parts = split_url(url)
    if parts is None:
        raise AgentTTSError(
            f"{who}: `base_url` is {one_line(shown_url(url))!r}: give one such as "
            "'http://127.0.0.1:8080'."
        )
    if parts.username or parts.password:
        raise AgentTTSError(
            f"{who}: `base_url` holds a user name or password: give the key as `api_key`, where "
            "it is kept out of logs and storage."
        )


def is_loopback(url: str | None) -> bool:
    """Whether a URL is this machine's own."""
    host = "" if url is None else urlsplit(url).hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def shown_url(url: str) -> str:
    """A URL without what may be secret."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.hostname or "", parts.path, "", ""))
    except ValueError:
        return "no URL"
