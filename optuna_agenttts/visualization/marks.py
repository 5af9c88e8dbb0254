"""Looks of models, and markers that several figures share."""

from __future__ import annotations

from typing import Any

from optuna_agenttts.task.stage import has_efforts
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization.style import COLORS, Mark, mark


def model_marks(task: Task) -> dict[str, Mark]:
    """Return the look of each model by name: a model looks the same in all stages.

    Thinking efforts of one model have its color.
    """
    models = {model.name: model for stage in task.stages for model in stage.models}
    if not has_efforts(task.stages):
        return {name: mark(position) for position, name in enumerate(models)}
    efforts: dict[str, list[str]] = {}
    for name, model in models.items():
        efforts.setdefault(model.served_name, []).append(name)
    return {
        name: Mark(mark(i).color, mark(i // len(COLORS) + j).symbol, mark(j).dash)
        for i, names in enumerate(efforts.values())
        for j, name in enumerate(names)
    }


def base_marks(task: Task) -> dict[str, Mark]:
    """Return the look of each model by name, without its efforts; colors as `model_marks`."""
    names = dict.fromkeys(model.served_name for stage in task.stages for model in stage.models)
    return {name: mark(position) for position, name in enumerate(names)}


def bar_marker(color: str, size: int = 22) -> dict[str, Any]:
    """Return the marker of where a curve saturates."""
    return {"symbol": "line-ns", "size": size, "line": {"color": color, "width": 3}}


def trial_marker(mark: Mark, *, alike: bool) -> dict[str, Any]:
    """Return the marker of a trial."""
    symbol = mark.symbol if alike else f"{mark.symbol}-open"
    return {
        "symbol": symbol,
        "color": mark.color,
        "size": 8 if alike else 6,
        "opacity": 0.9 if alike else 0.35,
    }
