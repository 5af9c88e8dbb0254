"""The front of trials: the best score at every cost, and what each trial adds to it.

Costs are the measured ones if all trials have one, else the task's.
"""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.evidence import Evidence, Floats, Ints
from optuna_agenttts.planner.frontier_improvement import END


def behind_front(evidence: Evidence) -> tuple[Floats, Ints]:
    """Return how far trials score below the best one that is as cheap, and which one that is.

    Args:
        evidence: The trials.

    Returns:
        Differences of scores, 0 or more, and rows of the other trials, both of shape (trials,).
    """
    costs, scores = _costs_of(evidence), evidence.scores
    order = np.lexsort((-scores, costs))
    best = np.maximum.accumulate(scores[order])
    # The first trial, by cost, that has the best score so far.
    rises = np.flatnonzero(np.diff(best, prepend=-np.inf) > 0)
    firsts = order[rises[np.searchsorted(rises, np.arange(len(order)), side="right") - 1]]
    # Trials of equal cost are all compared with the best of them.
    places = np.searchsorted(costs[order], costs, side="right") - 1
    gaps: Floats = scores[firsts[places]] - scores
    return gaps, firsts[places]


def added_area(evidence: Evidence) -> Floats:
    """Return the area that each trial alone adds to the front; below 0, how far it is behind."""
    gaps, _ = behind_front(evidence)
    costs, scores = _costs_of(evidence), evidence.scores
    order = np.lexsort((-scores, costs))
    end = costs.min() + END * (costs.max() - costs.min())

    def area(rows: Ints) -> float:
        levels = np.maximum.accumulate(np.append(scores.min(), scores[rows]))
        return float(np.diff(costs[rows], prepend=costs.min(), append=end) @ levels)

    lost = [0.0 if gaps[row] > 0 else area(order) - area(order[order != row]) for row in order]
    added: Floats = -gaps
    added[order] += lost
    return added


def _costs_of(evidence: Evidence) -> Floats:
    """Return the costs of trials."""
    measured = np.array(evidence.measured, dtype=np.float64)
    if len(measured) == len(evidence.scores) and np.isfinite(measured).all():
        return measured
    return evidence.task.feasible.costs_of(evidence.models, evidence.samples)
