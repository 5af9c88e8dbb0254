"""Studies that are explained in tests."""

from types import SimpleNamespace

import numpy as np
import optuna
import optuna_dashboard

from optuna_agenttts import Model, Stage, Task

SMALL, LARGE = Model("small-7B", parameters=7e9), Model("large-72B", parameters=72e9)


def task_of(budget=900, names=("retrieval", "answer"), models=(SMALL, LARGE), **options):
    """Return a task whose stages have the same models."""
    lengths = [(2048, 128), (256, 64), (512, 64), (128, 32)]
    stages = [
        Stage(name, models=models, prompt_tokens=prompt, generation_tokens=generation)
        for name, (prompt, generation) in zip(names, lengths)
    ]
    return Task(name=options.pop("name", "qa"), stages=stages, budget=budget, **options)


def objective_of(task, instances=20, sign=1):
    """Return an objective that reports outcomes of 0 and 1."""

    def objective(trial):
        allocation = task.suggest(trial)
        samples = sum(np.log(setting.samples) for setting in allocation.values())
        rate = min(0.9, 0.3 + 0.08 * samples)
        rng = np.random.default_rng(trial.number)
        found = (rng.random(instances) < rate).astype(float) * sign
        for step, outcome in enumerate(found.tolist()):
            trial.report(outcome, step)
        return float(found.mean())

    return objective


def run(task, n_trials, sampler, objective=None, *, direction="maximize", storage=None, **options):
    """Run a study and return it."""
    study = optuna.create_study(direction=direction, sampler=sampler, storage=storage)
    study.optimize(objective or objective_of(task), n_trials=n_trials, **options)
    return study


def noted(study, trial):
    """Return what reads and writes the note of a finished trial."""
    return SimpleNamespace(storage=study._storage, study=study, _trial_id=trial._trial_id)


def trial_notes(study):
    """Return the notes of all trials."""
    return [optuna_dashboard.get_note(noted(study, trial)) for trial in study.trials]


def attributes_of(study):
    """Return the system attributes of a study."""
    return study._storage.get_study_system_attrs(study._study_id)


class Clock:
    """Clock that goes on by hand, and by a step with each look."""

    def __init__(self, step=0.0):
        """See the class."""
        self.now, self.step = 0.0, step

    def __call__(self):
        """Return the time."""
        self.now += self.step
        return self.now
