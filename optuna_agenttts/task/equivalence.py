"""Allocations whose outcomes must be equal, so that a trial of one tells about all of them.

Some stages allow several settings without any effect: two votes are one vote if ties go to the
first, and a stage that chooses among the samples of another has nothing to choose if there is one.
Stages declare this (`Stage.equal_samples`, `Stage.chooses_among`), and an objective may report it
of a single trial: of a stage that ran for no instance, or whose samples were all readable.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from optuna_agenttts.task.feasible import Choice, FeasibleSet, Floats, Ints
from optuna_agenttts.task.ranges import Ranges
from optuna_agenttts.task.stage import Stage

Choices = tuple[Choice, ...]
"""An allocation: for each stage, the position of its model and its number of samples."""
Free = tuple[int, ...] | None
"""Numbers of samples of a stage that have equal outcomes, ascending; empty if its model has no
effect either; None if all settings have effects of their own."""
Pattern = tuple[Free, ...]
"""Settings without effect on the outcomes of an allocation, by stage."""

MAX_COUNTED = 100_000
"""Maximum number of equal allocations that are counted, in some tenths of a second. Chosen by
hand."""
UNIQUE = False
"""Report of an allocation that violated a constraint: one of equal outcomes may still meet it, if
the constraint is on time or spend."""
_IRRELEVANT = "any"
"""A stage without effect, as an objective reports it of a trial."""


@dataclass(frozen=True, slots=True)
class Equivalence:
    """Settings of a task's stages without an effect on outcomes.

    Args:
        groups: For each stage, groups of numbers of samples with equal outcomes.
        chosen_from: For each stage, the position of the stage whose samples it chooses among;
            None if it does something else.
    """

    groups: tuple[tuple[tuple[int, ...], ...], ...]
    chosen_from: tuple[int | None, ...]

    @classmethod
    def of(cls, stages: Sequence[Stage]) -> Equivalence:
        """Return what the stages of a task declare."""
        names = [stage.name for stage in stages]
        return cls(
            tuple(
                tuple(tuple(group) for group in stage.equal_samples if len(group) > 1)
                for stage in stages
            ),
            tuple(names.index(s.chooses_among) if s.chooses_among else None for s in stages),
        )

    def __bool__(self) -> bool:
        """Return whether anything is declared."""
        return any(self.groups) or any(other is not None for other in self.chosen_from)

    def pattern(self, choices: Choices, reported: object = None) -> Pattern:
        """Return what has no effect on the outcomes of an allocation.

        Args:
            choices: The allocation.
            reported: What a trial reports by position of the stage: numbers of samples or "any".
                `UNIQUE` if no other allocation counts as equal.
        """
        if reported is UNIQUE:
            return (None,) * len(choices)
        known = reported if isinstance(reported, Mapping) else {}
        return tuple(self._free(choices, stage, known.get(stage)) for stage in range(len(choices)))

    def _free(self, choices: Choices, stage: int, reported: object) -> Free:
        source = self.chosen_from[stage]
        if reported == _IRRELEVANT or (
            source is not None and self._least(source, choices[source][1]) == 1
        ):
            return ()
        samples = choices[stage][1]
        if isinstance(reported, (list, tuple)) and samples in reported:
            return tuple(sorted(reported))
        return next((group for group in self.groups[stage] if samples in group), None)

    def _least(self, stage: int, samples: int) -> int:
        return min(next((g for g in self.groups[stage] if samples in g), (samples,)))

    def cheapest(self, choices: Choices, pattern: Pattern, feasible: FeasibleSet) -> Choices:
        """Return the cheapest allocation with the same outcomes.

        Args:
            choices: The allocation.
            pattern: What has no effect on its outcomes.
            feasible: The costs.
        """
        return tuple(
            least if free == () else (model, samples if free is None else free[0])
            for (model, samples), free, least in zip(choices, pattern, feasible.complete({}))
        )

    def distinct(
        self, models: Ints, samples: Ints, feasible: FeasibleSet, ranges: Ranges | None
    ) -> tuple[Ints, Ints]:
        """Return one of each group of allocations that are declared to be equal: the cheapest.

        Args:
            models: Positions of models, shape (allocations, stages).
            samples: Numbers of samples, of the same shape.
            feasible: The costs.
            ranges: Ranges of what can be suggested; None for all.
        """
        if not self:
            return models, samples
        names, numbers = models.copy(), samples.copy()
        for stage, groups in enumerate(self.groups):
            for group in groups:
                numbers[np.isin(samples[:, stage], group), stage] = group[0]
        for stage, source in enumerate(self.chosen_from):
            if source is not None:
                alone = numbers[:, source] == 1
                names[alone, stage], numbers[alone, stage] = feasible.complete({})[stage]
        cheapest = np.concatenate([names, numbers], axis=1)
        if ranges is not None:
            outside = ~ranges.mask(names, numbers)
            names[outside], numbers[outside] = models[outside], samples[outside]
        order = np.argsort(feasible.costs_of(names, numbers), kind="stable")
        first = np.unique(cheapest[order], axis=0, return_index=True)[1]
        kept = np.sort(order[first])
        return names[kept], numbers[kept]


class EquivalentAllocations(frozenset[Choices]):
    """Set of allocations that also contains those with equal outcomes.

    Iteration and length are those of the allocations themselves.

    Args:
        allocations: The allocations.
        equivalence: What the task declares.
        reported: What trials report of allocations, by stage; see `Equivalence.pattern`.
    """

    def __new__(cls, allocations: Iterable[Choices], *_: object) -> EquivalentAllocations:
        """See the class."""
        return super().__new__(cls, allocations)

    def __init__(
        self,
        allocations: Iterable[Choices],
        equivalence: Equivalence,
        reported: Mapping[Choices, Any],
    ) -> None:
        """See the class."""
        self.equivalence, self.reported = equivalence, reported
        self._forms: dict[Pattern, set[tuple[Any, ...]]] = {}
        for choices in self:
            pattern = self.pattern(choices)
            if any(free is not None for free in pattern):
                self._forms.setdefault(pattern, set()).add(_form(choices, pattern))

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how to build the set again: sets are pickled without further arguments."""
        return type(self), (frozenset(self), self.equivalence, self.reported)

    def pattern(self, choices: Choices) -> Pattern:
        """Return what has no effect on the outcomes of an allocation."""
        return self.equivalence.pattern(choices, self.reported.get(choices))

    def __contains__(self, choices: Any) -> bool:
        """Return whether an allocation, or one with equal outcomes, is in the set."""
        return super().__contains__(choices) or any(
            _form(choices, pattern) in forms for pattern, forms in self._forms.items()
        )

    def __or__(self, other: Iterable[Any]) -> EquivalentAllocations:
        """Return the union with other allocations."""
        return EquivalentAllocations(
            itertools.chain(self, other),
            self.equivalence,
            {**self.reported, **getattr(other, "reported", {})},
        )

    def reasons(self, names: Sequence[str]) -> list[str]:
        """Explain what has no effect on the outcomes of the allocations, one reason each."""
        found: dict[str, None] = {}
        for pattern in self._forms:
            for name, free in zip(names, pattern):
                if free == ():
                    found[f"stage {name!r} has no effect where it has nothing to do"] = None
                elif free is not None:
                    numbers = " and ".join(map(str, free))
                    found[f"{numbers} samples of stage {name!r} give the same result"] = None
        return list(found)

    def count_others(self, feasible: FeasibleSet) -> int:
        """Count the allocations within the budget that are equal to one of the set.

        Returns:
            The number, at most `MAX_COUNTED`.
        """
        return sum(1 for _ in itertools.islice(self.others(feasible), MAX_COUNTED))

    def others(self, feasible: FeasibleSet) -> Iterator[Choices]:
        """Yield the allocations within the budget that are equal to one of the set."""
        found = set(self)
        every: dict[int, Sequence[Sequence[Choice]]] = {}
        for pattern, forms in self._forms.items():
            for form in forms:
                options: list[Sequence[Sequence[Choice]]] = []
                costs: list[Sequence[Floats]] = []
                for stage, (part, free) in enumerate(zip(form, pattern)):
                    rows = feasible.costs[stage]
                    if free == ():
                        if stage not in every:
                            sizes = [range(1, len(row) + 1) for row in rows]
                            every[stage] = [[(m, n) for n in ns] for m, ns in enumerate(sizes)]
                        options.append(every[stage])
                        costs.append(rows)
                        continue
                    model, samples = part
                    numbers = [n for n in free or (samples,) if n <= len(rows[model])]
                    options.append([[(model, n) for n in numbers]])
                    costs.append([rows[model][np.array(numbers) - 1]])
                for other in FeasibleSet(costs, feasible.budget).walk(options):
                    if other not in found:
                        found.add(other)
                        yield other


def known_text(count: int) -> str:
    """Return a count of `EquivalentAllocations.count_others` as text."""
    return f"{count} or more" if count >= MAX_COUNTED else str(count)


def _form(choices: Choices, pattern: Pattern) -> tuple[Any, ...]:
    """Return an allocation without what has no effect, equal for allocations of equal outcomes."""
    return tuple(
        (model, samples)
        if free is None
        else free and (model, free[0] if samples in free else samples)
        for (model, samples), free in zip(choices, pattern)
    )
