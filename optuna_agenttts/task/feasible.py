"""The allocations that fit a budget: count them, walk through them, project onto them.

Allocations are index arrays here: for each stage the position of its model and the number of
samples. Names belong to `task.py`. Costs are a table, ``costs[stage][model][samples - 1]``,
whose rows never fall; an allocation costs the sum over its stages, so whatever is left of the
budget after some stages bounds the samples of the others by bisection.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.exceptions import BudgetError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Choice = tuple[int, int]
"""Of one stage: the position of its model, and its number of samples."""

_T = TypeVar("_T")

# Costs are sums of products of floats: allocations that spend the budget to the last unit, as the
# default budget's own do, must not be lost to rounding.
_TOLERANCE = 1e-9


class FeasibleSet:
    """The allocations whose cost is within a budget.

    Args:
        costs: For each stage and each of its models, the cost of 1, 2, ... samples; rows do not
            fall.
        budget: The budget, in the unit of the costs.
    """

    def __init__(self, costs: Sequence[Sequence[Floats]], budget: float) -> None:
        """See the class."""
        self.costs = costs
        self.budget = budget
        self.limit = budget + _TOLERANCE * max(1.0, abs(budget))
        self._cheapest = [min(float(row[0]) for row in rows) for rows in costs]

    @property
    def cheapest_cost(self) -> float:
        """Cost of the cheapest allocation: everywhere one sample of the cheapest model."""
        return sum(self._cheapest)

    def cost(self, choices: Sequence[Choice]) -> float:
        """Cost of an allocation, feasible or not."""
        return float(
            sum(
                self.costs[stage][model][samples - 1]
                for stage, (model, samples) in enumerate(choices)
            )
        )

    def costs_of(self, models: Ints, samples: Ints) -> Floats:
        """Costs of many allocations at once; both arrays have shape (allocations, stages)."""
        total = np.zeros(len(models))
        for stage, rows in enumerate(self.costs):
            table = np.stack(rows)
            total += table[models[:, stage], samples[:, stage] - 1]
        return total

    def fits(self, choices: Sequence[Choice]) -> bool:
        """Whether an allocation is within the budget."""
        return self.cost(choices) <= self.limit

    def max_samples(self, stage: int, model: int, other_cost: float) -> int:
        """The most samples that fit beside other stages that cost `other_cost`; 0 if none does."""
        row = self.costs[stage][model]
        return int(np.searchsorted(row, self.limit - other_cost, side="right"))

    def complete(self, partial: Mapping[int, Choice]) -> list[Choice]:
        """Give every stage that `partial` leaves open one sample of its cheapest model."""
        return [
            partial.get(stage, (min(range(len(rows)), key=lambda m: float(rows[m][0])), 1))
            for stage, rows in enumerate(self.costs)
        ]

    def count(self) -> int:
        """The number of feasible allocations, without walking through them.

        Stages are joined into two halves, and for each sum of the one half the sums of the other
        that still fit are counted by bisection. Two stages, or four, take as long as sorting the
        choices of one, or of two; stages beyond the fourth are looped over.
        """
        choices = [np.sort(np.concatenate(list(rows))) for rows in self.costs]
        choices.sort(key=len)
        looped, joined = choices[:-4], choices[-4:]
        left = _sums(joined[0::2], self.limit)
        right = np.sort(_sums(joined[1::2], self.limit))
        total = 0
        for head in itertools.product(*looped):
            total += int(np.searchsorted(right, self.limit - sum(head) - left, "right").sum())
        return total

    def __iter__(self) -> Iterator[tuple[Choice, ...]]:
        """Walk through the feasible allocations in order of stages, models and samples.

        Lazily, and without looking at what does not fit.
        """
        return self.walk(
            [
                [[(model, samples + 1) for samples in range(len(row))] for model, row in rows_of]
                for rows_of in (list(enumerate(rows)) for rows in self.costs)
            ]
        )

    def walk(self, settings: Sequence[Sequence[Sequence[_T]]]) -> Iterator[tuple[_T, ...]]:
        """Walk as `__iter__` does, over objects of the caller's.

        Args:
            settings: For each stage, model and number of samples (from 1), what to yield for it.
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

    def arrays(self, limit: int = 1_000_000) -> tuple[Ints, Ints]:
        """All feasible allocations as two arrays of shape (allocations, stages).

        Args:
            limit: The most allocations to build.

        Returns:
            Positions of models, and numbers of samples.

        Raises:
            BudgetError: There are more than `limit`.
        """
        if (count := self.count()) > limit:
            raise BudgetError(
                f"{count} allocations are feasible and `limit` is {limit}: iterate instead, "
                "sample, or lower `max_samples`."
            )
        models = np.zeros((1, 0), dtype=np.int64)
        samples = np.zeros((1, 0), dtype=np.int64)
        spent = np.zeros(1)
        for stage, rows in enumerate(self.costs):
            rest = sum(self._cheapest[stage + 1 :])
            parts: list[tuple[Ints, Ints, Ints]] = []
            for model, row in enumerate(rows):
                most = np.searchsorted(row, self.limit - spent - rest, side="right")
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
        """The combinations of models that fit with one sample each.

        Args:
            limit: The most combinations to return; of more, the cheapest are kept.

        Returns:
            Positions of models, shape (combinations, stages), in order of cost.
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
        """The feasible allocation nearest to one that may be over the budget.

        Samples are reduced first, all stages by the same factor, and what that leaves of the
        budget is given back to the stages whose costs it covers, dearest first. Only where the
        models do not fit with one sample each are models replaced, as few as possible, then by
        those nearest in cost.

        Args:
            choices: For each stage, the position of its model and its number of samples, both
                within the table.
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
        # 1 / 2**20 resolves single samples for any `max_samples` below a million.
        for _ in range(20):
            middle = (low + high) / 2
            low, high = (middle, high) if self.fits(shrunk(middle)) else (low, middle)
        choices = shrunk(low)
        dearest_first = sorted(
            range(len(models)), key=lambda i: -float(self.costs[i][models[i]][0])
        )
        for stage in dearest_first:
            model, samples = choices[stage]
            row = self.costs[stage][model]
            others = self.cost(choices) - float(row[samples - 1])
            most = min(self.max_samples(stage, model, others), wanted[stage])
            choices[stage] = (model, max(samples, most))
        return choices

    def _nearest_models(self, wanted: Sequence[int]) -> list[int]:
        def distance(models: Sequence[int]) -> tuple[int, float]:
            changed, gap = 0, 0.0
            for stage, (ours, theirs) in enumerate(zip(models, wanted)):
                if ours != theirs:
                    a, b = (float(self.costs[stage][m][0]) for m in (ours, theirs))
                    changed, gap = changed + 1, gap + abs(math.log((a + 1) / (b + 1)))
            return changed, gap

        return [int(m) for m in min(self.model_combinations().tolist(), key=distance)]


def _sums(parts: Sequence[Floats], limit: float) -> Floats:
    """All sums that take one value of each part and do not pass the limit."""
    total = np.zeros(1)
    for part in parts:
        total = (total[:, None] + part).ravel()
        total = total[total <= limit]
    return total
