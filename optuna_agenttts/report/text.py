"""Allocations, scores and lists of trials as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna_agenttts.task.allocation import Allocation

_LISTED = 10
"""Maximum number of trials listed. Chosen by hand."""


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


def numbers_text(numbers: Sequence[int]) -> str:
    """List the first numbers of trials."""
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return f"{shown} and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else shown
