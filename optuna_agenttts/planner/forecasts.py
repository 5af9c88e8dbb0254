"""The allocations that a planner would try next."""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Floats, Ints, choices_of
from optuna_agenttts.planner.kernels import Points

_LEADERS = 8
"""Number of allocations. Chosen by hand."""
_ALIKE = 3.0
"""Allocations of the same models are alike if no number of samples differs by a larger ratio.
Chosen by hand."""


def leading(points: Points, acquisition: Floats) -> tuple[Choices, ...]:
    """Return the allocations with the largest values of an acquisition function.

    Args:
        points: The allocations.
        acquisition: The values, shape (allocations,).

    Returns:
        The best first, without those that are like an earlier one.
    """
    rows = _unlike(points, np.argsort(-acquisition, kind="stable"))
    return tuple(choices_of(points.models[rows], points.samples[rows]))


def _unlike(points: Points, order: Ints) -> list[int]:
    """Return the first positions of an order whose allocations are not alike."""
    kept: list[int] = []
    for row in order.tolist():
        ratios = np.abs(np.log(points.samples[kept] / points.samples[row]))
        alike = (points.models[kept] == points.models[row]) & (ratios <= np.log(_ALIKE) + 1e-9)
        if not alike.all(axis=1).any():
            kept.append(row)
        if len(kept) == _LEADERS:
            break
    return kept
