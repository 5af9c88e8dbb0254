"""The structures of a task, ready to be conditioned on evidence."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Floats, Ints
from optuna_agenttts.planner.kernels import LENGTHS, Points, Residual, make_structures
from optuna_agenttts.task.task import Task


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
