"""Recognize a task from parameter names, for studies without a registered task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts.task.cost import TableCost
from optuna_agenttts.task.stage import Model, Stage, size_in_name
from optuna_agenttts.task.task import Task

_MOST_SAMPLES = 1000


def recognise_task(trials: Sequence[FrozenTrial]) -> Task | None:
    """Recognize stages in the latest completed or pruned trial that has some.

    A stage is a categorical parameter ``<stage>.model`` of strings with an integer parameter
    ``<stage>.samples``. Sizes are read from the models' names ("Qwen2.5-7B") and only shape the
    prior. Costs and a budget are unknown, so the suggested ranges are the only bounds.

    Args:
        trials: Trials of a study, in order of number.

    Returns:
        The task, or None if no trial has a stage.
    """
    for trial in reversed(trials):
        # A running or failed trial may not have suggested all of its stages.
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED):
            continue
        if stages := _stages(trial.distributions):
            return _task(stages)
    return None


def _stages(distributions: Mapping[str, BaseDistribution]) -> list[Stage]:
    stages = []
    for parameter, models in distributions.items():
        name = parameter.removesuffix(".model")
        samples = distributions.get(f"{name}.samples")
        if (
            name == parameter
            or not name
            or "." in name
            or not isinstance(models, CategoricalDistribution)
            or not all(isinstance(choice, str) and choice for choice in models.choices)
            or not isinstance(samples, IntDistribution)
            or samples.high < 1
        ):
            continue
        names = [str(choice) for choice in models.choices]
        stages.append(
            Stage(
                name,
                models=[Model(model, parameters=size_in_name(model)) for model in names],
                # Unknown, and unused: costs come from a table.
                prompt_tokens=1,
                generation_tokens=1,
                max_samples=min(samples.high, _MOST_SAMPLES),
            )
        )
    return stages


def _task(stages: Sequence[Stage]) -> Task:
    table = {
        stage.name: {
            model.name: tuple(
                ((model.parameters or 1.0) * np.arange(1, stage.max_samples + 1)).tolist()
            )
            for model in stage.models
        }
        for stage in stages
    }
    most = sum(max(row[-1] for row in rows.values()) for rows in table.values())
    return Task(
        name="recognised from parameter names",
        stages=stages,
        budget=most,
        cost=TableCost(table=table, unit_name="parameters x samples"),
    )
