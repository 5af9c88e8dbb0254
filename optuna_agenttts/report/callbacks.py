"""Callbacks for `Study.optimize`."""

from __future__ import annotations

import logging

from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoTaskError, TaskError
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.study.archive import Archive, is_maximized
from optuna_agenttts.study.spending import read_limit, spend
from optuna_agenttts.task.stage import is_finite
from optuna_agenttts.task.task import Task

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
            storage.write_limit(study, self._limit)
        found = spend(study, self._task)
        if found.total >= self._limit:
            _logger.info("Stopping after trial %d. %s", trial.number, found)
            study.stop()


class StopWhenSettled:
    """Stops a search once another trial is not expected to be worth it.

    What is left to gain is the expected improvement of the best next trial over the best so far,
    under the numerical planner's posterior, whoever plans. ``docs/benchmarks.md`` has what
    stopping so costs and saves.

    Args:
        gain: Stop when less than this is left to gain, in units of the metric.
        worth: What one unit of the metric is worth, in units of the task's cost model: then stop
            when what is left to gain is worth less than the next trial costs over all instances.
            Overrides `gain`.
        trials: For how many trials in a row it must be so.
        task: The task. Default: the one registered on the study.

    Raises:
        TaskError: An argument makes no sense.
    """

    def __init__(
        self,
        gain: float = 0.01,
        *,
        worth: float | None = None,
        trials: int = 3,
        task: Task | None = None,
    ) -> None:
        """See the class."""
        for name, value in (("gain", gain), ("worth", 1.0 if worth is None else worth)):
            if not (is_finite(value) and value > 0):
                raise TaskError(
                    f"StopWhenSettled: `{name}` is {value!r}: give a finite number above 0."
                )
        if trials < 1:
            raise TaskError(f"StopWhenSettled: `trials` is {trials!r}: give 1 or more.")
        self._gain, self._worth, self._trials, self._task = gain, worth, trials, task
        self._planner: NumericalPlanner | None = None
        self._settled = 0

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Look at what is left to gain, after a trial.

        Raises:
            NoTaskError: The study does not say which task it tunes.
        """
        task = self._task or Task.registered(study)
        if task is None:
            raise NoTaskError(
                f"Study {study.study_name!r} does not say which task it tunes: pass `task=`."
            )
        if self._planner is None or self._planner.task != task:
            self._planner = NumericalPlanner(task)
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        evidence = Archive(task, maximize=is_maximized(study.directions)).read(trials)
        if self._planner.opens(evidence):
            return
        candidate, left = self._planner.outlook(evidence)
        least = self._gain
        if self._worth is not None:
            instances = max((len(outcomes) for outcomes in evidence.outcomes), default=0)
            least = max(1, instances) * task.feasible.cost(candidate.choices) / self._worth
        self._settled = self._settled + 1 if left < least else 0
        if self._settled >= self._trials:
            _logger.info(
                "Stopping after trial %d: %.2g is left to gain, less than %.2g.",
                trial.number,
                left,
                least,
            )
            study.stop()
