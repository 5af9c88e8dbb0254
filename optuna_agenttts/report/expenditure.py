"""Spend of a search by stage and model, on confirmation and agent, and what reuse saved."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.rounds import read_rounds
from optuna_agenttts.study.spending import (
    evaluations_of,
    spend_of,
    spend_of_trial,
    stage_spends,
    stated_spend,
)
from optuna_agenttts.task.feasible import Choice
from optuna_agenttts.task.task import Task


@dataclass(frozen=True, slots=True)
class Expense:
    """Spend on one model of one stage, over all trials.

    Args:
        stage: Name of the stage.
        model: Name of the model.
        spend: Spend, in units of the task's cost model.
        saved: What reused samples would have cost, in the same units; 0 if it is not known.
        trials: Number of trials with this model in this stage.
    """

    stage: str
    model: str
    spend: float
    saved: float
    trials: int


@dataclass(frozen=True, slots=True)
class Expenditure:
    """Spend of a search by its parts, in units of the task's cost model.

    Args:
        expenses: Spend by stage and model, in order of the task.
        measured: Whether trials reported the spend of each stage. If not, the spend of a trial is
            divided among stages in proportion to the costs of its allocation.
        total: Spend of all trials.
        confirmation: The part of `total` that confirms allocations on fresh instances.
        agent: Spend of the agent, as far as it is priced.
        agent_tokens: Tokens of the agent.
        whole: Whether spends cover all instances; see `Spend.whole`.
        unit: Unit of the cost model.
        by_trial: For each trial its number and spend; they add up to `total`.
    """

    expenses: tuple[Expense, ...]
    measured: bool
    total: float
    confirmation: float
    agent: float
    agent_tokens: int
    whole: bool
    unit: str
    by_trial: tuple[tuple[int, float], ...]


def expenditure_of(view: StudyView) -> Expenditure:
    """Return what a study was spent on."""
    task, trials = view.task, view.trials
    total = spend_of(task, trials, read_rounds(storage.attributes_of(view.study)))
    parts: defaultdict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    by_trial, measured = [], False
    for trial in trials:
        spent = _spend_of(task, trial, whole=total.whole)
        by_trial.append((trial.number, spent))
        choices = task.read(trial.params)
        if choices is None:
            continue
        reported = stage_spends(trial)
        measured = measured or bool(reported)
        for stage, part in enumerate(_parts(task, choices, reported, spent)):
            parts[stage, choices[stage][0]].append(part)
    return Expenditure(
        expenses=tuple(
            Expense(
                stage=stage.name,
                model=model.name,
                spend=math.fsum(spent for spent, _ in found),
                saved=math.fsum(saved for _, saved in found),
                trials=len(found),
            )
            for i, stage in enumerate(task.stages)
            for j, model in enumerate(stage.models)
            if (found := parts.get((i, j), []))
        ),
        measured=measured,
        total=total.trials,
        confirmation=total.confirmation,
        agent=total.agent,
        agent_tokens=total.agent_tokens,
        whole=total.whole,
        unit=total.unit,
        by_trial=tuple(by_trial),
    )


def _spend_of(task: Task, trial: FrozenTrial, *, whole: bool) -> float:
    """Return the spend of a trial, as counted by `spend_of`."""
    if storage.confirmation_block(trial):
        return spend_of_trial(task, trial, evaluations_of(trial))
    return stated_spend(trial) or 0.0 if whole else spend_of_trial(task, trial, 1)


def _parts(
    task: Task,
    choices: Sequence[Choice],
    reported: Mapping[str, tuple[float, float]],
    spent: float,
) -> list[tuple[float, float]]:
    """Divide the spend of a trial among the stages.

    Calls of unfinished instances are in the spend of the trial only.

    Args:
        task: The task.
        choices: The allocation.
        reported: Spend and savings by stage, as far as the trial reports them.
        spent: Spend of the trial.

    Returns:
        For each stage its spend and what reuse saved.
    """
    found = [reported.get(stage.name, (0.0, 0.0)) for stage in task.stages]
    weights = [part for part, _ in found]
    if not sum(weights):
        weights = [
            float(task.feasible.costs[stage][model][samples - 1])
            for stage, (model, samples) in enumerate(choices)
        ]
    whole = sum(weights)
    return [
        (spent * (weight / whole if whole else 1 / len(weights)), saved)
        for weight, (_, saved) in zip(weights, found)
    ]
