"""Suggest an allocation within the budget to a trial of any sampler."""

from __future__ import annotations

from collections.abc import Sequence

import optuna
from optuna.trial import BaseTrial

from optuna_agenttts import storage
from optuna_agenttts.task.cost import CostModel
from optuna_agenttts.task.feasible import Choice, FeasibleSet
from optuna_agenttts.task.resuming import choices_of_models
from optuna_agenttts.task.stage import Stage


def suggest_choices(
    trial: BaseTrial, stages: Sequence[Stage], feasible: FeasibleSet, cost: CostModel
) -> list[Choice]:
    """Suggest a model and a number of samples for each stage; see `Task.suggest`.

    Raises:
        optuna.TrialPruned: The suggested or enqueued values do not fit the budget.
        TaskError: The trials of the study chose among other models.
    """
    study = storage.study_of(trial)
    positions = [choices_of_models(study, stage) for stage in stages]
    models = [
        known[trial.suggest_categorical(stage.model_parameter, list(known))]
        for stage, known in zip(stages, positions)
    ]
    choices: list[Choice] = [(model, 1) for model in models]
    if not feasible.fits(choices):
        names = [stage.models[model].name for stage, model in zip(stages, models)]
        raise optuna.TrialPruned(
            f"Trial {trial.number} was pruned before it ran: one sample each of "
            f"{', '.join(names)} costs {feasible.cost(choices):g} per instance, over the budget "
            f"of {feasible.budget:g} {cost.unit}."
        )
    for index, (stage, model) in enumerate(zip(stages, models)):
        others = feasible.cost_of_others(choices, index)
        most = max(1, feasible.max_samples(index, model, others))
        samples = trial.suggest_int(stage.samples_parameter, 1, most)
        # Samplers keep to the range; Optuna lets enqueued values pass with a warning.
        if not 1 <= samples <= most:
            raise optuna.TrialPruned(
                f"Trial {trial.number} was pruned before it ran: `{stage.samples_parameter}` is "
                f"{samples}, but the budget of {feasible.budget:g} {cost.unit} per instance, less "
                f"the other stages, and `max_samples` allow 1 to {most}."
            )
        choices[index] = (model, samples)
    return choices
