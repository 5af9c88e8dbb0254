"""A model that is down costs a few trials, not the search."""

import itertools

import optuna
import pytest

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task

SIZES = (1, 3, 8)
SCORES = dict(zip(SIZES, (0.3, 0.5, 0.7)))


def make_task(stages):
    return Task(
        name="t",
        stages=[
            Stage(
                name,
                models=[Model(f"{name}-{size}B", parameters=size * 1e9) for size in SIZES],
                prompt_tokens=200,
                generation_tokens=100,
                max_samples=10,
            )
            for name in ("find", "answer")[:stages]
        ],
        budget=3000.0,
    )


def search(task, is_down, trials):
    """Run a search in which trials of some models fail; returns its trials."""

    def objective(trial):
        allocation = task.suggest(trial)
        if any(is_down(choice.model, trial.number) for choice in allocation.values()):
            raise RuntimeError("down")
        sizes = [int(choice.model.split("-")[1][:-1]) for choice in allocation.values()]
        samples = [choice.samples for choice in allocation.values()]
        return sum(SCORES[size] * (1 - 0.5 / n) for size, n in zip(sizes, samples)) / len(sizes)

    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task, seed=0))
    study.optimize(objective, n_trials=trials, catch=(RuntimeError,))
    return study.trials


def failed(trials):
    return [trial.number for trial in trials if trial.state == optuna.trial.TrialState.FAIL]


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_a_model_that_is_down_is_tried_ever_less_often(stages, size, caplog):
    """It is tried again, but not before the others have run."""
    task = make_task(stages)
    down = f"{task.stages[-1].name}-{size}B"
    trials = search(task, lambda model, number: model == down, 22)
    numbers = failed(trials)
    assert f"trials with model {down!r} in stage {task.stages[-1].name!r} failed" in caplog.text
    assert 3 <= len(numbers) <= 6
    gaps = [later - earlier for earlier, later in itertools.pairwise(numbers)]
    assert gaps == sorted(gaps)
    # Those that failed beside it are not taken for failing.
    others = {model.name for stage in task.stages for model in stage.models} - {down}
    succeeded = {
        trial.params[stage.model_parameter]
        for trial in trials
        if trial.number not in numbers
        for stage in task.stages
    }
    assert succeeded == others


def test_a_model_that_comes_back_is_used():
    """The best model fails at first, and wins in the end."""
    task = make_task(2)
    trials = search(task, lambda model, number: model == "answer-8B" and number < 8, 30)
    best = max((trial for trial in trials if trial.value is not None), key=lambda t: t.value)
    assert best.params[task.stages[1].model_parameter] == "answer-8B"


def test_nothing_is_left_out_where_all_models_fail():
    """A server of all models that is down costs trials, and no model."""
    task = make_task(2)
    trials = search(task, lambda model, number: number < 10, 40)
    assert failed(trials) == list(range(10))
    names = {trial.params[stage.model_parameter] for trial in trials[10:] for stage in task.stages}
    assert names == {model.name for stage in task.stages for model in stage.models}
