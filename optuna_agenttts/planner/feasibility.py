"""Probability that allocations meet the constraints of a study.

Each constraint has a separate posterior over its values, which are at most 0 where it is met.
Expected improvement and knowledge gradient are multiplied by the probability that all constraints
are met (J. R. Gardner, M. J. Kusner, Z. E. Xu, K. Q. Weinberger and J. P. Cunningham (2014),
Bayesian optimization with inequality constraints, ICML, Eq. 3).

The prior of a constraint's values, divided by their scale or on an inverse hyperbolic sine scale,
is a Gaussian process: a linear model whose features add up over the stages, as latencies and
prices do, and a residual with the kernel of the scores' residual (`ResidualKernel`). As in
`posterior.py`, combinations of hyperparameters are weighted by their marginal likelihood. With
noise close to zero among them, a deterministic constraint is known exactly where it was tried.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Bools, Choices, Evidence, Floats, Ints
from optuna_agenttts.planner.kernels import Points, Surrogate
from optuna_agenttts.planner.mixture import normal_cdf
from optuna_agenttts.planner.observations import first_and_spread
from optuna_agenttts.task.feasible import FeasibleSet

_WEIGHT_SDS = (0.3, 1.0)
"""Standard deviations of the weights of features to average over, in units of the scale. Chosen by
hand."""
_AMPLITUDES = (0.03, 0.3, 1.0)
"""Standard deviations of the residual to average over, in units of the scale. Chosen by hand."""
_NOISE_SDS = (1e-3, 0.1, 0.3)
"""Standard deviations of the noise to average over, in units of the scale. The first one is for
deterministic constraints. Chosen by hand."""
_TOLERANCE = 2e-3
"""Values up to this, in units of the scale, are predicted to be feasible: a value of exactly 0 is,
and limits on whole numbers are often met exactly. Twice the noise of deterministic constraints."""
_MAX_OBSERVATIONS = 96
"""Allocations to condition a constraint on, which bounds the time of an ask. Chosen by hand."""
_MAX_COMPONENTS = 4
"""Combinations of hyperparameters of largest posterior weight that are kept. Chosen by hand."""
_IMPUTED_NOISE = 0.5
"""Standard deviation of the value of a constraint that a trial without it is taken to have, in
medians of absolute values: the trial was feasible, by an unknown margin. Chosen by hand."""
_LIKELY = 0.5
"""Share of the largest probability below which allocations are not weighed: where the best ones
violate a constraint, improvements there would outweigh small probabilities. Chosen by hand. With
.1 instead, half of the late trials violated a constraint that only one combination of models
meets, and the best feasible allocation was no better."""
_VIOLATED = -1e6
"""Logarithm of the probability that an allocation which violated a constraint meets all of them;
finite, so that differences are defined."""


class Feasibility:
    """Posterior of the constraints of a study.

    Args:
        evidence: The evidence, with constraints.
        surrogate: The surrogate, for its residual kernels.
    """

    def __init__(self, evidence: Evidence, surrogate: Surrogate) -> None:
        """Condition the posterior of each constraint."""
        self._surrogate, self._known = surrogate, known_feasibility(evidence)
        self.found = any(self._known.values())
        """True for allocations that are known to be feasible."""
        choices = [choices for choices, _ in evidence.constraints]
        keys = sorted({key for _, values in evidence.constraints for key in values})
        feasible = evidence.task.feasible
        tables = [_stage_features(feasible, stage) for stage in range(len(feasible.costs))]
        self._posteriors = []
        for key in keys:
            values = [values.get(key, math.nan) for _, values in evidence.constraints]
            # A constraint that never varied and was always met excludes nothing.
            if values[0] > 0 or any(value != values[0] for value in values):
                self._posteriors.append(_Values(choices, np.array(values), surrogate, tables))

    def log_probability(self, points: Points) -> Floats:
        """Return the logarithm of the probability that allocations meet all constraints.

        Constraints are independent given the trials. The result is `_VIOLATED` for allocations
        that violated a constraint when tried.
        """
        total = np.zeros(len(points))
        for posterior in self._posteriors:
            total += posterior.log_probability(points)
        if not all(self._known.values()):
            choices = points.choices
            total[[not self._known.get(key, True) for key in choices]] = _VIOLATED
        return total

    def likely(self, points: Points, among: Ints) -> Ints:
        """Return the positions in `among` whose allocations are likely enough to be feasible."""
        log = self.log_probability(points.take(among))
        kept: Ints = among[log >= log.max(initial=_VIOLATED) + math.log(_LIKELY)]
        return kept

    def weigh(self, values: Floats, points: Points) -> Floats:
        """Multiply acquisition values by the probability that allocations are feasible.

        As long as no allocation is known to be feasible, the probability itself is returned.
        """
        probability: Floats = np.exp(self.log_probability(points))
        return values * probability if self.found else probability

    def best(self, values: Floats, points: Points) -> int:
        """Return the position of the largest product; see `weigh`."""
        log = self.log_probability(points)
        # Relative to the most likely one, since probabilities may all underflow.
        relative = np.exp(log - log.max())
        return int(np.argmax(np.maximum(values, 0.0) * relative if self.found else log))

    def eligible(self, evidence: Evidence) -> Bools:
        """Return which observed trials can be the incumbent.

        These are the trials whose allocation is known to be feasible and, where that is unknown
        (running trials, earlier studies), those with a probability of at least 1/2.
        """
        choices = evidence.choices
        known = dict(self._known)
        if unknown := sorted(set(choices) - set(known)):
            log = self.log_probability(self._surrogate.points_of(unknown)).tolist()
            known.update((key, value >= math.log(0.5)) for key, value in zip(unknown, log))
        return np.array([known[key] for key in choices], dtype=np.bool_)


def known_feasibility(evidence: Evidence) -> dict[Choices, bool]:
    """Return whether all trials of an allocation met all constraints, for each tried one.

    Allocations are missing if only trials that ended before they set any constraint tried them.
    """
    return {choices: not values for choices, values in worst_violations(evidence).items()}


def worst_violations(evidence: Evidence) -> dict[Choices, dict[str, float]]:
    """Return the largest value of each constraint that an allocation violated, for each tried one.

    See `known_feasibility` for those that are missing.
    """
    worst: dict[Choices, dict[str, float]] = {}
    for choices, values in evidence.constraints:
        known = worst.setdefault(choices, {})
        for key, value in values.items():
            if not value <= 0:
                known[key] = max(value, known.get(key, value))
    return worst


def _features(tables: Sequence[Floats], points: Points) -> Floats:
    """Return features of allocations that add up over the stages, and a constant."""
    parts = [
        table[points.models[:, stage], points.samples[:, stage] - 1]
        for stage, table in enumerate(tables)
    ]
    return np.concatenate([np.ones((len(points), 1)), *parts], axis=1)


def _stage_features(feasible: FeasibleSet, stage: int) -> Floats:
    """Return the features of a stage, shape (models, samples, features).

    They are the share of the budget that it costs; and samples, ln(samples) and a constant, each
    for all models together and for each model.
    """
    costs = np.stack(list(feasible.costs[stage]))
    others = feasible.cheapest_cost - costs[:, 0].min()
    most = np.array(
        [max(2, feasible.max_samples(stage, model, others)) for model in range(len(costs))]
    )
    counts = np.arange(1, costs.shape[1] + 1)
    indicator = np.eye(len(costs))[:, None, :]
    # Scaled to 1 at the most samples of the model, or of the model with the most samples.
    own, shared = counts / most[:, None], np.broadcast_to(counts / most.max(), costs.shape)
    own_log = np.log(counts) / np.log(most[:, None])
    shared_log = np.broadcast_to(np.log(counts) / np.log(most.max()), costs.shape)
    return np.concatenate(
        [
            np.stack([costs / feasible.limit, shared, shared_log], axis=-1),
            np.broadcast_to(indicator, (*costs.shape, len(costs))),
            indicator * own[..., None],
            indicator * own_log[..., None],
        ],
        axis=-1,
    )


@dataclass(frozen=True, slots=True)
class _Component:
    """Conditioned Gaussian process with one choice of hyperparameters.

    Args:
        weight_sd: Standard deviation of the weights of features.
        amplitude: Standard deviation of the residual.
        length: Position of the residual's length scale in `LENGTH_SCALES`.
        noise: Standard deviation of the noise.
        cholesky: Lower Cholesky factor of the covariance of the observed values.
        whitened: Observed values, multiplied by its inverse.
    """

    weight_sd: float
    amplitude: float
    length: int
    noise: float
    cholesky: Floats
    whitened: Floats


class _Values:
    """Posterior of the values of one constraint.

    Args:
        choices: Allocations of the trials.
        values: Values of the constraint, shape (trials,); NaN for trials without it.
        surrogate: The surrogate.
        tables: Features of each stage; see `_stage_features`.
    """

    def __init__(
        self,
        choices: Sequence[Choices],
        values: Floats,
        surrogate: Surrogate,
        tables: Sequence[Floats],
    ) -> None:
        """Condition on the values."""
        self._surrogate, self._tables = surrogate, tables
        finite = np.abs(values[np.isfinite(values) & (values != 0)])
        middle = float(np.median(finite)) if len(finite) else 1.0
        largest = float(finite.max(initial=middle))
        imputed = np.isnan(values)
        # Infinite values are taken to be as large as the largest finite one.
        values = np.clip(np.where(imputed, -middle, values), -largest, largest)
        allocations, group = np.unique(np.array(choices), axis=0, return_inverse=True)
        group = group.reshape(-1)
        counts = np.bincount(group).astype(np.float64)
        kept = _subsample(np.bincount(group, weights=values) / counts)
        allocations = allocations[kept]
        self._points = surrogate.points(allocations[..., 0], allocations[..., 1])
        self._observed = _features(tables, self._points)
        residuals = surrogate.residual_kernels(self._points, self._points)
        fitted = []
        for warped in (False, True):
            y = np.arcsinh(values / middle) if warped else values / middle
            scale = float(np.sqrt(np.mean(y**2)))
            means = np.bincount(group, weights=y) / counts / scale
            noises = _noise_sds(y / scale - means[group], len(y) - len(counts))
            unsure = np.bincount(group, weights=imputed) / counts * _IMPUTED_NOISE / scale
            # Change of variables: both scales are compared as densities of the values themselves.
            slopes = np.log(scale) + (0.5 * np.log1p(np.sinh(means * scale) ** 2) if warped else 0)
            jacobian = -float(np.sum((slopes + np.zeros(len(means)))[kept]))
            fitted += self._fit(
                means[kept], counts[kept], unsure[kept], noises, residuals, jacobian
            )
        best = sorted(fitted, key=lambda pair: -pair[0])[:_MAX_COMPONENTS]
        total = np.logaddexp.reduce([log for log, _ in best])
        self._components = [(log - total, component) for log, component in best]

    def _fit(
        self,
        y: Floats,
        counts: Floats,
        unsure: Floats,
        noises: Sequence[float],
        residuals: Sequence[Floats],
        log_prior: float,
    ) -> list[tuple[float, _Component]]:
        """Condition all combinations of hyperparameters on the means of values.

        Args:
            y: Mean values of the observed allocations on one scale, shape (n,).
            counts: Number of values behind each mean, shape (n,).
            unsure: Standard deviations of means with imputed values, besides the noise, shape
                (n,).
            noises: Standard deviations of the noise to average over.
            residuals: Residual kernels of the observed allocations.
            log_prior: Logarithm of the factor of their probability.

        Returns:
            Each component with the logarithm of its posterior probability, up to a constant.
        """
        low_rank = self._observed @ self._observed.T
        grid = list(itertools.product(_WEIGHT_SDS, _AMPLITUDES, range(len(residuals)), noises))
        covariances = np.stack(
            [
                sd**2 * low_rank
                + amplitude**2 * residuals[length]
                + np.diag(noise**2 / counts + unsure**2)
                for sd, amplitude, length, noise in grid
            ]
        )
        cholesky = np.linalg.cholesky(covariances)
        whitened = np.linalg.solve(cholesky, np.broadcast_to(y[:, None], (len(grid), len(y), 1)))
        logs = log_prior - 0.5 * (whitened[..., 0] ** 2).sum(axis=1)
        logs -= np.log(np.diagonal(cholesky, axis1=1, axis2=2)).sum(axis=1)
        return [
            (log, _Component(*hyperparameters, factor, rest[:, 0]))
            for log, hyperparameters, factor, rest in zip(logs.tolist(), grid, cholesky, whitened)
        ]

    def log_probability(self, points: Points) -> Floats:
        """Return the logarithm of the probability that the next value at allocations is <= 0."""
        features = _features(self._tables, points)
        low_rank, own = features @ self._observed.T, np.einsum("nf,nf->n", features, features)
        residuals = self._surrogate.residual_kernels(points, self._points)
        total = np.full(len(points), -np.inf)
        for log_weight, component in self._components:
            sd, amplitude = component.weight_sd, component.amplitude
            cross = sd**2 * low_rank + amplitude**2 * residuals[component.length]
            explained = np.linalg.solve(component.cholesky, cross.T)
            mean = component.whitened @ explained
            variance = sd**2 * own + amplitude**2 - np.einsum("on,on->n", explained, explained)
            # Rounding may make the variance at an observed allocation negative.
            deviation = np.sqrt(np.maximum(variance, 0.0) + component.noise**2)
            total = np.logaddexp(
                total, log_weight + _log_normal_cdf((_TOLERANCE - mean) / deviation)
            )
        return total


def _noise_sds(spread: Floats, repeats: int) -> tuple[float, ...]:
    """Return the standard deviations of the noise to average over.

    Args:
        spread: Differences of values from the mean of their allocation.
        repeats: Number of values beyond the first of each allocation.
    """
    if not repeats:
        return _NOISE_SDS
    pooled = max(_NOISE_SDS[0], float(np.sqrt(spread @ spread / repeats)))
    # Equal repeats show that the constraint is deterministic. A few unequal ones may underestimate
    # the noise.
    larger = [noise for noise in _NOISE_SDS if noise > pooled > _NOISE_SDS[0]]
    return (pooled, *larger)


def _subsample(means: Floats) -> Ints:
    """Return the positions of at most `_MAX_OBSERVATIONS` means.

    Half are the closest to the boundary and half are evenly spread over the ranks of the others.
    """
    if len(means) <= _MAX_OBSERVATIONS:
        return np.arange(len(means))
    order = np.argsort(np.abs(means), kind="stable")
    rest = order[_MAX_OBSERVATIONS // 2 :]
    order[_MAX_OBSERVATIONS // 2 :] = rest[np.argsort(means[rest], kind="stable")]
    return np.sort(first_and_spread(order, _MAX_OBSERVATIONS))


def _log_normal_cdf(z: Floats) -> Floats:
    """Return the logarithm of the standard normal distribution function."""
    # Mills' ratio where the tail would underflow; there it is exact to 1 %.
    tail = np.minimum(z, -10.0)
    far = -0.5 * tail**2 - np.log(-tail) - 0.5 * math.log(2 * math.pi)
    return np.where(z < -10, far, np.log(normal_cdf(np.maximum(z, -10.0))))
