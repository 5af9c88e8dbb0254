"""Which objectives of a study are planned: a score, or a score and then a cost."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.study.archive import Archive, is_maximized
from optuna_agenttts.study.stopped import has_several_objectives
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.task import Task

_SAME = 1e-6
"""Relative difference up to which values are costs, times a constant."""
_COSTS = 3
"""Different costs that first values must equal to be costs. Chosen by hand."""


def has_cost(study: Study) -> bool:
    """Return whether a study has two objectives, the second of which can be a cost."""
    return len(study.directions) == 2 and study.directions[1] == StudyDirection.MINIMIZE


def with_cost(trial: Trial, score: float, cost: float) -> float | tuple[float, float]:
    """Return the value of a trial: its score, in studies of two objectives with the task's cost.

    Args:
        trial: The running trial.
        score: Its score.
        cost: The task's cost of its allocation.
    """
    if not (has_several_objectives(trial) and has_cost(trial.study)):
        return score
    storage.write_trial_facts(trial, {storage.COST: cost})
    return score, cost


def why_not_planned(study: Study, task: Task, trials: Sequence[FrozenTrial]) -> str:
    """Return why the objectives of a study are not planned; an empty string if they are."""
    if len(study.directions) == 1:
        return ""
    if len(study.directions) > 2:
        return f"it has {len(study.directions)} objectives"
    if study.directions[1] != StudyDirection.MINIMIZE:
        return "the second of its 2 objectives is maximized, so it is no cost"
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    for trial in complete:
        if (second := trial.values[1]) < 0:
            return (
                f"the second of its 2 objectives is {second:g} in trial {trial.number}, below 0, "
                "so it is no cost"
            )
    if _are_costs(task, complete):
        return "the first of its 2 objectives is the cost of the task: return the score first"
    return ""


def check_bounds(
    at_least: float | None, at_most: float | None
) -> tuple[float | None, float | None]:
    """Return the bounds of the score that a search is to reach, at most one of which is given.

    Raises:
        TaskError: It is not finite, or both are given.
    """
    for name, bound in (("at_least", at_least), ("at_most", at_most)):
        if bound is not None and not is_finite(bound):
            raise TaskError(f"AgentTTSSampler: `{name}` must be finite, got {bound!r}.")
    if at_least is not None and at_most is not None:
        raise TaskError(
            "AgentTTSSampler: give `at_least` for studies that maximize or `at_most` for those "
            "that minimize, not both."
        )
    return at_least, at_most


def check_direction(study: Study, at_least: float | None, at_most: float | None) -> None:
    """Raise an error if a study's direction contradicts the score that it is to reach.

    Raises:
        TaskError: It does.
    """
    maximize = is_maximized(study.directions)
    if (at_most if maximize else at_least) is not None:
        given, meant = ("at_most", "at_least") if maximize else ("at_least", "at_most")
        raise TaskError(
            f"AgentTTSSampler: `{given}` was given, and study {study.study_name!r} "
            f"{'maximizes' if maximize else 'minimizes'}: give `{meant}`, the score to reach."
        )


def _are_costs(task: Task, trials: Sequence[FrozenTrial]) -> bool:
    """Return whether the first values of trials are the task's costs, times a constant."""
    evidence = Archive(task, maximize=False).read(trials)
    costs = task.feasible.costs_of(evidence.models, evidence.samples)
    if len(np.unique(costs)) < _COSTS or not (costs > 0).all():
        return False
    ratios = -evidence.scores / costs
    # Scores that are all 0 are no costs.
    return bool(np.ptp(ratios) < _SAME * np.abs(ratios).max())
