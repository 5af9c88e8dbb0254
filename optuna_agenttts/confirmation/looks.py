"""Looks of a confirmation, as stored with the study, and what its trials saw.

A look is written before it begins: which allocations are evaluated on which fresh instances. What
is missing of it after an interruption is known from the trials, so a resumed confirmation
finishes the same look, and evaluates nothing twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.confirmation.limits import Limits
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts.task.task import Task


@dataclass(frozen=True, slots=True)
class Look:
    """Allocations that are evaluated on a block of fresh instances.

    Args:
        number: Number of the look, and of its block, from 1.
        allocations: The allocations.
        steps: Steps of the instances.
        trials: Number of finished trials of the search when it was planned. Looks with the same
            number belong together: further trials begin a new confirmation.
        limits: Limits that were given.
    """

    number: int
    allocations: tuple[Choices, ...]
    steps: tuple[int, ...]
    trials: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class State:
    """Trials and looks of a study.

    Args:
        search: Trials of the search.
        confirmations: Trials that confirm allocations.
        looks: Looks, in order.
        current: Number of looks, the last ones, that belong to the trials so far.
        last: Number of the last look; 0 before the first.
        used: Steps that some look has used.
        seen: Outcomes of each confirmed allocation by step.
    """

    search: Sequence[FrozenTrial]
    confirmations: Sequence[FrozenTrial]
    looks: Sequence[Look]
    current: int
    last: int
    used: frozenset[int]
    seen: Mapping[Choices, Mapping[int, float]]

    @property
    def finished(self) -> int:
        """Number of finished trials of the search."""
        return sum(trial.state.is_finished() for trial in self.search)


def read_state(study: Study, task: Task) -> State:
    """Read the trials and looks of a study."""
    trials = storage.read_trials(study)
    confirmations = [trial for trial in trials if storage.confirmation_block(trial)]
    search = [trial for trial in trials if not storage.confirmation_block(trial)]
    seen: dict[Choices, dict[int, float]] = {}
    for trial in confirmations:
        choices = task.read(trial.params)
        if trial.state == TrialState.COMPLETE and choices is not None:
            seen.setdefault(choices, {}).update(outcomes_of(trial))
    found = _read_looks(study, task)
    used = {step for outcomes in seen.values() for step in outcomes}
    used.update(step for look in found for step in look.steps)
    finished = sum(trial.state.is_finished() for trial in search)
    unfinished = bool(found) and any(
        step not in seen.get(choices, {})
        for choices in found[-1].allocations
        for step in found[-1].steps
    )
    # Trials that came between do not change a look that is to be finished.
    current = found[-1].trials if unfinished else finished
    last = max(
        [*map(storage.confirmation_block, confirmations), *(look.number for look in found)],
        default=0,
    )
    together = sum(look.trials == current for look in found)
    return State(search, confirmations, found, together, last, frozenset(used), seen)


def write_look(study: Study, task: Task, look: Look) -> None:
    """Write a look before it begins."""
    allocations = [
        {stage: list(setting) for stage, setting in task.allocation(choices).items()}
        for choices in look.allocations
    ]
    values = {"steps": list(look.steps), "trials": look.trials, "limits": look.limits.written}
    storage.write_look(study, look.number, {"allocations": allocations, **values})


def _read_looks(study: Study, task: Task) -> list[Look]:
    attributes = storage.attributes_of(study)
    found = []
    for number in storage.numbers_after(attributes, storage.LOOK):
        value: Any = storage.read_study_value(attributes, f"{storage.LOOK}{number}")
        try:
            allocations = tuple(
                tuple(task.choices({stage: tuple(s) for stage, s in allocation.items()}))
                for allocation in value["allocations"]
            )
            limits = Limits.of(value["limits"])
            look = Look(number, allocations, tuple(value["steps"]), value["trials"], limits)
        except (TaskError, TypeError, KeyError):
            # Half written, or of another version of the task.
            continue
        found.append(look)
    return found
