"""Markdown whose texts cannot contain markup: names of users and models are not trusted."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+!|~$&-])")
_ADDRESS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?=@)", re.IGNORECASE)
"""Places in bare addresses, which become links also if they are escaped."""
_JOINER = "\N{WORD JOINER}"
"""Character without width."""
_BLOCK = re.compile(r"^(\d+)([.)])(?=\s|$)")
"""The number of an ordered list."""

_PADDING = "\N{NO-BREAK SPACE}" * 3
"""Space at the right of a cell: the dashboard's tables have none."""


def plain(text: str, most: int = 0) -> str:
    """Escape a text for one line of Markdown, and shorten it in the middle.

    Args:
        text: The text; line breaks become spaces.
        most: Maximum number of characters; 0 for no limit.
    """
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    escaped = _MARKUP.sub(r"\\\1", shortened(line, most))
    return _BLOCK.sub(r"\1\\\2", _ADDRESS.sub(_JOINER, escaped))


def prose(text: str) -> str:
    """Escape a sentence in which code stands between backticks."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return plain(text)
    return "".join(
        f"`{' '.join(part.split())}`" if index % 2 and part.strip() else _between(part)
        for index, part in enumerate(parts)
    )


def _between(part: str) -> str:
    """Escape a part of a sentence, and keep the spaces around it."""
    start, end = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
    return f"{start}{plain(part)}{end}" if part.strip() else part


def shortened(text: str, most: int) -> str:
    """Shorten a text in the middle to a number of characters; 0 for no limit."""
    if not most or len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end]}…{text[len(text) - end :]}"


def bullets(lines: Sequence[str]) -> str:
    """Return a list of lines that are Markdown."""
    return "\n".join(f"- {line}" for line in lines)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown."""
    lines = [" | ".join(f"{cell}{_PADDING}" for cell in cells) for cells in (titles, *rows)]
    lines.insert(1, " | ".join(["---"] * len(titles)))
    return "\n".join(f"| {line} |" for line in lines)


def code(text: str, most: int) -> str:
    """Return a text of several lines as it is, shortened in the middle."""
    shown = "".join(
        c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text.replace("\t", "    ")
    )
    longest = max(map(len, re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shortened(shown, most)}\n{fence}"
