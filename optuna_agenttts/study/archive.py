"""Read a study's trials as evidence about a task."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.planner.evidence import Candidate, Choices, Constraint, Evidence
from optuna_agenttts.task.task import Task

# A worker killed between creating a trial and announcing its allocation leaves a running trial
# without one. Only the last 32 trial numbers are taken to be choosing right now: more than the
# workers of any study seen so far.
_RECENT = 32


class Archive:
    """Incremental reader of a study's trials.

    Finished trials do not change, so each is read once.

    Args:
        task: Task that the study tunes.
        maximize: Whether higher values are better.
    """

    def __init__(self, task: Task, *, maximize: bool) -> None:
        """See the class."""
        self.task = task
        self._sign = 1.0 if maximize else -1.0
        self.seen = 0
        """Number of trials at the last call of `read`."""
        self._models: list[list[int]] = []
        self._samples: list[list[int]] = []
        self._scores: list[float] = []
        self._shares: list[float] = []
        self._numbers: list[int] = []
        self._origins: list[str] = []
        self._outcomes: list[Mapping[int, float]] = []
        self._visited: set[Choices] = set()
        self._steps = 0
        self._unfinished: list[int] = []

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
            elif (
                trial.state == TrialState.RUNNING
                and number is not None
                and number - _RECENT <= trial.number < number
            ):
                concurrent += 1
        width = len(self.task.stages)
        return Evidence(
            task=self.task,
            models=np.array(self._models, dtype=np.int64).reshape(-1, width),
            samples=np.array(self._samples, dtype=np.int64).reshape(-1, width),
            scores=self._sign * np.array(self._scores),
            shares=np.array(self._shares),
            pending=tuple(pending),
            visited=frozenset(self._visited.union(pending)),
            concurrent=concurrent,
            sign=self._sign,
            numbers=tuple(self._numbers),
            origins=tuple(self._origins),
            outcomes=tuple(self._outcomes),
        )

    def _add(self, trial: FrozenTrial) -> None:
        choices = self._choices_of(trial)
        if choices is None:
            return
        self._visited.add(choices)
        value, share = self._score(trial)
        if not math.isfinite(value):
            return
        self._models.append([model for model, _ in choices])
        self._samples.append([samples for _, samples in choices])
        self._scores.append(value)
        self._shares.append(share)
        self._numbers.append(trial.number)
        self._origins.append(str(trial.user_attrs.get(storage.ORIGIN, "")))
        self._outcomes.append(trial.intermediate_values)

    def _score(self, trial: FrozenTrial) -> tuple[float, float]:
        """Return a trial's score (NaN if it has none) and the fraction of instances behind it."""
        outcomes = trial.intermediate_values
        if trial.state == TrialState.COMPLETE and trial.values is not None:
            self._steps = max(self._steps, len(outcomes))
            share = len(outcomes) / self._steps if outcomes else 1.0
            return trial.values[0], share
        if trial.state == TrialState.PRUNED and len(outcomes) >= 2 and self._steps:
            finite = [value for value in outcomes.values() if math.isfinite(value)]
            # The mean of the outcomes; Optuna keeps the last one.
            return float(np.mean(finite or [math.nan])), min(1.0, len(outcomes) / self._steps)
        return math.nan, 0.0

    def _choices_of(self, trial: FrozenTrial) -> Choices | None:
        """Return the allocation of a trial, or None if a stage has none.

        Suggested values come first, then enqueued ones. A stage that the trial never suggested, as
        in pipelines with conditional stages, takes the allocation that the trial was given.
        """
        params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        choices = self.task.choices_from_params(params)
        if len(choices) < len(self.task.stages):
            announced = trial.system_attrs.get(storage.CANDIDATE)
            given = _decode(self.task, announced) if isinstance(announced, Mapping) else None
            choices = {**dict(enumerate(given or ())), **choices}
        if len(choices) < len(self.task.stages):
            return None
        return tuple(choices[stage] for stage in range(len(self.task.stages)))


class StudyArchives:
    """Archives of studies, one for each, kept between calls. Not thread-safe."""

    def __init__(self) -> None:
        """Initialize without archives."""
        self._archives: WeakKeyDictionary[BaseStorage, dict[int, Archive]] = WeakKeyDictionary()

    def read(self, study: Study, task: Task, number: int) -> Evidence:
        """Read a study's trials for the trial of a number; see `Archive.read`."""
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        archives = self._archives.setdefault(study._storage, {})
        archive = archives.get(study._study_id)
        if archive is None or archive.task != task or archive.seen > len(trials):
            archive = Archive(task, maximize=is_maximized(study.directions))
            archives[study._study_id] = archive
        return archive.read(trials, number)


def constraint_of(task: Task, trial: FrozenTrial) -> Constraint:
    """Return the values that a trial has fixed: suggested parameters, and enqueued ones."""
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    models: dict[int, int] = {}
    samples: dict[int, int] = {}
    for index, stage in enumerate(task.stages):
        names = [model.name for model in stage.models]
        if params.get(stage.model_parameter) in names:
            models[index] = names.index(params[stage.model_parameter])
        number = params.get(stage.samples_parameter)
        if number is not None and 1 <= number <= stage.max_samples:
            samples[index] = int(number)
    return Constraint(models, samples)


def announce(study: Study, trial_id: int, task: Task, candidate: Candidate) -> None:
    """Write the allocation given to a trial, its origin and its reason, to the storage."""
    allocation = task.allocation(candidate.choices)
    storage.write_candidate(study, trial_id, allocation, candidate.origin, candidate.reason)


def is_maximized(directions: Sequence[StudyDirection]) -> bool:
    """Check whether a study of one objective maximizes it."""
    return directions[0] == StudyDirection.MAXIMIZE


def _decode(task: Task, announced: Mapping[str, Any]) -> Choices | None:
    try:
        return tuple(task.choices({name: tuple(value) for name, value in announced.items()}))
    except (TypeError, ValueError):
        # Written for another version of the task.
        return None
