"""Cache of the planners of tasks, shared by threads."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import Any

from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.opening import Opening as Opening
from optuna_agenttts.study.experience import Experience, earlier_trials
from optuna_agenttts.task.task import Task

_KEPT = 2
"""Planners that are kept: some 20 MB each. Chosen by hand."""
_LOCKS = 64
"""Locks that the tasks share, by their hashes: more than tasks that are planned at a time."""


class Planners:
    """Cache of planners, with a lock for each task.

    Building the planner of a large task takes a second or more. Asks for other tasks must not
    wait for that, and planners and archives are not thread-safe, so each task has a lock.

    Args:
        insights: See `NumericalPlanner`.
        experience: Earlier studies, as evidence for planners of similar tasks.
        opening: See `NumericalPlanner`.
        floor: See `NumericalPlanner`.
    """

    def __init__(
        self,
        insights: Collection[int],
        experience: Sequence[Experience],
        opening: Opening = "joint",
        floor: float | None = None,
    ) -> None:
        """See the class."""
        self._insights, self._experience, self._opening = insights, experience, opening
        self._floor = floor
        self._planners: OrderedDict[Task, NumericalPlanner] = OrderedDict()
        self._lock = threading.Lock()
        self._locks = [threading.RLock() for _ in range(_LOCKS)]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, without planners and locks."""
        return Planners, (self._insights, self._experience, self._opening, self._floor)

    def lock(self, task: Task) -> threading.RLock:
        """Return the lock to hold while a task's planner or archive is used."""
        return self._locks[hash(task) % _LOCKS]

    def get(self, task: Task) -> NumericalPlanner:
        """Return the planner of a task; the caller holds the task's lock."""
        with self._lock:
            planner = self._planners.get(task)
        if planner is None:
            planner = NumericalPlanner(
                task,
                insights=self._insights,
                experience=earlier_trials(self._experience, task),
                opening=self._opening,
                floor=self._floor,
            )
            with self._lock:
                self._planners[task] = planner
                while len(self._planners) > _KEPT:
                    self._planners.popitem(last=False)
        return planner
