"""A task's parameters: their names, their values, and the values that distributions allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.task.feasible import Choice
from optuna_agenttts.task.ranges import Samples
from optuna_agenttts.task.stage import Stage

if TYPE_CHECKING:
    from optuna_agenttts.task.task import Task


def parameters_of(task: Task) -> dict[str, tuple[int, bool]]:
    """Map each parameter of a task to (position of its stage, whether it is the model)."""
    names: dict[str, tuple[int, bool]] = {}
    for index, stage in enumerate(task.stages):
        names[stage.model_parameter] = (index, True)
        names[stage.samples_parameter] = (index, False)
    return names


def read_model(stage: Stage, value: object) -> int | None:
    """Return the position of a stage's model by its name, or None.

    Names match without regard to case, and without an organization: "llama-3b" for
    "meta-llama/Llama-3B", if no other model matches too.
    """
    names = [model.name for model in stage.models]
    if value in names:
        return names.index(str(value))
    if not isinstance(value, str):
        return None
    label = value.strip().casefold()
    folded = [name.casefold() for name in names]
    for known in (folded, [name.rpartition("/")[2] for name in folded]):
        if known.count(label) == 1:
            return known.index(label)
    return None


def read_samples(stage: Stage, value: object) -> int | None:
    """Return a number of samples of a stage, which may be written as a float or text, or None."""
    if isinstance(value, str):
        value = int(value) if value.strip().isdecimal() else None
    if isinstance(value, (bool, np.bool_)) or not isinstance(
        value, (int, float, np.integer, np.floating)
    ):
        return None
    if not math.isfinite(value) or value != int(value) or not 1 <= value <= stage.max_samples:
        return None
    return int(value)


def allowed_models(stage: Stage, distribution: BaseDistribution) -> Mapping[int, Any]:
    """Map positions of a stage's models to the values of a distribution that name them."""
    found: dict[int, Any] = {}
    if isinstance(distribution, CategoricalDistribution):
        for choice in distribution.choices:
            position = read_model(stage, choice)
            if position is not None:
                found.setdefault(position, choice)
    return found


def allowed_samples(stage: Stage, distribution: BaseDistribution) -> Samples:
    """Return the numbers of samples of a stage that a distribution contains."""
    most = stage.max_samples
    if isinstance(distribution, CategoricalDistribution):
        found = {read_samples(stage, choice) for choice in distribution.choices}
        return tuple(sorted(number for number in found if number is not None))
    if isinstance(distribution, IntDistribution):
        low, step = distribution.low, distribution.step
        start = low if low >= 1 else low + -(-(1 - low) // step) * step
        return range(start, min(distribution.high, most) + 1, step)
    if isinstance(distribution, FloatDistribution):
        low, high = math.ceil(distribution.low), math.floor(distribution.high)
        numbers = range(max(1, low), min(high, most) + 1)
        if distribution.step is None:
            return numbers
        return tuple(n for n in numbers if distribution._contains(float(n)))
    return ()


def allowed_values(task: Task, name: str, distribution: BaseDistribution) -> dict[int, Any]:
    """Map tokens of a task's parameter to the values of a distribution that stand for them.

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


def read_tokens(task: Task, params: Mapping[str, Any]) -> dict[str, int]:
    """Read the task's parameters among some values, as tokens; unreadable ones are left out."""
    tokens: dict[str, int] = {}
    for name, (stage, is_model) in parameters_of(task).items():
        read = read_model if is_model else read_samples
        token = read(task.stages[stage], params.get(name))
        if token is not None:
            tokens[name] = token
    return tokens


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
