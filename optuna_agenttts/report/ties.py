"""Cheaper allocations that are as good as the recommended one, by non-inferiority.

An allocation is tied with the recommended one if its loss is bounded: if the one-sided 95 % bound
of its loss is below a margin. There are two bounds, and the larger one counts. One is that of the
posterior, which also knows similar allocations. The other is that of the paired differences of
outcomes on shared instances, which needs no prior. A difference that is merely not significant
proves nothing: on 50 instances an allocation that loses .1 often looks as good.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Evidence, Floats
from optuna_agenttts.planner.posterior import Z90
from optuna_agenttts.task.allocation import Allocation

MARGIN = 0.05
"""Default margin, as a share of the metric's range (of the spread of observed scores, if the range
is unknown). Chosen by hand: smaller ones take hundreds of shared instances."""
MIN_SHARED = 20
"""Minimum number of shared instances of a tie. Chosen by hand."""
_Z80 = 0.8416212335729143
"""80 % quantile of the standard normal distribution."""


@dataclass(frozen=True, slots=True)
class Tie:
    """Cheaper allocation that loses less than a margin.

    Args:
        allocation: The allocation.
        value: Expected value, in units of the metric.
        cost: Cost for one instance, in units of the task's cost model.
        loss: One-sided 95 % upper bound of what it loses to the recommended allocation, in units
            of the metric.
        shared: Number of instances that both saw.
    """

    allocation: Allocation
    value: float
    cost: float
    loss: float
    shared: int


@dataclass(frozen=True, slots=True)
class Undecided(Tie):
    """Cheaper allocation that may be as good, or lose more than the margin.

    Args:
        allocation: The allocation.
        value: Expected value, in units of the metric.
        cost: Cost for one instance, in units of the task's cost model.
        loss: One-sided 95 % upper bound of what it loses to the recommended allocation, in units
            of the metric.
        shared: Number of instances that both saw.
        instances: Number of shared instances on which it would be named a tie with a probability
            of 80 %, if it is as good.
    """

    instances: int


@dataclass(frozen=True, slots=True)
class Contender:
    """Tried allocation that may be a tie.

    Args:
        allocation: The allocation.
        value: Expected value, in units of the metric.
        cost: Cost for one instance.
        bounds: Posterior 5 % and 95 % quantiles of its score minus the winner's, higher scores
            being better.
        outcomes: Mean outcomes of its complete trials by instance, higher ones being better;
            empty if there are none.
    """

    allocation: Allocation
    value: float
    cost: float
    bounds: tuple[float, float]
    outcomes: Mapping[int, float]


@dataclass(frozen=True, slots=True)
class Paired:
    """Outcomes of one allocation minus those of another, on shared instances.

    Two instances are added on which they differ by half of the range in either direction, as A.
    Agresti and Y. Min (2005, Statistics in Medicine 24, pp. 729-740) do for outcomes 0 and 1: a
    few equal outcomes do not prove that all are.

    Args:
        mean: Mean difference.
        sd: Standard deviation of a difference.
        shared: Number of shared instances.
    """

    mean: float
    sd: float
    shared: int

    @classmethod
    def of(cls, ours: Mapping[int, float], theirs: Mapping[int, float], extent: float) -> Paired:
        """Compare two allocations on the instances that both saw.

        Args:
            ours: Outcomes of one allocation by instance.
            theirs: Outcomes of the other.
            extent: Width of the range of outcomes.
        """
        gaps = [ours[step] - theirs[step] for step in ours if step in theirs]
        added = np.array([*gaps, 0.5 * extent, -0.5 * extent])
        return cls(float(added.mean()), float(added.std(ddof=1)), len(gaps))

    @property
    def lower(self) -> float:
        """One-sided 95 % lower bound of the mean difference."""
        return self.mean - self._half

    @property
    def upper(self) -> float:
        """One-sided 95 % upper bound of the mean difference."""
        return self.mean + self._half

    @property
    def _half(self) -> float:
        return Z90 * self.sd / math.sqrt(self.shared + 2)

    def instances_for(self, margin: float) -> int:
        """Return the shared instances that show a loss below a margin.

        If both are equally good, so many show it with a probability of 80 %.
        """
        return math.ceil(((Z90 + _Z80) * self.sd / margin) ** 2)


def complete_outcomes(evidence: Evidence) -> dict[Choices, dict[int, float]]:
    """Return the mean outcomes by instance of each allocation, without stopped trials.

    Outcomes are oriented so that higher is better. Those of an allocation's search are left out
    if one of its complete trials reported none.
    """
    keys, fresh = evidence.choices, evidence.block_of_rows() > 0
    rows = list(zip(keys, evidence.outcomes, evidence.stopped, fresh.tolist()))
    without = {
        (key, block)
        for key, outcomes, stopped, block in rows
        if not stopped and not (outcomes and np.isfinite(list(outcomes.values())).all())
    }
    found: dict[Choices, dict[int, list[float]]] = {}
    for key, outcomes, stopped, block in rows:
        if stopped or (key, block) in without:
            continue
        for step, outcome in outcomes.items():
            found.setdefault(key, {}).setdefault(step, []).append(evidence.sign * outcome)
    return {
        key: {
            # Most were observed once, and thousands of means take long.
            step: float(np.mean(values)) if len(values) > 1 else values[0]
            for step, values in steps.items()
        }
        for key, steps in found.items()
    }


def cheapest_alike(
    keys: Sequence[Choices],
    costs: Floats,
    outcomes: Mapping[Choices, Mapping[int, float]],
    best: int,
) -> int:
    """Return the position of the cheapest allocation with the same outcomes as the best one.

    Args:
        keys: The allocations.
        costs: Their costs.
        outcomes: Outcomes by instance of some of them; see `complete_outcomes`.
        best: Position of the best one.
    """
    expected = outcomes.get(keys[best], {})
    alike = [
        i
        for i, key in enumerate(keys)
        if expected and all(outcomes.get(key, {}).get(step) == expected[step] for step in expected)
    ]
    return min(alike, key=lambda i: costs[i], default=best)


def compare(
    contenders: Sequence[Contender],
    best: int,
    margin: float,
    extent: float,
    fresh: Collection[int] = (),
) -> tuple[tuple[Tie, ...], tuple[Undecided, ...]]:
    """Return the cheaper allocations that lose less than a margin, and those that may.

    Args:
        contenders: The allocations.
        best: Position of the winner.
        margin: The margin, in units of the metric; 0 if all scores are equal and the range of the
            metric is unknown.
        extent: Width of the range of the metric, which bounds losses.
        fresh: Steps of instances that confirmed allocations.

    Returns:
        Ties, cheapest first, and undecided allocations, smallest bound first. Without outcomes of
        the winner, or a margin, there are none.
    """
    winner = contenders[best]
    ties, undecided = [], []
    if not margin:
        return (), ()
    for other in sorted(contenders, key=lambda contender: contender.cost):
        if other.cost >= winner.cost or not winner.outcomes or not other.outcomes:
            continue
        paired = Paired.of(other.outcomes, winner.outcomes, extent)
        low, high = other.bounds
        loss = min(-min(low, paired.lower), extent)
        facts = other.allocation, other.value, other.cost, loss, paired.shared
        # No tie rests on fewer instances than a trial of the search.
        least = max(MIN_SHARED, len(winner.outcomes.keys() - fresh))
        if loss < margin and paired.shared >= least:
            ties.append(Tie(*facts))
        elif high >= 0 and paired.upper >= 0:
            # The shared ones have not shown it.
            needed = max(paired.instances_for(margin), least, paired.shared + 1)
            undecided.append(Undecided(*facts, needed))
    return tuple(ties), tuple(sorted(undecided, key=lambda other: other.loss))
