"""URLs of servers, and bodies of requests."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.port import Message
from optuna_agenttts.support.plain import one_line

_API_ROOT = re.compile(r"/(v\d+\w*|deployments)(/|$)")
"""Paths that are those of an API, not of a server: ``/v1``, Gemini's ``/v1beta/openai``."""


def chat_url(base_url: str) -> str:
    """Return the URL of a server's chat completions, by default ``/v1/chat/completions``."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/")
    if not path.endswith("/chat/completions"):
        path += "/chat/completions" if _API_ROOT.search(path) else "/v1/chat/completions"
    return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))


def models_url(base_url: str) -> str:
    """Return the URL of the list of a server's models."""
    return chat_url(base_url).replace("/chat/completions", "/models")


def server_root(base_url: str) -> str:
    """Return the URL that a server's ``/info`` and ``/health`` are relative to."""
    parts = urlsplit(base_url)
    path = parts.path.rstrip("/").removesuffix("/chat/completions").removesuffix("/v1")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


def encode_chat_request(body: Mapping[str, Any], messages: tuple[Message, ...]) -> bytes:
    """Encode a chat completion request, given its messages and all other fields."""
    return f'{json.dumps(body)[:-1]}, "messages": {_encode_messages(messages)}}}'.encode()


@lru_cache(maxsize=256)
def _encode_messages(messages: tuple[Message, ...]) -> str:
    """Encode messages, cached: many samples are drawn for the same long messages."""
    return json.dumps([{"role": m.role, "content": m.content} for m in messages])


def split_url(url: str) -> SplitResult | None:
    """Split the URL of a server; return None if it is invalid."""
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return parts if valid and not any(c.isspace() for c in url) else None


def check_base_url(owner: str, url: str) -> None:
    """Raise `AgentTTSError` if the `base_url` of a class is invalid or contains credentials."""
    parts = split_url(url)
    if parts is None:
        raise AgentTTSError(
            f"{owner}: `base_url` must be a URL such as 'http://127.0.0.1:8080', got "
            f"{one_line(redact_url(url))!r}."
        )
    if parts.username or parts.password:
        raise AgentTTSError(
            f"{owner}: `base_url` contains a user name or password: pass the key as `api_key`, "
            "which is kept out of logs and storages."
        )


def is_loopback(url: str | None) -> bool:
    """Return whether a URL refers to this machine."""
    host = "" if url is None else urlsplit(url).hostname or ""
    return host in ("localhost", "::1", "0.0.0.0") or host.startswith("127.")


def redact_url(url: str) -> str:
    """Return a URL without credentials, port, query and fragment, which may be secret."""
    try:
        parts = urlsplit(url)
        return urlunsplit((parts.scheme, parts.hostname or "", parts.path, "", ""))
    except ValueError:
        return "<invalid URL>"
