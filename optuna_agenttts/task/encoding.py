"""Tasks as JSON-ready values, as they are stored on studies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.task.cost import CostModel, cost_from_dict, cost_to_dict
from optuna_agenttts.task.cost_model import cost_row
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.thinking import Thinking

_FORMAT = 1
"""Version of the values. A change that earlier versions would misread raises it, and writes it as
``format`` into the values of the tasks that it concerns. A field that they do not know, of a stage
or a model, needs no other format: they refuse it by its name."""


class LaterVersionError(TaskError):
    """Error about a task that a later version of this package has stored."""


def encode_arguments(arguments: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """Return the arguments of a task as JSON-ready values.

    Args:
        arguments: The arguments; the budget is None if the user gave none.
        budget: The budget.
    """
    stages, metric_range = arguments["stages"], arguments["metric_range"]
    values = {
        **arguments,
        "budget": budget,
        "stages": [_encode_stage(stage) for stage in stages],
        "cost": cost_to_dict(arguments["cost"], stages),
        "metric_range": metric_range and list(metric_range),
    }
    # Left out if unknown, so that tasks stored by earlier versions compare equal.
    if not metric_range:
        del values["metric_range"]
    # Without this key, in earlier versions too, a budget of the default value was not given.
    if arguments["budget"] is not None and _is_default(budget, stages, arguments["cost"]):
        values["budget_given"] = True
    return values


def _encode_stage(stage: Stage) -> dict[str, Any]:
    values = {**asdict(stage), "models": [_encode_model(model) for model in stage.models]}
    # Left out if not given, so that tasks stored by earlier versions compare equal.
    groups, source = values.pop("equal_samples"), values.pop("chooses_among")
    del values["thinking"]  # The models have it.
    if groups:
        values["equal_samples"] = [list(group) for group in groups]
    return {**values, "chooses_among": source} if source else values


def _encode_model(model: Model) -> dict[str, Any]:
    values = asdict(replace(model, extra=None))
    # Left out if not given, so that tasks stored by earlier versions compare equal.
    for name in ("extra", "cached_price", "generation_tokens", "thinks", "thinking"):
        if values[name] is None:
            del values[name]
    return {**values, "extra": dict(model.extra)} if model.extra else values


def _decode_model(values: Mapping[str, Any]) -> Model:
    thinking = values.get("thinking")
    return Model(**{**_known(Model, values), "thinking": thinking and Thinking(**thinking)})


def _known(kind: type[Model] | type[Stage], values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the values of a model or a stage if this version knows all of its fields."""
    unknown = sorted(set(values) - {field.name for field in fields(kind)})
    if unknown and "name" in values:
        raise LaterVersionError(
            f"The task was stored by a later version of optuna-agenttts: {kind.__name__} "
            f"{values['name']!r} has {', '.join(map(repr, unknown))}, which this version does not "
            "know. Upgrade it."
        )
    return values


def _is_default(budget: float, stages: Sequence[Stage], cost: CostModel) -> bool:
    """Return whether a budget is the cost of one sample of the most expensive models."""
    costs = [[float(cost_row("Task", cost, s, model)[0]) for model in s.models] for s in stages]
    return math.isclose(budget, sum(map(max, costs)))


def decode_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the task that `encode_arguments` turned into values.

    Raises:
        LaterVersionError: A later version of this package has stored the values.
        TaskError: The values do not describe a task.
    """
    if (found := values.get("format", _FORMAT)) != _FORMAT:
        raise LaterVersionError(
            f"The task was stored by a later version of optuna-agenttts, in format {found!r}, and "
            f"this version reads format {_FORMAT}. Upgrade it."
        )
    try:
        stages = [
            Stage(
                **{
                    **_known(Stage, stage),
                    "models": [_decode_model(model) for model in stage["models"]],
                }
            )
            for stage in values["stages"]
        ]
        cost, budget = cost_from_dict(values["cost"]), values["budget"]
        given = budget is None or values.get("budget_given")
        derived = not given and _is_default(budget, stages, cost)
        return {
            "name": values["name"],
            "stages": stages,
            "budget": None if derived else budget,
            "cost": cost,
            "metric": values.get("metric", ""),
            "metric_range": values.get("metric_range"),
            "description": values.get("description", ""),
        }
    except (KeyError, TypeError) as error:
        raise TaskError(
            f"Task.from_dict: `values` must be the result of `Task.to_dict`: {error!r}"
        ) from error
