"""Trials in terms of the cheapest allocations with equal outcomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Evidence
from optuna_agenttts.task.equivalence import UNIQUE, EquivalentAllocations


def cheapest_form(evidence: Evidence) -> Callable[[Choices], Choices]:
    """Return a function from an allocation to the cheapest one with the same outcomes.

    It is within the ranges that the study's trials suggest.
    """
    known, ranges = evidence.tried, evidence.ranges
    if not isinstance(known, EquivalentAllocations):
        return lambda choices: choices

    def form(choices: Choices) -> Choices:
        pattern = known.pattern(choices)
        cheapest = known.equivalence.cheapest(choices, pattern, evidence.task.feasible)
        unique = known.reported.get(cheapest) is UNIQUE
        if unique or not (ranges is None or ranges.allow(cheapest)):
            return choices
        return cheapest

    return form


def with_cheapest(evidence: Evidence) -> Evidence:
    """Return evidence whose trials have the cheapest allocations with the same outcomes.

    Allocations that must have equal outcomes thus become one, which is known as well as all of
    their trials together.
    """
    form = cheapest_form(evidence)
    forms = [form(choices) for choices in evidence.choices]
    rows = np.array(forms, dtype=np.int64).reshape(len(forms), len(evidence.task.stages), 2)
    return replace(
        evidence,
        models=rows[..., 0],
        samples=rows[..., 1],
        constraints=tuple((form(choices), values) for choices, values in evidence.constraints),
    )


def count_known(evidence: Evidence) -> int:
    """Count the allocations within the budget whose outcomes equal those of tried ones.

    The number is at most `MAX_COUNTED`.
    """
    known = evidence.tried
    if not isinstance(known, EquivalentAllocations):
        return 0
    return known.count_others(evidence.task.feasible)
