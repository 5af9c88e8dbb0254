"""Tasks of many stages, models and samples: the pool, the kernel, tables, and time."""

import subprocess
import sys
import threading

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts import AgentTTSSampler, Model, Stage, Task
from optuna_agenttts.planner.kernels import LENGTH_SCALES, ResidualKernel, surrogate_of
from optuna_agenttts.planner.opening import untried_models, with_most_untried
from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.study import planners
from optuna_agenttts.task.feasible import FeasibleSet

quick = settings(max_examples=30, derandomize=True, database=None)


@st.composite
def tables(draw):
    """Random costs of 1 to 12 stages of 1 to 20 models, and a budget, tight or loose."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    most = draw(st.sampled_from([1, 3, 30, 1000]))
    costs = []
    for _ in range(draw(st.integers(1, 12))):
        sizes = 10 ** rng.uniform(0, 2, draw(st.integers(1, 20)))
        costs.append([size * (rng.random() + np.arange(1.0, most + 1)) for size in sizes])
    cheapest = sum(min(row[0] for row in rows) for rows in costs)
    dearest = sum(max(row[0] for row in rows) for rows in costs)
    budget = cheapest + draw(st.sampled_from([0, 0.01, 0.3, 1, 20])) * (dearest - cheapest)
    return FeasibleSet(costs, budget)


@quick
@given(tables(), st.sampled_from([40, 400]))
def test_a_pool_is_feasible_distinct_and_has_every_model_that_fits(feasible, size):
    """The planner of any task can choose each model of each stage that fits the budget."""
    models, samples = build_pool(feasible, np.random.default_rng(0), size)
    assert (feasible.costs_of(models, samples) <= feasible.limit).all()
    rows = np.stack([models, samples], axis=-1)
    assert len(np.unique(rows, axis=0)) == len(rows)
    shown = {(s, m) for s, column in enumerate(models.T) for m in np.unique(column).tolist()}
    assert shown == set(feasible.pairs())


def large_task(stages=12, models=5, samples=100, **options):
    """Return a task of stages that differ, with models that differ."""
    return Task(
        name="large",
        stages=[
            Stage(
                f"s{i}",
                models=[
                    Model(f"m{j}", parameters=1e9 * 1.7**j * (1 + 0.03 * i * j))
                    for j in range(models)
                ],
                prompt_tokens=500 + 7 * i,
                generation_tokens=100 + 3 * i,
                max_samples=samples,
            )
            for i in range(stages)
        ],
        **options,
    )


def test_a_pool_spans_the_budget_and_the_models():
    """Cheap and expensive combinations are in the pool, and allocations that spend the budget."""
    feasible = large_task().feasible
    models, samples = build_pool(feasible, np.random.default_rng(0), 3000)
    firsts = feasible.costs_of(models, np.ones_like(samples))
    assert firsts.min() == pytest.approx(feasible.cheapest_cost)
    assert firsts.max() > 0.9 * feasible.budget
    assert (feasible.costs_of(models, samples) > 0.95 * feasible.budget).mean() > 0.1
    share = [np.bincount(column, minlength=5).min() / len(models) for column in models.T]
    assert min(share) > 0.05


def test_the_opening_ends_with_every_model_tried():
    """The models of twelve stages are tried in few allocations."""
    task = large_task()
    models, samples = build_pool(task.feasible, np.random.default_rng(0), 3000)
    tried = []
    while len(found := with_most_untried(models, untried_models(task, tried))):
        tried.append(tuple(zip(models[found[0]].tolist(), samples[found[0]].tolist())))
    assert not untried_models(task, tried)
    assert len(tried) <= 15


def test_the_residual_kernel_of_many_samples_is_its_formula():
    """Numbers of samples up to 10,000 are looked up among those that occur."""
    task = large_task(stages=2, samples=10_000, budget=1e9)
    surrogate = surrogate_of(task)[0]
    rng = np.random.default_rng(1)
    points, others = (
        surrogate.points(rng.integers(5, size=(n, 2)), rng.integers(1, 10_001, (n, 2)))
        for n in (30, 7)
    )
    kernel = ResidualKernel(task)(points, others, LENGTH_SCALES[0])
    stages = []
    for s in range(2):
        sizes = np.log10([model.parameters for model in task.stages[s].models])
        a, b = points.models[:, s, None], others.models[:, s]
        alike = np.where(a == b, 1.0, 0.7 * np.exp(-np.abs(sizes[a] - sizes[b])))
        gaps = np.abs(np.log(points.samples[:, s, None]) - np.log(others.samples[:, s]))
        r = gaps * np.sqrt(5) / LENGTH_SCALES[0]
        stages.append(alike * (1 + r + r**2 / 3) * np.exp(-r))
    expected = 0.5 * (stages[0] + stages[1]) / 2 + 0.5 * stages[0] * stages[1]
    np.testing.assert_allclose(kernel, expected, rtol=1e-10)


class Steps:
    """A user's cost: linear in the samples, with a discount from a number of samples on."""

    unit = "credits"

    def __init__(self, discount=1.0):
        """Set the price of a sample after the thousandth, as a share of the price before."""
        self.discount = discount

    def stage_cost(self, stage, model, samples):
        """Price the samples."""
        count = np.minimum(samples, 1000) + self.discount * np.maximum(samples - 1000, 0)
        return model.parameters / 3e9 * (0.37 + 0.113 * count)


class Wavy(Steps):
    """A user's cost without linear pieces."""

    def stage_cost(self, stage, model, samples):
        """Price the samples."""
        return super().stage_cost(stage, model, samples) + np.log(samples)


@pytest.mark.parametrize("cost", [Steps(), Steps(0.25), Wavy()])
@pytest.mark.parametrize("samples", [50, 2000])
def test_a_users_cost_is_read_back_from_its_table(cost, samples):
    """The task that is read equals the one that was stored, and costs are equal up to rounding."""
    task = large_task(2, 3, samples, cost=cost)
    again = Task.from_dict(task.to_dict())
    assert again == task
    for rows, read in zip(task.feasible.costs, again.feasible.costs):
        np.testing.assert_allclose(np.stack(read), np.stack(rows), rtol=1e-11)


def test_a_table_of_many_samples_is_short_in_a_storage():
    """Costs that are linear but for one step take no space per sample."""
    assert len(large_task(3, 20, 10_000, cost=Steps(0.5)).text) < 30_000


def test_an_ask_does_not_wait_for_the_planner_of_another_task(monkeypatch):
    """While one task's planner is built, an ask for another task is answered."""
    building, release = threading.Event(), threading.Event()
    build = planners.NumericalPlanner

    def slow(task, **options):
        if task.name == "large":
            building.set()
            assert release.wait(60)
        return build(task, **options)

    monkeypatch.setattr(planners, "NumericalPlanner", slow)
    sampler = AgentTTSSampler()

    def ask(task):
        trial = optuna.create_study(sampler=sampler).ask()
        task.suggest(trial)

    first = threading.Thread(target=ask, args=(large_task(2),))
    first.start()
    assert building.wait(60)
    # The locks are shared by hash: one of two tasks has another lock than the first's.
    names = [f"small {i}" for i in range(4)]
    others = [Task(name=name, stages=large_task(1, 2, 3).stages) for name in names]
    free = next(t for t in others if (hash(t) - hash(large_task(2))) % 64)
    second = threading.Thread(target=ask, args=(free,))
    second.start()
    second.join(60)
    answered = not second.is_alive()
    release.set()
    first.join(60)
    second.join(60)
    assert answered


PROGRAM = """
import optuna
from optuna_agenttts import AgentTTSSampler, Model, Stage, Task, recommend
stages, models, samples = {shape}
task = Task(name="x", stages=[Stage(f"s{{i}}", models=[Model(f"m{{j}}", parameters=(j + 1.1) * 1e9)
    for j in range(models)], prompt_tokens=500 + i, generation_tokens=100, max_samples=samples)
    for i in range(stages)])
study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task))
for number in range(10):
    trial = study.ask()
    assert task.fits(task.suggest(trial))
    study.tell(trial, 0.1 * number)
assert task.count_allocations() > 1e4
recommend(study)
"""


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(6, 3, 100), (12, 5, 100), (12, 20, 10_000), (2, 20, 10_000)])
def test_large_tasks_do_not_hang(shape):
    """Ten asks, a count and a recommendation take seconds: 60 is generous for a busy machine."""
    program = PROGRAM.format(shape=shape)
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)
