"""Allocations of trials, consistent with the values and ranges that each trial suggests.

A candidate is planned when a trial requests its first parameter of the task. The ranges of the
other parameters are predicted from earlier trials; if the trial then suggests other values or
ranges, the candidate is planned again.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.agent.advice import advised_candidate
from optuna_agenttts.agent.scheduler import RoundScheduler
from optuna_agenttts.planner.evidence import Candidate, Constraint, Evidence
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.opening import Opening
from optuna_agenttts.study.archive import Archive, StudyArchives, announce
from optuna_agenttts.study.claims import odds_of
from optuna_agenttts.study.experience import Experience
from optuna_agenttts.study.fates import position_of
from optuna_agenttts.study.planners import Planners
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.support.logs import is_first, log_once
from optuna_agenttts.task.equivalence import EquivalentAllocations, known_text
from optuna_agenttts.task.parameters import (
    allowed_values,
    misfits,
    parameters_of,
    token_of,
)
from optuna_agenttts.task.task import Task
from optuna_agenttts.task.values import read_tokens

_logger = logging.getLogger(__name__)
_warn_once = partial(log_once, _logger, logging.WARNING)

_REMEMBERED = 64
"""Trials whose candidate is cached. Chosen by hand: more than run at a time."""
_ATTEMPTS = 3
"""Maximum number of new proposals for a trial whose allocation other workers chose, too."""


@dataclass(frozen=True, slots=True)
class _Request:
    """Request of a trial for the value of a parameter.

    Args:
        study: The study.
        trial: The trial, with the parameters that it has suggested so far.
        task: Task of the study.
        name: Name of the parameter.
        distribution: Its distribution.
        fixed: Models and samples that the trial has, by name of the parameter.
    """

    study: Study
    trial: FrozenTrial
    task: Task
    name: str
    distribution: BaseDistribution
    fixed: Mapping[str, int]


class Candidates:
    """Candidates of the trials of studies with a task.

    Args:
        scheduler: Planner of the agent's rounds; None without an agent.
        insights: The paper's insights to include in the prior.
        experience: Earlier studies.
        opening: The numerical planner's opening.
        floor: Score to reach at the lowest cost; None to search for the best one.
    """

    def __init__(
        self,
        scheduler: RoundScheduler | None,
        *,
        insights: tuple[int, ...],
        experience: Sequence[Experience],
        opening: Opening = "joint",
        floor: float | None = None,
    ) -> None:
        """See the class."""
        self._scheduler = scheduler
        self._lock = threading.RLock()
        self.planners = Planners(insights, experience, opening, floor)
        self._archives = StudyArchives()
        self._candidates: WeakKeyDictionary[BaseStorage, OrderedDict[int, Candidate]] = (
            WeakKeyDictionary()
        )

    def value(
        self,
        study: Study,
        trial: FrozenTrial,
        task: Task,
        name: str,
        distribution: BaseDistribution,
    ) -> Any:
        """Return the value of a parameter of the task.

        Args:
            study: The study.
            trial: The trial, with the parameters that it has suggested so far.
            task: Task of the study.
            name: Name of the parameter.
            distribution: Its distribution.

        Returns:
            The value, or None if the distribution contains no value of the parameter in the task,
            or the trial has a value outside of the task.
        """
        allowed = allowed_values(task, name, distribution)
        if not allowed or misfits(task, trial.params):
            _warn_once(
                study,
                f"parameter {name}",
                "Parameter %r of study %r is left to the independent sampler: %s, or the value "
                "of a parameter before it, has no model or number of samples of task %r.",
                *(name, study.study_name, distribution, task.name),
            )
            return None
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        fixed = read_tokens(task.stages, params)
        request = _Request(study, trial, task, name, distribution, fixed)
        planned = None
        if self._scheduler is not None and not _leaves_out(task, fixed):
            # Outside the lock, so that other threads do not wait for this round.
            planned = self._scheduler.get_round(study, trial.number)
        # One lock for each task: the first ask of a large task takes a second.
        with self.planners.lock(task):
            with self._lock:
                candidates = self._candidates.setdefault(study._storage, OrderedDict())
                candidate = candidates.get(trial._trial_id)
            archive = self._archives.get(study)
            kept = archive is not None and _is_kept(archive, candidate, request, allowed)
            if candidate is None or not kept:
                candidate = self._plan(request, planned)
                if candidate is None:
                    return None
                with self._lock:
                    candidates[trial._trial_id] = candidate
                    while len(candidates) > _REMEMBERED:
                        candidates.popitem(last=False)
                _logger.debug(
                    "Study %r, trial %d (%s): %s",
                    study.study_name,
                    trial.number,
                    candidate.origin,
                    candidate.reason,
                )
        return allowed[token_of(task, name, candidate.choices)]

    def planned_from(
        self, study: Study, task: Task, number: int
    ) -> tuple[Evidence, NumericalPlanner]:
        """Return the evidence of a study before a trial, and the planner of its task."""
        with self.planners.lock(task):
            return self._archives.read(study, task, number)[0], self.planners.get(task)

    def _plan(self, request: _Request, planned: Round | None) -> Candidate | None:
        """Propose and write a candidate, again if another worker chose the same meanwhile.

        Returns None if no trial could be read so far: what they chose could not be avoided.
        """
        study, trial, task = request.study, request.trial, request.task
        evidence, archive = self._read(study, task, trial.number)
        if archive.unreadable and not evidence.tried:
            return None
        _log_equal(study, task, evidence)
        constraint = _constraint(request, archive, evidence)
        candidate = None
        if planned is not None:
            candidate = self._advised(request, evidence, constraint, planned)
        if candidate is None:
            candidate = self.planners.get(task).propose(evidence, constraint)
        announce(study, trial._trial_id, task, candidate)
        for _ in range(_ATTEMPTS):
            if candidate.choices in evidence.visited or not (
                evidence.pending or evidence.concurrent
            ):
                break
            # Workers that read at different times can choose the same allocation. Both write it
            # before they read again, so at least one of them sees the other and gives way.
            evidence, archive = self._read(study, task, trial.number)
            if candidate.choices not in evidence.visited:
                break
            constraint = _constraint(request, archive, evidence)
            proposed = candidate.proposed and {**candidate.proposed, "outcome": "taken"}
            candidate = replace(
                self.planners.get(task).propose(evidence, constraint), proposed=proposed
            )
            announce(study, trial._trial_id, task, candidate)
        return candidate

    def _read(self, study: Study, task: Task, number: int) -> tuple[Evidence, Archive]:
        """Read a study for a trial, with the odds of the agent's rounds."""
        evidence, archive = self._archives.read(study, task, number)
        if self._scheduler is not None:
            rounds = self._scheduler.rounds_until(study, number)
            odds = tuple(odds_of(each.claims, task) for each in rounds if each.claims)
            evidence = replace(evidence, odds=odds)
        return evidence, archive

    def _advised(
        self, request: _Request, evidence: Evidence, constraint: Constraint, planned: Round
    ) -> Candidate | None:
        study, number = request.study, request.trial.number
        try:
            position = position_of(planned, number, storage.read_trials(study))
            planner = self.planners.get(request.task)
            return advised_candidate(planner, evidence, constraint, planned, position)
        # For example, a round written by another version. Advice must never fail a trial.
        except Exception as error:
            _warn_once(
                study,
                f"unusable round: {error!r}",
                "Study %r: the agent's round for trial %d cannot be used (%r). The numerical "
                "planner proposes its trials.",
                *(study.study_name, number, error),
            )
            return None


def _constraint(request: _Request, archive: Archive, evidence: Evidence) -> Constraint:
    """Return the allocations that a trial can still take, and warn if all were tried."""
    trial, suggestions = request.trial, archive.suggestions
    given = _leaves_out(request.task, request.fixed)
    ranges, untried = suggestions.open_ranges(
        trial.params, request.fixed, request.name, request.distribution, evidence.visited
    )
    # A failed allocation that may be tried again is left to try.
    if not (untried or given) and suggestions.is_exhausted(evidence.tried | evidence.failed):
        _warn_once(
            request.study,
            "exhausted",
            "Study %r has tried every allocation of task %r within its budget and ranges: "
            "allocations are repeated from now on. `StopWhenExhausted` stops instead.",
            *(request.study.study_name, request.task.name),
        )
    if not given and ranges == suggestions.ranges():
        return Constraint()
    return Constraint(ranges, fixed=given)


def _log_equal(study: Study, task: Task, evidence: Evidence) -> None:
    """Log once that allocations are not tried, since they are equal to tried ones."""
    tried, event = evidence.tried, "equal outcomes"
    if not isinstance(tried, EquivalentAllocations):
        return
    if next(tried.others(task.feasible), None) is not None and is_first(study, event):
        count = tried.count_others(task.feasible)
        _logger.info(
            "Study %r: allocations that are equal to tried ones are not tried (%s now): %s. "
            "`recommend(study).known` has the latest number.",
            study.study_name,
            known_text(count),
            "; ".join(tried.reasons([stage.name for stage in task.stages])),
        )


def _leaves_out(task: Task, fixed: Mapping[str, int]) -> bool:
    """Return whether values of a trial leave out any of the task's allocations.

    Optuna itself sets a parameter that has one value, such as the model of a stage with one model.
    """
    parameters = parameters_of(task)
    for name in fixed:
        position, is_model = parameters[name]
        stage = task.stages[position]
        if (len(stage.models) if is_model else stage.max_samples) > 1:
            return True
    return False


def _is_kept(
    archive: Archive,
    candidate: Candidate | None,
    request: _Request,
    allowed: Collection[int],
) -> bool:
    """Return whether a trial keeps its candidate, now that it requests a parameter.

    It does not if the value is out of range, values were set elsewhere, or the value leads only to
    allocations that were tried. An allocation that is tried again on purpose is kept.
    """
    suggestions, name, fixed = archive.suggestions, request.name, request.fixed
    if suggestions.record_request(name) or candidate is None:
        return False
    choices = candidate.choices
    if token_of(request.task, name, choices) not in allowed:
        return False
    if suggestions.record_imposed(choices, fixed):
        return False
    return choices in archive.visited or suggestions.is_open(
        choices, name, request.trial.params, fixed, archive.visited
    )
