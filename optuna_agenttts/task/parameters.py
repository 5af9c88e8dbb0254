"""What is suggested, and from which distribution: a task's parameters as Optuna knows them."""

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
    """Of each of a task's parameters, the stage, and whether it is the model."""
    names: dict[str, tuple[int, bool]] = {}
    for index, stage in enumerate(task.stages):
        names[stage.model_parameter] = (index, True)
        names[stage.samples_parameter] = (index, False)
    return names


def nearest_in(wanted: str | int, distribution: BaseDistribution) -> str | int | float | None:
    """The value of a distribution that is nearest to what is wanted; None if there is none."""
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
    """Positions of parameters in the newest finished trial that has some."""
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    finished = (trial for trial in reversed(trials) if trial.state.is_finished() and trial.params)
    newest = next(finished, None)
    return {} if newest is None else {name: i for i, name in enumerate(newest.params)}
