"""What trying an allocation is worth.

Two measures, both in rates and both averaged over the posterior's settings. Expected improvement
asks how far an allocation may be ahead of the best so far: what is left to gain. The knowledge
gradient asks how much better the recommendation is expected to be once the allocation has been
tried: a score is noisy, and what it says of one allocation moves the others, so that a trial can
pay which does not win itself (Frazier, Powell & Dayanik 2009; Scott, Frazier & Powell 2011).
"""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.evidence import Floats
from optuna_agenttts.planner.posterior import View

_SEEN = 16
"""Of the observed allocations those that can be recommended after one more trial."""
_NODES = np.linspace(-5, 5, 41)
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()
"""Of a standard normal variable, by the trapezoidal rule: the maximum of lines has kinks, where
rules of higher order are no better."""


def expected_improvement(view: View) -> Floats:
    """By how much each allocation is expected to beat the best observed one, if it does."""
    weights, ahead, deviations = view.gains()
    z = ahead / deviations
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    gains: Floats = weights @ (deviations * (z * _normal_cdf(z) + density))
    return gains


def knowledge_gradient(view: View) -> Floats:
    """By how much the best posterior mean is expected to rise when an allocation is tried."""
    total = np.zeros(len(view.points))
    for prospect in view.prospects(_SEEN):
        seen = np.broadcast_to(prospect.seen[:, None], (len(prospect.seen), len(total)))
        means = np.concatenate([seen, prospect.means[None]])
        after = sum(
            weight * (means + node * prospect.moves).max(axis=0)
            for node, weight in zip(_NODES, _WEIGHTS)
        )
        total += prospect.weight * (after - prospect.seen.max())
    return total


def _normal_cdf(z: Floats) -> Floats:
    """Abramowitz and Stegun 26.2.17, error below 8e-8; numpy has no erf."""
    t = 1 / (1 + 0.2316419 * np.abs(z))
    series = t * (
        0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429)))
    )
    tail = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) * series
    return np.asarray(np.where(z >= 0, 1 - tail, tail))
