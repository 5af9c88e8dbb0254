"""Tasks as JSON-ready values, as they are stored on studies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.task.cost import cost_from_dict, cost_to_dict
from optuna_agenttts.task.stage import Model, Stage


def encode_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a task as JSON-ready values."""
    stages, metric_range = arguments["stages"], arguments["metric_range"]
    values = {
        **arguments,
        "stages": [{**asdict(s), "models": [asdict(m) for m in s.models]} for s in stages],
        "cost": cost_to_dict(arguments["cost"], stages),
        "metric_range": metric_range and list(metric_range),
    }
    # Left out if unknown, so that tasks stored by earlier versions compare equal.
    return values if metric_range else {k: v for k, v in values.items() if k != "metric_range"}


def decode_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of the task that `encode_arguments` turned into values.

    Raises:
        TaskError: The values do not describe a task.
    """
    try:
        stages = [
            Stage(**{**stage, "models": [Model(**model) for model in stage["models"]]})
            for stage in values["stages"]
        ]
        return {
            "name": values["name"],
            "stages": stages,
            "budget": values["budget"],
            "cost": cost_from_dict(values["cost"]),
            "metric": values.get("metric", ""),
            "metric_range": values.get("metric_range"),
            "description": values.get("description", ""),
        }
    except (KeyError, TypeError) as error:
        raise TaskError(
            f"Task.from_dict: `values` must be the result of `Task.to_dict`: {error!r}"
        ) from error
