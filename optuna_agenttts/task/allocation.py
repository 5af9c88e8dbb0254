"""Allocations: a model and a number of samples for each stage, by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support import html
from optuna_agenttts.task.feasible import Choice
from optuna_agenttts.task.stage import Stage


class StageAllocation(NamedTuple):
    """Model and number of samples of one stage.

    Args:
        model: Name of the model.
        samples: Number of samples, 1 or more.
    """

    model: str
    samples: int


class Allocation(dict[str, StageAllocation]):
    """Model and number of samples of every stage, by the stage's name.

    A dict that notebooks show as a table.
    """

    __slots__ = ()

    def _repr_html_(self) -> str:
        """Show a table of the stages in a notebook."""
        rows = [(stage, setting.model, setting.samples) for stage, setting in self.items()]
        return html.table(("stage", "model", "samples"), rows, numbers=(2,))


AllocationLike = Mapping[str, "StageAllocation | tuple[str, int] | Sequence[Any]"]
"""Accepted wherever an allocation is an argument: plain ``{"stage": ("model", 3)}``."""


def settings_of(stage: Stage) -> list[list[StageAllocation]]:
    """Return the settings of a stage for each model, by number of samples."""
    samples = range(1, stage.max_samples + 1)
    return [[StageAllocation(model.name, count) for count in samples] for model in stage.models]


def choices_by_name(
    stages: Sequence[Stage], settings: Mapping[str, Sequence[Any]]
) -> dict[int, Choice]:
    """Return (position of the model, number of samples) by position of the stage.

    Args:
        stages: Stages of the task.
        settings: ``(model, samples)`` by the stage's name, for some or all of them.

    Raises:
        TaskError: A stage, model or number of samples is unknown.
    """
    positions = {stage.name: position for position, stage in enumerate(stages)}
    for name in settings:
        if name not in positions:
            raise TaskError(f"Unknown stage {name!r}: the task has {', '.join(positions)}.")
    return {
        positions[name]: read_choice(stages[positions[name]], settings[name]) for name in settings
    }


def read_choice(stage: Stage, setting: Sequence[Any]) -> Choice:
    """Return the position of a stage's model and the number of samples.

    Args:
        stage: The stage.
        setting: ``(model, samples)``, by name.

    Raises:
        TaskError: The setting is not a pair, or the model or number of samples is not the stage's.
    """
    try:
        model, samples = setting
    except (TypeError, ValueError):
        raise TaskError(
            f"Stage {stage.name!r}: expected (model, samples), got {setting!r}."
        ) from None
    names = [m.name for m in stage.models]
    if model not in names:
        raise TaskError(
            f"Stage {stage.name!r} has no model {model!r}: choose one of {', '.join(names)}."
        )
    if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)):
        raise TaskError(f"Stage {stage.name!r}: `samples` must be an integer, got {samples!r}.")
    if not 1 <= samples <= stage.max_samples:
        raise TaskError(
            f"Stage {stage.name!r}: `samples` must be from 1 to {stage.max_samples}, got "
            f"{samples}: change it, or raise the stage's `max_samples`."
        )
    return names.index(model), int(samples)
