"""What outcomes of single instances say of the noise in scores.

A score is a mean over instances. How far it may be from the truth can be read off its outcomes,
and so can how much of that two trials have in common: all run on the same instances, which may be
hard ones, and allocations that are alike draw mostly the same samples, so that one's luck is the
other's. Noise that is taken for independent makes a planner believe in its luck. A trial that was
stopped early has seen some of the instances, and shares the luck of those only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.planning import Evidence, Floats, Ints

_BELIEVED = np.array([0.4, 0.3])
"""Correlation of two trials' outcomes before any pair tells: what all trials have in common, and
what those of like allocations have besides. As measured on the playground (.5 and .3)."""
_RIDGE = 10.0 * np.array([[1.0, 0.3], [0.3, 0.3]])
"""It counts as ten pairs of trials whose allocations are .3 alike."""
_MOST = 0.95
_LARGEST = 1e100
"""Squares of larger outcomes would overflow; NaN is no outcome either."""
_FLOOR = 0.25
"""Of the median variance: a handful of equal outcomes is no proof that there is none."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes by instance, of groups of trials of one allocation or of near ones.

    Args:
        table: Mean outcomes, shape (groups, instances), 0 where there are none.
        seen: 1 where there are, likewise.
    """

    table: Floats
    seen: Floats

    @classmethod
    def of(cls, evidence: Evidence, group: Ints, groups: int) -> Outcomes:
        """Take the outcomes of the trials whose scores are means of them.

        Args:
            evidence: The trials.
            group: Of each trial, its group.
            groups: How many groups there are.
        """
        rows = []
        for row, outcomes in enumerate(evidence.outcomes):
            values = np.fromiter(outcomes.values(), np.float64, len(outcomes))
            score = evidence.sign * float(evidence.scores[row])
            if len(values) < 2 or not np.abs(values).max() < _LARGEST:
                continue
            if abs(float(values.mean()) - score) < 1e-6 * max(1.0, abs(score)):
                steps = np.fromiter(outcomes.keys(), np.int64, len(outcomes))
                rows.append((int(group[row]), steps, values))
        if not rows:
            return cls(np.zeros((groups, 0)), np.zeros((groups, 0)))
        known = np.unique(np.concatenate([steps for _, steps, _ in rows]))
        total, count = np.zeros((2, groups, len(known)))
        for index, steps, values in rows:
            columns = np.searchsorted(known, steps)
            total[index, columns] += values
            count[index, columns] += 1
        return cls(total / np.maximum(count, 1), (count > 0).astype(np.float64))

    @property
    def told(self) -> NDArray[np.bool_]:
        """Of each group, whether it has two outcomes or more."""
        enough: NDArray[np.bool_] = self.seen.sum(axis=1) >= 2
        return enough

    def covariance(self, alike: Floats) -> Floats:
        """Covariance of the errors of the groups' mean outcomes, shape (groups, groups).

        Two groups' outcomes are correlated by a share that is common to all, and another one
        times how alike their allocations are: least squares over all pairs of groups.

        Args:
            alike: How alike the groups' allocations are, from 0 to 1, with ones on the diagonal.

        Returns:
            The covariance; rows of groups that told nothing are zero.
        """
        told = self.told
        if not told.any():
            return np.zeros((len(told), len(told)))
        sizes = np.maximum(self.seen.sum(axis=1), 1)
        means = self.table.sum(axis=1) / sizes
        gaps = (self.table - means[:, None]) * self.seen
        variances = self._variances(gaps, means, sizes)
        overlap = self.seen @ self.seen.T
        sds = np.where(told, np.sqrt(variances), 0.0)
        first, second = np.triu_indices(len(told), 1)
        both = (sds[first] > 0) & (sds[second] > 0) & (overlap[first, second] >= 2)
        first, second = first[both], second[both]
        correlations = (gaps @ gaps.T)[first, second] / (
            (overlap[first, second] - 1) * sds[first] * sds[second]
        )
        design = np.column_stack([np.ones(len(first)), alike[first, second]])
        shares = np.linalg.solve(
            design.T @ design + _RIDGE, design.T @ correlations + _RIDGE @ _BELIEVED
        )
        common, near = np.clip(shares, 0.0, _MOST)
        shape = common + min(near, _MOST - common) * alike
        np.fill_diagonal(shape, 1.0)
        covariance: Floats = shape * overlap / np.outer(sizes, sizes) * np.outer(sds, sds)
        return covariance

    def _variances(self, gaps: Floats, means: Floats, sizes: Floats) -> Floats:
        """Variance of a single outcome of each group."""
        told = self.told
        variances = (gaps**2).sum(axis=1) / np.maximum(sizes - 1, 1)
        inside = told & (means * (1 - means) > 0.05)
        if self.table.min() < 0 or self.table.max() > 1 or not inside.any():
            return np.asarray(np.maximum(variances, _FLOOR * np.median(variances[told])))
        # Of outcomes from 0 to 1 it is a share of p (1 - p), whose plain estimate vanishes where
        # all outcomes seen are equal; Laplace's rule of succession does not.
        share = np.median(variances[inside] / (means * (1 - means))[inside])
        smoothed = (means * sizes + 1) / (sizes + 2)
        return np.asarray(share * smoothed * (1 - smoothed))
