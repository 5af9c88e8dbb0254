"""Tasks and evidence shared by the tests of the agent."""

import random

import optuna
from core_support import score, wiki_task

from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.study.archive import Archive

TASK = wiki_task()


def evidence_of(task, rate, trials, *, seed=0, direction="maximize", running=0, instances=0):
    """Return the evidence of a study with random allocations, some of them still running."""
    rng = random.Random(seed)
    study = optuna.create_study(direction=direction)
    sign = 1 if direction == "maximize" else -1
    most = task.feasible
    for number in range(trials + running):
        trial = study.ask()
        models = [rng.randrange(len(stage.models)) for stage in task.stages]
        wanted = [(m, rng.randint(1, stage.max_samples)) for m, stage in zip(models, task.stages)]
        allocation = task.allocation(most.project(wanted))
        for name, value in task.params(allocation).items():
            stage = next(
                s for s in task.stages if name in (s.model_parameter, s.samples_parameter)
            )
            if name == stage.model_parameter:
                trial_value = optuna.distributions.CategoricalDistribution(
                    [model.name for model in stage.models]
                )
            else:
                trial_value = optuna.distributions.IntDistribution(1, stage.max_samples)
            study._storage.set_trial_param(
                trial._trial_id, name, trial_value.to_internal_repr(value), trial_value
            )
        if number >= trials:
            continue
        truth = rate(allocation)
        outcomes = [float(rng.random() < truth) for _ in range(instances)]
        for step, outcome in enumerate(outcomes):
            trial.report(sign * outcome, step)
        study.tell(trial, sign * (sum(outcomes) / instances if instances else truth))
    found = study._storage.get_all_trials(study._study_id, deepcopy=False)
    return Archive(task, maximize=sign > 0).read(found)


def planner_of(task):
    """Return the numerical planner of a task."""
    return NumericalPlanner(task)


__all__ = ["TASK", "evidence_of", "planner_of", "score"]
