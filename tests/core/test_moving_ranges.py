"""Ranges that depend on earlier values, change during a study, or hold next to nothing."""

import itertools
from collections import Counter

import optuna
import pytest

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    Stage,
    StopWhenExhausted,
    StopWhenSettled,
    Task,
)
from optuna_agenttts.task.recognition import recognise_task
from optuna_agenttts.task.values import read_model

NAMES = ["small-7B", "large-72B"]
MODELS = [Model("small-7B", parameters=7e9), Model("large-72B", parameters=72e9)]
PARAMETERS = ("retrieval.model", "answer.model", "retrieval.samples", "answer.samples")


def make_task(budget=900.0):
    """Build a task of two stages; the large model fits one of them, with few samples."""
    return Task(
        name="qa",
        budget=budget,
        stages=[
            Stage("retrieval", models=MODELS, prompt_tokens=2048, generation_tokens=128),
            Stage("answer", models=MODELS, prompt_tokens=256, generation_tokens=64),
        ],
    )


def is_affordable(task, params):
    stages = ("retrieval", "answer")
    return task.fits({s: (params[f"{s}.model"], params[f"{s}.samples"]) for s in stages})


def allocation(trial):
    return tuple(trial.params.get(name) for name in PARAMETERS)


def run(sampler, objective, n_trials, **options):
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=n_trials, **options)
    return study


def value(params):
    """Score models and samples; the second stage is best with three samples."""
    first = 0.05 * (params["retrieval.model"] == "large-72B") + 0.04 * params["retrieval.samples"]
    return (
        first
        + 0.02 * (params.get("answer.model") == "small-7B")
        - 0.03 * abs(params.get("answer.samples", 0) - 3)
    )


def shared_samples(trial):
    """Suggest samples of which the second stage may use what the first has left of ten."""
    for stage in ("retrieval", "answer"):
        trial.suggest_categorical(f"{stage}.model", NAMES)
    first = trial.suggest_int("retrieval.samples", 1, 9)
    trial.suggest_int("answer.samples", 1, 10 - first)
    return value(trial.params)


def multiples(trial):
    """Suggest samples whose bounds and step depend on the models and samples before them."""
    large = trial.suggest_categorical("retrieval.model", NAMES) == "large-72B"
    first = trial.suggest_int("retrieval.samples", 1, 2 if large else 6)
    trial.suggest_categorical("answer.model", NAMES)
    trial.suggest_int("answer.samples", first, 4 * first, step=first)
    return value(trial.params)


def one_or_two_stages(trial):
    """Suggest the second stage beside the small model alone."""
    small = trial.suggest_categorical("retrieval.model", NAMES) == "small-7B"
    trial.suggest_int("retrieval.samples", 1, 6)
    if small:
        trial.suggest_categorical("answer.model", NAMES)
        trial.suggest_int("answer.samples", 1, 4)
    return value(trial.params)


def shrinking(trial):
    """Suggest samples from ranges that end at 40 first and at 4 in the end."""
    for stage in ("retrieval", "answer"):
        trial.suggest_categorical(f"{stage}.model", NAMES)
        trial.suggest_int(f"{stage}.samples", 1, max(4, 40 - trial.number))
    return value(trial.params)


@pytest.mark.parametrize("objective", [shared_samples, multiples, one_or_two_stages, shrinking])
@pytest.mark.parametrize("task", [make_task(), None], ids=["task", "recognized"])
def test_bounds_that_depend_on_earlier_values_repeat_nothing(objective, task):
    study = run(AgentTTSSampler(task, seed=0), objective, 32)
    assert len(set(map(allocation, study.trials))) == 32


@pytest.mark.parametrize("names", [("answer.model",), ("retrieval.samples", "answer.model")])
def test_values_that_are_set_elsewhere_leave_room_in_the_budget(names):
    task = make_task()
    fixed = {name: "large-72B" if name.endswith("model") else 2 for name in names}

    def objective(trial):
        for stage in ("retrieval", "answer"):
            trial.suggest_categorical(f"{stage}.model", NAMES)
            trial.suggest_int(f"{stage}.samples", 1, 8)
        return value(trial.params)

    sampler = optuna.samplers.PartialFixedSampler(fixed, AgentTTSSampler(task, seed=0))
    study = run(sampler, objective, 9)
    # The first trials discover what is fixed: at most one for each value.
    found = study.trials[1 + len(names) :]
    assert all(is_affordable(task, trial.params) for trial in found)
    assert len(set(map(allocation, found))) >= len(found) - 1


@pytest.mark.parametrize("task", [make_task(), None], ids=["task", "recognized"])
def test_ranges_of_an_earlier_program_are_forgotten(task):
    def objective(trial):
        most = 2 if trial.number < 12 else 20
        for stage in ("retrieval", "answer"):
            trial.suggest_categorical(f"{stage}.model", NAMES)
            trial.suggest_int(f"{stage}.samples", 1, most)
        return value(trial.params)

    study = run(AgentTTSSampler(task, seed=0), objective, 24)
    late = study.trials[14:]
    assert len(set(map(allocation, late))) == len(late)
    assert max(trial.params["retrieval.samples"] for trial in late) > 2


def test_the_own_ranges_of_the_task_replace_narrower_ones():
    task = make_task()
    study = run(AgentTTSSampler(task, seed=0), shared_samples, 6)
    study.optimize(lambda trial: (task.suggest(trial), value(trial.params))[1], n_trials=10)
    assert max(trial.params["retrieval.samples"] for trial in study.trials[8:]) > 9


def test_models_match_across_organizations_only_if_one_names_none():
    stage = Stage("s", models=MODELS, prompt_tokens=1, generation_tokens=1)
    assert read_model(stage, "org/Small-7b") == 0
    assert read_model(stage, "large-72B ") == 1
    named = [Model("org/small-7B", parameters=7e9), Model("large-72B", parameters=72e9)]
    stage = Stage("s", models=named, prompt_tokens=1, generation_tokens=1)
    assert read_model(stage, "SMALL-7B") == 0
    assert read_model(stage, "other/small-7B") is None


@pytest.mark.parametrize("choices", [["1", "2", "4"], [1.0, 2.0, 4.0], [1, "2", 4.0]])
def test_choices_of_written_numbers_are_recognized(choices):
    def objective(trial):
        trial.suggest_categorical("answer.model", NAMES)
        return float(trial.suggest_categorical("answer.samples", choices))

    study = run(AgentTTSSampler(seed=0), objective, 6)
    assert recognise_task(study.trials).stages[0].max_samples == 4
    assert len({tuple(trial.params.values()) for trial in study.trials}) == 6


@pytest.mark.parametrize("order", [PARAMETERS, PARAMETERS[::-1]])
def test_unknown_labels_are_left_to_the_independent_sampler(order):
    def objective(trial):
        for name in order:
            if name.endswith("model"):
                trial.suggest_categorical(name, ["model-a", "model-b"])
            else:
                trial.suggest_int(name, 1, 50)
        return 0.01 * trial.params["answer.samples"]

    study = run(AgentTTSSampler(make_task(), seed=0), objective, 20)
    assert len(set(map(allocation, study.trials))) >= 16


@pytest.mark.parametrize("failures", [1, 9])
@pytest.mark.parametrize(("model", "samples"), list(itertools.product(NAMES, [1, 2])))
def test_failed_allocations_are_retried_before_a_search_ends(model, samples, failures):
    stage = Stage("a", models=MODELS, prompt_tokens=100, generation_tokens=10, max_samples=2)
    task = Task(name="t", budget=1e9, stages=[stage])
    tries: Counter[tuple[str, int]] = Counter()

    def objective(trial):
        chosen = tuple(task.suggest(trial)["a"])
        tries[chosen] += 1
        if chosen == (model, samples) and tries[chosen] <= failures:
            raise ValueError("the server is down")
        return 0.1 * samples

    callbacks = [StopWhenExhausted()]
    run(AgentTTSSampler(task), objective, 20, catch=(ValueError,), callbacks=callbacks)
    assert len(tries) == 4
    assert tries[model, samples] == (2 if failures == 1 else 3)
    assert sum(tries.values()) == 3 + tries[model, samples]


def test_a_search_of_recognized_stages_stops_when_settled():
    def objective(trial):
        trial.suggest_categorical("answer.model", NAMES)
        trial.suggest_int("answer.samples", 1, 20)
        return 0.5

    study = run(AgentTTSSampler(seed=0), objective, 40, callbacks=[StopWhenSettled()])
    assert 3 <= len(study.trials) < 40


def test_a_recognized_task_is_read_once_for_each_finished_trial(monkeypatch):
    calls = []

    def counted(trials, recognise):
        calls.append(len(trials))
        return recognise_task(trials, recognise)

    monkeypatch.setattr("optuna_agenttts.study.tasks.recognise_task", counted)
    study = run(AgentTTSSampler(seed=0, explain=False), shared_samples, 8)
    assert len(calls) == 8
    assert len(set(map(allocation, study.trials))) == 8
