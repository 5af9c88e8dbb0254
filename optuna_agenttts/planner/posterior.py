"""A posterior over the scores of allocations: what the evidence says of them.

The evidence weighs the structures of `structures.py` by marginal likelihood. Amplitudes and
lengths of their residuals, and the noise, are averaged over, not optimised: after three trials no
likelihood can pick one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from optuna_agenttts.planner.evidence import Evidence, Floats, Ints
from optuna_agenttts.planner.kernels import LENGTHS, Points, Surrogate
from optuna_agenttts.planner.noise import Outcomes
from optuna_agenttts.planner.observations import Scale, merge_trials

_NOISES = (0.02, 0.035, 0.06)
"""Standard deviations of the noise to average over, for trials that report no outcomes."""
TEMPER = 2.0
"""What the covariance that outcomes tell of is multiplied by. Rather than 1: no structure is the
truth, and where the model is wrong a posterior of half the likelihood is the more robust one
(Grünwald & van Ommen 2017). On development landscapes it took the mean regret of recommendations
from .269 to .258. Means are the better for it; intervals would be too wide."""
_JITTER = 1e-6
_ALIKE = 1
"""Position in `LENGTHS` of the length by which allocations are alike in their luck."""
_KEPT = 5
Z90 = 1.6448536269514722
"""Half the width, in standard deviations, of the central 90 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class _Setting:
    """One structure with one residual and one noise, fitted.

    Args:
        structure: Position of the structure.
        amplitude: Standard deviation of the residual.
        length: Position of the residual's length in `LENGTHS`.
        noise: Standard deviation of the noise in a trial that tells no outcomes.
        weight: Its share in the average.
        whitener: Inverse of the Cholesky factor of the observations' covariance K.
        solved: K^-1 times the observations less their prior mean.
    """

    structure: int
    amplitude: float
    length: int
    noise: float
    weight: float
    whitener: Floats
    solved: Floats


@dataclass(frozen=True, slots=True)
class Prospect:
    """What one setting expects of a next trial, for each allocation that it may try.

    Args:
        weight: The setting's share in the average.
        seen: Posterior means of the best observed allocations, shape (seen,).
        means: Posterior means of the allocations, shape (allocations,).
        moves: How far the new score moves those means, for each standard deviation that it is
            off what is expected: of the best observed, and in the last row of the allocation
            itself; shape (seen + 1, allocations).
    """

    weight: float
    seen: Floats
    means: Floats
    moves: Floats


class Posterior:
    """The rates of allocations, given the evidence.

    Every setting is conditioned on the observed scores; those that explain them best are kept.

    Args:
        surrogate: What is believed before any score.
        evidence: What is known.
        temper: What the noise that outcomes tell of is multiplied by.
    """

    def __init__(
        self, surrogate: Surrogate, evidence: Evidence, *, temper: float = TEMPER
    ) -> None:
        """See the class."""
        self.surrogate, self.temper = surrogate, temper
        self.scale = Scale.of(evidence.scores)
        models, samples, rates, counts, group = merge_trials(
            evidence.models,
            evidence.samples,
            self.scale.rates(evidence.scores),
            evidence.shares,
        )
        self.observed = surrogate.points(models, samples)
        smooth = surrogate.smooth(self.observed, self.observed)
        self.noise = Outcomes.of(evidence, group, len(rates)).fit(smooth[_ALIKE])
        shifts = evidence.sign * self.noise.shifts / self.scale.span
        self.settings = self._fit(rates + shifts, counts, smooth)
        self.seen = View(self, self.observed, smooth)
        """What is known of the observed allocations."""

    def at(self, points: Points, smooth: Sequence[Floats] | None = None) -> View:
        """What is known of some allocations.

        Args:
            points: The allocations.
            smooth: Their residual kernels with the observed ones, for each of `LENGTHS`, where
                the caller has them already.
        """
        return View(self, points, smooth or self.surrogate.smooth(points, self.observed))

    def _fit(self, rates: Floats, counts: Floats, smooth: Sequence[Floats]) -> list[_Setting]:
        observed, told = self.observed, self.noise.told
        errors = self.temper * self.noise.covariance / self.scale.span / self.scale.span
        makers, matrices, gaps, priors = [], [], [], []
        noises = _NOISES[: 1 if told.all() else None]
        for index, structure in enumerate(self.surrogate.structures):
            root = observed.roots[index]
            chain = root.T @ root
            settings = [(a, i, n) for a in structure.amplitudes for i in (0, 1) for n in noises]
            for amplitude, length, noise in settings:
                makers.append(partial(_Setting, index, amplitude, length, noise))
                matrices.append(
                    chain
                    + amplitude**2 * smooth[length]
                    + errors
                    + np.diag(np.where(told, _JITTER, noise**2 / counts))
                )
                gaps.append(rates - observed.means[index])
                priors.append(np.log(structure.weight / len(settings)))
        factors = np.linalg.cholesky(np.stack(matrices))
        gap = np.stack(gaps)[..., None]
        whitened = np.linalg.solve(factors, gap)
        diagonals = np.diagonal(factors, axis1=1, axis2=2)
        evidence = -0.5 * (whitened[..., 0] ** 2).sum(axis=1) - np.log(diagonals).sum(axis=1)
        weights = np.exp(evidence + priors - np.max(evidence + priors))
        weights /= weights.sum()
        order = np.argsort(-weights, kind="stable")[:_KEPT]
        total = weights[order].sum()
        kept = []
        for i in order.tolist():
            whitener = np.linalg.inv(factors[i])
            solved = whitener.T @ whitened[i, :, 0]
            kept.append(makers[i](float(weights[i] / total), whitener, solved))
        return kept


class View:
    """What a posterior says of some allocations. See `Posterior.at`."""

    def __init__(self, posterior: Posterior, points: Points, smooth: Sequence[Floats]) -> None:
        """See `Posterior.at`."""
        self.points = points
        self._posterior, self._smooth = posterior, smooth

    def take(self, positions: Ints) -> View:
        """Of some of the allocations."""
        smooth = [kernel[positions] for kernel in self._smooth]
        return View(self._posterior, self.points.take(positions), smooth)

    def joined(self, points: Points) -> View:
        """Of these allocations, and then others."""
        more = self._posterior.surrogate.smooth(points, self._posterior.observed)
        smooth = [np.concatenate(pair) for pair in zip(self._smooth, more)]
        return View(self._posterior, self.points.joined(points), smooth)

    def mean(self) -> Floats:
        """Mean of rates, over all settings; cheaper than `mean_and_sd`."""
        observed = self._posterior.observed
        total = np.zeros(len(self.points))
        smooth = np.zeros((len(LENGTHS), len(observed)))
        for setting in self._posterior.settings:
            index = setting.structure
            along = observed.roots[index] @ setting.solved
            chain = self.points.means[index] + along @ self.points.roots[index]
            total += setting.weight * chain
            smooth[setting.length] += setting.weight * setting.amplitude**2 * setting.solved
        for kernel, solved in zip(self._smooth, smooth):
            total += kernel @ solved
        return total

    def _cross(self, setting: _Setting) -> Floats:
        """Covariance with the observed allocations before any score."""
        observed = self._posterior.observed
        chain = self.points.roots[setting.structure].T @ observed.roots[setting.structure]
        cross: Floats = chain + setting.amplitude**2 * self._smooth[setting.length]
        return cross

    def _fitted(self, setting: _Setting, cross: Floats) -> Floats:
        fitted: Floats = self.points.means[setting.structure] + cross @ setting.solved
        return fitted

    def _prior(self, setting: _Setting) -> Floats:
        """Variances of rates before any score."""
        return self.points.variances[setting.structure] + setting.amplitude**2

    def _moments(self) -> tuple[Floats, Floats, Floats]:
        """Weights of the settings; means and standard deviations, (settings, allocations)."""
        means, deviations = [], []
        for setting in self._posterior.settings:
            cross = self._cross(setting)
            explained = setting.whitener @ cross.T
            variance = self._prior(setting) - np.einsum("on,on->n", explained, explained)
            means.append(self._fitted(setting, cross))
            deviations.append(np.sqrt(np.maximum(variance, 1e-10)))
        weights = np.array([setting.weight for setting in self._posterior.settings])
        return weights, np.stack(means), np.stack(deviations)

    def mean_and_sd(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation of rates, over all settings."""
        weights, means, deviations = self._moments()
        mean = weights @ means
        return mean, np.sqrt(weights @ (deviations**2 + (means - mean) ** 2))

    def difference_sd(self, reference: int) -> Floats:
        """Standard deviation of the difference between each rate and one of them."""
        total = np.zeros(len(self.points))
        residual = self._posterior.surrogate.smooth(
            self.points, self.points.take(np.array([reference]))
        )
        weights, means, deviations = self._moments()
        gaps = means - means[:, [reference]]
        for setting, sd, gap in zip(self._posterior.settings, deviations, gaps):
            explained = setting.whitener @ self._cross(setting).T
            root = self.points.roots[setting.structure]
            shared = (
                root.T @ root[:, reference]
                + setting.amplitude**2 * residual[setting.length][:, 0]
                - explained.T @ explained[:, reference]
            )
            spread = sd**2 + sd[reference] ** 2 - 2 * shared
            total += setting.weight * (np.maximum(spread, 0.0) + (gap - weights @ gaps) ** 2)
        deviation: Floats = np.sqrt(total)
        return deviation

    def gains(self) -> tuple[Floats, Floats, Floats]:
        """How far allocations may be ahead of the best posterior mean among the observed.

        Returns:
            Weights of the settings, shape (settings,); and of each setting and allocation, shape
            (settings, allocations), mean and standard deviation of the difference from the best
            observed. What both have in common, such as the instances' luck, is no part of it.
        """
        seen = self._posterior.seen
        means, deviations = [], []
        for setting in self._posterior.settings:
            cross, own = self._cross(setting), seen._cross(setting)
            fitted = seen._fitted(setting, own)
            best = int(np.argmax(fitted))
            explained = setting.whitener @ cross.T
            held = setting.whitener @ own[best]
            variance = self._prior(setting) - np.einsum("on,on->n", explained, explained)
            kept = own[best, best] - held @ held
            shared = cross[:, best] - explained.T @ held
            means.append(self._fitted(setting, cross) - fitted[best])
            deviations.append(np.sqrt(np.maximum(variance + kept - 2 * shared, 1e-10)))
        weights = np.array([setting.weight for setting in self._posterior.settings])
        return weights, np.stack(means), np.stack(deviations)

    def prospects(self, most: int) -> Iterator[Prospect]:
        """What a whole trial of each allocation would tell, setting by setting.

        Its score has noise of its own, and shares some of that of the scores seen: all run on the
        same instances, and like allocations on much the same samples.

        Args:
            most: Of how many of the best observed allocations to tell.
        """
        posterior = self._posterior
        variance, shared = posterior.noise.of_new(self._smooth[_ALIKE])
        unit = posterior.temper / posterior.scale.span / posterior.scale.span
        for setting in posterior.settings:
            cross, own = self._cross(setting), posterior.seen._cross(setting)
            fitted = posterior.seen._fitted(setting, own)
            top = np.argsort(-fitted, kind="stable")[:most]
            error = unit * variance or setting.noise**2
            scored = setting.whitener @ (cross + unit * shared).T
            known, best = setting.whitener @ cross.T, setting.whitener @ own[top].T
            prior = self._prior(setting)
            spread = np.maximum(prior + error - np.einsum("on,on->n", scored, scored), 1e-10)
            moves = np.concatenate(
                [
                    cross[:, top].T - best.T @ scored,
                    (prior - np.einsum("on,on->n", known, scored))[None],
                ]
            )
            yield Prospect(
                weight=setting.weight,
                seen=fitted[top],
                means=self._fitted(setting, cross),
                moves=moves / np.sqrt(spread),
            )
