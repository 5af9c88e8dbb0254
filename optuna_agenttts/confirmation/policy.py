"""Which allocations to compare on fresh instances, on how many, and when to stop searching.

The trials of a search find good allocations, but their instances are too few to tell which of
them is best: the luckiest wins. Fresh instances tell the good ones apart. All decisions follow
from one quantity, the expected rate of the recommendation after what is left has been spent on
some allocations. It is computed from the joint posterior of the tried allocations, so that
allocations that are almost surely the same, or cannot win, are not worth an instance.

Notation (k allocations, a block of m fresh instances of the allocations S):

    symbol        shape    unit     meaning
    means         (k,)     rate     posterior means
    covariance    (k, k)   rate^2   posterior covariance
    noise         (k, k)   rate^2   covariance of the outcomes on one fresh instance

The block changes the means by a normal variable with the covariance
covariance[:, S] (covariance[S, S] + noise[S, S] / m)^-1 covariance[S, :]; for a single allocation
this is Eq. 8 of P. Frazier, W. Powell and S. Dayanik (2009), The knowledge-gradient policy for
correlated normal beliefs, INFORMS Journal on Computing 21, pp. 599-613.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Ints

LOOKS = 4
"""Blocks of fresh instances, at most. After each, allocations that cannot win are left out."""
_MOST = 16
"""Allocations of a block, at most. Chosen by hand; the value was largest for fewer in nearly all
searches of development landscapes."""
_DRAWS = 256
"""Draws of expectations; as many again are their mirror images. Chosen by hand."""
_MIN_GAIN = 2e-4
"""Expected gain, in rates, below which a choice is decided. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Belief:
    """Joint normal distribution of the rates of some allocations, and the noise of instances.

    Args:
        means: Means, shape (allocations,).
        covariance: Covariance, shape (allocations, allocations).
        noise: Covariance of the outcomes on one fresh instance, likewise.
    """

    means: Floats
    covariance: Floats
    noise: Floats

    def change(self, positions: Ints, instances: float) -> Floats:
        """Return the covariance of the change of the means by a block of fresh instances.

        Args:
            positions: The allocations of the block.
            instances: Number of instances.
        """
        own = np.ix_(positions, positions)
        observed = self.covariance[own] + self.noise[own] / instances
        cross = self.covariance[:, positions]
        return np.asarray(cross @ np.linalg.solve(observed, cross.T))

    def after(self, positions: Ints, instances: float) -> Belief:
        """Return the belief after a block, as far as it is known before: with the same means."""
        covariance = self.covariance - self.change(positions, instances)
        return Belief(self.means, covariance, self.noise)


@dataclass(frozen=True, slots=True)
class Limits:
    """What is left to spend, and on what.

    Args:
        left: What is left of each limit, such as spend or evaluations, shape (limits,).
        costs: Cost of one instance of each allocation in terms of each limit, shape (limits,
            allocations).
        fresh: Number of fresh instances that are left.
    """

    left: Floats
    costs: Floats
    fresh: int

    def instances(self, positions: Ints) -> int:
        """Return the number of instances that some allocations can run on."""
        bounds = self.left / self.costs[:, positions].sum(axis=1)
        # Of floats that are a little below a whole number.
        return min(self.fresh, int(bounds.min() * (1 + 1e-9)))


@dataclass(frozen=True, slots=True)
class Block:
    """Allocations to evaluate on the same fresh instances.

    Args:
        positions: The allocations.
        instances: Number of instances.
        gain: Expected gain of the recommendation, in rates, if all that is left is spent so.
    """

    positions: Ints
    instances: int
    gain: float


def chances(belief: Belief) -> Floats:
    """Return the probability that each allocation is the best, shape (allocations,)."""
    best = _draws(belief.means, belief.covariance).argmax(axis=1)
    return np.bincount(best, minlength=len(belief.means)) / len(best)


def contenders(belief: Belief, limits: Limits) -> Block:
    """Return the allocations that are worth confirming with all that is left.

    They are the ones with the largest chances of being best, as many as make the expected rate
    of the recommendation largest: of few, the best may be missing, and many leave few instances
    for each.

    Args:
        belief: Belief in the tried allocations.
        limits: What is left.
    """
    order = np.lexsort((-belief.means, -chances(belief)))
    now = float(belief.means.max())
    best = Block(order[:1], 0, 0.0)
    for count in range(2, min(_MOST, len(order)) + 1):
        positions = order[:count]
        instances = limits.instances(positions)
        if instances < 1:
            break
        gain = _expected_best(belief, belief.change(positions, instances)) - now
        if gain > best.gain:
            best = Block(positions, instances, gain)
    return best


def next_block(belief: Belief, limits: Limits, looks: int = LOOKS) -> Block | None:
    """Return the next block of fresh instances, or None if the choice is decided.

    Args:
        belief: Belief in the tried allocations, given all blocks so far.
        limits: What is left.
        looks: Number of blocks that are left, this one included.
    """
    found = contenders(belief, limits)
    if looks < 1 or found.gain < _MIN_GAIN:
        return None
    return Block(found.positions, max(1, found.instances // looks), found.gain)


def worth_another_trial(belief: Belief, limits: Limits, instances: int) -> bool:
    """Return whether another trial is worth more than the fresh instances that it costs.

    Args:
        belief: Belief in the tried allocations, and in the one that would be tried, which is
            last.
        limits: What is left, with costs of the same allocations.
        instances: Number of instances of a trial.
    """
    count = len(belief.means) - 1
    cost = instances * limits.costs[:, count]
    later = Limits(limits.left - cost, limits.costs, limits.fresh)
    if (later.left < 0).any():
        return False
    tried = Belief(
        belief.means[:count], belief.covariance[:count, :count], belief.noise[:count, :count]
    )
    now = contenders(tried, Limits(limits.left, limits.costs[:, :count], limits.fresh))
    own = np.array([count])
    trial = belief.change(own, instances)
    after = belief.after(own, instances)
    chosen = contenders(after, later)
    block = after.change(chosen.positions, chosen.instances) if chosen.instances else 0.0
    return _expected_best(belief, trial + block) > float(tried.means.max()) + now.gain


def _expected_best(belief: Belief, change: Floats) -> float:
    """Return the expectation of the largest mean after a change of this covariance."""
    return float(_draws(belief.means, change).max(axis=1).mean())


def _draws(means: Floats, covariance: Floats) -> Floats:
    """Return draws of a normal variable, always the same ones, shape (draws, quantities)."""
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    normal = np.random.default_rng(0).standard_normal((_DRAWS, len(means)))
    return np.asarray(means + np.concatenate([normal, -normal]) @ root.T)
