"""A study as seen by what explains it: its trials, task and posterior, read once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoTaskError
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.study.tasks import find_task
from optuna_agenttts.task.task import Task


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
        found = find_task(study, task)
        if found is None:
            raise NoTaskError.of(study.study_name)
        self.study, self.task = study, found
        self.trials = storage.read_trials(study) if trials is None else list(trials)

    @cached_property
    def candidates(self) -> Candidates:
        """Tried allocations with their posterior.

        Raises:
            NoTaskError: The study has several objectives.
            NoEvidenceError: No trial is complete, or none meets the constraints of the study.
        """
        return Candidates(self.study, self.task, "explain")
