"""Ranges: the models and numbers of samples that a study or a trial allows for each stage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.task.feasible import Choice, FeasibleSet, Ints

_T = TypeVar("_T")

Samples = range | tuple[int, ...]
"""Numbers of samples in ascending order; a range if possible, which is fast to compare."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Allowed positions of models and numbers of samples, by stage. Hashable.

    Args:
        models: Allowed positions of models of each stage, ascending and not empty.
        samples: Allowed numbers of samples of each stage, ascending and not empty.
    """

    models: tuple[tuple[int, ...], ...]
    samples: tuple[Samples, ...]

    @classmethod
    def all_of(cls, feasible: FeasibleSet) -> Ranges:
        """Return the ranges that allow everything in a table of costs."""
        return cls(
            tuple(tuple(range(len(rows))) for rows in feasible.costs),
            tuple(range(1, len(rows[0]) + 1) for rows in feasible.costs),
        )

    def with_models(self, stage: int, models: Collection[int]) -> Ranges:
        """Return the ranges with other models of a stage."""
        return replace(self, models=_put(self.models, stage, tuple(sorted(models))))

    def with_samples(self, stage: int, samples: Iterable[int]) -> Ranges:
        """Return the ranges with other numbers of samples of a stage."""
        if not isinstance(samples, range):
            samples = tuple(sorted(set(samples)))
        return replace(self, samples=_put(self.samples, stage, samples))

    def allow(self, choices: Sequence[Choice]) -> bool:
        """Return whether an allocation is within the ranges."""
        return all(
            model in self.models[stage] and samples in self.samples[stage]
            for stage, (model, samples) in enumerate(choices)
        )

    def mask(self, models: Ints, samples: Ints) -> NDArray[np.bool_]:
        """Check many allocations; both arrays have shape (allocations, stages)."""
        inside = np.ones(len(models), dtype=np.bool_)
        for stage in range(len(self.models)):
            inside &= np.isin(models[:, stage], self.models[stage])
            allowed = self.samples[stage]
            if isinstance(allowed, range):
                number = samples[:, stage] - allowed.start
                inside &= (number >= 0) & (number % allowed.step == 0)
                inside &= samples[:, stage] < allowed.stop
            else:
                inside &= np.isin(samples[:, stage], allowed)
        return inside

    def table(self, feasible: FeasibleSet) -> FeasibleSet:
        """Return the feasible set restricted to the allowed values, which are renumbered.

        Its models are positions in `models`, its samples 1, 2, ... positions in `samples`;
        `decode` turns them back.
        """
        return FeasibleSet(
            [
                [rows[model][np.array(samples) - 1] for model in models]
                for rows, models, samples in zip(feasible.costs, self.models, self.samples)
            ],
            feasible.budget,
        )

    def walk(self, feasible: FeasibleSet) -> Iterator[tuple[Choice, ...]]:
        """Iterate lazily over the feasible allocations within the ranges."""
        settings = [
            [[(model, count) for count in counts] for model in models]
            for models, counts in zip(self.models, self.samples)
        ]
        return self.table(feasible).walk(settings)

    def decode(self, models: Ints, samples: Ints) -> tuple[Ints, Ints]:
        """Turn allocations of `table` into positions of models and numbers of samples."""
        columns = range(len(self.models))
        return (
            np.stack([np.array(self.models[i])[models[:, i]] for i in columns], axis=-1),
            np.stack([np.array(self.samples[i])[samples[:, i] - 1] for i in columns], axis=-1),
        )


def _put(values: tuple[_T, ...], stage: int, value: _T) -> tuple[_T, ...]:
    return (*values[:stage], value, *values[stage + 1 :])
