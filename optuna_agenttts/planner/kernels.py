"""Gaussian process prior over the rates of allocations: its components and kernels.

The prior is a mixture of three components, weighted by the evidence in `posterior.py`: the chain
of stages with the paper's insights, a broad chain whose signs are free (both in `prior.py`), and
a plain Gaussian process with a constant mean. Each adds a residual kernel for what it cannot
explain. The covariance of allocations p and q under one component is::

    K(p, q) = root[:, p] @ root[:, q] + amplitude**2 * k(p, q)

Notation (N allocations, M other allocations, R = rank of a component):

    symbol      shape     unit          meaning
    mean        (N,)      rate          prior mean
    root        (R, N)    rate          square root of a component's covariance: root.T @ root
    variance    (N,)      rate^2        diagonal of root.T @ root
    amplitude   scalar    rate          standard deviation of the residual
    length      scalar    ln(samples)   length scale of the residual
    k           (N, M)    1             residual kernel, between 0 and 1, 1 for equal allocations
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Floats, Ints, choices_of
from optuna_agenttts.planner.kinship import Kinship
from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.planner.prior import Curves, draw_curves, log_sizes
from optuna_agenttts.task.task import Task

LENGTH_SCALES = (0.8, 2.0)
"""Length scales of the residual to average over, in ln(samples): a factor of 2.2 and of 7.4 in
samples. Chosen by hand; shorter ones did not help, on rugged landscapes either."""
_CHAIN_WEIGHT, _BROAD_WEIGHT, _PLAIN_WEIGHT = 0.4, 0.4, 0.2
"""Prior probabilities of the components. The chains' were .5 and .3 and were tuned with the prior
(`ChainPrior`); more weight on the plain component, or leaving one out, did not help."""
_CHAIN_AMPLITUDES, _PLAIN_AMPLITUDES = (0.03, 0.08), (0.12, 0.25)
"""Residual amplitudes to average over, in rates. Chosen by hand; larger ones did not help."""
_PLAIN_MEAN, _PLAIN_SD = 0.5, 0.3
"""Mean and standard deviation of the plain component's level, in rates. Chosen by hand: with one
standard deviation it covers .2 to .8."""
_RANK = 24
"""Directions kept of a chain's covariance. Smooth curves vary in few ways: 24 directions hold more
than 99.9 % of the variance and make an ask ten times cheaper than 800 draws would."""
_RANK_POOL = 400
"""Allocations that the directions are computed from. Chosen by hand."""
_RANK_TOLERANCE = 1e-9
"""Directions with less variance than this share of the first one are rounding errors."""
_OTHER_MODEL = 0.7
"""Residual kernel of two different models of the same size. Chosen by hand."""
_OTHER_EFFORT = 0.8
"""Residual kernel of efforts of one model whose lengths of thoughts are far apart. Chosen by hand:
.7 and .85 ordered allocations as well."""
SEED = 0
"""Fixed, so that workers that read the same trials make the same proposal."""
_CACHED_SURROGATES = 8
"""Surrogates of tasks that are kept for planners and reports: some 300 kB each."""


@dataclass(frozen=True, slots=True)
class PriorComponent:
    """A prior over rates: one component of the mixture, without its residual.

    Args:
        name: Its name.
        weight: Its prior probability.
        curves: Draws of the chain prior; None for the plain component.
        basis: Orthogonal directions in the space of draws, shape (draws, rank), scaled so that
            ``basis.T @ (rates - mean)`` is a square root of the covariance.
        amplitudes: Standard deviations of the residual to average over, in rates.
    """

    name: str
    weight: float
    curves: Curves | None
    basis: Floats
    amplitudes: tuple[float, ...]

    def mean_and_root(self, models: Ints, samples: Ints) -> tuple[Floats, Floats]:
        """Return the prior mean and a square root of the prior covariance, ``root.T @ root``."""
        if self.curves is None:
            return np.full(len(models), _PLAIN_MEAN), np.full((1, len(models)), _PLAIN_SD)
        rates = self.curves.rates(models, samples)
        mean = rates.mean(axis=0)
        return mean, self.basis.T @ (rates - mean)


def _chain_component(
    name: str, weight: float, curves: Curves, models: Ints, samples: Ints
) -> PriorComponent:
    """Build a chain component whose covariance is truncated to `_RANK` directions."""
    rates = curves.rates(models, samples)
    centered = rates - rates.mean(axis=0)
    # Left singular vectors from the right ones, since there are fewer allocations than draws.
    squares, right = np.linalg.eigh(centered.T @ centered)
    squares, right = squares[::-1][:_RANK], right[:, ::-1][:, :_RANK]
    kept = squares > _RANK_TOLERANCE * squares[0]
    left = centered @ right[:, kept] / np.sqrt(squares[kept])
    basis = left / np.sqrt(len(rates) - 1)
    return PriorComponent(name, weight, curves, basis, _CHAIN_AMPLITUDES)


def make_components(
    task: Task, rng: np.random.Generator, insights: Collection[int]
) -> list[PriorComponent]:
    """Build the prior components of a task.

    Args:
        task: The task.
        rng: Random number generator for the draws of the chains.
        insights: The paper's insights to include; see `draw_curves`.
    """
    chain = draw_curves(task, rng, insights=insights)
    broad = draw_curves(task, rng, broad=True, insights=insights)
    models, samples = build_pool(task.feasible, rng, _RANK_POOL)
    return [
        _chain_component("chain", _CHAIN_WEIGHT, chain, models, samples),
        _chain_component("broad chain", _BROAD_WEIGHT, broad, models, samples),
        PriorComponent("plain", _PLAIN_WEIGHT, None, np.zeros((0, 0)), _PLAIN_AMPLITUDES),
    ]


class ResidualKernel:
    """Smooth kernel over allocations.

    The kernel of a stage is 1 for equal models, ``_OTHER_MODEL * exp(-decades)`` for models whose
    sizes differ by `decades`, times a Matern-5/2 kernel in ln(samples). Where models think, it is
    1 for equal base models and is multiplied by a kernel that falls from 1 to `_OTHER_EFFORT` as
    lengths of thoughts move apart. The kernel of allocations
    is half the mean plus half the product of the stages' kernels (equal parts chosen by hand): the
    mean lets a trial inform allocations that share only some stages with it.

    Args:
        task: The task.
    """

    def __init__(self, task: Task) -> None:
        """See the class."""
        self._model_kernels = []
        self._logs = [np.log(np.arange(1, stage.max_samples + 1)) for stage in task.stages]
        for stage, decades in zip(task.stages, log_sizes(task)):
            kin = Kinship.of(stage)
            kernel = _OTHER_MODEL * np.exp(-np.abs(decades[:, None] - decades))
            kernel[kin.bases[:, None] == kin.bases] = 1.0
            if kin.thinks:
                gaps = np.abs(kin.thoughts[:, None] - kin.thoughts)
                kernel *= _OTHER_EFFORT + (1 - _OTHER_EFFORT) * np.exp(-gaps)
            self._model_kernels.append(kernel)

    def __call__(self, points: Points, others: Points, length: float) -> Floats:
        """Return the kernel of every pair, shape (points, others)."""
        total = np.zeros((len(points), len(others)))
        product = np.ones_like(total)
        for stage, (model_kernel, logs) in enumerate(zip(self._model_kernels, self._logs)):
            # Evaluated once for every number of samples, then looked up: points share them.
            numbers, position = np.unique(points.samples[:, stage], return_inverse=True)
            gaps = np.abs(logs[numbers - 1, None] - logs[others.samples[:, stage] - 1])
            # Rasmussen & Williams (2006), Eq. 4.17, p. 85, with `distance` = sqrt(5) r / length.
            distance = gaps * (np.sqrt(5) / length)
            matern = (1 + distance + distance**2 / 3) * np.exp(-distance)
            alike = model_kernel[:, others.models[:, stage]]
            kernel = alike[points.models[:, stage]] * matern[position]
            total += kernel
            product *= kernel
        total *= 0.5 / len(self._model_kernels)
        total += 0.5 * product
        return total


@dataclass(frozen=True, slots=True)
class Points:
    """Allocations with their prior moments under every component.

    Args:
        models: Positions of models, shape (allocations, stages).
        samples: Numbers of samples, shape (allocations, stages).
        means: For each component, the prior mean, shape (allocations,).
        roots: For each component, a square root of the covariance, shape (rank, allocations).
        variances: For each component, the variance, shape (allocations,).
    """

    models: Ints
    samples: Ints
    means: tuple[Floats, ...]
    roots: tuple[Floats, ...]
    variances: tuple[Floats, ...]

    @property
    def choices(self) -> list[Choices]:
        """The allocations as choices."""
        return choices_of(self.models, self.samples)

    def take(self, positions: Ints) -> Points:
        """Return the allocations at some positions."""
        return Points(
            self.models[positions],
            self.samples[positions],
            tuple(mean[positions] for mean in self.means),
            tuple(root[:, positions] for root in self.roots),
            tuple(variance[positions] for variance in self.variances),
        )

    def joined(self, others: Points) -> Points:
        """Return these allocations followed by others."""
        return Points(
            np.concatenate([self.models, others.models]),
            np.concatenate([self.samples, others.samples]),
            tuple(np.concatenate(pair) for pair in zip(self.means, others.means)),
            tuple(np.concatenate(pair, axis=1) for pair in zip(self.roots, others.roots)),
            tuple(np.concatenate(pair) for pair in zip(self.variances, others.variances)),
        )

    def __len__(self) -> int:
        """Return the number of allocations."""
        return len(self.models)


class Surrogate:
    """Prior of a task, ready to be conditioned on evidence by `Posterior`.

    Args:
        task: The task.
        rng: Random number generator for the draws of the chains.
        insights: The paper's insights to include; see `draw_curves`.
    """

    def __init__(
        self, task: Task, rng: np.random.Generator, *, insights: Collection[int] = (1, 2, 3)
    ) -> None:
        """See the class."""
        self.components = make_components(task, rng, insights)
        self._residual = ResidualKernel(task)
        self._stages = len(task.stages)

    def points(self, models: Ints, samples: Ints) -> Points:
        """Compute the prior moments of allocations; both arrays are (allocations, stages)."""
        moments = [component.mean_and_root(models, samples) for component in self.components]
        return Points(
            models,
            samples,
            tuple(mean for mean, _ in moments),
            tuple(root for _, root in moments),
            tuple(np.einsum("rn,rn->n", root, root) for _, root in moments),
        )

    def points_of(self, choices: Sequence[Choices]) -> Points:
        """Compute the prior moments of allocations given as choices."""
        array = np.array(choices, dtype=np.int64).reshape(len(choices), self._stages, 2)
        return self.points(array[..., 0], array[..., 1])

    def residual_kernels(self, points: Points, others: Points) -> list[Floats]:
        """Return the residual kernels of all pairs for each of `LENGTH_SCALES`."""
        return [self._residual(points, others, length) for length in LENGTH_SCALES]

    def prior_mean(self, points: Points) -> Floats:
        """Return the prior mean of the mixture."""
        mean: Floats = np.sum(
            [c.weight * mean for c, mean in zip(self.components, points.means)], axis=0
        )
        return mean


@lru_cache(maxsize=_CACHED_SURROGATES)
def surrogate_of(
    task: Task, insights: tuple[int, ...] = (1, 2, 3)
) -> tuple[Surrogate, np.random.Generator]:
    """Return the surrogate of a task, and a generator after its draws, to be copied before use."""
    rng = np.random.default_rng(SEED)
    return Surrogate(task, rng, insights=insights), rng
