"""Formatting of untrusted data in prompts: delimited, escaped, bounded.

Names, descriptions and values come from users and third parties. Each is written as a JSON string
with escaped angle brackets, so that no value can close the block around it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from optuna_agenttts.support.plain import amount_text

_MAX_TEXT = 600
"""Maximum number of characters of a string; chosen by hand."""


def quote(value: Any, max_length: int = _MAX_TEXT) -> str:
    """Return a value as JSON without angle brackets and line breaks; truncate long strings."""
    if isinstance(value, str) and len(value) > max_length:
        value = value[: max_length - 1] + "…"
    text = json.dumps(value, ensure_ascii=False, default=str)
    escaped = {"<": "\\u003c", ">": "\\u003e", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    for character, replacement in escaped.items():
        text = text.replace(character, replacement)
    return text


def amount(value: float) -> str:
    """Format a cost as `amount_text` does, without commas, which separate items in prompts."""
    return amount_text(value).replace(",", "")


def block(name: str, lines: Iterable[str]) -> str:
    """Return lines between tags; empty if there are no lines."""
    body = "\n".join(lines)
    return f"<{name}>\n{body}\n</{name}>" if body else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table, with cells separated by bars."""
    return [" | ".join(row) for row in (header, *rows)]


def sections(parts: Iterable[str]) -> str:
    """Join the non-empty parts of a prompt."""
    return "\n\n".join(part for part in parts if part)
