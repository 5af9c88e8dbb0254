"""Weighted mixture of Gaussian distributions over the rates of allocations.

Each component is a Gaussian process: a prior component of `kernels.py` with one choice of residual
amplitude, length scale and noise level, conditioned on observed rates and weighted by its marginal
likelihood (Bayesian model averaging). No hyperparameter is optimized, since the likelihood of a
few trials cannot identify one.

Notation (n observed rates, N allocations), for one component:

    symbol        shape     unit     meaning
    y             (n,)      rate     observed rates
    root          (R, N)    rate     square root of the covariance; see `kernels.py`
    K             (n, n)    rate^2   prior covariance of the observed rates plus their noise
    L             (n, n)    rate     lower Cholesky factor of K
    whitener      (n, n)    1/rate   inverse of L
    alpha         (n,)      1/rate   inverse of K, times y less its prior mean
    cross         (N, n)    rate^2   prior covariance of the allocations with y
    explained     (n, N)    rate     whitener @ cross.T
    weight        scalar    1        posterior probability of the component

Numbered equations are those of C. E. Rasmussen and C. K. I. Williams (2006), Gaussian Processes
for Machine Learning, MIT Press.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from optuna_agenttts.planner.cholesky import factor, solve_lower
from optuna_agenttts.planner.evidence import Floats, Ints
from optuna_agenttts.planner.kernels import LENGTH_SCALES, Points, Surrogate

_KEPT_WEIGHT = 0.95
"""Posterior weight of the components that are kept, at least; the others are left out, which saves
time. Chosen by hand."""
_MIN_VARIANCE = 1e-10
"""Lower bound of variances, in rates squared, against rounding below zero."""
_HALVINGS = 40
"""Bisections of a quantile: to within 1e-12 of the width that it starts from."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Moments of each component's distribution of some quantities.

    Args:
        weights: Weights of the components, shape (components,).
        means: Means, shape (components, quantities).
        sds: Standard deviations, shape (components, quantities).
    """

    weights: Floats
    means: Floats
    sds: Floats

    def mean(self) -> Floats:
        """Return the means of the mixture, shape (quantities,)."""
        mean: Floats = self.weights @ self.means
        return mean

    def sd(self) -> Floats:
        """Return the standard deviations of the mixture, shape (quantities,)."""
        # Law of total variance: within components and between them.
        sd: Floats = np.sqrt(self.weights @ (self.sds**2 + (self.means - self.mean()) ** 2))
        return sd

    def positive_part(self) -> Floats:
        """Return the expectations of the positive parts, E[max(0, x)], shape (quantities,)."""
        # D. R. Jones, M. Schonlau and W. J. Welch (1998), Eq. 15, p. 473.
        z = self.means / self.sds
        density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        expected: Floats = self.weights @ (self.sds * (z * normal_cdf(z) + density))
        return expected

    def quantile(self, probability: float) -> Floats:
        """Return the quantiles of a probability, shape (quantities,)."""
        # Beyond these, no component has more than 1e-15 of its weight.
        low = (self.means - 8 * self.sds).min(axis=0)
        high = (self.means + 8 * self.sds).max(axis=0)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            below = self.weights @ normal_cdf((middle - self.means) / self.sds) < probability
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.asarray(0.5 * (low + high))

    def bounds(self) -> tuple[Floats, Floats]:
        """Return the ends of the central 90 % intervals, both of shape (quantities,)."""
        return self.quantile(0.05), self.quantile(0.95)


def normal_cdf(z: Floats) -> Floats:
    """Return the standard normal distribution function, exact to rounding."""
    # numpy has no erf. Complementary, so that the lower tail does not cancel to zero; a plain map
    # over floats is faster than np.vectorize and costs an ask less than a millisecond.
    arguments = (z * -math.sqrt(0.5)).ravel().tolist()
    return 0.5 * np.fromiter(map(math.erfc, arguments), np.float64, z.size).reshape(z.shape)


@dataclass(frozen=True, slots=True)
class Component:
    """Conditioned Gaussian process: a prior component with one choice of hyperparameters.

    Args:
        prior: Position of the prior component.
        amplitude: Standard deviation of the residual, in rates.
        length: Position of the residual's length scale in `LENGTH_SCALES`.
        noise: Standard deviation of the noise of a trial without outcomes, in rates.
        weight: Posterior probability among the components that are kept.
        whitener: See the module's notation.
        whitened: `whitener` times y less its prior mean, shape (n,).
    """

    prior: int
    amplitude: float
    length: int
    noise: float
    weight: float
    whitener: Floats
    whitened: Floats


@dataclass(frozen=True, slots=True)
class Mixture:
    """Rates of allocations given observed ones.

    Args:
        surrogate: The prior.
        observed: The observed allocations.
        components: The components.
        weights: Their weights, shape (components,).
    """

    surrogate: Surrogate
    observed: Points
    components: Sequence[Component]
    weights: Floats

    @classmethod
    def condition(
        cls,
        surrogate: Surrogate,
        observed: Points,
        y: Floats,
        noises: Sequence[tuple[float, Floats]],
        residuals: Sequence[Floats],
    ) -> Mixture:
        """Condition all combinations of hyperparameters and keep the most probable ones.

        Args:
            surrogate: The prior.
            observed: The observed allocations.
            y: Their observed rates, shape (n,).
            noises: Noise levels to average over: the standard deviation of the noise of a trial
                without outcomes, and the covariance of the errors of y, shape (n, n).
            residuals: Residual kernels of the observed allocations for each of `LENGTH_SCALES`.
        """
        makers, covariances, centered, log_priors = [], [], [], []
        for index, prior in enumerate(surrogate.components):
            root = observed.roots[index]
            low_rank = root.T @ root
            choices = len(prior.amplitudes) * len(LENGTH_SCALES) * len(noises)
            for amplitude in prior.amplitudes:
                for length in range(len(LENGTH_SCALES)):
                    prior_covariance = low_rank + amplitude**2 * residuals[length]
                    for noise, errors in noises:
                        makers.append(partial(Component, index, amplitude, length, noise))
                        covariances.append(prior_covariance + errors)
                        centered.append(y - observed.means[index])
                        log_priors.append(np.log(prior.weight / choices))
        cholesky = factor(np.stack(covariances))
        whitened = solve_lower(cholesky, np.stack(centered))
        diagonals = np.diagonal(cholesky, axis1=1, axis2=2)
        # Eq. 2.30, p. 19, without the constant that all components share.
        evidence = -0.5 * (whitened**2).sum(axis=1) - np.log(diagonals).sum(axis=1)
        weights = np.exp(evidence + log_priors - np.max(evidence + log_priors))
        weights /= weights.sum()
        order = np.argsort(-weights, kind="stable")
        kept = order[: 1 + int(np.argmax(np.cumsum(weights[order]) >= _KEPT_WEIGHT))]
        weights /= weights[kept].sum()
        components = [
            makers[i](float(weights[i]), np.asarray(np.linalg.inv(cholesky[i])), whitened[i])
            for i in kept.tolist()
        ]
        return cls(surrogate, observed, components, weights[kept])


@dataclass(frozen=True)
class View:
    """Distribution of the rates of some allocations, or of their next scores.

    Args:
        mixture: The mixture.
        points: The allocations.
        residuals: Their residual kernels with the observed allocations for each of
            `LENGTH_SCALES`.
        rows: Positions of the allocations among the observed ones; None if some are not observed.
        variances: Variance of the noise of the next scores for each component; None for rates.
        errors: Covariance of that noise with the errors of y, shape (allocations, n).
    """

    mixture: Mixture
    points: Points
    residuals: Sequence[Floats]
    rows: Ints | None = None
    variances: Floats | None = None
    errors: Floats | None = None

    def take(self, positions: Ints) -> View:
        """Return the rates of the allocations at some positions."""
        residuals = [kernel[positions] for kernel in self.residuals]
        rows = None if self.rows is None else self.rows[positions]
        return View(self.mixture, self.points.take(positions), residuals, rows)

    def joined(self, points: Points) -> View:
        """Return the rates of these allocations followed by others."""
        more = self.mixture.surrogate.residual_kernels(points, self.mixture.observed)
        residuals = [np.concatenate(pair) for pair in zip(self.residuals, more)]
        return View(self.mixture, self.points.joined(points), residuals)

    def next_scores(self, variances: Floats, errors: Floats) -> View:
        """Return the distribution of the next scores of the allocations: rates plus noise.

        Args:
            variances: Variance of the noise for each component, in rates squared.
            errors: Covariance of the noise with the errors of y, shape (allocations, n).
        """
        return replace(self, variances=variances, errors=errors)

    @cached_property
    def explained(self) -> list[Floats]:
        """`explained` of the module's notation for each component."""
        found = []
        for component in self.mixture.components:
            cross = self._prior_covariance(component, self.mixture.observed, self.residuals)
            if self.errors is not None:
                cross = cross + self.errors
            found.append(component.whitener @ cross.T)
        return found

    def mean(self) -> Floats:
        """Return the means of the rates under the mixture; cheaper than `moments`."""
        observed = self.mixture.observed
        total = np.zeros(len(self.points))
        # The components' alphas are added up by length scale, so that each residual kernel is
        # multiplied once.
        alphas = np.zeros((len(LENGTH_SCALES), len(observed)))
        for component in self.mixture.components:
            index, alpha = component.prior, component.whitener.T @ component.whitened
            projected = observed.roots[index] @ alpha
            chain = self.points.means[index] + projected @ self.points.roots[index]
            total += component.weight * chain
            alphas[component.length] += component.weight * component.amplitude**2 * alpha
        for kernel, alpha in zip(self.residuals, alphas):
            total += kernel @ alpha
        return total

    def moments(self) -> Moments:
        """Return means and standard deviations."""
        return self._moments

    @cached_property
    def _moments(self) -> Moments:
        means, variances = [], []
        for i, component in enumerate(self.mixture.components):
            explained = self.explained[i]
            # Eqs. 2.25 and 2.26, p. 17.
            means.append(self.points.means[component.prior] + component.whitened @ explained)
            prior = self.points.variances[component.prior] + component.amplitude**2
            noise = 0.0 if self.variances is None else self.variances[i]
            variances.append(prior + noise - np.einsum("on,on->n", explained, explained))
        sds = np.sqrt(np.maximum(np.stack(variances), _MIN_VARIANCE))
        return Moments(self.mixture.weights, np.stack(means), sds)

    def joint(self, others: View, chosen: Ints) -> Floats:
        """Return covariances with the rates of other allocations.

        Args:
            others: The other allocations.
            chosen: Positions of the ones that each component is asked for, shape (components, k).

        Returns:
            Covariances, shape (components, k, allocations).
        """
        used, position = np.unique(chosen, return_inverse=True)
        points, position = others.points.take(used), position.reshape(chosen.shape)
        if others.rows is None:
            residuals = self.mixture.surrogate.residual_kernels(self.points, points)
        else:
            residuals = [kernel[:, others.rows[used]] for kernel in self.residuals]
        found = []
        for i, component in enumerate(self.mixture.components):
            prior = self._prior_covariance(component, points, residuals)[:, position[i]]
            explained = others.explained[i][:, chosen[i]]
            found.append(prior.T - explained.T @ self.explained[i])
        return np.stack(found)

    def total(self) -> tuple[Floats, Floats]:
        """Return mean and covariance of the rates, within components and between them."""
        moments = self.moments()
        chosen = np.tile(np.arange(len(self.points)), (len(moments.weights), 1))
        mean, gaps = moments.mean(), moments.means - moments.mean()
        covariances = self.joint(self, chosen) + gaps[:, :, None] * gaps[:, None]
        return mean, np.einsum("c,cij->ij", moments.weights, covariances)

    def draw(self, rng: np.random.Generator, count: int) -> Floats:
        """Draw rates from their joint distribution, shape (draws, allocations).

        Each component has as many draws as its weight demands, up to rounding.

        Args:
            rng: Random number generator.
            count: Number of draws.
        """
        moments, drawn = self.moments(), []
        kernels = self.mixture.surrogate.residual_kernels(self.points, self.points)
        ends = np.rint(np.cumsum(moments.weights) * count).astype(int)
        for i, size in enumerate(np.diff(ends, prepend=0).tolist()):
            if size:
                prior = self._prior_covariance(self.mixture.components[i], self.points, kernels)
                lower = factor(prior - self.explained[i].T @ self.explained[i])
                normal = rng.standard_normal((size, len(self.points)))
                drawn.append(moments.means[i] + normal @ lower.T)
        return np.concatenate(drawn)

    def pairwise(self, others: View) -> Floats:
        """Return the covariance of each rate with that of the same allocation in another view."""
        prior = [
            self.points.variances[component.prior] + component.amplitude**2
            for component in self.mixture.components
        ]
        pairs = zip(self.explained, others.explained)
        explained = [np.einsum("on,on->n", ours, theirs) for ours, theirs in pairs]
        covariances: Floats = np.stack(prior) - np.stack(explained)
        return covariances

    def differences(self, others: View, chosen: Ints) -> Moments:
        """Return the moments of the rates minus that of another allocation.

        Errors that both have in common cancel.

        Args:
            others: The other allocations.
            chosen: Position of the one that each component compares with, shape (components,).
        """
        own, reference = self.moments(), others.moments()
        row = np.arange(len(chosen)), chosen
        covariances = self.joint(others, chosen[:, None])[:, 0]
        total = own.sds**2 + reference.sds[row][:, None] ** 2 - 2 * covariances
        return Moments(
            own.weights,
            own.means - reference.means[row][:, None],
            np.sqrt(np.maximum(total, _MIN_VARIANCE)),
        )

    def differences_from(self, position: int) -> Moments:
        """Return the moments of the rates minus that of one of the allocations."""
        return self.differences(self, np.full(len(self.mixture.components), position))

    def _prior_covariance(
        self, component: Component, points: Points, residuals: Sequence[Floats]
    ) -> Floats:
        """Return the prior covariance of the rates with others."""
        low_rank = self.points.roots[component.prior].T @ points.roots[component.prior]
        total: Floats = low_rank + component.amplitude**2 * residuals[component.length]
        return total
