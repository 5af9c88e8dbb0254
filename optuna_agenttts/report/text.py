"""Allocations, scores and lists of trials as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna_agenttts.task.allocation import Allocation

_LISTED = 10
"""Maximum number of trials listed. Chosen by hand."""

NO_INTERVAL = "no interval: trials reported no or too few outcomes of single instances"


def sentence(allocation: Allocation) -> str:
    """Describe an allocation in one line."""
    return ", ".join(
        f"{stage}: {setting.samples} x {setting.model}" for stage, setting in allocation.items()
    )


def score_text(score: float, margin: float = 0.0) -> str:
    """Format a score with three digits, or more if differences of a margin take more.

    Args:
        score: The score.
        margin: The margin, in the same unit; 0 if there is none.
    """
    size, digits = abs(score), 3
    if margin and size > margin:
        digits = max(digits, math.ceil(math.log10(size / margin)) + 1)
    if 1e3 <= size < 1e6:
        digits = max(digits, math.floor(math.log10(size)) + 1)
    return f"{score:.{min(digits, 15)}g}"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the cells of rows of the same length, with a line for each row."""
    widths = [max(map(len, column)) for column in zip(*rows)]
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def spend_text(spend: float, unit: str) -> str:
    """Format a spend with five digits, or as a whole number if it has more."""
    number = f"{spend:,.0f}" if abs(spend) >= 1e4 else f"{spend:.5g}"
    return f"{number} {unit or 'units of the cost'}"


def count_text(count: int, noun: str) -> str:
    """Return a number of things, such as "1 trial" or "2 trials"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def numbers_text(numbers: Sequence[int]) -> str:
    """List the first numbers of trials."""
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return f"{shown} and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else shown
