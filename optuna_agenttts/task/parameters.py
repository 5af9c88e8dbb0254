"""A task's parameters: their names, and their values as tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.task.feasible import Choice
from optuna_agenttts.task.task import Task
from optuna_agenttts.task.values import allowed_models, allowed_samples, read_samples, read_tokens


def parameters_of(task: Task) -> dict[str, tuple[int, bool]]:
    """Map each parameter of a task to (position of its stage, whether it is the model)."""
    names: dict[str, tuple[int, bool]] = {}
    for index, stage in enumerate(task.stages):
        names[stage.model_parameter] = (index, True)
        names[stage.samples_parameter] = (index, False)
    return names


def allowed_values(task: Task, name: str, distribution: BaseDistribution) -> dict[int, Any]:
    """Map tokens of a task's parameter to the values of a distribution that denote them.

    A token is the position of a model or a number of samples.
    """
    stage, is_model = parameters_of(task)[name]
    described = task.stages[stage]
    if is_model:
        return dict(allowed_models(described, distribution))
    numbers = allowed_samples(described, distribution)
    if isinstance(distribution, CategoricalDistribution):
        choices = {read_samples(described, c): c for c in reversed(distribution.choices)}
        return {number: choices[number] for number in numbers}
    if isinstance(distribution, FloatDistribution):
        return {number: float(number) for number in numbers}
    return {number: number for number in numbers}


def misfits(task: Task, params: Mapping[str, Any]) -> bool:
    """Check whether a parameter of the task has a value that the task does not have."""
    readable = read_tokens(task.stages, params)
    return any(name in params and name not in readable for name in parameters_of(task))


def token_of(task: Task, name: str, choices: Sequence[Choice]) -> int:
    """Return the token of a parameter in an allocation."""
    stage, is_model = parameters_of(task)[name]
    return choices[stage][0 if is_model else 1]


def order_of_suggestion(study: Study) -> dict[str, int]:
    """Return positions of parameters in the latest finished trial that has parameters."""
    trials = storage.read_trials(study)
    finished = (trial for trial in reversed(trials) if trial.state.is_finished() and trial.params)
    newest = next(finished, None)
    return {} if newest is None else {name: i for i, name in enumerate(newest.params)}
