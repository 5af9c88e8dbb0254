"""Read a study's trials as evidence about a task."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.planner.evidence import Bools, Candidate, Choices, Evidence, Floats
from optuna_agenttts.planner.scale import LARGEST, Scale, are_binary, find_outliers, known_scale
from optuna_agenttts.study.constraints import constraints_of, violations
from optuna_agenttts.study.failures import Failures
from optuna_agenttts.study.proposals import expected_of
from optuna_agenttts.study.stopped import mean_outcome, measured_cost, outcomes_of
from optuna_agenttts.study.suggestions import Suggestions
from optuna_agenttts.support.logs import log_once
from optuna_agenttts.task.equivalence import UNIQUE, Equivalence, EquivalentAllocations
from optuna_agenttts.task.parameters import misfits
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)
_warn_once = partial(log_once, _logger, logging.WARNING)

# A worker killed between creating a trial and announcing its allocation leaves a running trial
# without one. Only the last 32 trial numbers are taken to be choosing right now: more than the
# workers of any study seen so far.
_RECENT = 32

_SCORE_TOLERANCE = 6e-4
"""Difference between a score and the mean of its outcomes that rounding may explain, as a share of
the range of these outcomes: rates are often rounded to three decimals."""
_ROUNDING = 1e-9
"""The same as a share of the largest outcome, for outcomes that are all equal."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """Trial with a value; of a stopped trial, that is the mean of its outcomes."""

    number: int
    choices: Choices
    value: float
    outcomes: Mapping[int, float]
    """Outcomes by instance; empty unless their mean is the value."""
    stopped: bool
    block: int
    origin: str
    expected: float  # By the fit, of a trial of the agent; NaN for others.
    measured: float
    """Second value, a cost; NaN if there is none."""


class Archive:
    """Incremental reader of a study's trials.

    Finished trials do not change, so each is read once.

    Args:
        task: Task that the study tunes.
        maximize: Whether higher values are better.
        frontier: Whether trials have a second value, a cost.
    """

    def __init__(self, task: Task, *, maximize: bool, frontier: bool = False) -> None:
        """See the class."""
        self.task, self._frontier = task, frontier
        self._sign = 1.0 if maximize else -1.0
        self.seen = 0
        """Number of trials at the last call of `read`."""
        self._scored: list[_Scored] = []
        # Trials that reported anything; those whose score is the mean of it; scores of those whose
        # outcomes are not all 0 or 1.
        self._reported, self._explained, self._graded = 0, 0, list[float]()
        # Sum and number of the complete search trials' outcomes of each instance.
        self._totals: dict[int, tuple[float, int]] = {}
        self._logged: set[int] = set()
        self._equivalence = Equivalence.of(task.stages)
        self._reports: dict[Choices, Mapping[int, Any]] = {}
        self._violating: set[Choices] = set()
        self._tried: set[Choices] = set()
        self._failures = Failures(task)
        self.suggestions = Suggestions(task)
        """Ranges and values that the trials suggested."""
        self.visited: frozenset[Choices] = frozenset()
        """Allocations not to propose, at the last call of `read`."""
        self.unreadable: list[int] = []
        """Numbers of finished trials whose parameters do not fit the task."""
        self._constraints: list[tuple[Choices, Mapping[str, float]]] = []
        self._has_constraints, self._steps = False, 0
        self._unfinished: list[int] = []

    @classmethod
    def of(cls, study: Study, task: Task) -> Archive:
        """Return an empty archive for a study that tunes a task."""
        several = len(study.directions) > 1
        return cls(task, maximize=is_maximized(study.directions), frontier=several)

    def read(self, trials: Sequence[FrozenTrial], number: int | None = None) -> Evidence:
        """Read a study's trials.

        Args:
            trials: All trials of the study, in order of number.
            number: Number of the trial that is about to choose, which is left out.
        """
        # Trials that were running at the last call, and new ones.
        indices = [*self._unfinished, *range(self.seen, len(trials))]
        self.seen, self._unfinished = len(trials), []
        pending: list[Choices] = []
        concurrent = 0
        for index in indices:
            trial = trials[index]
            if trial.state.is_finished():
                self._add(trial)
                continue
            self._unfinished.append(index)
            if trial.number == number:
                continue
            choices = self._choices_of(trial)
            if choices is not None:
                pending.append(choices)
            elif trial.state == TrialState.RUNNING and number is not None:
                concurrent += number - _RECENT <= trial.number < number
        scores = self._sign * np.array([trial.value for trial in self._scored])
        scale, outliers = self._scale(scores)
        left_out = [trial for trial, outlier in zip(self._scored, outliers) if outlier]
        if number is not None:
            self._log_outliers(left_out)
        kept = [trial for trial, outlier in zip(self._scored, outliers) if not outlier]
        table = np.array([trial.choices for trial in kept], dtype=np.int64)
        table = table.reshape(-1, len(self.task.stages), 2)
        counts = np.array([len(trial.outcomes) for trial in self._scored], dtype=np.float64)
        # Until a trial is complete, the largest number of outcomes is the best guess.
        steps = self._steps or counts.max(initial=1.0)
        waiting, final = self._failures.allocations()
        waiting, failed = map(self._with_equal, (waiting, final - self._tried))
        tried = self._with_equal(self._tried.union(pending))
        self.visited = tried | waiting | failed
        ranges = None if self.suggestions.is_free() else self.suggestions.ranges()
        if number is not None:
            ranges = self._failures.without_failing(ranges, self.visited)
        return Evidence(
            task=self.task,
            models=table[..., 0],
            samples=table[..., 1],
            scores=scores[~outliers],
            shares=np.where(counts > 0, np.minimum(1.0, counts / steps), 1.0)[~outliers],
            pending=tuple(pending),
            visited=self.visited,
            tried=tried,
            failed=failed,
            ranges=ranges,
            concurrent=concurrent,
            sign=self._sign,
            numbers=tuple(trial.number for trial in kept),
            origins=tuple(trial.origin for trial in kept),
            expected=tuple(self._sign * trial.expected for trial in kept),
            outcomes=tuple(trial.outcomes for trial in kept),
            stopped=tuple(trial.stopped for trial in kept),
            blocks=tuple(trial.block for trial in kept),
            scale=scale,
            outliers=tuple((trial.number, trial.value) for trial in left_out),
            constraints=tuple(self._constraints) if self._has_constraints else (),
            frontier=self._frontier,
            measured=tuple(trial.measured for trial in kept) if self._frontier else (),
        )

    def _scale(self, scores: Floats) -> tuple[Scale, Bools]:
        """Return the scale of the scores, and which of them are outliers."""
        known = known_scale(self.task.metric_range, self._sign, binary=self._is_binary())
        if known is not None:
            return known, find_outliers(scores, known, self._sign)
        adjusted = self._adjusted(scores)
        # Means over other instances would set the scale of the search, or look like outliers.
        outliers = ~(np.abs(scores) <= LARGEST)
        blocks = np.array([trial.block for trial in self._scored], dtype=np.int64)
        search = np.flatnonzero((blocks == 0) | blocks.all())
        outliers[search] = find_outliers(adjusted[search], None, self._sign)
        return Scale.of(adjusted[search][~outliers[search]]), outliers

    def _adjusted(self, scores: Floats) -> Floats:
        """Return scores with those of stopped trials corrected for how easy their instances were.

        Otherwise the mean of a few instances would set the scale, or look like an outlier.
        """
        means = {step: total / count for step, (total, count) in self._totals.items()}
        adjusted: Floats = scores.copy()
        for row, trial in enumerate(self._scored if means else ()):
            seen = [means[step] for step in trial.outcomes if step in means]
            if trial.stopped and seen:
                luck = sum(seen) / len(seen) - sum(means.values()) / len(means)
                adjusted[row] -= self._sign * luck
        return adjusted

    def _is_binary(self) -> bool:
        """Return whether all outcomes are 0 or 1, except those of a few trials outside [0, 1].

        The exceptions are penalties, such as outcomes of -1 for a run that went wrong.
        """
        # Outcomes that do not explain most scores are another metric.
        if not 0 < self._reported <= 2 * self._explained:
            return False
        few = len(self._graded) <= self._explained // 4
        return few and not any(0 <= score <= 1 for score in self._graded)

    def _log_outliers(self, outliers: Sequence[_Scored]) -> None:
        """Log each trial whose value is an outlier, once."""
        where = "far from all others, or -1 while no other value is negative"
        if self.task.metric_range is not None:
            where = "outside of the task's `metric_range`"
        elif self._is_binary():
            where = "outside of 0 to 1, as all outcomes are 0 or 1"
        for trial in outliers:
            if trial.number not in self._logged:
                self._logged.add(trial.number)
                _logger.warning(
                    "Trial %d has the value %g, which is %s. It is ignored as an outlier: it has "
                    "no weight on proposals and on the recommendation.",
                    trial.number,
                    trial.value,
                    where,
                )

    def _add(self, trial: FrozenTrial) -> None:
        choices = self._choices_of(trial)
        if trial.params:
            self.suggestions.add(trial, self._given(trial))
        if choices is None:
            if trial.state == TrialState.COMPLETE and misfits(self.task, trial.params):
                self.unreadable.append(trial.number)
            return
        constraints = constraints_of(trial)
        block = storage.confirmation_block(trial)
        # As in Optuna, a complete trial without constraints is feasible. Others may have ended
        # before their objective set any, and a confirmation runs no objective.
        if constraints or (trial.state == TrialState.COMPLETE and not block):
            self._constraints.append((choices, constraints))
            self._has_constraints = self._has_constraints or bool(constraints)
        if violations(constraints):
            self._violating.add(choices)
        if trial.state == TrialState.FAIL:
            # A failed confirmation leaves an allocation that was tried.
            if not block:
                self._failures.add_failed(choices)
            return
        if not block:
            self._failures.add_completed(choices)
        self._tried.add(choices)
        self._read_equal(trial, choices)
        reported, stopped = outcomes_of(trial), trial.state == TrialState.PRUNED
        value = _value_of(trial, reported)
        outcomes = _explaining(reported, value)
        if not stopped and not block:
            self._steps = max(self._steps, len(outcomes or reported))
            if abs(value) <= LARGEST:
                for step, outcome in outcomes.items():
                    total, count = self._totals.get(step, (0.0, 0))
                    self._totals[step] = total + outcome, count + 1
        if math.isnan(value):
            return
        self._reported += bool(reported)
        self._explained += bool(outcomes)
        if not are_binary(outcomes.values()):
            self._graded.append(value)
        measured = measured_cost(trial) if self._frontier else math.nan
        origin = str(trial.user_attrs.get(storage.ORIGIN, ""))
        about = stopped, block, origin, expected_of(trial), measured
        self._scored.append(_Scored(trial.number, choices, value, outcomes, *about))

    def _choices_of(self, trial: FrozenTrial) -> Choices | None:
        """Return the allocation of a trial, or None if a stage has none.

        Suggested values take precedence over enqueued ones. A stage that the trial never
        suggested, as in pipelines with conditional stages, takes the allocation that the trial was
        given.
        """
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        choices = self.task.choices_from_params(params)
        if len(choices) < len(self.task.stages) and not misfits(self.task, params):
            choices = {**dict(enumerate(self._given(trial) or ())), **choices}
        if len(choices) < len(self.task.stages):
            return None
        return tuple(choices[stage] for stage in range(len(self.task.stages)))

    def _given(self, trial: FrozenTrial) -> Choices | None:
        """Return the allocation that this sampler gave a trial, or None."""
        given = trial.system_attrs.get(storage.CANDIDATE)
        if not isinstance(given, Mapping):
            return None
        try:
            return tuple(self.task.choices({name: tuple(pair) for name, pair in given.items()}))
        except (TypeError, ValueError):
            # Written for another version of the task.
            return None

    def _read_equal(self, trial: FrozenTrial, choices: Choices) -> None:
        """Read what a complete trial reports as without effect on its outcomes."""
        if trial.state != TrialState.COMPLETE or storage.confirmation_block(trial):
            return
        reported = storage.read_trial_fact(trial, storage.EQUAL)
        names = [stage.name for stage in self.task.stages]
        self._reports.pop(choices, None)
        if isinstance(reported, Mapping):
            self._reports[choices] = {names.index(n): f for n, f in reported.items() if n in names}

    def _with_equal(self, allocations: Collection[Choices]) -> frozenset[Choices]:
        """Return a set that also contains the allocations of equal outcomes."""
        if not (self._equivalence or self._reports):
            return frozenset(allocations)
        reports = {**self._reports, **dict.fromkeys(self._violating, UNIQUE)}
        return EquivalentAllocations(allocations, self._equivalence, reports)


class StudyArchives:
    """Archives of studies, one for each, kept between calls. Not thread-safe."""

    def __init__(self) -> None:
        """See the class."""
        self._archives: WeakKeyDictionary[BaseStorage, dict[int, Archive]] = WeakKeyDictionary()

    def read(self, study: Study, task: Task, number: int) -> tuple[Evidence, Archive]:
        """Read a study's trials for the trial of a number; see `Archive.read`."""
        trials = storage.read_trials(study)
        archives = self._archives.setdefault(study._storage, {})
        archive = archives.get(study._study_id)
        if archive is None or archive.task != task or archive.seen > len(trials):
            archive = Archive.of(study, task)
            archives[study._study_id] = archive
        evidence = archive.read(trials, number)
        log_unreadable(study, archive, trials)
        return evidence, archive

    def get(self, study: Study) -> Archive | None:
        """Return a study's archive as of the last call of `read`, or None before the first."""
        return self._archives.get(study._storage, {}).get(study._study_id)


def log_unreadable(study: Study, archive: Archive, trials: Sequence[FrozenTrial]) -> None:
    """Warn once about a study with trials whose parameters do not fit the task."""
    if archive.unreadable:
        first = archive.unreadable[0]
        _warn_once(
            study,
            "unreadable trial",
            "Trial %d is left out of the evidence: its parameters %s do not fit task %r of study "
            "%r. `recommend(study).unreadable` lists all trials of this kind.",
            *(first, trials[first].params, archive.task.name, study.study_name),
        )


def announce(study: Study, trial_id: int, task: Task, candidate: Candidate) -> None:
    """Write the allocation given to a trial, its origin and its reason, to the storage."""
    allocation = task.allocation(candidate.choices)
    facts: dict[str, Any] = {
        storage.CANDIDATE: {name: list(setting) for name, setting in allocation.items()}
    }
    if candidate.proposed:
        facts[storage.PROPOSED] = dict(candidate.proposed)
    storage.write_candidate(study, trial_id, facts, candidate.origin, candidate.reason)


def is_maximized(directions: Sequence[StudyDirection]) -> bool:
    """Return whether a study maximizes its only or first objective."""
    return directions[0] == StudyDirection.MAXIMIZE


def explaining_outcomes(trial: FrozenTrial) -> Mapping[int, float]:
    """Return a finished trial's outcomes of single instances, if their mean is its value."""
    outcomes = outcomes_of(trial)
    return _explaining(outcomes, _value_of(trial, outcomes))


def _value_of(trial: FrozenTrial, outcomes: Mapping[int, float]) -> float:
    """Return the value of a finished trial, NaN if it has none; of a stopped one, the mean."""
    if trial.state == TrialState.PRUNED:
        return mean_outcome(outcomes.values())
    return trial.values[0] if trial.values else math.nan


def _explaining(outcomes: Mapping[int, float], score: float) -> Mapping[int, float]:
    """Return the finite outcomes if their mean is the score, else none.

    Others are no outcomes of single instances: running means, losses, times.
    """
    finite = {step: value for step, value in outcomes.items() if math.isfinite(value)}
    if not finite:
        return {}
    low, high = min(finite.values()), max(finite.values())
    # In halves, which cannot overflow.
    slack = _SCORE_TOLERANCE * 2 * (0.5 * high - 0.5 * low) + _ROUNDING * max(-low, high)
    return finite if abs(mean_outcome(finite.values()) - score) <= slack else {}
