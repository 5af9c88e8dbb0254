"""The allocations within a budget: count, iterate, project.

Allocations are index arrays here: the position of the model and the number of samples, for each
stage. Costs are a table, ``costs[stage][model][samples - 1]``, whose rows never fall. The cost of
an allocation is the sum over its stages, so the budget left by some stages bounds the samples of
the others by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.task.counting import count_sums

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Choice = tuple[int, int]
"""Position of the model and number of samples of one stage."""

_T = TypeVar("_T")

# Relative tolerance: rounding in sums of products must not exclude allocations that spend the
# whole budget, such as the one that defines the default budget.
_TOLERANCE = 1e-9
_MAX_COMPARED = 4096
"""Combinations of models that a projection compares: some ten milliseconds."""


class FeasibleSet:
    """Allocations whose cost is within a budget.

    Args:
        costs: Cost of 1, 2, ... samples for each stage and each of its models, not falling.
        budget: Budget in the unit of the costs.
    """

    def __init__(self, costs: Sequence[Sequence[Floats]], budget: float) -> None:
        """See the class."""
        self.costs = costs
        self.budget = budget
        self.limit = budget + _TOLERANCE * max(1.0, abs(budget))
        self._cheapest = [min(float(row[0]) for row in rows) for rows in costs]

    @property
    def cheapest_cost(self) -> float:
        """Cost of one sample of the cheapest model in every stage."""
        return sum(self._cheapest)

    def cost(self, choices: Sequence[Choice]) -> float:
        """Return the cost of an allocation, feasible or not."""
        return float(
            sum(
                self.costs[stage][model][samples - 1]
                for stage, (model, samples) in enumerate(choices)
            )
        )

    def cost_of_others(self, choices: Sequence[Choice], stage: int) -> float:
        """Return the cost of all stages of an allocation but one, as `max_samples` needs it."""
        model, samples = choices[stage]
        return self.cost(choices) - float(self.costs[stage][model][samples - 1])

    def costs_of(self, models: Ints, samples: Ints) -> Floats:
        """Return the costs of allocations; both arrays have shape (allocations, stages)."""
        total = np.zeros(len(models))
        for stage, rows in enumerate(self.costs):
            table = np.stack(rows)
            total += table[models[:, stage], samples[:, stage] - 1]
        return total

    def fits(self, choices: Sequence[Choice]) -> bool:
        """Return whether an allocation is within the budget."""
        return self.cost(choices) <= self.limit

    def max_samples(self, stage: int, model: int, other_cost: float) -> int:
        """Return the maximum number of samples if the other stages cost `other_cost`, or 0."""
        row = self.costs[stage][model]
        return int(np.searchsorted(row, self.limit - other_cost, side="right"))

    def complete(self, partial: Mapping[int, Choice]) -> list[Choice]:
        """Fill the stages missing from `partial` with one sample of their cheapest model."""
        return [
            partial.get(stage, (min(range(len(rows)), key=lambda m: float(rows[m][0])), 1))
            for stage, rows in enumerate(self.costs)
        ]

    def count(self) -> int | float:
        """Count the feasible allocations without iterating over them; see `count_sums`."""
        return count_sums(self.costs, self.limit)

    def pairs(self) -> list[tuple[int, int]]:
        """Return the (stage, model) pairs of the feasible allocations."""
        return [
            (stage, model)
            for stage, rows in enumerate(self.costs)
            for model in range(len(rows))
            if self.fits(self.complete({stage: (model, 1)}))
        ]

    def __iter__(self) -> Iterator[tuple[Choice, ...]]:
        """Iterate lazily over the feasible allocations, ordered by stage, model and samples."""
        return self.walk(
            [
                [[(model, samples + 1) for samples in range(len(row))] for model, row in rows_of]
                for rows_of in (list(enumerate(rows)) for rows in self.costs)
            ]
        )

    def walk(self, settings: Sequence[Sequence[Sequence[_T]]]) -> Iterator[tuple[_T, ...]]:
        """Iterate like `__iter__`, and yield given objects instead of choices.

        Args:
            settings: Object to yield for each stage, model and number of samples (from 1).
        """
        return self._walk(settings, 0, 0.0, ())

    def _walk(
        self,
        settings: Sequence[Sequence[Sequence[_T]]],
        stage: int,
        spent: float,
        head: tuple[_T, ...],
    ) -> Iterator[tuple[_T, ...]]:
        rest = sum(self._cheapest[stage + 1 :])
        last = stage == len(self.costs) - 1
        for model, row in enumerate(self.costs[stage]):
            options = settings[stage][model][: self.max_samples(stage, model, spent + rest)]
            if last:
                for option in options:
                    yield (*head, option)
            else:
                for option, cost in zip(options, row):
                    yield from self._walk(
                        settings, stage + 1, spent + float(cost), (*head, option)
                    )

    def arrays(self, limit: int = 1_000_000) -> tuple[Ints, Ints] | None:
        """Return all feasible allocations as arrays, or None if more than `limit` are.

        The time is bounded by that for `limit` allocations, even if many more are feasible.

        Returns:
            Positions of models and numbers of samples, both of shape (allocations, stages).
        """
        models = np.zeros((1, 0), dtype=np.int64)
        samples = np.zeros((1, 0), dtype=np.int64)
        spent = np.zeros(1)
        for stage, rows in enumerate(self.costs):
            rest = sum(self._cheapest[stage + 1 :])
            parts: list[tuple[Ints, Ints, Ints]] = []
            total = 0
            for model, row in enumerate(rows):
                most = np.searchsorted(row, self.limit - spent - rest, side="right")
                # Every part of an allocation within the limit can be completed.
                if (total := total + int(most.sum())) > limit:
                    return None
                head = np.repeat(np.arange(len(spent)), most)
                starts = np.repeat(np.cumsum(most) - most, most)
                number = np.arange(len(head)) - starts + 1
                parts.append((head, np.full(len(head), model), number))
            heads, chosen, numbers = (np.concatenate(column) for column in zip(*parts))
            order = np.argsort(heads, kind="stable")
            heads, chosen, numbers = heads[order], chosen[order], numbers[order]
            models = np.column_stack([models[heads], chosen])
            samples = np.column_stack([samples[heads], numbers])
            spent = spent[heads] + np.stack(rows)[chosen, numbers - 1]
        return models, samples

    def model_combinations(self, limit: int = 4096) -> Ints:
        """Return the combinations of models that are feasible with one sample each.

        Args:
            limit: Upper bound on the number of combinations; the cheapest are kept.

        Returns:
            Positions of models, shape (combinations, stages), sorted by cost.
        """
        models = np.zeros((1, 0), dtype=np.int64)
        spent = np.zeros(1)
        for stage, rows in enumerate(self.costs):
            rest = sum(self._cheapest[stage + 1 :])
            firsts = np.array([float(row[0]) for row in rows])
            total = (spent[:, None] + firsts).ravel()
            keep = np.flatnonzero(total + rest <= self.limit)
            keep = keep[np.argsort(total[keep], kind="stable")][:limit]
            head, chosen = np.divmod(keep, len(rows))
            models = np.column_stack([models[head], chosen])
            spent = total[keep]
        return models

    def project(self, choices: Sequence[Choice]) -> list[Choice]:
        """Return the feasible allocation nearest to one that may be over the budget.

        Samples of all stages are reduced by the same factor. The budget left by rounding down is
        then given to the stages in order of falling cost. Models are replaced only if one sample
        each is over the budget: as few as possible, by those nearest in cost.

        Args:
            choices: Position of the model and number of samples of each stage, within the table.
        """
        wanted = [
            (model, min(max(1, samples), len(self.costs[stage][model])))
            for stage, (model, samples) in enumerate(choices)
        ]
        if self.fits(wanted):
            return wanted
        models = [model for model, _ in wanted]
        if not self.fits([(model, 1) for model in models]):
            models = self._nearest_models(models)
        return self._reduce_samples(models, [samples for _, samples in wanted])

    def _reduce_samples(self, models: Sequence[int], wanted: Sequence[int]) -> list[Choice]:
        def shrunk(factor: float) -> list[Choice]:
            return [(m, max(1, int(s * factor))) for m, s in zip(models, wanted)]

        low, high = 0.0, 1.0
        # 20 halvings resolve single samples for any `max_samples` below 2**20, about a million.
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits(shrunk(middle)) else (low, middle)
        choices = shrunk(low)
        dearest_first = sorted(
            range(len(models)), key=lambda i: -float(self.costs[i][models[i]][0])
        )
        for stage in dearest_first:
            model, samples = choices[stage]
            most = self.max_samples(stage, model, self.cost_of_others(choices, stage))
            choices[stage] = (model, max(samples, min(most, wanted[stage])))
        return choices

    def _nearest_models(self, wanted: Sequence[int]) -> list[int]:
        def distance(models: Sequence[int]) -> tuple[int, float]:
            changed, gap = 0, 0.0
            for stage, (ours, theirs) in enumerate(zip(models, wanted)):
                if ours != theirs:
                    a, b = (float(self.costs[stage][m][0]) for m in (ours, theirs))
                    changed, gap = changed + 1, gap + abs(math.log((a + 1) / (b + 1)))
            return changed, gap

        combinations = self.model_combinations(_MAX_COMPARED)
        if len(combinations) < _MAX_COMPARED:
            return [int(m) for m in min(combinations.tolist(), key=distance)]
        # Too many to compare: the stages that save most are replaced, as few as possible, each by
        # the model nearest in cost that leaves room for the others.
        models = list(wanted)
        cheapest = [model for model, _ in self.complete({})]
        saved = [self.costs[s][m][0] - self._cheapest[s] for s, m in enumerate(wanted)]
        replaced = []
        for stage in sorted(range(len(wanted)), key=lambda stage: -float(saved[stage])):
            if self.fits([(model, 1) for model in models]):
                break
            models[stage] = cheapest[stage]
            replaced.append(stage)
        for stage in replaced:
            options = [
                [*models[:stage], m, *models[stage + 1 :]] for m in range(len(self.costs[stage]))
            ]
            fitting = [option for option in options if self.fits([(m, 1) for m in option])]
            models = min(fitting, key=distance)
        return models
