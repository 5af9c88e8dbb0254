"""A task guessed from parameter names, for studies that never described one."""

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
    """Recognise stages in the newest completed or pruned trial that has some.

    A stage is a categorical parameter ``<stage>.model`` over strings beside an integer parameter
    ``<stage>.samples``. Sizes are read off the models' names ("Qwen2.5-7B"), as a guess that only
    shapes the prior. Costs and a budget cannot be known, so everything counts as feasible: the
    ranges that the objective suggests stay the only bounds.

    Args:
        trials: A study's trials, in order of number.

    Returns:
        A task, or None if no trial has a stage.
    """
    for trial in reversed(trials):
        # A trial that is running, or failed, may not have suggested all of its stages.
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
                # Unknown; a cost table stands in for them.
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
