"""Allocations, scores and costs as HTML, for notebooks and web pages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optuna_agenttts.report.text import score_text
from optuna_agenttts.support import html
from optuna_agenttts.support.html import Html
from optuna_agenttts.task.allocation import Allocation

ScoreRow = tuple[Sequence[object], float, tuple[float, float] | None, Sequence[object]]
"""Cells before a score, the score, its interval, and the cells after it."""


def allocation_cell(allocation: Allocation) -> Html:
    """Return an allocation with a line for each stage."""
    lines: list[object] = []
    for stage, setting in allocation.items():
        lines += [html.BREAK] if lines else []
        lines.append(html.line(f"{stage}: {setting.samples} x {setting.model}"))
    return html.join(lines)


def interval_text(ends: tuple[float, float] | None, margin: float = 0.0) -> str:
    """Return the ends of an interval as text; "-" without one."""
    return "-" if ends is None else " to ".join(score_text(end, margin) for end in ends)


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
    numbers: Sequence[int] = (),
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
        numbers: Positions of the cells after the interval that are numbers.
    """
    rows = list(rows)
    scale = html.limits(v for _, value, ends, _ in rows for v in (value, *(ends or ())))
    lines = []
    for first, value, ends, last in rows:
        shown, text = score_text(value, margin), interval_text(ends, margin)
        label = f"{shown} ({text})" if ends else shown
        drawing = html.interval(value, ends, scale, label=label, marked=marked)
        lines.append([*first, shown, html.line(text), drawing, *last])
    left, right = scale
    edges = f"{score_text(left, margin)} to {score_text(right, margin)}"
    count = len(before)
    return html.table(
        [*before, score, f"{level} % interval", f"from {edges}", *after],
        lines,
        numbers=(count, *(count + 3 + position for position in numbers)),
    )
