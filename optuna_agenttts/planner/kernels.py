"""Explanations of scores, before any is seen, and the allocations that they are asked about.

Several structures explain the scores, and the evidence weighs them (`posterior.py`): the chain of
stages with the paper's insights, a broad chain without beliefs about signs (`prior.py`), and a
plain Gaussian process. To each belongs a smooth residual for what it cannot explain. Weights and
settings come from simulated landscapes (see ``docs/design.md``).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Floats, Ints
from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.planner.prior import Curves, Sizes, draw_curves
from optuna_agenttts.task.task import Task

_DIRECTIONS = 24
LENGTHS = (0.8, 2.0)
"""Of the residual, in ln(samples): to average over."""


@dataclass(frozen=True, slots=True)
class Structure:
    """One explanation of the scores.

    Args:
        name: Its name.
        weight: How much it is believed before the first trial.
        curves: Draws of its prior; None for the plain structure.
        basis: The directions in the space of draws that carry the variance, shape
            (draws, directions).
        amplitudes: Standard deviations of the residual to average over.
    """

    name: str
    weight: float
    curves: Curves | None
    basis: Floats
    amplitudes: tuple[float, ...]

    def mean_and_root(self, models: Ints, samples: Ints) -> tuple[Floats, Floats]:
        """Prior mean of rates, and R with ``R.T @ R`` their prior covariance."""
        if self.curves is None:
            # A level that is known only to lie somewhere between 0 and 1.
            return np.full(len(models), 0.5), np.full((1, len(models)), 0.3)
        rates = self.curves.rates(models, samples)
        mean = rates.mean(axis=0)
        return mean, self.basis.T @ (rates - mean)


def _chain(name: str, weight: float, curves: Curves, models: Ints, samples: Ints) -> Structure:
    """A chain, its covariance kept in few directions: it costs an ask ten times less.

    Smooth curves vary in few ways; 24 directions hold more than 99.9 % of the variance.
    """
    rates = curves.rates(models, samples)
    gaps = rates - rates.mean(axis=0)
    # The left singular vectors, by way of the right ones: there are fewer allocations than draws.
    squares, right = np.linalg.eigh(gaps.T @ gaps)
    squares, right = squares[::-1][:_DIRECTIONS], right[:, ::-1][:, :_DIRECTIONS]
    kept = squares > 1e-9 * squares[0]
    left = gaps @ right[:, kept] / np.sqrt(squares[kept])
    basis = left / np.sqrt(len(rates) - 1)
    return Structure(name, weight, curves, basis, (0.03, 0.08))


def make_structures(
    task: Task, rng: np.random.Generator, insights: Collection[int]
) -> list[Structure]:
    """The structures of a task.

    Args:
        task: The task.
        rng: Source of randomness for the draws of the prior.
        insights: Which of the paper's insights to believe in.
    """
    chain = draw_curves(task, rng, insights=insights)
    broad = draw_curves(task, rng, broad=True, insights=insights)
    models, samples = build_pool(task.feasible, rng, 400)
    return [
        _chain("chain", 0.4, chain, models, samples),
        _chain("broad chain", 0.4, broad, models, samples),
        Structure("plain", 0.2, None, np.zeros((0, 0)), (0.12, 0.25)),
    ]


class Residual:
    """A smooth kernel over allocations: for each stage, models by size and samples by ratio.

    Half the mean and half the product of the stages' kernels, so that what is seen in one stage
    says something of allocations that differ in the others. Of a stage: 1 for the same model,
    less the more sizes differ, times a Matern-5/2 in ln(samples).
    """

    def __init__(self, task: Task) -> None:
        self._alike = []
        self._logs = [np.log(np.arange(1, stage.max_samples + 1)) for stage in task.stages]
        for decades in Sizes.of(task).decades:
            alike = 0.7 * np.exp(-np.abs(decades[:, None] - decades))
            np.fill_diagonal(alike, 1.0)
            self._alike.append(alike)

    def __call__(self, points: Points, others: Points, length: float) -> Floats:
        """Kernel of every pair, shape (points, others)."""
        total = np.zeros((len(points), len(others)))
        product = np.ones_like(total)
        for stage, (alike, logs) in enumerate(zip(self._alike, self._logs)):
            # Worked out once for every number of samples, then looked up: points share them.
            gaps = np.abs(logs[:, None] - logs[others.samples[:, stage] - 1])
            distance = gaps * (np.sqrt(5) / length)
            matern = (1 + distance + distance**2 / 3) * np.exp(-distance)
            table = alike[:, None, others.models[:, stage]] * matern
            kernel = table[points.models[:, stage], points.samples[:, stage] - 1]
            total += kernel
            product *= kernel
        total *= 0.5 / len(self._alike)
        total += 0.5 * product
        return total


@dataclass(frozen=True, slots=True)
class Points:
    """Allocations whose prior moments have been worked out: those a posterior is asked about.

    Args:
        models: Positions of models, shape (allocations, stages).
        samples: Numbers of samples, likewise.
        means: For each structure, the prior mean of the rates.
        roots: For each structure, R with ``R.T @ R`` their prior covariance.
        variances: For each structure, the diagonal of that.
    """

    models: Ints
    samples: Ints
    means: tuple[Floats, ...]
    roots: tuple[Floats, ...]
    variances: tuple[Floats, ...]

    def take(self, positions: Ints) -> Points:
        """Some of the allocations."""
        return Points(
            self.models[positions],
            self.samples[positions],
            tuple(mean[positions] for mean in self.means),
            tuple(root[:, positions] for root in self.roots),
            tuple(variance[positions] for variance in self.variances),
        )

    def joined(self, others: Points) -> Points:
        """These allocations, and then others."""
        return Points(
            np.concatenate([self.models, others.models]),
            np.concatenate([self.samples, others.samples]),
            tuple(np.concatenate(pair) for pair in zip(self.means, others.means)),
            tuple(np.concatenate(pair, axis=1) for pair in zip(self.roots, others.roots)),
            tuple(np.concatenate(pair) for pair in zip(self.variances, others.variances)),
        )

    def __len__(self) -> int:
        """The number of allocations."""
        return len(self.models)


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

    def smooth(self, points: Points, others: Points) -> list[Floats]:
        """Residual kernels of all pairs, (points, others), for each of `LENGTHS`."""
        return [self.residual(points, others, length) for length in LENGTHS]

    def prior_mean(self, points: Points) -> Floats:
        """Rates that are expected before the first trial."""
        mean: Floats = np.sum(
            [s.weight * m for s, m in zip(self.structures, points.means)], axis=0
        )
        return mean
