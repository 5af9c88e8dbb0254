"""The agent's values for trials of studies without stages."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.agent.advice import generic_candidate_index
from optuna_agenttts.agent.scheduler import RoundScheduler
from optuna_agenttts.study.archive import is_maximized
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.study.tasks import StudyTasks
from optuna_agenttts.support.logs import log_once

_logger = logging.getLogger(__name__)

_REMEMBERED = 64
"""Trials whose advice is cached. Chosen by hand: more than run at a time."""


class Advice:
    """The agent's parameters for trials of studies without stages.

    Args:
        scheduler: Planner of the agent's rounds; None without an agent.
        tasks: Tasks of the studies.
    """

    def __init__(self, scheduler: RoundScheduler | None, tasks: StudyTasks) -> None:
        """See the class."""
        self._scheduler, self._tasks = scheduler, tasks
        self._lock = threading.RLock()
        self._advice: WeakKeyDictionary[BaseStorage, OrderedDict[int, Proposal | None]] = (
            WeakKeyDictionary()
        )

    def params(self, study: Study, trial: FrozenTrial) -> Mapping[str, Any] | None:
        """Return the agent's parameters for a trial, or None."""
        if self._scheduler is None or len(study.directions) > 1:
            return None
        with self._lock:
            cache = self._advice.setdefault(study._storage, OrderedDict())
            if trial._trial_id in cache:
                proposed = cache[trial._trial_id]
                return None if proposed is None else proposed.params
        try:
            proposed = self._advised(self._scheduler, study, trial)
        # For example, a round written by another version. Advice must never fail a trial.
        except Exception as error:
            log_once(
                _logger,
                logging.WARNING,
                study,
                f"unusable round: {error!r}",
                "Study %r: the agent's round for trial %d cannot be used (%r). The independent "
                "sampler samples its trials.",
                *(study.study_name, trial.number, error),
            )
            proposed = None
        with self._lock:
            cache[trial._trial_id] = proposed
            while len(cache) > _REMEMBERED:
                cache.popitem(last=False)
        if proposed is None:
            return None
        storage.write_origin(study, trial._trial_id, "agent", proposed.reason)
        return proposed.params

    def _advised(
        self, scheduler: RoundScheduler, study: Study, trial: FrozenTrial
    ) -> Proposal | None:
        if self._tasks.get(study, trial.number) is not None:
            return None
        planned = scheduler.get_round(study, trial.number)
        if planned is None or not planned.candidates:
            return None
        trials = storage.read_trials(study)
        slot = generic_candidate_index(
            trials, trial.number - planned.first, maximize=is_maximized(study.directions)
        )
        if slot is None or slot >= len(planned.candidates):
            return None
        return planned.candidates[slot]
