"""Text from outside on one line of a terminal, a log or a prompt."""

from __future__ import annotations


def one_line(text: str, length: int = 200) -> str:
    """Return the first `length` printable characters of an untrusted text, on one line."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text[: 4 * length]).split())
    return flat if len(flat) <= length else flat[: length - 1] + "…"
