"""Allocations, scores and lists of trials as text."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from optuna_agenttts.support.plain import amount_text, one_line
from optuna_agenttts.task.allocation import Allocation

_MAX_NAME = 300
"""Maximum length of a name, in characters. Chosen by hand: names are shown to be copied."""
_MAX_DECIMALS = 9
"""Maximum number of decimals of a score; more are written as a power of ten. Chosen by hand."""
_WIDTH = 80
"""Maximum width of a table, in columns, with all stages of an allocation on one line."""
_NUMBER = re.compile(r"(< )?[-+]?[\d,.]+(e[-+]?\d+)?( %)?|-|")
"""Number in a cell, or none."""
_LISTED = 10
"""Maximum number of trials listed. Chosen by hand."""

NO_INTERVAL = "no interval: trials reported no or too few outcomes of single instances"


def sentence(allocation: Allocation) -> str:
    """Describe an allocation in one line."""
    return ", ".join(f"{stage}: {setting}" for stage, setting in settings(allocation))


def settings(allocation: Allocation) -> list[tuple[str, str]]:
    """Return the stages of an allocation with their settings, such as "4 x Qwen2.5-7B"."""
    return [
        (one_line(stage, _MAX_NAME), f"{setting.samples} x {one_line(setting.model, _MAX_NAME)}")
        for stage, setting in allocation.items()
    ]


def score_text(score: float, margin: float = 0.0) -> str:
    """Format a score with three digits, or so that differences of a margin are seen.

    Args:
        score: The score.
        margin: The margin, in the same unit, which fixes the number of decimals, so that scores
            of a study are aligned; 0 if there is none.
    """
    decimals = 1 - math.floor(math.log10(margin)) if margin > 0 else None
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
    # With zeros at the end: 0.600 beside 0.618.
    return f"{score:#.{digits}g}".rstrip(".")


def metric_text(metric: str, maximize: bool) -> str:
    """Return the name of a metric with its direction."""
    name = one_line(metric) or "score"
    return f"{name} ({'higher' if maximize else 'lower'} is better)"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the cells of rows of the same length, with a line for each row.

    The first row has the heads. Columns of numbers are aligned on the right.
    """
    columns = []
    for column in zip(*rows):
        align = str.rjust if all(map(_NUMBER.fullmatch, column[1:])) else str.ljust
        width = max(map(len, column))
        columns.append([align(cell, width) for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns)]


def allocation_table(
    head: Sequence[str], rows: Sequence[tuple[Sequence[str], Allocation]]
) -> list[str]:
    """Align rows that end with an allocation of the same stages.

    Stages are columns if that fits a terminal of 80 columns. Otherwise the settings of a row are
    below it, each on its own line.

    Args:
        head: Heads of the columns before the allocation.
        rows: Cells before the allocation, and the allocation.
    """
    chosen = [settings(allocation) for _, allocation in rows]
    stages = [stage for stage, _ in chosen[0]]
    wide = [(*head, *stages)]
    wide += [(*cells, *(s for _, s in pairs)) for (cells, _), pairs in zip(rows, chosen)]
    if max(map(len, lines := table(wide))) <= _WIDTH:
        return lines
    lines = table([head, *(cells for cells, _ in rows)])
    width = max(map(len, stages))
    below = [[f"  {stage:<{width}}  {setting}" for stage, setting in pairs] for pairs in chosen]
    return [lines[0], *(text for pair in zip(lines[1:], below) for text in (pair[0], *pair[1]))]


def spend_text(spend: float, unit: str) -> str:
    """Format a spend with its unit."""
    return amount_text(spend, unit or "units of the cost")


def share_text(share: float) -> str:
    """Format a share as a percentage, such as "97 %"; small ones are "< 1 %"."""
    return "< 1 %" if 0 < share < 0.005 else f"{100 * share:.0f} %"


def count_text(count: int, noun: str) -> str:
    """Return a number of things, such as "1 trial" or "2 trials"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def numbers_text(numbers: Sequence[int]) -> str:
    """List the first numbers of trials."""
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return f"{shown} and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else shown
