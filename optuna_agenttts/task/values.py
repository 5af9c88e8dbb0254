"""Values of a stage's parameters: what a trial's values mean, and what distributions allow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.feasible import Choice
from optuna_agenttts.task.ranges import Samples
from optuna_agenttts.task.stage import Stage


def read_model(stage: Stage, value: object) -> int | None:
    """Return the position of a stage's model by its name, or None.

    Names match without regard to case, and if one of them has no organization without that of the
    other: "llama-3b" and "meta-llama/Llama-3B", if no other model matches too.
    """
    names = [model.name for model in stage.models]
    if value in names:
        return names.index(str(value))
    if not isinstance(value, str):
        return None
    label = value.strip().casefold()
    folded = [name.casefold() for name in names]
    bare = [name.rpartition("/")[2] for name in folded]
    for wanted, known in ((label, folded), (label, bare), (label.rpartition("/")[2], folded)):
        if known.count(wanted) == 1:
            return known.index(wanted)
    return None


def read_samples(stage: Stage, value: object) -> int | None:
    """Return a number of samples of a stage, which may be written as a float or text, or None."""
    number = read_number(value)
    return number if number is not None and 1 <= number <= stage.max_samples else None


def read_number(value: object) -> int | None:
    """Return a whole number, which may be written as a float or text, or None."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    return int(value) if is_finite(value) and value == int(value) else None


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


def read_tokens(stages: Sequence[Stage], params: Mapping[str, Any]) -> dict[str, int]:
    """Read parameters of stages as positions of models and numbers of samples, by name.

    Values that a stage does not have are left out.
    """
    tokens: dict[str, int | None] = {}
    for stage in stages:
        tokens[stage.model_parameter] = read_model(stage, params.get(stage.model_parameter))
        tokens[stage.samples_parameter] = read_samples(stage, params.get(stage.samples_parameter))
    return {name: token for name, token in tokens.items() if token is not None}


def read_stages(stages: Sequence[Stage], params: Mapping[str, Any]) -> dict[int, Choice]:
    """Read the stages whose model and samples are both readable, by position."""
    tokens = read_tokens(stages, params)
    return {
        index: (tokens[stage.model_parameter], tokens[stage.samples_parameter])
        for index, stage in enumerate(stages)
        if {stage.model_parameter, stage.samples_parameter} <= tokens.keys()
    }
