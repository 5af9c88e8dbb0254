"""API keys: which server receives which key, and redaction from texts."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from optuna_agenttts.llm.port import ChatRefusedError

ApiKey = str | Callable[[], str] | None
Headers = Mapping[str, str] | Callable[[], Mapping[str, str]] | None
_T = TypeVar("_T")

_KEY_PATTERN = re.compile(
    r"\b(?:hf|gsk|r8|api_org)_[A-Za-z0-9]{16,}|\b(?:sk|csk|xai|nvapi|pplx)-[\w-]{12,}"
    r"|(?i:bearer)\s+\S+"
)
"""Keys of providers, but not names such as "hf-internal-testing" or "sk_learn"."""
_HOST_PATTERN = re.compile(r"[a-z0-9.-]+")
_REDACTED = "[hidden]"
_HEADER_PATTERN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_SECRET_HEADER_PATTERN = re.compile(r"auth|cookie|key|password|secret|token", re.IGNORECASE)
"""Names of headers and of their parts (RFC 9110, 5.1), and of those whose values are secret."""
_MIN_SECRET_LENGTH = 8
"""Characters; shorter keys ("none", "EMPTY") are placeholders that occur in ordinary words."""
_MIN_KEY_LENGTH = 16
"""Characters of a key that is replaced in data. Chosen by hand: keys of providers have 32 or more.
"""


def is_hugging_face(url: str) -> bool:
    """Return whether a URL belongs to Hugging Face, so that the user's token may be sent there.

    Spaces (``*.hf.space``) do not count, as they run third-party code.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    return (
        parts.scheme == "https"
        and bool(_HOST_PATTERN.fullmatch(host))
        and (
            host == "huggingface.co"
            or host.endswith((".huggingface.co", ".endpoints.huggingface.cloud"))
        )
    )


def key_for(url: str | None, api_key: ApiKey) -> str | None:
    """Return the API key to send to a URL (None: Hugging Face's router): the one given, if any.

    The token that `huggingface_hub` finds (``HF_TOKEN`` or a saved login) is sent to Hugging Face
    only. `huggingface_hub.InferenceClient` would send it to every host, also over plain HTTP.

    Raises:
        ChatRefusedError: The function failed, or the key is not valid in an HTTP header.
    """
    key = _value(api_key, "api_key")
    if key is not None:
        if not _is_header_value(key):
            raise ChatRefusedError(
                "the API key contains characters that are invalid in HTTP headers: check it for "
                "line breaks",
                kind="bad key",
            )
        return key
    if url is None or is_hugging_face(url):
        # Importing huggingface_hub takes a third of a second, and few programs need it.
        from huggingface_hub import get_token

        return get_token()
    return None


def headers_for(key: str | None, headers: Headers) -> dict[str, str]:
    """Return the headers to send: a key as bearer token, and those that the user gave.

    Raises:
        ChatRefusedError: The function failed, or a header is invalid.
    """
    sent = {"authorization": f"Bearer {key}"} if key else {}
    given = _value(headers, "headers") or {}
    if not isinstance(given, Mapping):
        raise ChatRefusedError("`headers` must map names of headers to texts", kind="bad key")
    for name, value in given.items():
        if not (isinstance(name, str) and _HEADER_PATTERN.fullmatch(name)):
            raise ChatRefusedError("`headers` has an invalid name of a header", kind="bad key")
        if not _is_header_value(value):
            raise ChatRefusedError(f"the header {name!r} has an invalid value", kind="bad key")
        sent[name.lower()] = value
    return sent


def secret_values(headers: Mapping[str, str]) -> list[str]:
    """Return the secrets among the values of headers."""
    return [
        value.removeprefix("Bearer ")
        for name, value in headers.items()
        if _SECRET_HEADER_PATTERN.search(name)
    ]


def _value(given: _T | Callable[[], _T], name: str) -> _T:
    """Return the value of an argument that may be a function."""
    if not callable(given):
        return given
    try:
        return given()
    except ChatRefusedError:
        raise
    # A user's function may raise anything; its message may contain secrets.
    except Exception as error:
        raise ChatRefusedError(
            f"`{name}` failed: the function raised {type(error).__name__}", kind="no key"
        ) from None


def _is_header_value(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and value.isprintable()


def picklable_key(api_key: Any) -> Any:
    """Return what a pickle may contain of an API key or headers: a function, but no key."""
    if isinstance(api_key, (str, Mapping)) and api_key:
        return UnpickledKey()
    # Methods of `os.environ` would be pickled together with all variables.
    if isinstance(api_key, partial) and getattr(api_key.func, "__self__", None) is os.environ:
        return partial(_from_environment, api_key.func.__name__, *api_key.args)
    return api_key


def _from_environment(method: str, *arguments: str) -> str:
    value: str = getattr(os.environ, method)(*arguments)
    return value


class UnpickledKey:
    """Placeholder for an API key that was not pickled."""

    def __call__(self) -> NoReturn:
        """Raise an exception that explains how to pass the key."""
        raise ChatRefusedError(
            "`api_key` and `headers` are not pickled when given as values: pass a function that "
            "returns them, such as functools.partial(os.getenv, 'MY_KEY')",
            kind="key not pickled",
        )

    def __repr__(self) -> str:
        """Return a text without the key."""
        return "<not pickled>"


def redact(text: str, secrets: Iterable[str | None]) -> str:
    """Replace secrets, and anything that looks like an API key, in a message to people."""
    for secret in secrets:
        if secret and len(secret) >= _MIN_SECRET_LENGTH:
            text = text.replace(secret, _REDACTED)
    return _KEY_PATTERN.sub(_REDACTED, text)


def hide_keys(text: str, keys: Iterable[str | None]) -> str:
    """Replace API keys, and nothing else, in data that a server sent.

    Placeholders ("ollama", "sk-no-key-required") occur in ordinary text. They are shorter, or have
    neither digits nor capitals, which keys have.
    """
    for key in keys:
        if key and len(key) >= _MIN_KEY_LENGTH and re.search("[A-Z0-9]", key):
            text = text.replace(key, _REDACTED)
    return text
