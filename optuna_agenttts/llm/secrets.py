"""Keys: who may see which, and how they stay out of texts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from huggingface_hub import get_token

from optuna_agenttts.llm.port import ChatRefusedError

ApiKey = str | Callable[[], str] | None

_LIKELY = re.compile(r"\b(?:hf|sk|gsk|api)[_-][A-Za-z0-9_-]{12,}|(?i:bearer)\s+\S+")
_HOST = re.compile(r"[a-z0-9.-]+")
_HIDDEN = "[hidden]"
_SHORTEST = 8
"""Shorter keys ("none", "EMPTY") are placeholders, and parts of ordinary words."""


def is_hugging_face(url: str) -> bool:
    """Whether a URL belongs to Hugging Face itself, so that the user's token may go there.

    Spaces (``*.hf.space``) run anybody's code: a token for one of them must be given explicitly.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    return (
        parts.scheme == "https"
        and bool(_HOST.fullmatch(host))
        and (
            host == "huggingface.co"
            or host.endswith((".huggingface.co", ".endpoints.huggingface.cloud"))
        )
    )


def key_for(url: str | None, api_key: ApiKey) -> str | None:
    """The key to send to a URL (None: Hugging Face's router): the given one, or the user's token.

    The token that `huggingface_hub` finds (``HF_TOKEN`` or a saved login) goes to Hugging Face
    only. `huggingface_hub.InferenceClient` would send it to every host, over plain HTTP too.
    """
    key = api_key
    if callable(api_key):
        try:
            key = api_key()
        except ChatRefusedError:
            raise
        # The function is the user's: whatever it raises, there is no key.
        except Exception as error:
            raise ChatRefusedError(
                f"the function that should return the key raised {type(error).__name__}",
                kind="no key",
            ) from None
    if key is not None:
        if not (isinstance(key, str) and key.isascii() and key.isprintable()):
            raise ChatRefusedError(
                "the key holds characters that no HTTP header can: check for line breaks",
                kind="bad key",
            )
        return key
    return get_token() if url is None or is_hugging_face(url) else None


class LostKey:
    """Stands in for a key that did not travel with a pickle."""

    def __call__(self) -> str:
        """Say how to bring it.

        Raises:
            ChatRefusedError: Always.
        """
        raise ChatRefusedError(
            "the `api_key` was left behind when the model was pickled: give a function that "
            "returns it, such as `lambda: os.environ['MY_KEY']` at the top of a module",
            kind="key left behind",
        )

    def __repr__(self) -> str:
        """Say what it is."""
        return "<left behind>"


def redact(text: str, secrets: Iterable[str | None]) -> str:
    """A text without these secrets, and without what looks like one."""
    for secret in secrets:
        if secret and len(secret) >= _SHORTEST:
            text = text.replace(secret, _HIDDEN)
    return _LIKELY.sub(_HIDDEN, text)


def redact_bytes(content: bytes, secret: str | None) -> bytes:
    """What a server sent, without the key that it was sent: before any of it is cut."""
    if secret and len(secret) >= _SHORTEST:
        content = content.replace(secret.encode(), _HIDDEN.encode())
    return content


def one_line(text: str, length: int = 200) -> str:
    """The start of a text from elsewhere, printable, on one line."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"
