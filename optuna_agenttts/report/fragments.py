"""Allocations, scores and costs as HTML, for notebooks and web pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optuna_agenttts.report.document import (
    Bullets,
    Code,
    Interval,
    Line,
    Section,
    Strong,
    Table,
    parts_of,
    words,
)
from optuna_agenttts.report.text import interval_text, is_number, score_text
from optuna_agenttts.support import html
from optuna_agenttts.support.html import Html
from optuna_agenttts.task.allocation import Allocation

ScoreRow = tuple[Sequence[Line], float, tuple[float, float] | None, Sequence[Line]]
"""Cells before a score, the score, its interval, and the cells after it."""


def allocation_cell(allocation: Allocation) -> Html:
    """Return an allocation with a line for each stage."""
    lines: list[object] = []
    for stage, setting in allocation.items():
        lines += [html.BREAK] if lines else []
        lines.append(html.line(f"{stage}: {setting.samples} x {setting.model}"))
    return html.join(lines)


def cost_title(unit: str) -> str:
    """Return the title of a column of costs for one instance."""
    return f"cost per instance ({unit})" if unit else "cost per instance"


def scores_table(
    rows: Iterable[ScoreRow],
    before: Sequence[str],
    after: Sequence[str],
    *,
    margin: float = 0.0,
    level: int = 90,
    marked: float | None = None,
    score: str = "score",
) -> Html:
    """Return a table of scores with their intervals, drawn on the same scale.

    Args:
        rows: The scores, with the cells before and after them.
        before: Titles of the cells before the score.
        after: Titles of the cells after the interval.
        margin: Difference of scores that is worth showing, in units of the metric.
        level: Level of the intervals, in percent.
        marked: Score that is marked in all drawings.
        score: Title of the score.
    """
    lines = []
    for first, value, ends, last in rows:
        drawn = Interval(interval_text(ends, margin), value, ends, marked=marked)
        lines.append((*first, score_text(value, margin), drawn, *last))
    return _table(Table((*before, score, f"{level} % interval", *after), tuple(lines)))


def section_html(section: Section) -> Html:
    """Return a section below its title."""
    return html.join([html.heading(section.title), blocks_html(section)])


def blocks_html(section: Section) -> Html:
    """Return a section without its title."""
    parts = []
    for block in section.blocks:
        if isinstance(block, Table):
            parts.append(_table(block))
        elif isinstance(block, Bullets):
            parts.append(html.bullets(map(_line, block.items)))
        else:
            parts.append(html.paragraph(_line(block.line)))
    return html.join(parts)


def _table(block: Table) -> Html:
    """Return a table; intervals are drawn beside their texts, on the scale of their column."""
    head: list[str] = []
    columns: list[list[Html]] = []
    numbers = []
    for title, cells in zip(block.head, zip(*block.rows)):
        if all(is_number(words(cell)) for cell in cells):
            numbers.append(len(head))
        head.append(title)
        columns.append([_line(cell) for cell in cells])
        if drawn := [cell for cell in cells if isinstance(cell, Interval)]:
            limits = html.limits(v for each in drawn for v in (each.value, *(each.ends or ())))
            scale = drawn[0].scale or limits
            head.append("from {} to {}".format(*map(score_text, scale)))
            columns.append([_drawing(each, scale) for each in drawn])
    return html.table(head, zip(*columns), numbers=numbers)


def _drawing(each: Interval, scale: tuple[float, float]) -> Html:
    text = each.text if each.ends else f"{each.value:.3g}"
    return html.interval(each.value, each.ends, scale, label=text, marked=each.marked)


def _line(line: Line) -> Html:
    """Return the parts of a line."""
    shown: list[object] = []
    for part in parts_of(line):
        if isinstance(part, (Strong, Code)):
            shown.append(html.element("b" if isinstance(part, Strong) else "code", part.text))
        else:
            shown.append(html.line(part.text) if isinstance(part, Interval) else part)
    return html.join(shown)
