"""Callbacks for `Study.optimize`."""

from __future__ import annotations

import logging

from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage as keys
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.spend import read_limit, spend
from optuna_agenttts.stage import is_finite
from optuna_agenttts.task import Task

_logger = logging.getLogger(__name__)


class StopAtSpend:
    """Stops a search once trials and agent together have spent so much.

    Trials that are running are finished, so the last of them may go over the limit. The agent
    is told what is left.

    Args:
        limit: In units of the task's cost model; over all instances where the objective states its
            spend, as `MultiStageObjective` does, else for one instance of each trial.
        task: The task. Default: the one registered on the study.

    Raises:
        TaskError: The limit is no finite number above zero.
    """

    def __init__(self, limit: float, *, task: Task | None = None) -> None:
        """See the class."""
        if not (is_finite(limit) and limit > 0):
            raise TaskError(f"StopAtSpend: `limit` is {limit!r}: give a finite number above 0.")
        self._limit, self._task = float(limit), task

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Look at what has been spent, after a trial.

        Raises:
            NoTaskError: The study does not say which task it tunes.
        """
        attributes = study._storage.get_study_system_attrs(study._study_id)
        if read_limit(attributes) != self._limit:
            study._storage.set_study_system_attr(study._study_id, keys.LIMIT, self._limit)
        found = spend(study, self._task)
        if found.total >= self._limit:
            _logger.info("Stopping after trial %d. %s", trial.number, found)
            study.stop()
