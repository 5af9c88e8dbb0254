"""Costs of allocations in searches for good scores at every cost.

The task computes its own costs. Where trials measured something else, such as a latency or a
price, the logarithm of its ratio to the task's cost has a posterior, that of a constraint's values
(`feasibility.py`): what no trial measured is predicted.
"""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.evidence import Evidence, Floats
from optuna_agenttts.planner.feasibility import Values, stage_tables
from optuna_agenttts.planner.kernels import Points, Surrogate
from optuna_agenttts.planner.pools import choices_of

_SAME = 1e-6
"""Relative difference of ratios up to which measured costs are the task's, times a constant."""


class Costs:
    """Costs of allocations: the task's, or predictions from measured ones.

    Args:
        evidence: The evidence, with the measured costs if there are any.
        surrogate: The surrogate, for its residual kernels.
    """

    def __init__(self, evidence: Evidence, surrogate: Surrogate) -> None:
        """See the class."""
        self._feasible, self._ratios = evidence.task.feasible, None
        measured = np.array(evidence.measured, dtype=np.float64)
        # Pending trials, and those of earlier studies, have measured nothing.
        rows = np.flatnonzero(measured > 0)
        models, samples = evidence.models[rows], evidence.samples[rows]
        known = self._floored(self._feasible.costs_of(models, samples))
        logs = np.log(measured[rows] / known)
        if len(rows) and np.ptp(logs) > _SAME:
            self._middle = float(np.median(logs))
            tables = stage_tables(self._feasible)
            choices = choices_of(models, samples)
            self._ratios = Values(choices, logs - self._middle, surrogate, tables)

    def __call__(self, points: Points) -> Floats:
        """Return the costs of allocations, shape (allocations,)."""
        costs = self._feasible.costs_of(points.models, points.samples)
        if self._ratios is None:
            return costs
        predicted: Floats = self._floored(costs) * np.exp(self._middle + self._ratios.mean(points))
        return predicted

    def _floored(self, costs: Floats) -> Floats:
        """Return costs above 0, which have a ratio."""
        return np.maximum(costs, 1e-6 * self._feasible.limit)
