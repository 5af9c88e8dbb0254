"""Allocations, scores and lists of trials as text."""

from __future__ import annotations

import itertools
import math
import re
import textwrap
from collections.abc import Sequence
from functools import partial

from optuna_agenttts.report.document import Bullets, Line, Section, Table, words
from optuna_agenttts.support.plain import amount_text, listed, one_line
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.task import Task

_MAX_NAME = 300
"""Maximum length of a name, in characters. Chosen by hand: names are shown to be copied."""
_MAX_DECIMALS = 9
"""Maximum number of decimals of a score; more are written as a power of ten. Chosen by hand."""
_MAX_DIGITS = 15
"""Digits of a score that are not due to rounding."""
_WIDTH = 80
"""Maximum width of a table, in columns, with all stages of an allocation on one line."""
_PAGE = 98
"""Maximum width of the lines of a section, in columns, if their words are short enough."""
_NUMBER = re.compile(r"(< )?[-+]?[\d,.]+(e[-+]?\d+)?( %)?|-|")
"""Number in a cell, or none."""
_LISTED = 10
"""Maximum number of trials listed. Chosen by hand."""

NO_INTERVAL = "no interval: trials reported no or too few outcomes of single instances"


def sentence(allocation: Allocation) -> str:
    """Describe an allocation in one line."""
    parts = [f"{stage}: {setting}" for stage, setting in settings(allocation)]
    # Names of thinking efforts have a comma.
    return ("; " if any(", " in part for part in parts) else ", ").join(parts)


def settings(allocation: Allocation) -> list[tuple[str, str]]:
    """Return the stages of an allocation with their settings, such as "4 x Qwen2.5-7B"."""
    return [
        (one_line(stage, _MAX_NAME), f"{setting.samples} x {one_line(setting.model, _MAX_NAME)}")
        for stage, setting in allocation.items()
    ]


def models_of(stage: Stage) -> list[str]:
    """Return the names of a stage's models, with their efforts, such as "m (off, low, high)"."""
    names: dict[tuple[str, bool], list[str]] = {}
    for model in stage.models:
        thinking = model.thinking
        # A model may be a choice as it is, beside its efforts.
        efforts = names.setdefault((model.served_name, thinking is not None), [])
        efforts += [] if thinking is None else [thinking.brief_label]
    return [f"{name} ({', '.join(each)})" if each else name for (name, _), each in names.items()]


def score_text(score: float, margin: float = 0.0) -> str:
    """Format a score with three digits, or so that differences of a margin are seen.

    Args:
        score: The score.
        margin: The margin, in the same unit, which fixes the number of decimals, so that scores
            of a study are aligned; 0 if there is none.
    """
    if not math.isfinite(score):
        return f"{score:g}"
    decimals = 1 - math.floor(math.log10(margin)) if 0 < margin < math.inf else None
    size = abs(score)
    # Large scores have decimals only if their differences take some.
    if (
        decimals is not None
        and decimals <= _MAX_DECIMALS
        and size < (1e12 if decimals > 0 else 1e6)
    ):
        return f"{score:.{max(decimals, 0)}f}"
    digits = 3
    if 1e3 <= size < 1e6:
        digits = math.floor(math.log10(size)) + 1
    elif decimals is not None and size > 0:
        digits = min(max(digits, math.floor(math.log10(size)) + 1 + decimals), _MAX_DIGITS)
    # With zeros at the end: 0.600 beside 0.618.
    return f"{score:#.{digits}g}".rstrip(".")


def interval_text(ends: tuple[float, float] | None, margin: float = 0.0) -> str:
    """Return the ends of an interval as text; "-" without one."""
    return "-" if ends is None else " to ".join(score_text(end, margin) for end in ends)


def metric_of(task: Task) -> str:
    """Return the name of the metric, or "score"."""
    return one_line(task.metric, 60) or "score"


def direction_text(maximize: bool | None) -> str:
    """Describe a direction; None is that of several objectives."""
    if maximize is None:
        return "several objectives"
    return f"{'higher' if maximize else 'lower'} is better"


def metric_text(metric: str, maximize: bool) -> str:
    """Return the name of a metric with its direction."""
    return f"{one_line(metric) or 'score'} ({direction_text(maximize)})"


def is_number(cell: str) -> bool:
    """Return whether a cell is a number with or without a sign of percent, or none."""
    return _NUMBER.fullmatch(cell) is not None


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the cells of rows of the same length, with a line for each row.

    The first row has the heads. Columns of numbers are aligned on the right.
    """
    columns = []
    for column in zip(*rows):
        align = str.rjust if all(map(is_number, column[1:])) else str.ljust
        width = max(map(len, column))
        columns.append([align(cell, width) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns)]


def fitting_table(rows: Sequence[Sequence[str]], width: int, together: int = 0) -> list[str]:
    """Align the cells of rows as `table`; if they are too wide, the longest are below their rows.

    The first column and numbers are never below.

    Args:
        rows: The head, and the rows.
        width: Maximum width.
        together: Number of last columns that are below, in their order, if one of them is.
    """
    head, *rest = rows
    kept = list(range(len(head)))
    apart, last = kept[: len(head) - together], kept[len(head) - together :]
    texts = [[i] for i in apart[1:] if not all(is_number(row[i]) for row in rest)]
    texts += [last] * bool(together)
    lines = table(rows)
    while texts and max(map(len, lines)) > width:
        texts.remove(
            longest := max(texts, key=lambda each: max(len(row[i]) for row in rows for i in each))
        )
        kept = [i for i in kept if i not in longest]
        lines = table([[row[i] for i in kept] for row in rows])
    below = [i for i in range(len(head)) if i not in kept]
    wrap = partial(
        textwrap.wrap,
        width=width,
        initial_indent="  ",
        subsequent_indent="    ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    for position, row in zip(range(len(rest), 0, -1), reversed(rest)):
        under = [wrap(f"{head[i]}: {row[i]}") for i in below]
        lines[position + 1 : position + 1] = itertools.chain(*under)
    return lines


def section_text(section: Section) -> str:
    """Return a section as plain text."""

    def wrapped(line: Line, first: str = "", other: str = "") -> list[str]:
        return textwrap.wrap(
            one_line(words(line), 10_000),
            _PAGE,
            initial_indent=f"  {first}",
            subsequent_indent=f"  {other}",
            break_long_words=False,
            break_on_hyphens=False,
        )

    lines = [section.title]
    for block in section.blocks:
        if isinstance(block, Table):
            rows = [
                [one_line(words(cell), 1000) for cell in row] for row in (block.head, *block.rows)
            ]
            lines += [
                f"  {line}".rstrip() for line in fitting_table(rows, _PAGE - 2, block.together)
            ]
        elif isinstance(block, Bullets):
            lines += [text for item in block.items for text in wrapped(item, "- ", "  ")]
        else:
            lines += wrapped(block.line)
    return "\n".join(lines)


def allocation_table(
    head: Sequence[str], rows: Sequence[tuple[Sequence[str], Allocation]]
) -> list[str]:
    """Align rows that end with an allocation of the same stages.

    Stages are columns if that fits a terminal of 80 columns. Otherwise all settings of a row are
    below it, each on its own line.

    Args:
        head: Heads of the columns before the allocation.
        rows: Cells before the allocation, and the allocation.
    """
    chosen = [settings(allocation) for _, allocation in rows]
    lines = [(*head, *(stage for stage, _ in chosen[0]))]
    lines += [(*cells, *(s for _, s in pairs)) for (cells, _), pairs in zip(rows, chosen)]
    return fitting_table(lines, _WIDTH, together=len(chosen[0]))


def spend_text(spend: float, unit: str) -> str:
    """Format a spend with its unit."""
    return amount_text(spend, unit or "units of the cost")


def duration_text(seconds: float) -> str:
    """Return a duration in its largest unit, with the next smaller one if that says more."""
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            whole, rest = divmod(round(seconds / part), size // part)
            return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
    if seconds >= 120:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def share_text(share: float) -> str:
    """Format a share as a percentage, such as "97 %"; small ones are "< 1 %"."""
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def count_text(count: int, noun: str) -> str:
    """Return a number of things, such as "1 trial" or "2 trials"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def numbers_text(numbers: Sequence[int]) -> str:
    """List the first numbers of trials."""
    return listed(list(map(str, numbers)), _LISTED)
