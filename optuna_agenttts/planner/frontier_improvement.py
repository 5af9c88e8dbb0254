"""Acquisition functions of searches for good scores at every cost, or for a cheap good score.

The front of posterior means is the best mean of the observed allocations up to each cost, a step
function. An allocation improves it from its own cost up to the budget, wherever its score exceeds
the front. Its acquisition is the expectation of the area that it adds, divided by the length of
the cost axis: the expected improvement of the score, averaged over budgets. This is the expected
hypervolume improvement of two objectives of which one, the cost, is known.

* Cost axis: linear, from the cheapest allocation to beyond the most expensive one within the
  budget, which would add no area if the axis ended there. With a
  logarithmic one, searches lost as much of the area over a linear axis after 50 trials (.033, and
  .031 with the linear one, mean of five families) and more after 15 (.078 and .067). Over a
  logarithmic axis, they lost less after 15 trials (.077 and .106) and as much after 50.
* Reference: a rate of 0 where nothing cheaper was observed.
* A floor caps scores: what exceeds it adds nothing, so the search looks for cheap allocations that
  reach it. Means err, so scores count from two standard deviations below the floor to two above;
  and the axis is twice as long, since an allocation of the whole budget is better than none.

As in `acquisition.py`, the expected improvement selects allocations for the knowledge gradient,
the expected increase of the area under the front of posterior means by one more noisy trial. Where
all costs are equal, both are those of searches for the best score.

Notation (k steps of the front, N allocations):

    symbol   shape   unit   meaning
    starts   (k,)    1      where each step begins on the cost axis, from 0 to 1 (the most
                            expensive allocation)
    levels   (k,)    rate   its level
    widths   (k, N)  1      length of each step above the cost of an allocation, as a share of the
                            axis

M. Emmerich, K. Giannakoglou and B. Naujoks (2006). Single- and multiobjective evolutionary
optimization assisted by Gaussian random field metamodels. IEEE Transactions on Evolutionary
Computation 10, pp. 421-439.
"""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.acquisition import Acquisition, BestScore, normal_quadrature
from optuna_agenttts.planner.costs import Costs
from optuna_agenttts.planner.evidence import Evidence, Floats
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.mixture import Moments, View
from optuna_agenttts.planner.posterior import Posterior

_MARGIN = 2.0
"""Half the width of the range of rates around a floor that count, in standard deviations of the
tried allocations. On 17 development landscapes, the cheapest tried allocation that truly reached a
floor cost a geometric mean of 1.71, 1.47 and 1.42 times the lowest cost after 15, 30 and 50 trials
(10 where there was none); 1.91, 1.73 and 1.44 with a margin of 1.28; and 2.24, 2.00 and 1.98 with
all scores up to .05 above the floor, and an axis that ends at the budget."""
END = 1.2
"""End of the cost axis, in lengths from the cheapest to the most expensive allocation. What costs
almost the budget counts over the rest of the axis only. In the README's task, one call of a large
model takes 90 % of the budget. After 20 trials for both objectives, the end of the front truly
scored .46 to .48 in four searches with an end of 1, .45 to .71 with 1.1, which is usual for
hypervolumes, and .71 to .73 with 1.2. On 7 development landscapes, 6 searches each, 1.2 changed
the loss of area over a linear axis after 15, 30 and 50 trials by -.001, -.002 and .001 (standard
errors .003, .003 and .002), over a logarithmic one by .005, .000 and .003 (.003, .002 and .001),
and the regret of the best score from .037, .024 and .016 to .031, .018 and .012."""
_LENGTH = 2.0
"""Length of the cost axis of a search with a floor, in lengths of that up to the budget. Chosen by
hand; with 1.2 and a margin of 1.28, the figures were 2.56, 1.70 and 1.49."""
_FRONT = 12
"""Observed allocations, closest to the front first, that a trial can move besides the tried one.
Chosen by hand; the time of an ask grows with it."""
_NODES, _WEIGHTS = normal_quadrature(21)


def acquisition_of(
    posterior: Posterior,
    evidence: Evidence,
    among: Points,
    floor: float | None,
) -> Acquisition:
    """Return the acquisition functions of what is searched for.

    Args:
        posterior: The posterior.
        evidence: The evidence that it is conditioned on.
        among: The allocations of the search.
        floor: Score to reach at the lowest cost, in the study's own sign; None for the best score.
    """
    if not evidence.frontier and floor is None:
        return BestScore(posterior)
    oriented = None if floor is None else evidence.sign * floor
    return FrontierImprovement(posterior, Costs(evidence), among, oriented)


class FrontierImprovement:
    """Expected increase of the area under the front.

    Args:
        posterior: The posterior.
        costs: Costs of allocations.
        among: The allocations of the search, for the ends of the cost axis.
        floor: Score above which nothing is gained, oriented as the scores of the evidence.
    """

    compared = 60
    """See `Acquisition`. Chosen by hand: an ask takes as long as for the best score."""

    def __init__(
        self,
        posterior: Posterior,
        costs: Costs,
        among: Points,
        floor: float | None = None,
    ) -> None:
        """See the class."""
        self._posterior, self._costs = posterior, costs
        own = costs(among)
        self._low, self._high = float(own.min()), float(own.max())
        self.cap, self.reference, self.end = np.inf, 0.0, END
        incumbents = posterior.incumbents
        positions, means = self.positions(incumbents.points), incumbents.mean()
        if floor is not None:
            margin = _MARGIN * float(np.median(incumbents.moments().sd()))
            rate = float(posterior.scale.rates(np.array([floor]))[0])
            # If nothing is close to the floor, what is closest is still an improvement.
            low = min(rate, float(means.max()))
            self.cap, self.reference, self.end = rate + margin, low - margin, _LENGTH
        means = np.minimum(means, self.cap)
        order = np.lexsort((-means, positions))
        levels = np.maximum.accumulate(np.maximum(means[order], self.reference))
        rises = np.flatnonzero(np.diff(levels, prepend=self.reference) > 0)
        self.starts = np.concatenate([[0.0], positions[order][rises]])
        self.levels = np.concatenate([[self.reference], levels[rises]])
        self.front = incumbents.points.take(order[rises])
        """The allocations of the front, cheapest first."""

    def positions(self, points: Points) -> Floats:
        """Return the positions of allocations on the cost axis, from 0 to 1."""
        costs = self._costs(points)
        # Equal costs are all at 0, and the whole axis is above them.
        length = self._high - self._low
        positions: Floats = np.clip((costs - self._low) / (length or 1.0), 0.0, 1.0)
        return positions

    def shortfall(self, points: Points, means: Floats) -> Floats:
        """Return how far rates are below the front at the cost of their allocations."""
        steps = np.searchsorted(self.starts, self.positions(points), side="right") - 1
        shortfall: Floats = self.levels[steps] - np.minimum(means, self.cap)
        return shortfall

    def expected(self, view: View) -> Floats:
        """Return the expected increase of the area by allocations, in rates.

        The integral over the cost axis is a sum over the steps of the front: the expected
        improvement over a level is constant along its step. Rates are normal, with the moments of
        the mixture.

        Args:
            view: The rates of the allocations.
        """
        moments = view.moments()
        mean, sd = moments.mean(), moments.sd()
        widths = self._widths(self.starts, view.points)
        levels = np.broadcast_to(self.levels[:, None], widths.shape)
        gains = np.zeros(widths.shape)
        rows, columns = np.nonzero(widths)
        gains[rows, columns] = _positive_part(mean[columns] - levels[rows, columns], sd[columns])
        if np.isfinite(self.cap):
            gains -= _positive_part(mean - self.cap, sd)
        expected: Floats = (widths * np.maximum(gains, 0.0)).sum(axis=0)
        return expected

    def gradient(self, view: View) -> Floats:
        """Return the knowledge gradient of allocations, in rates.

        Args:
            view: The rates of the allocations.
        """
        incumbents, scores = self._posterior.incumbents, self._posterior.next_scores(view)
        shortfall = self.shortfall(incumbents.points, incumbents.mean())
        top = np.argsort(shortfall, kind="stable")[:_FRONT]
        starts = self.positions(incumbents.points.take(top))
        order = np.argsort(starts, kind="stable")
        top, starts = top[order], np.concatenate([[0.0], starts[order]])
        lengths = np.diff(starts, append=self.end) / self.end
        widths = self._widths(starts, view.points)
        means, observed = view.moments().means, incumbents.moments().means[:, top]
        sds = scores.moments().sds
        chosen = np.tile(top, (len(means), 1))
        slopes = scores.joint(incumbents, chosen) / sds[:, None]
        own_slopes = scores.pairwise(view) / sds
        total = np.zeros(len(view.points))
        for weight, own, levels, b, own_b in zip(
            view.mixture.weights, means, observed, slopes, own_slopes
        ):
            before = self._front(np.append(self.reference, levels)[None, :, None])[0, :, 0]
            # Shapes (nodes, steps, allocations), the first step at the reference.
            moved = np.full((len(_NODES), len(top) + 1, len(own)), self.reference)
            moved[:, 1:] = levels[:, None] + _NODES[:, None, None] * b
            front = self._front(moved)
            tried = np.minimum(own + _NODES[:, None] * own_b, self.cap)
            added = np.maximum(tried[:, None] - front, 0.0)
            # Expectations over the next score, shape (steps, allocations).
            rise = np.tensordot(_WEIGHTS, front, 1) - before[:, None]
            total += weight * (
                lengths @ rise + (widths * np.tensordot(_WEIGHTS, added, 1)).sum(axis=0)
            )
        return total

    def gain_text(self, gain: float, span: float) -> str:
        """Describe the expected increase of the score over all costs, or the expected saving."""
        if np.isfinite(self.cap):
            saving = gain * self.end / (self.cap - self.reference)
            return f"expected to save {100 * saving:.2g} % of the range of costs"
        return f"expected to raise the best score by {gain * span:.2g}, averaged over all costs"

    def _front(self, levels: Floats) -> Floats:
        """Return the levels of the front, given those of its allocations by cost in axis 1."""
        front: Floats = np.maximum.accumulate(np.minimum(levels, self.cap), axis=1)
        return front

    def _widths(self, starts: Floats, points: Points) -> Floats:
        """Return `widths` of the module's notation."""
        ends = np.append(starts[1:], self.end)[:, None]
        own = self.positions(points)
        widths: Floats = np.maximum(ends - np.maximum(starts[:, None], own), 0.0) / self.end
        return widths


def _positive_part(means: Floats, sds: Floats) -> Floats:
    """Return the expectations of the positive parts of normal variables."""
    return Moments(np.ones(1), means[None], sds[None]).positive_part()
