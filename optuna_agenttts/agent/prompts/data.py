"""How data enters a prompt: delimited, escaped, bounded.

Names, descriptions and values come from users, and through them from anywhere. Each is written
as a JSON string, in which angle brackets are escaped too, so that no value can end the block of
data that it stands in.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

_MAX_TEXT = 600


def quote(value: Any, longest: int = _MAX_TEXT) -> str:
    """A value as JSON, without angle brackets and line breaks, cut where it is too long."""
    if isinstance(value, str) and len(value) > longest:
        value = value[: longest - 1] + "…"
    text = json.dumps(value, ensure_ascii=False, default=str)
    escaped = {"<": "\\u003c", ">": "\\u003e", "\u2028": "\\u2028", "\u2029": "\\u2029"}
    for character, replacement in escaped.items():
        text = text.replace(character, replacement)
    return text


def block(name: str, lines: Iterable[str]) -> str:
    """Lines of data between tags; nothing where there are no lines."""
    body = "\n".join(lines)
    return f"<{name}>\n{body}\n</{name}>" if body else ""


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Rows with bars between their cells."""
    return [" | ".join(row) for row in (header, *rows)]


def sections(parts: Iterable[str]) -> str:
    """Parts of a prompt, without the empty ones."""
    return "\n\n".join(part for part in parts if part)
