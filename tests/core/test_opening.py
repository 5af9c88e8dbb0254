"""The paper's opening (Eq. 5): one stage at a time, all its models at the same cost."""

import pickle

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task, TaskError
from optuna_agenttts.planner.opening import left_of_unit_budgets, unit_budget_opening

SIZES = st.lists(st.sampled_from([1, 3, 8, 32, 70]), min_size=1, max_size=4, unique=True)


def make(sizes, share=1.0):
    """Return a task with a stage for each list of sizes, at a share of the default budget."""
    stages = [
        Stage(
            f"s{i}",
            models=[Model(f"m{i}-{n}B", parameters=n * 1e9) for n in stage],
            prompt_tokens=512 * (i + 1),
            generation_tokens=64 * (i + 1),
        )
        for i, stage in enumerate(sizes)
    ]
    task = Task(name="t", stages=stages)
    least = task.feasible.cheapest_cost
    return Task(name="t", stages=stages, budget=least + share * (task.budget - least))


def search(sampler, task, trials):
    """Return the allocations of a search whose scores are arbitrary."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    found = []
    for number in range(trials):
        trial = study.ask()
        allocation = task.suggest(trial)
        study.tell(trial, (number * 7 % 5) / 5)
        found.append(tuple(task.choices(allocation)))
    return found


@settings(max_examples=60)
@given(st.lists(SIZES, min_size=1, max_size=3), st.floats(0, 2))
def test_equal_costs_beside_single_samples(sizes, share):
    """No sample more fits the unit budget; the other stages take one; all models have a turn."""
    task = make(sizes, share)
    feasible = task.feasible
    opening = unit_budget_opening(task)
    for stage, choices in opening:
        assert feasible.fits(choices)
        assert all(s == 1 for i, (_, s) in enumerate(choices) if i != stage)
        rows, (model, samples) = feasible.costs[stage], choices[stage]
        left = feasible.limit - feasible.cheapest_cost + min(float(row[0]) for row in rows)
        unit = min(max(float(row[0]) for row in rows), left)
        assert rows[model][samples - 1] <= unit
        assert samples in (60, len(rows[model])) or rows[model][samples] > unit
    assert {(stage, c[stage][0]) for stage, c in opening} == set(feasible.pairs())


@settings(max_examples=30)
@given(st.lists(SIZES, min_size=1, max_size=3), st.floats(0, 2))
def test_each_is_left_until_it_is_tried(sizes, share):
    """One after another, and none twice."""
    task, tried = make(sizes, share), []
    while left := left_of_unit_budgets(task, tried):
        tried.append(left[0][1])
    assert len(tried) == len(set(tried))
    known = {choices for _, choices in unit_budget_opening(task)}
    assert set(tried) <= known


def test_a_search_begins_with_it():
    """Then the planner goes on, and a pickled sampler begins alike."""
    task = make([(3, 8, 70), (7, 72)])
    opening = list(dict.fromkeys(choices for _, choices in unit_budget_opening(task)))
    sampler = AgentTTSSampler(task, opening="paper")
    found = search(sampler, task, len(opening) + 2)
    assert found[: len(opening)] == opening
    assert len(set(found)) == len(found)
    again = search(pickle.loads(pickle.dumps(sampler)), task, len(opening))
    assert again == opening


def test_trials_that_run_side_by_side_divide_it():
    """Each worker takes the next one."""
    task = make([(3, 8, 70), (7, 72)])
    study = optuna.create_study(sampler=AgentTTSSampler(task, opening="paper"))
    allocations = [tuple(task.choices(task.suggest(study.ask()))) for _ in range(4)]
    assert allocations == [choices for _, choices in unit_budget_opening(task)][:4]


def test_it_keeps_to_the_models_that_trials_allow():
    """A pipeline that suggests some of the models sees those."""
    task = make([(3, 8, 70), (7, 72)])
    study = optuna.create_study(
        direction="maximize", sampler=AgentTTSSampler(task, opening="paper")
    )
    for number in range(5):
        trial = study.ask()
        model = trial.suggest_categorical("s0.model", ["m0-8B", "m0-70B"])
        trial.suggest_categorical("s1.model", ["m1-7B", "m1-72B"])
        trial.suggest_int("s0.samples", 1, 100)
        trial.suggest_int("s1.samples", 1, 100)
        study.tell(trial, number / 5)
        assert model != "m0-3B"


def test_without_insight_1_there_is_none():
    """The ablation of the paper begins without comparing models."""
    task = make([(3, 8, 70), (7, 72)])
    joint = search(AgentTTSSampler(task, prior_insights=(2, 3)), task, 3)
    paper = search(AgentTTSSampler(task, prior_insights=(2, 3), opening="paper"), task, 3)
    assert joint == paper


def test_other_openings_are_errors():
    """The message names both."""
    with pytest.raises(TaskError, match="`opening` must be 'joint' or 'paper', got 'random'"):
        AgentTTSSampler(opening="random")
