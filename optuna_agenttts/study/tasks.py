"""Find the task that a study tunes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoTaskError, TaskError
from optuna_agenttts.study.measured import effective_task
from optuna_agenttts.study.objectives import why_not_planned
from optuna_agenttts.support.logs import is_first, log_once
from optuna_agenttts.support.plain import listed
from optuna_agenttts.task.direction import warn_of_direction
from optuna_agenttts.task.parameters import parameters_of
from optuna_agenttts.task.recognition import Recognise, recognise_task, why_unrecognised
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)
_warn_once = partial(log_once, _logger, logging.WARNING)

_LISTED = 8
"""Names of parameters listed in a message. Chosen by hand, to keep it short."""


class StudyTasks:
    """Tasks of studies, cached for each study.

    Args:
        task: Task of every study. Default: the one registered on a study, or one recognized from
            the names of its parameters.
        recognise: How to recognize it; see `AgentTTSSampler`.
    """

    def __init__(self, task: Task | None, recognise: Recognise = True) -> None:
        """See the class."""
        self._task, self._recognise = task, recognise
        self._recognised: WeakKeyDictionary[BaseStorage, dict[int, tuple[int, Task | None]]] = (
            WeakKeyDictionary()
        )
        self._lock = threading.Lock()
        self._tasks: WeakKeyDictionary[BaseStorage, dict[int, tuple[Any, Task]]] = (
            WeakKeyDictionary()
        )

    def get(self, study: Study, number: int) -> Task | None:
        """Return the task of a study, or None if none is found.

        Return None for studies whose objectives are not planned; warn once.

        Args:
            study: The study.
            number: Number of the trial. Stages are recognized once for each trial.
        """
        task = self._find(study, number)
        if task is None or len(study.directions) == 1:
            return task
        if reason := why_not_planned(study, task, storage.read_trials(study)):
            _warn_once(
                study,
                "several objectives",
                "Study %r: %s. The models and samples of its task's stages are not planned but "
                "sampled by the independent sampler (TPE by default), and no agent is asked. "
                "Searches with one objective are planned, and those with two: a score, then a "
                "cost to minimize.",
                *(study.study_name, reason),
            )
            return None
        return task

    def _find(self, study: Study, number: int) -> Task | None:
        """Return the task of a study; see `get`."""
        with self._lock:
            tasks = self._tasks.setdefault(study._storage, {})
            if self._task is not None:
                task = effective_task(study, self._task)
                if study._study_id not in tasks:
                    task.register(study)
                    tasks[study._study_id] = (None, task)
                return task
            values = storage.registered(study)
            if values is None:
                return self._recognised_task(study, number)
            cached_values, cached = tasks.get(study._study_id, (None, None))
            if cached is not None and values == cached_values:
                return cached
            read = _read(study, values)
            if read is not None:
                warn_of_direction(study, read.metric)
                tasks[study._study_id] = (values, read)
            return read

    def _recognised_task(self, study: Study, number: int) -> Task | None:
        """Recognize the task for a trial, and log its stages once for each study."""
        if self._recognise is False:
            return None
        known = self._recognised.setdefault(study._storage, {})
        last, task = known.get(study._study_id, (-1, None))
        if last == number:
            return task
        announced = task is not None
        trials = storage.read_trials(study)
        task = recognise_task(trials, self._recognise) or task
        known[study._study_id] = number, task
        if task is not None and not announced and self._recognise is not True:
            storage.write_recognise(study, self._recognise)
        if task is not None and is_first(study, "recognized stages"):
            ours = parameters_of(task)
            _logger.info(
                "AgentTTSSampler plans the stages that it recognized in study %r: %s. Pass "
                "`task=` to give their costs and a budget, or `recognise=False` to leave these "
                "parameters to the independent sampler. It samples the others: %s.",
                study.study_name,
                "; ".join(f"{s.model_parameter}, {s.samples_parameter}" for s in task.stages),
                _names({n: 0 for t in trials for n in t.params if n not in ours}),
            )
        return task

    def check_names(self, study: Study, trial: FrozenTrial, sampler: str) -> None:
        """Log once if a finished trial has no parameter that is planned.

        Args:
            study: The study.
            trial: The first trial that this process has completed.
            sampler: Name of the sampler of the other parameters.
        """
        if len(study.directions) > 1 or not is_first(study, "names of parameters"):
            return
        task = self.get(study, trial.number)
        names = _names(trial.params)
        if task is not None and not parameters_of(task).keys() & trial.params.keys():
            _logger.warning(
                "Trial %d of study %r has no parameter of task %r, so nothing is planned: its "
                "parameters, sampled by %s, are %s, and the task's are %s. Call "
                "`task.suggest(trial)` in the objective, or give `Stage` the names of its "
                "parameters.",
                trial.number,
                study.study_name,
                task.name,
                sampler,
                names,
                ", ".join(map(repr, parameters_of(task))),
            )
        if task is not None or self._recognise is False or not trial.params:
            return
        reason, meant = why_unrecognised(trial, self._recognise)
        if reason:
            _logger.log(
                logging.WARNING if meant else logging.INFO,
                "AgentTTSSampler recognizes no stage among the parameters %s of study %r and "
                "leaves them to %s: %s. The parameters of a stage are named '<stage>.model' and "
                "'<stage>.samples'. Pass `recognise=` to give other names, such as "
                "`recognise=('{stage}_model', '{stage}_samples')`, or False if there are no "
                "stages.",
                names,
                study.study_name,
                sampler,
                reason,
            )


def find_task(study: Study, task: Task | None = None) -> Task | None:
    """Return the given task, else the registered one, else a recognized one, else None.

    Args:
        study: The study.
        task: The task, if it is known.
    """
    task = task or Task.registered(study)
    if task is not None:
        return task
    recognise = storage.read_recognise(study)
    if isinstance(recognise, list):
        recognise = (recognise[0], recognise[1])
    return recognise_task(storage.read_trials(study), recognise)


def require_task(study: Study, task: Task | None = None) -> Task:
    """Return the task of a study; see `find_task`.

    Args:
        study: The study.
        task: The task, if it is known.

    Raises:
        NoTaskError: There is none.
    """
    if (found := find_task(study, task)) is None:
        raise NoTaskError(
            f"No task is registered on study {study.study_name!r}: `AgentTTSSampler(task)` and "
            "`task.suggest(trial)` register one at the first trial. Run one, or pass `task=`."
        )
    return found


def _names(names: Iterable[str]) -> str:
    """List the first names of parameters."""
    return listed(list(map(repr, names)), _LISTED) or "none"


def _read(study: Study, values: Mapping[str, Any]) -> Task | None:
    try:
        return Task.from_dict(values)
    except TaskError as error:
        _warn_once(
            study,
            f"unreadable task: {error}",
            "The task registered on study %r cannot be read (%s). Its parameters are left to the "
            "independent sampler: pass `task=` to AgentTTSSampler.",
            *(study.study_name, error),
        )
        return None
