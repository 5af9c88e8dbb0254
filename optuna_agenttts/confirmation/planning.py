"""The next look of a confirmation, from the posterior over the tried allocations."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.confirmation import policy
from optuna_agenttts.confirmation.limits import Limits, Prices
from optuna_agenttts.planner.evidence import Choices, Floats, Ints
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.report.candidates import Candidates

_ALIKE = 50
"""Instances on which allocations have the same outcomes, at least, to be taken for the same. On
fewer, equal outcomes are often a coincidence. Chosen by hand."""
_LEAST_COST = 1e-12
"""In place of a cost of 0, by which limits cannot be divided."""


@dataclass(frozen=True, slots=True)
class Contenders:
    """Tried allocations that a look may compare.

    Args:
        keys: The allocations.
        belief: Belief in their rates.
    """

    keys: Sequence[Choices]
    belief: policy.Belief

    @classmethod
    def of(cls, found: Candidates, failed: Collection[Choices] = ()) -> Contenders:
        """Return the contenders among the tried allocations.

        Of allocations with the same outcomes on many instances, the cheapest one is kept.

        Args:
            found: The tried allocations.
            failed: Allocations to leave out.
        """
        cheapest: dict[Hashable, int] = {}
        for i in np.argsort(found.costs, kind="stable").tolist():
            outcomes = found.outcomes.get(found.keys[i], {})
            if found.keys[i] not in failed:
                alike: Hashable = i if len(outcomes) < _ALIKE else frozenset(outcomes.items())
                cheapest.setdefault(alike, i)
        kept = np.array(sorted(cheapest.values()), dtype=np.int64)
        keys = [found.keys[i] for i in kept.tolist()]
        return cls(keys, belief_of(found, found.surrogate.points_of(keys)) if keys else _NONE)

    def limits(self, left: Limits, prices: Prices, fresh: int) -> policy.Limits:
        """Return what is left in terms of these allocations."""
        return limits_of(left, np.array([prices.of(key) for key in self.keys]), fresh)

    def choices(self, positions: Ints) -> tuple[Choices, ...]:
        """Return the allocations at some positions."""
        return tuple(self.keys[position] for position in positions.tolist())


def belief_of(found: Candidates, points: Points) -> policy.Belief:
    """Return the belief in the rates of allocations, tried or not."""
    view = found.exact.at(points)
    return policy.Belief(*view.total(), found.exact.fresh_noise(view))


def limits_of(left: Limits, costs: Floats, fresh: int) -> policy.Limits:
    """Return what is left in terms of allocations of some costs for one instance."""
    rows = []
    if left.spend is not None:
        rows.append((left.spend, np.maximum(costs, _LEAST_COST)))
    if left.evaluations is not None:
        rows.append((left.evaluations, np.ones(len(costs))))
    amounts, rates = zip(*rows)
    return policy.Limits(np.array(amounts), np.stack(rates), fresh, prices=costs)


_NONE = policy.Belief(np.zeros(0), np.zeros((0, 0)), np.zeros((0, 0)))
