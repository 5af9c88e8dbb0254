"""Markdown whose texts cannot contain markup: names of users and models are not trusted."""

from __future__ import annotations

import re
from collections.abc import Sequence

from optuna_agenttts.report.document import (
    Bullets,
    Code,
    Line,
    Part,
    Section,
    Strong,
    Table,
    parts_of,
)
from optuna_agenttts.support.plain import shortened

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
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    escaped = _MARKUP.sub(r"\\\1", shortened(flat, most))
    return _BLOCK.sub(r"\1\\\2", _ADDRESS.sub(_JOINER, escaped))


def line(content: Line) -> str:
    """Escape the parts of a line, and mark them."""
    return "".join(map(_part, parts_of(content)))


def _part(part: Part) -> str:
    """Escape a part of a line, and keep the spaces around it."""
    text = part if isinstance(part, str) else part.text
    if isinstance(part, Code) and "`" not in text:
        return f"`{' '.join(text.split())}`"
    mark = "**" if isinstance(part, Strong) and text.strip() else ""
    start, end = text[: len(text) - len(text.lstrip())], text[len(text.rstrip()) :]
    return f"{start}{mark}{plain(text)}{mark}{end}" if text.strip() else text


def section(content: Section, level: int = 3) -> str:
    """Return a section below its title."""
    parts = [f"{'#' * level} {plain(content.title)}"]
    for block in content.blocks:
        if isinstance(block, Table):
            rows = [[line(cell) for cell in row] for row in block.rows]
            parts.append(table([plain(title) for title in block.head], rows))
        elif isinstance(block, Bullets):
            parts.append(bullets([line(item) for item in block.items]))
        else:
            parts.append(line(block.line))
    return "\n\n".join(parts)


def bullets(lines: Sequence[str]) -> str:
    """Return a list of lines that are Markdown."""
    return "\n".join(f"- {item}" for item in lines)


def table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose cells are Markdown."""
    lines = [" | ".join(f"{cell}{_PADDING}" for cell in cells) for cells in (titles, *rows)]
    lines.insert(1, " | ".join(["---"] * len(titles)))
    return "\n".join(f"| {row} |" for row in lines)


def code(text: str, most: int) -> str:
    """Return a text of several lines as it is, shortened in the middle."""
    shown = "".join(
        c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text.replace("\t", "    ")
    )
    longest = max(map(len, re.findall(r"`+", shown)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shortened(shown, most)}\n{fence}"
