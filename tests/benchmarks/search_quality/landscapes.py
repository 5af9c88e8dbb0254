"""Landscapes with a known optimum, drawn from seeds.

``landscape(family, index)`` is a `Landscape`: a task, the true score of every allocation, and
simulated outcomes by instance. Families:

* ``calibrated``, ``random`` and ``violating``: see `families`.
* ``playground``: the measured grid.

Indices of `DEVELOPMENT` are for work on the planner, those of `REPORT` for what is reported.
"""

from dataclasses import dataclass
from functools import cache, cached_property
from statistics import NormalDist

import numpy as np
from families import draw
from feasible_draws import ascend, draw_uniform
from mechanism import Mechanism

from optuna_agenttts import Task
from optuna_agenttts_integrations.playground import make_task
from optuna_agenttts_integrations.playground.grid import load_grid

DEVELOPMENT = range(0, 10_000)
REPORT = range(1_000_000, 1_010_000)
VERSION = 2
"""Of the landscapes: figures of different versions cannot be compared."""

FAMILIES = ("calibrated", "random", "violating", "playground")

_ENUMERATED = 300_000
_normal = NormalDist()


@dataclass(frozen=True)
class Landscape:
    """A task, and what is true about its allocations.

    Args:
        family: One of `FAMILIES`.
        name: What it is within the family.
        index: The seed that it was drawn from.
        task: The task, as declared.
        mechanism: The truth.
        shared: Share of the variance of an instance's outcome that all allocations have in
            common: its difficulty.
    """

    family: str
    name: str
    index: int
    task: Task
    mechanism: Mechanism | None = None
    shared: float = 0.5

    def truth(self, models, samples):
        """Return true mean scores.

        Args:
            models: Positions of models, shape (..., stages).
            samples: Numbers of samples, likewise.
        """
        return self.mechanism.scores(np.asarray(models), np.asarray(samples))

    def outcomes(self, models, samples, seed, count=50):
        """Outcomes, 0 or 1, on instances drawn by a seed, shape (..., count).

        An instance has a difficulty, and a taste for each model of each stage that changes
        slowly with log samples, as outcomes do where samples are reused. Over instances the mean
        is the truth. On the playground outcomes of the better allocations correlate by .87 where
        models are the same and samples within a factor of 1.3, by .31 where samples are further
        than a factor of 4, and by .16 and .08 where one model or both differ; here by about as
        much at the lowest `shared`.
        """
        models, samples = np.asarray(models), np.asarray(samples)
        difficulty, first, second, frequency = self._instances(seed, count)
        stages = np.arange(models.shape[-1])
        angle = frequency[stages, models] * np.log(samples)[..., None]
        taste = first[stages, models] * np.cos(angle) + second[stages, models] * np.sin(angle)
        own = np.sqrt((1 - self.shared) / len(stages)) * taste.sum(axis=-2)
        latent = np.sqrt(self.shared) * difficulty + own
        truth = self.truth(models, samples)
        threshold = np.vectorize(_normal.inv_cdf, otypes=[float])(truth)
        return (latent < threshold[..., None]).astype(float)

    @cache  # noqa: B019 - landscapes live as long as the process
    def _instances(self, seed, count):
        rng = np.random.default_rng([seed, self.index, 17])
        shape = (len(self.task.stages), max(len(s.models) for s in self.task.stages), count)
        return rng.normal(size=count), *rng.normal(size=(2, *shape)), rng.normal(0, 1.2, shape)

    @cached_property
    def reference(self):
        """The best and the median true score of the feasible allocations."""
        feasible = self.task.feasible
        if feasible.count() <= _ENUMERATED:
            truth = self.truths(*feasible.arrays())
            return float(truth.max()), float(np.median(truth))
        rng = np.random.default_rng(0)
        models, samples = draw_uniform(feasible, rng, 100_000)
        truth = self.truths(models, samples)
        starts = np.argsort(-truth)[:400]
        _, first = np.unique(models[starts], axis=0, return_index=True)
        chosen = starts[np.sort(first)][:8]
        best = max(ascend(self, models[i], samples[i]) for i in chosen)
        return float(best), float(np.median(truth))

    def truths(self, models, samples, part=20_000):
        """Compute the true mean scores of many allocations, a part at a time."""
        return np.concatenate(
            [
                self.truth(models[i : i + part], samples[i : i + part])
                for i in range(0, len(models), part)
            ]
        )

    def regret(self, truth):
        """Regret of true scores: 0 for the best feasible allocation, 1 for the median one."""
        best, median = self.reference
        return (best - truth) / (best - median)

    def __hash__(self):
        return hash((self.family, self.index))


class Playground(Landscape):
    """The measured grid; the truth is the mean over its 200 problems."""

    def truth(self, models, samples):
        """See `Landscape.truth`."""
        return self._measured(models, samples).mean(axis=-1)

    def outcomes(self, models, samples, seed, count=50):
        """Outcomes on problems drawn by the seed."""
        problems = np.random.default_rng(seed).choice(200, count, replace=False)
        return self._measured(models, samples)[..., problems].astype(float)

    def _measured(self, models, samples):
        models, samples = np.asarray(models), np.asarray(samples)
        found = _grid().outcomes(models.reshape(-1, 2), samples.reshape(-1, 2))
        return found.reshape(*models.shape[:-1], -1)

    __hash__ = Landscape.__hash__


_grid = cache(load_grid)


@cache
def landscape(family, index):
    """Draw a landscape.

    Args:
        family: One of `FAMILIES`.
        index: What it is drawn from; `families.cycle` of them in a row show each kind once.
    """
    if family == "playground":
        return Playground(family, "playground", index, make_task())
    rng = np.random.default_rng([FAMILIES.index(family), index])
    name, task, mechanism = draw(family, rng, index)
    return Landscape(family, name, index, task, mechanism, rng.uniform(0.15, 0.6))
