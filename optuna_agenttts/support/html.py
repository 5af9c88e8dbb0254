"""HTML for notebooks and web pages: escaped text, tables, and intervals drawn as SVG.

Fragments are complete without a style sheet, a script or the network, and take the text's colour,
so that they can be read on a light or a dark page.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence

_KEPT = "\n\t\u200d"
"""Control and format characters that are shown: those of white space and of joined emoji. Others
could reorder or hide the text around them."""
_WIDTH, _HEIGHT, _MARGIN = 180, 16, 6
"""Size of the drawing of an interval and its left and right margin, in pixels (chosen by hand)."""
_BLUE, _ORANGE = "#0072B2", "#D55E00"
"""Colours of intervals and marked values: two that colour-blind people tell apart (Okabe, Ito)."""
_CELL = "padding:3px 10px;vertical-align:top;overflow-wrap:break-word;max-width:34em"
_TEXT, _NUMBER = f"{_CELL};text-align:left", f"{_CELL};text-align:right"
_DIGITS = f"{_NUMBER};white-space:nowrap;font-variant-numeric:tabular-nums"

_UNBROKEN = 60
"""Characters of a line that is not broken. Chosen by hand: two such columns fit a notebook."""


class Html(str):
    """Text that is HTML already. All other text is escaped where HTML is built."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Show the HTML in a notebook."""
        return str(self)


BREAK = Html("<br/>")
"""End of a line."""


def escape(content: object) -> Html:
    """Return content as HTML: a text escaped, `None` as nothing, and HTML as it is."""
    if isinstance(content, Html):
        return content
    text = "" if content is None else str(content)
    shown = "".join(
        char
        if char in _KEPT or unicodedata.category(char) not in ("Cc", "Cf", "Cs")
        else f"\\u{ord(char):04x}"
        for char in text
    )
    return Html(html.escape(shown))


def join(parts: Iterable[object]) -> Html:
    """Join parts, each escaped unless it is HTML."""
    return Html("".join(map(escape, parts)))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """Return an element.

    Args:
        tag: Name of the element, such as ``"p"``.
        content: Its content, each part escaped unless it is HTML.
        attributes: Its attributes. `_` in names stands for `-`, and one at the end is dropped
            (``class_``); attributes that are None are left out.
    """
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{written}>{join(content)}</{tag}>")


def line(text: str) -> Html:
    """Return a text that is not broken into lines if it is short, such as the name of a model."""
    return element("span", text, style="white-space:nowrap" if len(text) <= _UNBROKEN else None)


def heading(text: object, *, level: int = 4) -> Html:
    """Return a heading; level 4 suits the output of a notebook."""
    return element(f"h{level}", text, style="margin:0.6em 0 0.3em")


def paragraph(*content: object) -> Html:
    """Return a paragraph."""
    return element("p", *content, style="margin:0.3em 0;overflow-wrap:break-word")


def bullets(items: Iterable[object]) -> Html:
    """Return a list; nothing without items."""
    rows = [element("li", item) for item in items]
    return element("ul", *rows, style="margin:0.3em 0 0.3em 1.5em") if rows else Html()


def details(title: object, *content: object) -> Html:
    """Return content that is shown on a click."""
    return element("details", element("summary", title, style="cursor:pointer"), *content)


def table(
    head: Sequence[object],
    rows: Iterable[Sequence[object]],
    *,
    numbers: Collection[int] = (),
    caption: object = None,
) -> Html:
    """Return a table.

    Args:
        head: Titles of the columns; empty for a table without them.
        rows: Cells of each row.
        numbers: Positions of the columns that hold numbers, which are aligned to the right.
        caption: Sentence above the table.
    """

    def row(tag: str, cells: Sequence[object]) -> Html:
        number = _DIGITS if tag == "td" else _NUMBER
        styles = (number if column in numbers else _TEXT for column in range(len(cells)))
        return element(
            "tr", *(element(tag, cell, style=style) for cell, style in zip(cells, styles))
        )

    parts = []
    if caption is not None:
        parts.append(element("caption", caption, style="text-align:left;caption-side:top"))
    if head:
        parts.append(element("thead", row("th", head)))
    parts.append(element("tbody", *(row("td", cells) for cells in rows)))
    return element("table", *parts, style="border-collapse:collapse;margin:0.4em 0")


def facts(values: Mapping[str, object]) -> Html:
    """Return a table of names and values; values that are None or empty are left out."""
    rows = [
        (element("b", name), value) for name, value in values.items() if value not in (None, "")
    ]
    return table((), rows)


def limits(values: Iterable[float | None]) -> tuple[float, float]:
    """Return the range of values, for intervals that are drawn on the same scale."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    low, high = min(known, default=0.0), max(known, default=1.0)
    around = abs(low) / 2 or 0.5
    return (low, high) if high > low else (low - around, high + around)


def interval(
    value: float,
    ends: tuple[float, float] | None,
    scale: tuple[float, float],
    *,
    label: str,
    marked: float | None = None,
) -> Html:
    """Draw a value with its interval on a scale; one without an interval as a point.

    Args:
        value: The value.
        ends: The ends of its interval.
        scale: Values at the left and the right edge, in the same unit; see `limits`.
        label: The value and its interval as text, for readers that do not show the drawing.
        marked: Value that is marked by a dashed line, such as that of the recommendation.
    """
    low, high = scale

    def x(number: float) -> str:
        share = min(max((number - low) / (high - low), 0.0), 1.0)
        return f"{_MARGIN + share * (_WIDTH - 2 * _MARGIN):.1f}"

    middle = _HEIGHT / 2
    parts = [
        element("title", label),
        _line(x(low), x(high), middle, middle, "currentColor", 1, opacity=0.25),
    ]
    if marked is not None and math.isfinite(marked):
        at = x(marked)
        parts.append(_line(at, at, 1, _HEIGHT - 1, _ORANGE, 1.5, stroke_dasharray="3 2"))
    if ends is not None and all(map(math.isfinite, ends)):
        first, last = map(x, ends)
        parts.append(_line(first, last, middle, middle, _BLUE, 3))
        parts += [_line(at, at, middle - 4, middle + 4, _BLUE, 1.5) for at in (first, last)]
    if math.isfinite(value):
        parts.append(
            element("circle", cx=x(value), cy=middle, r=4, fill=_BLUE, stroke="currentColor")
        )
    return element(
        "svg",
        *parts,
        xmlns="http://www.w3.org/2000/svg",
        width=_WIDTH,
        height=_HEIGHT,
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=label,
        # Style sheets of notebooks shrink drawings in narrow columns.
        style=f"vertical-align:middle;min-width:{_WIDTH}px",
    )


def _line(
    x1: str, x2: str, y1: float, y2: float, colour: str, width: float, **attributes: object
) -> Html:
    """Return a line of a drawing."""
    return element(
        "line", x1=x1, x2=x2, y1=y1, y2=y2, stroke=colour, stroke_width=width, **attributes
    )
