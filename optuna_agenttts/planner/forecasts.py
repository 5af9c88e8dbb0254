"""Expected scores of the allocations that a planner would try next."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Floats, Ints
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.mixture import View
from optuna_agenttts.planner.pools import choices_of
from optuna_agenttts.planner.scale import Scale

_LEADERS = 8
"""Number of allocations. Chosen by hand."""
_ALIKE = 3.0
"""Allocations of the same models are alike if no number of samples differs by a larger ratio.
Chosen by hand."""


class Forecast(NamedTuple):
    """Expected score of an allocation, in the sign and the units of the study's values.

    Args:
        choices: The allocation.
        mean: Posterior mean.
        sd: Posterior standard deviation.
    """

    choices: Choices
    mean: float
    sd: float


def forecast_leaders(
    view: View, acquisition: Floats, scale: Scale, sign: float
) -> tuple[Forecast, ...]:
    """Return the allocations with the largest values of an acquisition function.

    Args:
        view: The rates of the allocations.
        acquisition: The values, shape (allocations,).
        scale: Scale of the scores.
        sign: 1 if the study's values are the scores, -1 if they are negated.

    Returns:
        The best first, without those that are like an earlier one.
    """
    rows = _unlike(view.points, np.argsort(-acquisition, kind="stable"))
    mean, sd = view.moments().mean()[rows], view.moments().sd()[rows]
    keys = choices_of(view.points.models[rows], view.points.samples[rows])
    values = sign * scale.scores(mean)
    return tuple(map(Forecast, keys, values.tolist(), (sd * scale.span).tolist()))


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
