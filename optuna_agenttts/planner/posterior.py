"""Posterior over the rates of allocations.

The prior components of `kernels.py` are combined with residual amplitudes, length scales and
noise levels. Each combination is a Gaussian process, conditioned on the observed rates and
weighted by its marginal likelihood: Bayesian model averaging. No hyperparameter is optimized,
since the likelihood of a few trials cannot identify one.

Notation (n groups of observed trials, N allocations), for one component of the mixture:

    symbol        shape     unit     meaning
    y             (n,)      rate     observed rates, with the corrections of `noise.py`
    root          (R, N)    rate     square root of the covariance; see `kernels.py`
    K             (n, n)    rate^2   prior covariance of the observed rates plus their noise
    L             (n, n)    rate     lower Cholesky factor of K
    whitener      (n, n)    1/rate   inverse of L
    alpha         (n,)      1/rate   inverse of K, times y less its prior mean
    cross         (N, n)    rate^2   prior covariance of the allocations with the observed ones
    explained     (n, N)    rate     whitener @ cross.T
    weight        scalar    1        posterior probability of the component

Numbered equations are those of C. E. Rasmussen and C. K. I. Williams (2006), Gaussian Processes
for Machine Learning, MIT Press.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from optuna_agenttts.planner.evidence import Bools, Evidence, Floats, Ints
from optuna_agenttts.planner.kernels import LENGTH_SCALES, Points, Surrogate
from optuna_agenttts.planner.noise import Outcomes
from optuna_agenttts.planner.observations import Scale, eligible_groups, merge_trials

_NOISE_SDS = (0.02, 0.035, 0.06)
"""Standard deviations of the noise to average over, in rates, for trials without outcomes. They
span the noise of means over 50 instances on development landscapes. Chosen by hand."""
LIKELIHOOD_POWER = 0.5
"""Exponent of the likelihood of scores with outcomes (power or tempered likelihood, generalized
posterior): a normal likelihood to the power of 1/2 is one with twice the covariance. No component
is the truth, and a posterior with an exponent below 1 is more robust to misspecification
(P. Grünwald and T. van Ommen 2017, Bayesian Analysis 12, pp. 1069-1103). On development
landscapes it took the mean regret of recommendations from .269 to .258. It improves posterior
means; intervals would be too wide."""
_JITTER = 1e-6
"""Added to the diagonal of K for groups with outcomes, in rates squared, so that K can be
factored: a standard deviation of .001, far below that of a score. Chosen by hand."""
_SIMILARITY_LENGTH = 1
"""Position in `LENGTH_SCALES` of the length by which allocations share their noise."""
_MAX_COMPONENTS = 5
"""Components of largest posterior weight that are kept. Chosen by hand; keeping all changed the
regrets of recommendations by less than their standard error."""
Z90 = 1.6448536269514722
"""Half the width of the central 90 % of a normal distribution, in standard deviations."""
_MIN_VARIANCE = 1e-10
"""Lower bound of variances, in rates squared, against rounding below zero."""


@dataclass(frozen=True, slots=True)
class _Component:
    """Conditioned Gaussian process: a prior component with one choice of hyperparameters.

    Args:
        prior: Position of the prior component.
        amplitude: Standard deviation of the residual, in rates.
        length: Position of the residual's length scale in `LENGTH_SCALES`.
        noise: Standard deviation of the noise of a trial without outcomes, in rates.
        weight: Posterior probability among the components that are kept.
        whitener: See the module's notation.
        alpha: See the module's notation.
    """

    prior: int
    amplitude: float
    length: int
    noise: float
    weight: float
    whitener: Floats
    alpha: Floats


@dataclass(frozen=True, slots=True)
class Lookahead:
    """Posterior means after one more trial, under one component, for each possible allocation.

    Args:
        weight: Posterior probability of the component.
        observed_means: Current posterior means of the best observed allocations, shape
            (observed,).
        means: Current posterior means of the allocations, shape (allocations,).
        sigma_tilde: Change of posterior means per standard deviation by which the next score
            differs from its prediction, shape (observed + 1, allocations): of the best observed
            allocations, and in the last row of the tried allocation itself.
    """

    weight: float
    observed_means: Floats
    means: Floats
    sigma_tilde: Floats


class Posterior:
    """Rates of allocations given the evidence.

    Args:
        surrogate: The prior.
        evidence: The evidence.
        power: Exponent of the likelihood of scores with outcomes; see `LIKELIHOOD_POWER`.
        eligible: Whether each observed trial can be the incumbent, shape (trials,). Default: all;
            also if none can.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        evidence: Evidence,
        *,
        power: float = LIKELIHOOD_POWER,
        eligible: Bools | None = None,
    ) -> None:
        """See the class."""
        self.surrogate, self.power = surrogate, power
        self.scale = Scale.of(evidence.scores)
        models, samples, rates, counts, group = merge_trials(
            evidence.models,
            evidence.samples,
            self.scale.rates(evidence.scores),
            evidence.shares,
            eligible,
        )
        found = np.flatnonzero(eligible_groups(group, len(rates), eligible))
        self.eligible = found if len(found) else np.arange(len(rates))
        """Positions of the observed allocations that can be the incumbent."""
        self.observed = surrogate.points(models, samples)
        residuals = surrogate.residual_kernels(self.observed, self.observed)
        similarity = residuals[_SIMILARITY_LENGTH]
        self.noise = Outcomes.from_evidence(evidence, group, len(rates)).fit(similarity)
        corrections = evidence.sign * self.noise.corrections / self.scale.span
        self.components = self._fit(rates + corrections, counts, residuals)
        self.observed_view = View(self, self.observed, residuals)
        """The posterior at the observed allocations."""

    def at(self, points: Points, residuals: Sequence[Floats] | None = None) -> View:
        """Return the posterior at some allocations.

        Args:
            points: The allocations.
            residuals: Their residual kernels with the observed allocations for each of
                `LENGTH_SCALES`. Default: computed.
        """
        residuals = residuals or self.surrogate.residual_kernels(points, self.observed)
        return View(self, points, residuals)

    def _fit(self, y: Floats, counts: Floats, residuals: Sequence[Floats]) -> list[_Component]:
        """Condition all components on the observed rates and keep the most probable ones.

        Args:
            y: See the module's notation.
            counts: Number of full trials that each observed rate represents, shape (n,).
            residuals: Residual kernels of the observed allocations.
        """
        observed, has_outcomes = self.observed, self.noise.has_outcomes
        noise_covariance = self.noise.covariance / self.power / self.scale.span / self.scale.span
        makers, covariances, centered, log_priors = [], [], [], []
        # If all groups have outcomes, the noise level has no effect on K: one suffices.
        noises = _NOISE_SDS[: 1 if has_outcomes.all() else None]
        for index, prior in enumerate(self.surrogate.components):
            root = observed.roots[index]
            low_rank = root.T @ root
            hyperparameters = [
                (amplitude, length, noise)
                for amplitude in prior.amplitudes
                for length in range(len(LENGTH_SCALES))
                for noise in noises
            ]
            for amplitude, length, noise in hyperparameters:
                makers.append(partial(_Component, index, amplitude, length, noise))
                covariances.append(
                    low_rank
                    + amplitude**2 * residuals[length]
                    + noise_covariance
                    + np.diag(np.where(has_outcomes, _JITTER, noise**2 / counts))
                )
                centered.append(y - observed.means[index])
                log_priors.append(np.log(prior.weight / len(hyperparameters)))
        cholesky = np.linalg.cholesky(np.stack(covariances))
        whitened = np.linalg.solve(cholesky, np.stack(centered)[..., None])
        diagonals = np.diagonal(cholesky, axis1=1, axis2=2)
        # Eq. 2.30, p. 19, without the constant that all components share.
        evidence = -0.5 * (whitened[..., 0] ** 2).sum(axis=1) - np.log(diagonals).sum(axis=1)
        weights = np.exp(evidence + log_priors - np.max(evidence + log_priors))
        weights /= weights.sum()
        order = np.argsort(-weights, kind="stable")[:_MAX_COMPONENTS]
        total = weights[order].sum()
        components = []
        for i in order.tolist():
            whitener = np.linalg.inv(cholesky[i])
            alpha = whitener.T @ whitened[i, :, 0]
            components.append(makers[i](float(weights[i] / total), whitener, alpha))
        return components


class View:
    """Posterior at some allocations; see `Posterior.at`.

    Args:
        posterior: The posterior.
        points: The allocations.
        residuals: Their residual kernels with the observed allocations for each of
            `LENGTH_SCALES`.
    """

    def __init__(self, posterior: Posterior, points: Points, residuals: Sequence[Floats]) -> None:
        """See the class."""
        self.points = points
        self._posterior, self._residuals = posterior, residuals

    def take(self, positions: Ints) -> View:
        """Return the posterior at the allocations at some positions."""
        residuals = [kernel[positions] for kernel in self._residuals]
        return View(self._posterior, self.points.take(positions), residuals)

    def joined(self, points: Points) -> View:
        """Return the posterior at these allocations followed by others."""
        posterior = self._posterior
        more = posterior.surrogate.residual_kernels(points, posterior.observed)
        residuals = [np.concatenate(pair) for pair in zip(self._residuals, more)]
        return View(posterior, self.points.joined(points), residuals)

    def mean(self) -> Floats:
        """Return the posterior mean of the rates; cheaper than `mean_and_sd`."""
        observed = self._posterior.observed
        total = np.zeros(len(self.points))
        # The components' alphas are added up by length scale, so that each residual kernel is
        # multiplied once.
        alphas = np.zeros((len(LENGTH_SCALES), len(observed)))
        for component in self._posterior.components:
            index = component.prior
            projected = observed.roots[index] @ component.alpha
            chain = self.points.means[index] + projected @ self.points.roots[index]
            total += component.weight * chain
            alphas[component.length] += component.weight * component.amplitude**2 * component.alpha
        for kernel, alpha in zip(self._residuals, alphas):
            total += kernel @ alpha
        return total

    def mean_and_sd(self) -> tuple[Floats, Floats]:
        """Return mean and standard deviation of the rates, both of shape (allocations,)."""
        weights, means, deviations = self._moments()
        mean = weights @ means
        # Law of total variance: within components and between them.
        return mean, np.sqrt(weights @ (deviations**2 + (means - mean) ** 2))

    def difference_sd(self, reference: int) -> Floats:
        """Return the standard deviation of the difference between each rate and one of them.

        Args:
            reference: Position of the allocation that the others are compared with.
        """
        total = np.zeros(len(self.points))
        residuals = self._posterior.surrogate.residual_kernels(
            self.points, self.points.take(np.array([reference]))
        )
        weights, means, deviations = self._moments()
        gaps = means - means[:, [reference]]
        for component, sd, gap in zip(self._posterior.components, deviations, gaps):
            explained = component.whitener @ self._cross(component).T
            root = self.points.roots[component.prior]
            covariance = (
                root.T @ root[:, reference]
                + component.amplitude**2 * residuals[component.length][:, 0]
                - explained.T @ explained[:, reference]
            )
            variance = sd**2 + sd[reference] ** 2 - 2 * covariance
            total += component.weight * (np.maximum(variance, 0.0) + (gap - weights @ gaps) ** 2)
        deviation: Floats = np.sqrt(total)
        return deviation

    def improvement_moments(self) -> tuple[Floats, Floats, Floats]:
        """Return the moments of the rates minus the incumbent's, for each component.

        Returns:
            Weights of the components, shape (components,); mean and standard deviation of the
            difference from the eligible observed allocation with the component's largest posterior
            mean, shape (components, allocations). Errors that both have in common cancel.
        """
        observed_view = self._posterior.observed_view
        means, deviations = [], []
        for component in self._posterior.components:
            cross, own = self._cross(component), observed_view._cross(component)
            observed_means = observed_view._mean(component, own)
            eligible = self._posterior.eligible
            best = int(eligible[np.argmax(observed_means[eligible])])
            explained = component.whitener @ cross.T
            explained_best = component.whitener @ own[best]
            prior = self._prior_variance(component)
            variance = prior - np.einsum("on,on->n", explained, explained)
            variance_best = own[best, best] - explained_best @ explained_best
            covariance = cross[:, best] - explained.T @ explained_best
            means.append(self._mean(component, cross) - observed_means[best])
            total = variance + variance_best - 2 * covariance
            deviations.append(np.sqrt(np.maximum(total, _MIN_VARIANCE)))
        return self._weights(), np.stack(means), np.stack(deviations)

    def lookahead(self, best_observed: int) -> Iterator[Lookahead]:
        """Yield for each component how a trial of each allocation would move posterior means.

        The trial would run on all instances. Its noise is correlated with that of the observed
        scores: all share the instances, and similar allocations most of their samples.

        Args:
            best_observed: Number of best observed allocations to include.
        """
        posterior = self._posterior
        variance, covariance = posterior.noise.of_next_trial(self._residuals[_SIMILARITY_LENGTH])
        unit = 1 / posterior.power / posterior.scale.span / posterior.scale.span
        for component in posterior.components:
            cross = self._cross(component)
            own = posterior.observed_view._cross(component)
            observed_means = posterior.observed_view._mean(component, own)
            eligible = posterior.eligible
            order = np.argsort(-observed_means[eligible], kind="stable")
            top = eligible[order[:best_observed]]
            noise = unit * variance or component.noise**2
            # `scored` whitens the covariance of the next score with y, the others that of rates.
            scored = component.whitener @ (cross + unit * covariance).T
            explained = component.whitener @ cross.T
            explained_top = component.whitener @ own[top].T
            prior = self._prior_variance(component)
            score_variance = np.maximum(
                prior + noise - np.einsum("on,on->n", scored, scored), _MIN_VARIANCE
            )
            # Posterior covariances of rates with the next score.
            covariances = np.concatenate(
                [
                    cross[:, top].T - explained_top.T @ scored,
                    (prior - np.einsum("on,on->n", explained, scored))[None],
                ]
            )
            yield Lookahead(
                weight=component.weight,
                observed_means=observed_means[top],
                means=self._mean(component, cross),
                # Frazier et al. (2009), sigma tilde: Sigma e_x / sqrt(Sigma_xx + lambda_x).
                sigma_tilde=covariances / np.sqrt(score_variance),
            )

    def _cross(self, component: _Component) -> Floats:
        """Return the prior covariance with the observed allocations."""
        observed = self._posterior.observed
        low_rank = self.points.roots[component.prior].T @ observed.roots[component.prior]
        cross: Floats = low_rank + component.amplitude**2 * self._residuals[component.length]
        return cross

    def _mean(self, component: _Component, cross: Floats) -> Floats:
        """Return the posterior mean under one component, Eq. 2.25, p. 17."""
        mean: Floats = self.points.means[component.prior] + cross @ component.alpha
        return mean

    def _prior_variance(self, component: _Component) -> Floats:
        """Return the prior variance of the rates under one component."""
        return self.points.variances[component.prior] + component.amplitude**2

    def _weights(self) -> Floats:
        """Return the posterior probabilities of the components."""
        return np.array([component.weight for component in self._posterior.components])

    def _moments(self) -> tuple[Floats, Floats, Floats]:
        """Return the components' weights, and means and deviations (components, allocations)."""
        means, deviations = [], []
        for component in self._posterior.components:
            cross = self._cross(component)
            explained = component.whitener @ cross.T
            # Eq. 2.26, p. 17.
            prior = self._prior_variance(component)
            variance = prior - np.einsum("on,on->n", explained, explained)
            means.append(self._mean(component, cross))
            deviations.append(np.sqrt(np.maximum(variance, _MIN_VARIANCE)))
        return self._weights(), np.stack(means), np.stack(deviations)
