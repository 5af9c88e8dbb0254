"""What the evidence says of every allocation: a posterior over the scores.

The evidence weighs the structures of `structures.py` by marginal likelihood. Amplitudes and
lengths of their residuals, and the noise, are averaged over, not optimised: after three trials no
likelihood can pick one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from optuna_agenttts.planning import Choices, Evidence, Floats, Ints
from optuna_agenttts.planning.noise import Outcomes
from optuna_agenttts.planning.structures import Points, Residual, make_structures
from optuna_agenttts.task import Task

_NOISES = (0.02, 0.035, 0.06)
"""Standard deviations of the noise to average over, for trials that report no outcomes."""
_FACTORS = (1.6, 2.5, 2.0)
"""What the covariance that outcomes tell of is multiplied by, beside each of these. Around 2
rather than 1: no structure is the truth, and a posterior of half the likelihood is the more robust
one where the model is wrong (Grünwald & van Ommen 2017). On development landscapes it took the
regret of recommendations from .269 to .258, and 3 times to .254."""
_JITTER = 1e-6
_LENGTHS = (0.8, 2.0)
_ALIKE = 1
"""Position of the length by which allocations are alike in their luck."""
_KEPT = 5
Z90 = 1.6448536269514722
"""Half the width, in standard deviations, of the central 90 % of a normal distribution."""
_CAP = 64
"""The most observations to condition on; of more, near ones are merged (see `_merge`)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How scores become rates between 0 and 1, and back: ``rate = (score - low) / span``."""

    low: float = 0.0
    span: float = 1.0

    @classmethod
    def of(cls, scores: Floats) -> Scale:
        """Scores that can be rates stay as they are; others are spread over the middle.

        A score that is minimised arrives with its sign turned: a rate of errors then lies
        between -1 and 0, and becomes a rate of successes.
        """
        if len(scores) == 0:
            return cls()
        low, high = float(scores.min()), float(scores.max())
        if low >= 0 and high <= 1:
            return cls()
        if low >= -1 and high <= 0:
            return cls(low=-1.0)
        spread = (high - low) or abs(high) or 1.0
        # The scores seen so far take the range from .2 to .8: what comes may be better or worse.
        return cls(low=low - spread / 3, span=spread / 0.6)

    def rates(self, scores: Floats) -> Floats:
        """Scores as rates."""
        return (scores - self.low) / self.span

    def scores(self, rates: Floats) -> Floats:
        """Rates as scores."""
        return rates * self.span + self.low


@dataclass(frozen=True, slots=True)
class _Setting:
    """One structure with one residual and one noise, fitted.

    Args:
        structure: Position of the structure.
        amplitude: Standard deviation of the residual.
        length: Position of the residual's length in `_LENGTHS`.
        noise: Standard deviation of the noise in a trial that tells no outcomes.
        factor: What the covariance that outcomes tell of is multiplied by.
        weight: Its share in the average.
        whitener: Inverse of the Cholesky factor of the observations' covariance K.
        solved: K^-1 times the observations less their prior mean.
    """

    structure: int
    amplitude: float
    length: int
    noise: float
    factor: float
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


class Surrogate:
    """The structures of a task, ready to be conditioned on evidence.

    Args:
        task: The task.
        rng: Source of randomness for the draws of the prior.
        insights: Which of the paper's insights to believe in.
    """

    def __init__(
        self, task: Task, rng: np.random.Generator, *, insights: Collection[int] = (1, 2, 3)
    ) -> None:
        """See the class."""
        self.structures = make_structures(task, rng, insights)
        self.residual = Residual(task)

    def points(self, models: Ints, samples: Ints) -> Points:
        """Work out the prior moments of allocations; both arrays are (allocations, stages)."""
        moments = [structure.mean_and_root(models, samples) for structure in self.structures]
        return Points(
            models,
            samples,
            tuple(mean for mean, _ in moments),
            tuple(root for _, root in moments),
            tuple(np.einsum("rn,rn->n", root, root) for _, root in moments),
        )

    def points_of(self, choices: Sequence[Choices]) -> Points:
        """The same of allocations that are written as choices."""
        array = np.array(choices, dtype=np.int64).reshape(len(choices), -1, 2)
        return self.points(array[..., 0], array[..., 1])

    def prior_mean(self, points: Points) -> Floats:
        """Rates that are expected before the first trial."""
        mean: Floats = np.sum(
            [s.weight * m for s, m in zip(self.structures, points.means)], axis=0
        )
        return mean

    def fit(self, evidence: Evidence) -> Posterior:
        """Condition on the observed scores."""
        return Posterior(self, evidence)


class Posterior:
    """The rates of allocations, given the evidence. See `Surrogate.fit`."""

    def __init__(self, surrogate: Surrogate, evidence: Evidence) -> None:
        """Condition every setting, and keep those that explain the evidence best."""
        self._surrogate = surrogate
        self.scale = Scale.of(evidence.scores)
        models, samples, rates, counts, group = _merge(
            evidence.models,
            evidence.samples,
            self.scale.rates(evidence.scores),
            evidence.shares,
        )
        self.observed = surrogate.points(models, samples)
        smooth = [surrogate.residual(self.observed, self.observed, each) for each in _LENGTHS]
        self._noise = Outcomes.of(evidence, group, len(rates)).fit(smooth[_ALIKE])
        shifts = evidence.sign * self._noise.shifts / self.scale.span
        self._settings = self._fit(rates + shifts, counts, smooth)

    def _fit(self, rates: Floats, counts: Floats, smooth: list[Floats]) -> list[_Setting]:
        observed, told = self.observed, self._noise.told
        errors = self._noise.covariance / self.scale.span / self.scale.span
        makers, matrices, gaps, priors = [], [], [], []
        guesses = list(zip(_NOISES, _FACTORS))[: 2 if told.all() else None]
        for index, structure in enumerate(self._surrogate.structures):
            root = observed.roots[index]
            chain = root.T @ root
            settings = [(a, i, g) for a in structure.amplitudes for i in (0, 1) for g in guesses]
            for amplitude, length, (noise, factor) in settings:
                makers.append(partial(_Setting, index, amplitude, length, noise, factor))
                matrices.append(
                    chain
                    + amplitude**2 * smooth[length]
                    + factor * errors
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

    def _cross(self, points: Points, setting: _Setting, smooth: list[Floats | None]) -> Floats:
        observed = self.observed
        if smooth[setting.length] is None:
            smooth[setting.length] = self._surrogate.residual(
                points, observed, _LENGTHS[setting.length]
            )
        chain = points.roots[setting.structure].T @ observed.roots[setting.structure]
        cross: Floats = chain + setting.amplitude**2 * np.asarray(smooth[setting.length])
        return cross

    def moments(self, points: Points) -> tuple[Floats, Floats, Floats]:
        """Means and standard deviations of rates under each kept setting.

        Returns:
            Weights of the settings, shape (settings,); means and standard deviations, both of
            shape (settings, allocations).
        """
        smooth: list[Floats | None] = [None for _ in _LENGTHS]
        means, deviations = [], []
        for setting in self._settings:
            cross = self._cross(points, setting, smooth)
            explained = setting.whitener @ cross.T
            variance = _variance(points, setting) - np.einsum("on,on->n", explained, explained)
            means.append(points.means[setting.structure] + cross @ setting.solved)
            deviations.append(np.sqrt(np.maximum(variance, 1e-10)))
        weights = np.array([setting.weight for setting in self._settings])
        return weights, np.stack(means), np.stack(deviations)

    def gains(self, points: Points) -> tuple[Floats, Floats, Floats]:
        """How far allocations may be ahead of the best posterior mean among the observed.

        Returns:
            Weights of the settings, shape (settings,); and of each setting and allocation, shape
            (settings, allocations), mean and standard deviation of the difference from the best
            observed. What both have in common, such as the instances' luck, is no part of it.
        """
        smooth: list[Floats | None] = [None for _ in _LENGTHS]
        seen: list[Floats | None] = [None for _ in _LENGTHS]
        means, deviations = [], []
        for setting in self._settings:
            cross = self._cross(points, setting, smooth)
            own = self._cross(self.observed, setting, seen)
            fitted = self.observed.means[setting.structure] + own @ setting.solved
            best = int(np.argmax(fitted))
            explained = setting.whitener @ cross.T
            held = setting.whitener @ own[best]
            variance = _variance(points, setting) - np.einsum("on,on->n", explained, explained)
            kept = own[best, best] - held @ held
            shared = cross[:, best] - explained.T @ held
            mean = points.means[setting.structure] + cross @ setting.solved
            means.append(mean - fitted[best])
            deviations.append(np.sqrt(np.maximum(variance + kept - 2 * shared, 1e-10)))
        weights = np.array([setting.weight for setting in self._settings])
        return weights, np.stack(means), np.stack(deviations)

    def prospects(self, points: Points, most: int) -> Iterator[Prospect]:
        """What a whole trial of each allocation would tell, setting by setting.

        Its score has noise of its own, and shares some of that of the scores seen: all run on the
        same instances, and like allocations on much the same samples.

        Args:
            points: The allocations that may be tried next.
            most: Of how many of the best observed allocations to tell.
        """
        smooth: list[Floats | None] = [
            self._surrogate.residual(points, self.observed, length) for length in _LENGTHS
        ]
        seen: list[Floats | None] = [None for _ in _LENGTHS]
        variance, shared = self._noise.of_new(np.asarray(smooth[_ALIKE]))
        unit = self.scale.span * self.scale.span
        for setting in self._settings:
            cross = self._cross(points, setting, smooth)
            own = self._cross(self.observed, setting, seen)
            fitted = self.observed.means[setting.structure] + own @ setting.solved
            top = np.argsort(-fitted, kind="stable")[:most]
            error = setting.factor * variance / unit or setting.noise**2
            scored = setting.whitener @ (cross + setting.factor / unit * shared).T
            known, best = setting.whitener @ cross.T, setting.whitener @ own[top].T
            prior = _variance(points, setting)
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
                means=points.means[setting.structure] + cross @ setting.solved,
                moves=moves / np.sqrt(spread),
            )

    def mean(self, points: Points) -> Floats:
        """Mean of rates, over all settings; cheaper than `mean_and_sd`."""
        total = np.zeros(len(points))
        smooth = np.zeros((len(_LENGTHS), len(self.observed)))
        for setting in self._settings:
            index = setting.structure
            along = self.observed.roots[index] @ setting.solved
            total += setting.weight * (points.means[index] + along @ points.roots[index])
            smooth[setting.length] += setting.weight * setting.amplitude**2 * setting.solved
        for length, solved in zip(_LENGTHS, smooth):
            if solved.any():
                total += self._surrogate.residual(points, self.observed, length) @ solved
        return total

    def mean_and_sd(self, points: Points) -> tuple[Floats, Floats]:
        """Mean and standard deviation of rates, over all settings."""
        weights, means, deviations = self.moments(points)
        mean = weights @ means
        return mean, np.sqrt(weights @ (deviations**2 + (means - mean) ** 2))

    def difference_sd(self, points: Points, reference: int) -> Floats:
        """Standard deviation of the difference between each rate and one of them."""
        total = np.zeros(len(points))
        smooth: list[Floats | None] = [None for _ in _LENGTHS]
        one = points.take(np.array([reference]))
        weights, means, deviations = self.moments(points)
        gaps = means - means[:, [reference]]
        for setting, weight, sd, gap in zip(self._settings, weights, deviations, gaps):
            explained = setting.whitener @ self._cross(points, setting, smooth).T
            root = points.roots[setting.structure]
            residual = self._surrogate.residual(points, one, _LENGTHS[setting.length])[:, 0]
            shared = (
                root.T @ root[:, reference]
                + setting.amplitude**2 * residual
                - explained.T @ explained[:, reference]
            )
            spread = sd**2 + sd[reference] ** 2 - 2 * shared
            total += weight * (np.maximum(spread, 0.0) + (gap - weights @ gaps) ** 2)
        deviation: Floats = np.sqrt(total)
        return deviation


def _variance(points: Points, setting: _Setting) -> Floats:
    """Variances of rates before any score."""
    return points.variances[setting.structure] + setting.amplitude**2


def _merge(
    models: Ints, samples: Ints, rates: Floats, shares: Floats
) -> tuple[Ints, Ints, Floats, Floats, Ints]:
    """Average the rates of equal allocations, and of near ones where there are many.

    Returns:
        Models, samples and mean rates of the groups, and how many full trials each stands for.
    """
    x = np.log(samples)
    for step in (0.0, 0.1, 0.2, 0.4, 0.8, 1.6):
        bins = samples if step == 0 else np.round(x / step).astype(np.int64)
        # Rows are numbered one column at a time: sorting them whole takes ten times as long.
        group = np.zeros(len(rates), dtype=np.int64)
        for column in (*models.T, *bins.T):
            code = group * (column.max(initial=0) + 1) + column
            _, first, group = np.unique(code, return_index=True, return_inverse=True)
        if len(first) <= _CAP:
            break
    counts: Floats = np.bincount(group, weights=shares, minlength=len(first)).astype(np.float64)
    means = np.bincount(group, weights=shares * rates, minlength=len(first)) / counts
    return models[first], samples[first], means, counts, group
