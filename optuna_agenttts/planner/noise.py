"""What outcomes of single instances say of the noise in scores.

A score is a mean over instances. How far it may be from the truth can be read off its outcomes,
and so can how much of that two trials have in common: all run on the same instances, which may be
hard ones, and allocations that are alike draw mostly the same samples, so that one's luck is the
other's. Noise that is taken for independent makes a planner believe in its luck.

A trial that was stopped early has seen some of the instances. Whether those were easy ones is told
by the trials that have seen all: what they scored there, beside what they scored on the whole, is
taken off as far as their outcomes go with those of the stopped trial (kriging, or the method of
control variates). Whoever stops trials by their outcomes does no harm by that: the posterior
rests on what was seen, and seeing less makes it less sure (Rubin 1976, ignorable selection).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.planner.evidence import Evidence, Floats, Ints

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
class Noise:
    """The errors of mean outcomes of groups of trials, in units of the outcomes.

    Args:
        told: Of each group, whether it has two outcomes or more.
        covariance: Covariance of the errors, shape (groups, groups); rows of groups that told
            nothing are zero.
        shifts: What the instances that a group saw take from its mean outcome, because others
            are easier; to be added to it. Zero for groups that saw all.
        common: Correlation of two trials' outcomes, whatever their allocations.
        near: What is added to that where allocations are the same.
        sds: Standard deviations of single outcomes by group; zero for those that told nothing.
        instances: The most instances that a group saw; 0 where none told.
    """

    told: NDArray[np.bool_]
    covariance: Floats
    shifts: Floats
    common: float
    near: float
    sds: Floats
    instances: int

    def of_new(self, alike: Floats) -> tuple[float, Floats]:
        """The error of a whole new trial.

        Args:
            alike: How alike its allocation is to each group's, shape (allocations, groups).

        Returns:
            Its variance, and its covariance with the groups' errors, shape (allocations, groups).
            Both are zero where no trial told.
        """
        if not self.instances:
            return 0.0, np.zeros_like(alike)
        sd = float(np.median(self.sds[self.told]))
        shared = (self.common + self.near * alike) * (sd * self.sds / self.instances)
        return sd**2 / self.instances, shared


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
            group: Of each trial, its group; -1 for none.
            groups: How many groups there are.
        """
        whole: dict[tuple[int, ...], tuple[list[int], list[list[float]]]] = {}
        for row, outcomes in enumerate(evidence.outcomes):
            if len(outcomes) >= 2 and group[row] >= 0:
                # Trials of the same instances are read in one go: most of them are.
                rows, values = whole.setdefault(tuple(outcomes), ([], []))
                rows.append(row)
                values.append(list(outcomes.values()))
        known = np.array(sorted(set().union(*whole)), dtype=np.int64)
        total, count = np.zeros((2, groups, len(known)))
        for steps, (rows, values) in whole.items():
            block = np.array(values, dtype=np.float64)
            score = evidence.sign * evidence.scores[rows]
            with np.errstate(all="ignore"):
                fits = np.abs(block).max(axis=1) < _LARGEST
                gap = np.abs(block.mean(axis=1) - score)
                fits &= gap < 1e-6 * np.maximum(1.0, np.abs(score))
            columns = np.searchsorted(known, np.array(steps))
            for index, row in zip(group[np.array(rows)[fits]], block[fits]):
                total[index, columns] += row
                count[index, columns] += 1
        used = count.any(axis=0)
        total, count = total[:, used], count[:, used]
        return cls(total / np.maximum(count, 1), (count > 0).astype(np.float64))

    def fit(self, alike: Floats) -> Noise:
        """Work out the errors of the groups' mean outcomes.

        Two groups' outcomes are correlated by a share that is common to all, and another one
        times how alike their allocations are: least squares over all pairs of groups.

        Args:
            alike: How alike the groups' allocations are, from 0 to 1, with ones on the diagonal.
        """
        told = self.seen.sum(axis=1) >= 2
        groups = len(self.seen)
        nothing = np.zeros(groups)
        if not told.any():
            square = np.zeros((groups, groups))
            return Noise(told, square, nothing, _BELIEVED[0], _BELIEVED[1], nothing, 0)
        sizes = np.maximum(self.seen.sum(axis=1), 1)
        instances = int(sizes[told].max())
        means = self.table.sum(axis=1) / sizes
        gaps = (self.table - means[:, None]) * self.seen
        sds = np.where(told, np.sqrt(self._variances(told, gaps, means, sizes)), 0.0)
        overlap = self.seen @ self.seen.T
        common, near = _shares(gaps, sds, overlap, alike)
        shape = common + near * alike
        np.fill_diagonal(shape, 1.0)
        whole = np.flatnonzero(told & (sizes == self.seen.shape[1]))
        # Of each group's outcomes, what follows from those of the groups that saw all.
        weights = np.linalg.solve(shape[np.ix_(whole, whole)], shape[whole]).T
        explained = weights @ shape[whole]
        own = (shape - explained) * overlap / np.outer(sizes, sizes)
        covariance = (explained / instances + own) * np.outer(sds, sds)
        # Where all outcomes of a group were equal its sd is above zero all the same.
        scaled = gaps[whole] / np.where(sds[whole] > 0, sds[whole], 1.0)[:, None]
        luck = ((weights @ scaled) * self.seen).sum(axis=1) / sizes * sds
        return Noise(told, covariance, -luck, common, near, sds, instances)

    def _variances(
        self, told: NDArray[np.bool_], gaps: Floats, means: Floats, sizes: Floats
    ) -> Floats:
        """Variance of a single outcome of each group."""
        variances = (gaps**2).sum(axis=1) / np.maximum(sizes - 1, 1)
        inside = told & (means * (1 - means) > 0.05)
        if self.table.min() < 0 or self.table.max() > 1 or not inside.any():
            return np.asarray(np.maximum(variances, _FLOOR * np.median(variances[told])))
        # Of outcomes from 0 to 1 it is a share of p (1 - p), whose plain estimate vanishes where
        # all outcomes seen are equal; Laplace's rule of succession does not.
        share = np.median(variances[inside] / (means * (1 - means))[inside])
        smoothed = (means * sizes + 1) / (sizes + 2)
        return np.asarray(share * smoothed * (1 - smoothed))


def _shares(gaps: Floats, sds: Floats, overlap: Floats, alike: Floats) -> tuple[float, float]:
    """What outcomes of two groups have in common: in any case, and where alike besides."""
    first, second = np.triu_indices(len(sds), 1)
    both = (sds[first] > 0) & (sds[second] > 0) & (overlap[first, second] >= 2)
    first, second = first[both], second[both]
    correlations = (gaps @ gaps.T)[first, second] / (
        (overlap[first, second] - 1) * sds[first] * sds[second]
    )
    design = np.column_stack([np.ones(len(first)), alike[first, second]])
    shares = np.linalg.solve(
        design.T @ design + _RIDGE, design.T @ correlations + _RIDGE @ _BELIEVED
    )
    common, near = np.clip(shares, 0.0, _MOST).tolist()
    return common, min(near, _MOST - common)
