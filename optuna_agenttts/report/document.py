"""Sections of paragraphs, lists and tables, to be rendered as text, HTML or Markdown.

Texts are as they were given: each renderer escapes all of them for its medium.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Strong:
    """Text that stands out."""

    text: str


@dataclass(frozen=True, slots=True)
class Code:
    """Text that is code."""

    text: str


@dataclass(frozen=True, slots=True)
class Interval:
    """Interval of a value in a cell, which HTML also draws.

    Args:
        text: Its ends as text.
        value: The value.
        ends: Its ends, in the same unit; None if they are not known.
        scale: Values at the edges of the drawing. Default: the limits of the column's intervals.
        marked: Value that is marked in the drawing; None for none.
    """

    text: str
    value: float
    ends: tuple[float, float] | None
    scale: tuple[float, float] | None = None
    marked: float | None = None


Part: TypeAlias = str | Strong | Code | Interval
Line: TypeAlias = Part | tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Paragraph:
    """One or more sentences."""

    line: Line


@dataclass(frozen=True, slots=True)
class Bullets:
    """List."""

    items: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """Table, whose rows have as many cells as its head.

    Args:
        head: Heads of the columns.
        rows: The rows.
        together: Number of last columns that plain text has below a row if one does not fit.
    """

    head: tuple[str, ...]
    rows: tuple[tuple[Line, ...], ...]
    together: int = 0


Block: TypeAlias = Paragraph | Bullets | Table


@dataclass(frozen=True, slots=True)
class Section:
    """Blocks below a title."""

    title: str
    blocks: tuple[Block, ...]


def parts_of(line: Line) -> tuple[Part, ...]:
    """Return the parts of a line."""
    return line if isinstance(line, tuple) else (line,)


def words(line: Line) -> str:
    """Return a line without marks, with code between backticks."""
    shown = (part if isinstance(part, str) else part.text for part in parts_of(line))
    code = (isinstance(part, Code) for part in parts_of(line))
    return "".join(f"`{text}`" if quoted else text for text, quoted in zip(shown, code))


def with_code(sentence: str) -> Line:
    """Return a sentence in which code stands between backticks."""
    parts = sentence.split("`")
    if len(parts) % 2 == 0 or not all(part.strip() for part in parts[1::2]):
        return sentence
    return tuple(Code(part) if i % 2 else part for i, part in enumerate(parts) if part)
