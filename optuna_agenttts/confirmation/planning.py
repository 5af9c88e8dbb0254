"""The next look of a confirmation, from the posterior over the tried allocations."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Sequence

import numpy as np

from optuna_agenttts.confirmation import policy
from optuna_agenttts.confirmation.limits import Limits
from optuna_agenttts.planner.evidence import Choices, Floats
from optuna_agenttts.report.budgets import frontier_of
from optuna_agenttts.report.candidates import Candidates

_ALIKE = 50
"""Instances on which allocations have the same outcomes, at least, to be taken for the same. On
fewer, equal outcomes are often a coincidence. Chosen by hand."""
_LEAST_COST = 1e-12
"""In place of a cost of 0, by which limits cannot be divided."""


def contender_choices(found: Candidates, failed: Collection[Choices] = ()) -> list[Choices]:
    """Return the tried allocations that a look may compare.

    Of allocations with the same outcomes on many instances, the cheapest one is kept. In studies
    of two objectives, they are those of the frontier, cheapest first.

    Args:
        found: The tried allocations.
        failed: Allocations to leave out.
    """
    if found.evidence.frontier:
        points = frontier_of(found, tried_only=True).points
        front = (tuple(found.task.choices(point.allocation)) for point in points)
        return [key for key in front if key not in failed]
    cheapest: dict[Hashable, int] = {}
    for i in np.argsort(found.costs, kind="stable").tolist():
        outcomes = found.outcomes.get(found.keys[i], {})
        if found.keys[i] not in failed:
            alike: Hashable = i if len(outcomes) < _ALIKE else frozenset(outcomes.items())
            cheapest.setdefault(alike, i)
    return [found.keys[i] for i in sorted(cheapest.values())]


def next_block(
    found: Candidates, keys: Sequence[Choices], limits: policy.Limits, looks: int
) -> policy.Block | None:
    """Return the next block of fresh instances, or None if the choice is decided.

    Args:
        found: The tried allocations.
        keys: Those of `contender_choices`.
        limits: What is left, in terms of these.
        looks: Number of blocks that are left, this one included.
    """
    belief = belief_of(found, keys)
    if found.evidence.frontier:
        costs = found.front_costs(found.surrogate.points_of(keys))
        return policy.front_block(belief.means, costs, limits, looks)
    return policy.next_block(belief, limits, looks)


def belief_of(found: Candidates, keys: Sequence[Choices]) -> policy.Belief:
    """Return the belief in the rates of allocations, tried or not."""
    view = found.exact.at(found.surrogate.points_of(keys))
    return policy.Belief(*view.total(), found.exact.fresh_noise(view))


def limits_of(left: Limits, costs: Floats, fresh: int) -> policy.Limits:
    """Return what is left in terms of allocations of some costs for one instance."""
    rows = []
    if left.spend < math.inf:
        rows.append((left.spend, np.maximum(costs, _LEAST_COST)))
    if left.evaluations < math.inf:
        rows.append((left.evaluations, np.ones(len(costs))))
    amounts, rates = zip(*rows)
    return policy.Limits(np.array(amounts), np.stack(rates), fresh, prices=costs)
