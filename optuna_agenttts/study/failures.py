"""Failed trials: when their allocations, and the models in them, are tried again.

A server that is down fails every trial of its model, and an allocation that fails says nothing
about others. So both wait until other trials are completed. An allocation is tried again twice. A
model waits longer after each failure, and is never given up.
"""

from __future__ import annotations

import logging
from collections.abc import Container

from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.task.ranges import Ranges
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)

_RETRIES = 2
"""Times that an allocation whose trial failed may be tried again. Chosen by hand."""
_RETRY_AFTER = 3
"""Trials that must be completed after a failure before its allocation is tried again: a server
that is down fails the next trial, too. A model of k failures in a row waits k - 1 times as long.
Chosen by hand."""
_IN_A_ROW = 2
"""Failed trials of a model, with none completed in between, after which it waits: the first one
may be due to another stage's model. Chosen by hand."""
_CHECKED = 10_000
"""Allocations that are checked for one that was not visited, at most; more than most searches have
trials. Chosen by hand."""


class Failures:
    """Failed trials of a study, read in order of number.

    Args:
        task: Task that the study tunes.
    """

    def __init__(self, task: Task) -> None:
        """See the class."""
        self._task, self._completed = task, 0
        # Number of completed trials at each failure. Those of a model: since it last succeeded.
        self._allocations: dict[Choices, list[int]] = {}
        self._models: dict[tuple[int, int], list[int]] = {}
        self._logged: set[tuple[int, int]] = set()

    def add_failed(self, choices: Choices) -> None:
        """Add a failed trial of an allocation."""
        self._allocations.setdefault(choices, []).append(self._completed)
        for pair in _pairs(choices):
            self._models.setdefault(pair, []).append(self._completed)

    def add_completed(self, choices: Choices) -> None:
        """Add a trial of an allocation that ran."""
        self._completed += 1
        for pair in _pairs(choices):
            self._models.pop(pair, None)
            self._logged.discard(pair)

    def allocations(self) -> tuple[frozenset[Choices], frozenset[Choices]]:
        """Return the allocations that are to be tried again later, and those that are not."""
        waiting, final = set(), set()
        for choices, failures in self._allocations.items():
            if len(failures) > _RETRIES:
                final.add(choices)
            elif self._completed < failures[-1] + _RETRY_AFTER:
                waiting.add(choices)
        return frozenset(waiting), frozenset(final)

    def without_failing(self, ranges: Ranges | None, visited: Container[Choices]) -> Ranges | None:
        """Return ranges without the models that wait, as long as they leave something to try.

        Models of later stages wait for one trial more than those of the stage before. Of two that
        failed together, the first is then tried alone, which shows which of them fails.

        Args:
            ranges: Ranges of the study; None for those of the task.
            visited: Allocations not to propose.
        """
        waiting: list[tuple[int, int]] = []
        for (stage, model), failures in self._models.items():
            wait = _RETRY_AFTER * (len(failures) - 1) + stage
            if len(failures) >= _IN_A_ROW and self._completed < failures[-1] + wait:
                waiting.append((stage, model))
        found = ranges or Ranges.all_of(self._task.feasible)
        for stage, model in waiting:
            if left := [other for other in found.models[stage] if other != model]:
                found = found.with_models(stage, left)
        if not waiting or not self._leaves(found, visited):
            return ranges
        for stage, model in waiting:
            self._log_waiting(stage, model)
        return found

    def _leaves(self, ranges: Ranges, visited: Container[Choices]) -> bool:
        """Return whether ranges have an allocation that is not visited."""
        for count, choices in enumerate(ranges.walk(self._task.feasible)):
            if count == _CHECKED or choices not in visited:
                return True
        return False

    def _log_waiting(self, stage: int, model: int) -> None:
        """Log that a model waits, once until it succeeds again."""
        if (stage, model) not in self._logged:
            self._logged.add((stage, model))
            _logger.warning(
                "The last %d trials with model %r in stage %r failed. Others are tried first, and "
                "it is tried again from time to time.",
                len(self._models[stage, model]),
                self._task.stages[stage].models[model].name,
                self._task.stages[stage].name,
            )


def _pairs(choices: Choices) -> list[tuple[int, int]]:
    """Return each stage with the position of its model."""
    return [(stage, model) for stage, (model, _) in enumerate(choices)]
