"""Trials with a score, as points over the cost of their allocations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from optuna_agenttts.planner.feasibility import known_feasibility
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.allocation import Allocation

_BEST, _LATEST = 50, 150
"""Trials that are drawn, to bound the size of figures. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class TriedAllocation:
    """Trial with a score.

    Args:
        number: Number of the trial.
        allocation: Its allocation, or the cheapest one of equal outcomes.
        value: Its value, or the mean of what it saw if it was stopped; in units of the metric.
        cost: Cost of the allocation for one instance, in units of the frontier.
        kind: ``"complete"``, ``"stopped"``, ``"fresh"`` if it confirms an allocation on fresh
            instances, or ``"infeasible"`` if it violates constraints of the study.
    """

    number: int
    allocation: Allocation
    value: float
    cost: float
    kind: str


def tried_of(view: StudyView) -> tuple[TriedAllocation, ...]:
    """Return the trials with a score, in order of number, without outliers.

    Raises:
        NoTaskError: The study has other objectives than a score, or a score and then a cost.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    evidence = view.candidates.evidence
    points = view.candidates.surrogate.points(evidence.models, evidence.samples)
    costs = view.candidates.front_costs(points).tolist()
    known, blocks = known_feasibility(evidence), evidence.block_of_rows().tolist()
    found = []
    if view.candidates.measures_cost:
        costs = [own if math.isnan(m) else m for own, m in zip(costs, evidence.measured)]
    for row, key in enumerate(evidence.choices):
        kind = "stopped" if evidence.stopped[row] else "fresh" if blocks[row] else "complete"
        found.append(
            TriedAllocation(
                number=evidence.numbers[row],
                allocation=view.task.allocation(key),
                value=float(evidence.sign * evidence.scores[row]),
                cost=costs[row],
                kind=kind if known.get(key, True) else "infeasible",
            )
        )
    return tuple(found)


def numbers_shown(view: StudyView) -> frozenset[int]:
    """Return the numbers of the trials to draw in figures: the best and the latest ones."""
    sign = view.candidates.evidence.sign
    tried = view.get(tried_of)
    best = sorted(tried, key=lambda trial: -sign * trial.value)[:_BEST]
    return frozenset(trial.number for trial in (*best, *tried[-_LATEST:]))
