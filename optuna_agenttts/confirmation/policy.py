"""Choose allocations to compare on fresh instances, their number, and when to stop searching.

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

from dataclasses import dataclass, replace

import numpy as np

from optuna_agenttts.planner.cholesky import factor
from optuna_agenttts.planner.evidence import Floats, Ints
from optuna_agenttts.planner.mixture import normal_cdf

SHARES = (0.3, 0.4)
"""Shares of a limit on search and confirmation that trials take, at least and at most: 15 to 20
trials of 50. In between, `worth_another_trial` decides. Mean regret on development landscapes,
real, calibrated, random and violating ones: .064, .110, .128, .181 with these shares; .066, .103,
.124, .174 after 20 trials always; .064, .106, .141, .181 without the first; .063, .106, .145, .239
without both (standard errors of differences: about .01). Without the first, some searches ended
after ten trials, none of which was good."""
TRIALS = 50
"""Trials after which `worth_another_trial` decides before the least share is reached: a limit that
is far larger than the instances can use must not run thousands. Chosen by hand."""
LOOKS = 4
"""Blocks of fresh instances, at most. After each, allocations that cannot win are left out. Mean
regret with 1, 2, 4 and 8: .072, .068, .065, .064 on recorded outcomes of real models, .151, .100,
.103, .108 on calibrated landscapes, .143, .139, .121, .123 on random ones."""
_MOST = 16
"""Allocations of a block, at most, which bounds the time. At the first look most blocks are best
with 6 to 8."""
_FEWEST = 40
"""Fresh instances on which each allocation of a front is compared, at least. Chosen by hand."""
_DRAWS = 256
"""Draws of expectations; as many again are their mirror images. Chosen by hand."""
MIN_GAIN = 2e-4
"""Expected gain, in rates, below which a choice is decided: about a hundredth of the error of a
mean of 500 outcomes. Chosen by hand."""
_MARGIN = 0.05
"""Loss, in rates, below which a cheaper allocation is as good: the default margin of ties."""
_PROBABLE = 0.6
"""Least probability of that, to take a cheaper allocation along. Chosen by hand. On real outcomes
such allocations raised the saving of the cheapest tie from .126 to .150 of the cost, and changed
the regret from .065 to .066; on no family did they change it beyond noise."""
_CHEAPER = 0.75
"""Price of a cheaper allocation, as a share of that of the best one, at most. Chosen by hand."""
_MIN_VARIANCE = 1e-10
"""Lower bound of variances, in rates squared, against rounding below zero."""


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
        """Return a root of the covariance of the change of the means by a block.

        Args:
            positions: The allocations of the block.
            instances: Number of instances, above 0.

        Returns:
            A root of shape (allocations, len(positions)): the covariance is root @ root.T.
        """
        own = np.ix_(positions, positions)
        cholesky = factor(self.covariance[own] + self.noise[own] / instances)
        return np.asarray(np.linalg.solve(cholesky, self.covariance[positions]).T)

    def after(self, change: Floats) -> Belief:
        """Return the belief after a change of the means, with the means that are expected.

        Args:
            change: Root of the covariance of the change; see `change`.
        """
        return Belief(self.means, self.covariance - change @ change.T, self.noise)


@dataclass(frozen=True, slots=True)
class Limits:
    """Remaining limits, and the costs that count towards them.

    Args:
        left: What is left of each limit, such as spend or evaluations, shape (limits,).
        costs: Cost of one instance of each allocation in terms of each limit, shape (limits,
            allocations).
        fresh: Number of fresh instances that are left.
        prices: Cost of one instance of each allocation in units of the task's cost model, shape
            (allocations,), to tell which ones are cheaper. None takes no cheaper one along.
    """

    left: Floats
    costs: Floats
    fresh: int
    prices: Floats | None = None

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
    values, vectors = np.linalg.eigh(belief.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    best = _draws(belief.means, root).argmax(axis=1)
    return np.bincount(best, minlength=len(belief.means)) / len(best)


def contenders(belief: Belief, limits: Limits) -> Block:
    """Return the allocations that are worth confirming with all that is left.

    They are the ones with the largest chances of being the best, as many as make the expected rate
    of the recommendation largest: among few, the best may be missing, and many leave few
    instances for each. On development landscapes the mean regret was smaller than with the five
    best posterior means (.065 and .101 on real outcomes, .103 and .222 on calibrated landscapes),
    and than with as many as include the best with a probability of .95 (.095 and .155).

    Args:
        belief: Belief in the tried allocations.
        limits: What is left.
    """
    order = np.lexsort((-belief.means, -chances(belief)))
    best = Block(order[:1], 0, 0.0)
    for count in range(2, min(_MOST, len(order)) + 1):
        positions = order[:count]
        instances = limits.instances(positions)
        if instances < 1:
            break
        gain = _expected_gain(belief.means, belief.change(positions, instances))
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
    if looks < 1 or found.gain < MIN_GAIN:
        return None
    positions = _with_cheaper(belief, limits, found.positions)
    return Block(positions, max(1, limits.instances(positions) // looks), found.gain)


def front_block(means: Floats, costs: Floats, limits: Limits, looks: int = LOOKS) -> Block:
    """Return the next block that confirms the allocations of a front.

    If they are too many for what is left, those are left out that add the least area to the front:
    the rise over the one before, times the cost up to the next.

    Args:
        means: Posterior means of the allocations, two or more.
        costs: Costs that the front is over, with which the means rise.
        limits: What is left.
        looks: See `next_block`.
    """
    kept = np.arange(len(means))
    while len(kept) > 2 and (len(kept) > _MOST or limits.instances(kept) < _FEWEST):
        areas = np.diff(means[kept])[:-1] * np.diff(costs[kept])[1:]
        kept = np.delete(kept, 1 + int(areas.argmin()))
    return Block(kept, max(1, limits.instances(kept) // looks), 0.0)


def worth_another_trial(
    belief: Belief, limits: Limits, instances: int, least: float = 0.0
) -> bool:
    """Return whether another trial is worth more than the fresh instances that it costs.

    It looks one trial ahead, so it does not see what several trials would find. Callers ask it
    within `SHARES` of the limits, or after `TRIALS`.

    Args:
        belief: Belief in the tried allocations, and in the one that would be tried, which is
            last.
        limits: What is left, with costs of the same allocations.
        instances: Number of instances of a trial.
        least: Least advantage, in rates. Where the fresh instances are used up, trials cost
            nothing that could be used otherwise.
    """
    count = len(belief.means) - 1
    later = replace(limits, left=limits.left - instances * limits.costs[:, count])
    if (later.left < 0).any():
        return False
    tried = Belief(
        belief.means[:count], belief.covariance[:count, :count], belief.noise[:count, :count]
    )
    now = contenders(tried, replace(limits, costs=limits.costs[:, :count], prices=None))
    trial = belief.change(np.array([count]), instances)
    after = belief.after(trial)
    chosen = contenders(after, later)
    if chosen.instances:
        trial = np.hstack([trial, after.change(chosen.positions, chosen.instances)])
    gain = float(belief.means.max() - tried.means.max()) + _expected_gain(belief.means, trial)
    return now.gain + least < gain


def _with_cheaper(belief: Belief, limits: Limits, positions: Ints) -> Ints:
    """Return a block's allocations with a cheaper one that may be as good as the best.

    It is the one with the largest expected saving, if it probably loses less than a margin.
    """
    if limits.prices is None:
        return positions
    best = int(belief.means.argmax())
    covariance = belief.covariance
    variance = np.diagonal(covariance) + covariance[best, best] - 2 * covariance[best]
    gap = belief.means - belief.means[best] + _MARGIN
    probable = normal_cdf(gap / np.sqrt(np.maximum(variance, _MIN_VARIANCE)))
    cheap = limits.prices <= _CHEAPER * limits.prices[best]
    saving = np.where(cheap, probable * (limits.prices[best] - limits.prices), 0.0)
    saving[probable < _PROBABLE] = 0.0
    found = int(saving.argmax())
    more = np.union1d(positions, [found])
    return more if saving[found] > 0 and limits.instances(more) else positions


def _expected_gain(means: Floats, change: Floats) -> float:
    """Return the expected increase of the largest mean by a change with this root."""
    return float(_draws(means, change).max(axis=1).mean() - means.max())


def _draws(means: Floats, root: Floats) -> Floats:
    """Return normal draws, from the same random numbers each time, shape (draws, quantities)."""
    normal = np.random.default_rng(0).standard_normal((root.shape[1], _DRAWS))
    return np.asarray(means + (root @ np.hstack([normal, -normal])).T)
