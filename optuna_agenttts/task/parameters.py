"""A task's parameters and their distributions."""

from __future__ import annotations

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import Study

from optuna_agenttts.task.task import Task


def parameters_of(task: Task) -> dict[str, tuple[int, bool]]:
    """Map each parameter of a task to (position of its stage, whether it is the model)."""
    names: dict[str, tuple[int, bool]] = {}
    for index, stage in enumerate(task.stages):
        names[stage.model_parameter] = (index, True)
        names[stage.samples_parameter] = (index, False)
    return names


def nearest_in(wanted: str | int, distribution: BaseDistribution) -> str | int | float | None:
    """Return the value of a distribution nearest to the wanted one, or None."""
    if isinstance(distribution, CategoricalDistribution):
        return wanted if wanted in distribution.choices else None
    if isinstance(wanted, str):
        return None
    if isinstance(distribution, IntDistribution):
        steps = round((wanted - distribution.low) / distribution.step)
        most = (distribution.high - distribution.low) // distribution.step
        return distribution.low + max(0, min(steps, most)) * distribution.step
    if isinstance(distribution, FloatDistribution) and distribution.step is None:
        return float(max(distribution.low, min(wanted, distribution.high)))
    return None


def order_of_suggestion(study: Study) -> dict[str, int]:
    """Return positions of parameters in the latest finished trial that has parameters."""
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    finished = (trial for trial in reversed(trials) if trial.state.is_finished() and trial.params)
    newest = next(finished, None)
    return {} if newest is None else {name: i for i, name in enumerate(newest.params)}
