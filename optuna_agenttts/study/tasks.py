"""Find the task that a study tunes."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.study.measured import effective_task
from optuna_agenttts.task.recognition import recognise_task
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)


class StudyTasks:
    """Tasks of studies, cached for each study.

    Args:
        task: Task of every study. Default: the one registered on a study, or one recognized from
            the names of its parameters.
    """

    def __init__(self, task: Task | None) -> None:
        """Initialize; see the class."""
        self._task = task
        self._lock = threading.Lock()
        self._tasks: WeakKeyDictionary[BaseStorage, dict[int, tuple[Any, Task]]] = (
            WeakKeyDictionary()
        )

    def get(self, study: Study) -> Task | None:
        """Return the task of a study; None for several objectives, or if none is found."""
        if len(study.directions) > 1:
            return None
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
                trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
                return recognise_task(trials)
            cached_values, cached = tasks.get(study._study_id, (None, None))
            if cached is not None and values == cached_values:
                return cached
            read = _read(values)
            if read is not None:
                tasks[study._study_id] = (values, read)
            return read


def _read(values: Mapping[str, Any]) -> Task | None:
    try:
        return Task.from_dict(values)
    except TaskError as error:
        _logger.warning(
            "The task registered on the study cannot be read (%s). Its parameters are left to the "
            "independent sampler: pass `task=` to AgentTTSSampler.",
            error,
        )
        return None
