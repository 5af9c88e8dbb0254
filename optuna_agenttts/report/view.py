"""A study as seen by what explains it: its trials, task and posterior, read once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.report.budgets import frontier_of
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.points import Frontier
from optuna_agenttts.report.recommendation import Recommendation, recommendation_of
from optuna_agenttts.study.tasks import require_task
from optuna_agenttts.task.task import Task

_T = TypeVar("_T")


class StudyView:
    """Trials of a study, and what follows from them, computed on first use.

    All figures and texts about a study are made from one view, so that they agree, and the
    posterior is computed once.

    Args:
        study: The study.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.
        trials: Its trials in order of number. Default: those of the storage. A sampler's
            `after_trial` passes them, since the storage does not have the value of the current
            trial yet.

    Raises:
        NoTaskError: The study has no task.
    """

    def __init__(
        self,
        study: Study,
        task: Task | None = None,
        *,
        trials: Sequence[FrozenTrial] | None = None,
    ) -> None:
        """See the class."""
        self.study, self.task = study, require_task(study, task)
        self.trials = storage.read_trials(study) if trials is None else list(trials)
        self._recognized = task is None and Task.registered(study) is None
        self._computed: dict[Callable[[StudyView], Any], Any] = {}

    def get(self, compute: Callable[[StudyView], _T]) -> _T:
        """Return a value that is computed from this view, on first use.

        Args:
            compute: Function from a view to the value, such as `saturation_of`.
        """
        if compute not in self._computed:
            self._computed[compute] = compute(self)
        value: _T = self._computed[compute]
        return value

    @cached_property
    def candidates(self) -> Candidates:
        """Tried allocations with their posterior.

        Raises:
            NoTaskError: The study has other objectives than a score, or a score and then a cost.
            NoEvidenceError: No trial is complete, or none meets the constraints of the study.
        """
        return Candidates(self.study, self.task, "recommend", self.trials)

    @cached_property
    def best(self) -> Choices:
        """Recommended allocation; see `candidates` for errors."""
        found = self.candidates
        return found.keys[found.best(np.arange(len(found.keys)))]

    @cached_property
    def recommendation(self) -> Recommendation:
        """Result of `recommend`; see `candidates` for errors."""
        found = recommendation_of(self.candidates)
        if self.candidates.evidence.frontier:
            found = replace(found, frontier=self.frontier)
        return found

    @cached_property
    def frontier(self) -> Frontier:
        """Result of `frontier`; see `candidates` for errors."""
        return frontier_of(self.candidates, recognized=self._recognized)
