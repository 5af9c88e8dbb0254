"""Covariance of the noise in scores, estimated from outcomes of single instances.

A score is the mean of outcomes over instances. The outcomes show how far it may be from the
truth, and how much of its error two trials share: all trials of the search run on the same
instances, and similar allocations reuse mostly the same samples. A planner that treats noise as
independent overfits to luck. Means over disjoint instances, such as those of a search and fresh
ones that confirm its best allocations, share no error.

A trial that was stopped early has seen only some instances, which may have been easy ones. Trials
that saw all instances show how easy they were, so its mean is corrected with those trials as
control variates (equivalently, by kriging). Pruning by outcomes introduces no bias then: the
missing outcomes are missing at random given those observed, and Bayesian inference may ignore why
they are missing (Rubin 1976, Biometrika 63, pp. 581-592).

Notation (G groups of trials of one allocation, or of similar ones; I instances; outcomes as rates,
by the scale of the scores):

    symbol         shape    unit        meaning
    table          (G, I)   rate        mean outcomes, 0 where missing
    mask           (G, I)   1           1 where an outcome was observed, else 0
    sizes          (G,)     instances   number of outcomes of each group
    overlap        (G, G)   instances   number of instances that both groups saw
    similarity     (G, G)   1           kernel of the groups' allocations, 1 on the diagonal
    sigma          (G,)     rate        standard deviation of a single outcome
    rho            (G, G)   1           correlation of two groups' outcomes of one instance:
                                        rho_common + rho_similar * similarity, 1 on the diagonal
    weights        (G, W)   1           regression of each group on the W groups that saw all
                                        instances of the search; 0 for groups of fresh instances
    covariance     (G, G)   rate^2      covariance of the errors of the corrected means
    corrections    (G,)     rate        to be added to the mean outcomes
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Bools, Evidence, Floats, Ints

_PRIOR_RHO = np.array([0.4, 0.3])
"""Prior mean of (rho_common, rho_similar). Measured on the playground: .5 and .3; on recorded
outcomes of real models: .40 to .66 without, and .80 to .94 with all models in common."""
_PRIOR_PRECISION = 10.0 * np.array([[1.0, 0.3], [0.3, 0.3]])
"""Weight of the prior in the regression for rho, about that of ten pairs of groups with a
similarity of .3. Chosen by hand."""
_MAX_RHO = 0.95
"""Upper bound of rho_common + rho_similar; below 1 so that rho is positive definite. Chosen by
hand."""
_UNKNOWN_SIGMA = 0.4
"""Standard deviation of an outcome before any is known, in rates: that of outcomes 0 and 1 with a
mean of .2 or .8."""
_MAX_OUTCOME = 1e100
"""Larger outcomes, in rates, whose squares would overflow, and NaN are ignored."""
_SCORE_TOLERANCE = 1e-3
"""Outcomes whose mean is farther from the score, as a share of their range, do not explain it.
Larger than what rounding to three decimals changes."""
_ROUNDING = 1e-6
"""The same in rates, for outcomes that are all equal."""
_MIN_VARIANCE_SHARE = 0.25
"""Lower bound of a group's variance as a share of the median group's: a few equal outcomes do not
prove a variance of zero. Chosen by hand."""
_MIN_BINOMIAL = 0.05
"""Groups with a smaller p (1 - p), near 0 or 1, do not inform the ratio of the variance to it.
Chosen by hand: p between .053 and .947."""


@dataclass(frozen=True, slots=True)
class Noise:
    """Errors of the mean outcomes of groups of trials, in rates.

    Args:
        has_outcomes: Whether each group has two outcomes or more, shape (groups,). All other
            fields are zero for groups without.
        means: Mean outcomes over the instances that each group saw, shape (groups,).
        covariance: Covariance of the errors, shape (groups, groups).
        corrections: Corrections for the difficulty of the instances that a group saw, to be added
            to its mean outcome, shape (groups,); zero for groups that saw all instances of the
            search, or fresh ones.
        rho_common: Correlation of two trials' outcomes that does not depend on their allocations.
        rho_similar: What is added to it for equal allocations.
        sigma: Standard deviations of single outcomes, shape (groups,).
        instances: Largest number of instances that a group of the search saw; 0 if none has
            outcomes.
        fresh: Whether each group saw fresh instances instead of those of the search, shape
            (groups,).
    """

    has_outcomes: Bools
    means: Floats
    covariance: Floats
    corrections: Floats
    rho_common: float
    rho_similar: float
    sigma: Floats
    instances: int
    fresh: Bools

    @property
    def typical(self) -> float:
        """Median standard deviation of single outcomes."""
        known = self.sigma[self.has_outcomes]
        return float(np.median(known)) if len(known) else _UNKNOWN_SIGMA

    def of_fresh_instance(self, similarity: Floats) -> Floats:
        """Return the covariance of the outcomes of allocations on one fresh instance.

        Their mean outcomes on m of them have the m-th part of it.

        Args:
            similarity: Kernel of the allocations, shape (allocations, allocations).
        """
        rho = self.rho_common + self.rho_similar * similarity
        np.fill_diagonal(rho, 1.0)
        return np.asarray(rho * self.typical**2)

    def of_next_trial(self, similarity: Floats) -> tuple[float, Floats]:
        """Return the error of the next trial of the search, if it runs on all its instances.

        Args:
            similarity: Kernel of its possible allocations with those of the groups, shape
                (allocations, groups).

        Returns:
            Its variance, and its covariances with the groups' errors, shape (allocations,
            groups). Both are zero if no group has outcomes.
        """
        if not self.instances:
            return 0.0, np.zeros_like(similarity)
        typical = self.typical
        rho = self.rho_common + self.rho_similar * similarity
        # A repeat shares no more error with the mean of earlier ones than that mean has.
        shared = np.minimum(rho * typical * self.sigma, self.sigma**2) * ~self.fresh
        return typical**2 / self.instances, shared / self.instances


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Outcomes by instance of groups of trials.

    Args:
        table: Mean outcomes as rates, shape (groups, instances), 0 where missing.
        mask: 1 where an outcome was observed, else 0, shape (groups, instances).
        complete: Whether all trials of each group have outcomes, shape (groups,).
        repeated: Whether some outcomes of each group are means of several, shape (groups,).
        bounded: Whether rates cannot lie outside of 0 and 1.
        fresh: See `Noise`.
    """

    table: Floats
    mask: Floats
    complete: Bools
    repeated: Bools
    bounded: bool
    fresh: Bools

    @classmethod
    def from_evidence(cls, evidence: Evidence, group: Ints, groups: int) -> Outcomes:
        """Collect the outcomes of trials whose scores are the means of their outcomes.

        Args:
            evidence: The trials.
            group: Group of each trial, shape (trials,); -1 for trials to leave out.
            groups: Number of groups.
        """
        # Trials of the same instances, which most are, are processed as one block.
        blocks: dict[tuple[int, ...], tuple[list[int], list[list[float]]]] = {}
        missing = np.bincount(group[group >= 0], minlength=groups)
        for row, outcomes in enumerate(evidence.outcomes):
            if len(outcomes) >= 2 and group[row] >= 0 and evidence.scale.informative:
                rows, values = blocks.setdefault(tuple(outcomes), ([], []))
                rows.append(row)
                values.append(list(outcomes.values()))
        instances = np.array(sorted(set().union(*blocks)), dtype=np.int64)
        total, count = np.zeros((2, groups, len(instances)))
        for steps, (rows, values) in blocks.items():
            with np.errstate(all="ignore"):
                block = evidence.scale.rates(evidence.sign * np.array(values, dtype=np.float64))
                usable = np.abs(block).max(axis=1) < _MAX_OUTCOME
                gap = np.abs(block.mean(axis=1) - evidence.scale.rates(evidence.scores[rows]))
                usable &= gap < _ROUNDING + _SCORE_TOLERANCE * np.ptp(block, axis=1)
            columns = np.searchsorted(instances, np.array(steps))
            for index, row in zip(group[np.array(rows)[usable]], block[usable]):
                total[index, columns] += row
                count[index, columns] += 1
                missing[index] -= 1
        used = count.any(axis=0)
        total, count = total[:, used], count[:, used]
        return cls(
            total / np.maximum(count, 1),
            (count > 0).astype(np.float64),
            np.asarray(missing == 0),
            np.asarray((count > 1).any(axis=1)),
            evidence.scale.bounded,
            np.isin(np.arange(groups), group[evidence.block_of_rows() > 0]),
        )

    def fit(self, similarity: Floats) -> Noise:
        """Estimate the errors of the groups' mean outcomes.

        Args:
            similarity: Kernel of the groups' allocations, between 0 and 1 and 1 on the diagonal,
                shape (groups, groups).
        """
        has_outcomes = self.mask.sum(axis=1) >= 2
        groups = len(self.mask)
        if not has_outcomes.any():
            zeros, (common, similar) = np.zeros(groups), _PRIOR_RHO.tolist()
            square = np.zeros((groups, groups))
            return Noise(has_outcomes, zeros, square, zeros, common, similar, zeros, 0, self.fresh)
        sizes = np.maximum(self.mask.sum(axis=1), 1)
        search = ~self.fresh
        instances = int(sizes[has_outcomes & search].max(initial=0))
        means = self.table.sum(axis=1) / sizes
        deviations = (self.table - means[:, None]) * self.mask
        variances = self._variances(has_outcomes, deviations, means, sizes)
        sigma = np.where(has_outcomes, np.sqrt(variances), 0.0)
        overlap = self.mask @ self.mask.T
        rho_common, rho_similar = _fit_rho(deviations, sigma, overlap, similarity)
        rho = rho_common + rho_similar * similarity
        np.fill_diagonal(rho, 1.0)
        own = rho * np.outer(search, search)
        every = self.mask[search].any(axis=0).sum()
        whole = np.flatnonzero(has_outcomes & search & (sizes == every))
        # Best linear prediction of each group's standardized outcomes from those of the groups
        # that saw all instances of the search. What it explains has an error over all these
        # instances, the rest one over the instances that both groups saw.
        weights = np.linalg.solve(own[np.ix_(whole, whole)], own[whole]).T
        explained = weights @ own[whole]
        unexplained = (rho - explained) * overlap / np.outer(sizes, sizes)
        covariance = (explained / max(instances, 1) + unexplained) * np.outer(sigma, sigma)
        # sigma is zero if the outcomes of most groups are constant and not between 0 and 1.
        standardized = deviations[whole] / np.where(sigma[whole] > 0, sigma[whole], 1.0)[:, None]
        # Predicted mean deviation on the instances that each group saw; zero where it saw all.
        luck = ((weights @ standardized) * self.mask).sum(axis=1) / sizes * sigma
        return Noise(
            *(has_outcomes, means, covariance, -luck, rho_common, rho_similar, sigma, instances),
            self.fresh,
        )

    def _variances(
        self, has_outcomes: Bools, deviations: Floats, means: Floats, sizes: Floats
    ) -> Floats:
        """Estimate the variance of a single outcome of each group."""
        variances = (deviations**2).sum(axis=1) / np.maximum(sizes - 1, 1)
        inside = has_outcomes & ~self.repeated & (means * (1 - means) > _MIN_BINOMIAL)
        if not self.bounded or not inside.any():
            floor = _MIN_VARIANCE_SHARE * np.median(variances[has_outcomes])
            return np.asarray(np.maximum(variances, floor))
        # The variance of outcomes between 0 and 1 is a share of p (1 - p): all of it for outcomes
        # 0 or 1. p is estimated by Laplace's rule of succession, (successes + 1) / (trials + 2),
        # since the mean would give a variance of zero if all outcomes are equal.
        share = np.median(variances[inside] / (means * (1 - means))[inside])
        smoothed = (means * sizes + 1) / (sizes + 2)
        binomial = share * smoothed * (1 - smoothed)
        # The mean of several outcomes of an instance varies less, unless samples are reused.
        own = np.clip(variances, _MIN_VARIANCE_SHARE * binomial, binomial)
        return np.asarray(np.where(self.repeated, own, binomial))


def _fit_rho(
    deviations: Floats, sigma: Floats, overlap: Floats, similarity: Floats
) -> tuple[float, float]:
    """Fit rho_common and rho_similar by Bayesian linear regression over all pairs of groups."""
    first, second = np.triu_indices(len(sigma), 1)
    both = (sigma[first] > 0) & (sigma[second] > 0) & (overlap[first, second] >= 2)
    first, second = first[both], second[both]
    correlations = (deviations @ deviations.T)[first, second] / (
        (overlap[first, second] - 1) * sigma[first] * sigma[second]
    )
    design = np.column_stack([np.ones(len(first)), similarity[first, second]])
    rho = np.linalg.solve(
        design.T @ design + _PRIOR_PRECISION,
        design.T @ correlations + _PRIOR_PRECISION @ _PRIOR_RHO,
    )
    common, similar = np.clip(rho, 0.0, _MAX_RHO).tolist()
    return common, min(similar, _MAX_RHO - common)
