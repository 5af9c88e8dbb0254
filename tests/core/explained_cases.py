"""Searches that the tests of explained studies share."""

import numpy as np
import optuna
from hypothesis import assume
from hypothesis import strategies as st
from optuna.trial import TrialState

from optuna_agenttts import Model, Stage, Task


def make_task(stages=2, models=2, max_samples=12, share=0.6, **options):
    """Return a task whose budget is a share of the cost of the dearest allocation."""
    built = [
        Stage(
            f"s{i}",
            models=[
                Model(f"m{size}-{size}B", parameters=size * 1e9) for size in range(1, 1 + models)
            ],
            prompt_tokens=100,
            generation_tokens=50,
            max_samples=max_samples,
        )
        for i in range(stages)
    ]
    table = Task(name="t", stages=built, budget=1e9).feasible.costs
    low, high = (sum(float(rows[k][k]) for rows in table) for k in (0, -1))
    return Task(name="t", stages=built, budget=low + share * (high - low), **options)


def searched(task, truth, trials=30, instances=40, seed=0, sign=1, sampler=None):
    """Return a study of random allocations, with outcomes 0 or 1 around known rates.

    Args:
        task: The task.
        truth: Function from an allocation to its rate.
        trials: Number of trials.
        instances: Number of instances.
        seed: Seed of allocations and outcomes.
        sign: -1 to minimize the negated outcomes.
        sampler: The sampler. Default: random.
    """
    sampler = sampler or optuna.samplers.RandomSampler(seed=seed)
    direction = "maximize" if sign > 0 else "minimize"
    study = optuna.create_study(direction=direction, sampler=sampler)
    rng = np.random.default_rng(seed)
    levels = rng.random(instances)

    def target(trial):
        outcomes = (levels < truth(task.suggest(trial))).astype(float)
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(sign * outcome, step)
        return sign * float(outcomes.mean())

    study.optimize(target, n_trials=trials)
    return study


@st.composite
def searches(draw):
    """Draw a small task and a study of it with scores alone, or with outcomes."""
    task = make_task(
        stages=draw(st.integers(1, 4)),
        models=draw(st.integers(1, 3)),
        max_samples=draw(st.sampled_from([1, 2, 9])),
        share=draw(st.floats(0, 1)),
    )
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    weights = rng.normal(size=(len(task.stages), 2))

    def truth(allocation):
        settings = np.array([(float(m[1]), np.log(n)) for m, n in allocation.values()])
        return 1 / (1 + np.exp(-float((weights * settings).sum()) / len(settings)))

    trials = draw(st.integers(1, 12))
    if draw(st.booleans()):
        study = searched(task, truth, trials, instances=12, seed=seed)
    else:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
        study.optimize(lambda trial: 50 * truth(task.suggest(trial)), n_trials=trials)
    # Models that leave no budget for the other stages end a trial.
    assume(any(trial.state == TrialState.COMPLETE for trial in study.trials))
    return task, study
