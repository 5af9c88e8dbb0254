"""The frontier: which allocation to use for each budget, beside what `recommend` returns."""

import builtins
import math
import time
from dataclasses import replace

import numpy as np
import optuna
import pytest
from core_support import LARGE, SMALL, run, score, wiki_task
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import RandomSampler, TPESampler
from optuna.trial import TrialState
from study_cases import draw_outcomes, one_stage, small, study_of, study_with_outcomes, trial_of

from optuna_agenttts import (
    AgentTTSError,
    AgentTTSSampler,
    BudgetError,
    FlopsCost,
    LatencyCost,
    MissingFactError,
    Model,
    NoEvidenceError,
    NoTaskError,
    PriceCost,
    Stage,
    Task,
    TaskError,
    frontier,
    recommend,
    storage,
)

TASK = wiki_task(metric_range=(0, 1))


def searched(sampler=None, n_trials=30, sign=1, instances=40, task=TASK):
    """Return a study with outcomes around a known score, negated to minimize."""

    def target(trial):
        truth = score(task.suggest(trial))
        rng = np.random.default_rng(trial.number)
        outcomes = (rng.random(instances) < truth).astype(float)
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(outcome if sign > 0 else 1 - outcome, step)
        return float(outcomes.mean()) if sign > 0 else 1 - float(outcomes.mean())

    direction = "maximize" if sign > 0 else "minimize"
    study = optuna.create_study(direction=direction, sampler=sampler or AgentTTSSampler(task))
    study.optimize(target, n_trials=n_trials)
    return study


@pytest.fixture(scope="module")
def study():
    """Return a search that maximizes."""
    return searched()


def assert_monotone(found):
    """Costs rise, and expected scores do not fall."""
    sign = 1 if found.maximize else -1
    for cheaper, dearer in zip(found.points, found.points[1:]):
        assert cheaper.cost < dearer.cost
        assert sign * cheaper.value <= sign * dearer.value


@pytest.mark.parametrize("tried_only", [False, True])
@pytest.mark.parametrize(
    ("make", "sign"), [(AgentTTSSampler, 1), (AgentTTSSampler, -1), (TPESampler, 1)]
)
def test_frontier_ends_in_the_recommendation(make, sign, tried_only):
    """Its last point is what `recommend` returns: allocation, value, interval and cost."""
    searched_study = searched(make(seed=0) if make is TPESampler else None, sign=sign)
    found = frontier(searched_study, TASK, tried_only=tried_only)
    expected = recommend(searched_study, TASK)
    for name in ("params", "allocation", "value", "cost"):
        assert getattr(found.best, name) == getattr(expected, name)
    # Up to rounding: variances of several allocations are computed at once.
    assert found.best.interval == pytest.approx(expected.interval, abs=1e-9)
    assert found.at(found.budget) == found.at(10 * found.budget) == found.best
    assert found.best.loss == 0
    assert_monotone(found)


@settings(max_examples=12, derandomize=True, database=None)
@given(
    st.lists(st.tuples(st.integers(1, 64), st.integers(0, 20)), min_size=1, max_size=8),
    st.sampled_from(["maximize", "minimize"]),
    st.booleans(),
    st.booleans(),
)
def test_points_are_monotone_and_within_the_range(evidence, direction, tried_only, outcomes):
    """For any scores: with and without outcomes, repeats and equal scores."""
    task = one_stage(metric_range=(0, 1))
    if outcomes:
        rows = [(small(n), np.arange(20) < hits) for n, hits in evidence]
        made = study_with_outcomes(task, rows, direction)
    else:
        made = study_of(task, [(small(n), hits / 20) for n, hits in evidence], direction)
    found = frontier(made, task, tried_only=tried_only)
    assert_monotone(found)
    assert found.best.allocation == recommend(made, task).allocation
    for point in found.points:
        assert 0 <= point.value <= 1
        assert task.fits(point.allocation)
        assert point.cost == pytest.approx(task.cost(point.allocation))
        assert (point.interval is None) == (not outcomes)
        assert point.tried or not tried_only
        assert point.instances == (20 if outcomes and point.tried else 0)


def test_point_of_a_budget_is_the_best_within_it(study):
    """At each budget the point fits it, and the next one does not."""
    found = frontier(study)
    for budget in np.geomspace(found.points[0].cost, TASK.budget, 20).tolist():
        point = found.at(budget)
        assert point.cost <= budget * (1 + 1e-9)
        assert not [p for p in found.points if point.cost < p.cost <= budget]
    with pytest.raises(BudgetError, match="the cheapest point of the frontier costs"):
        found.at(0.5 * found.points[0].cost)
    for budget in (math.nan, "much", True):
        with pytest.raises(TaskError, match="`budget` must be a number"):
            found.at(budget)


def test_untried_allocations_say_so_and_can_be_excluded(study):
    """They reach cheaper budgets; no trial ran them, and they saw no instance."""
    tried = {tuple(sorted(trial.params.items())) for trial in study.trials}
    every, only = frontier(study), frontier(study, tried_only=True)
    for point in every.points:
        assert point.tried == (tuple(sorted(point.params.items())) in tried)
        assert point.instances == (40 if point.tried else 0)
        assert point.shared == point.instances
    assert all(point.tried for point in only.points)
    assert not all(point.tried for point in every.points)
    assert every.points[0].cost < only.points[0].cost
    assert "not tried" in str(every)
    assert "not tried" not in str(only)


def test_cheap_budgets_lose_little_by_extrapolation():
    """Without noise, points at smaller budgets score nearly as well as the best there."""
    found = frontier(run(AgentTTSSampler(TASK), n_trials=40))
    for budget in (100, 200, 400, 600):
        best = max(map(score, wiki_task(budget=budget, max_samples=40).allocations()))
        assert score(found.at(budget).allocation) >= 0.9 * best


def test_cheapest_is_shown_to_lose_little():
    """A cheaper allocation of the same outcomes is within any margin; a worse one is in none."""
    rng = np.random.default_rng(0)
    table = draw_outcomes(rng, [0.3, 0.8], 400)
    rows = [table[0], table[1], table[1].copy()]
    rows[2][:2] = 1 - rows[2][:2]
    task = one_stage(metric_range=(0, 1))
    made = study_with_outcomes(task, list(zip(map(small, (2, 8, 32)), rows)))
    found = frontier(made, task)
    least = found.cheapest(within=0.05)
    assert least.allocation["answer"].samples in (8, 32)
    assert least.loss < 0.05 or least == found.best
    assert all(point.loss >= 0.05 for point in found.points if point.cost < least.cost)
    assert found.cheapest(within=1e-6) == found.best
    for within in (0, -1, math.inf, "all"):
        with pytest.raises(TaskError, match="`within` must be finite and above 0"):
            found.cheapest(within=within)


def test_cheapest_point_is_the_recommendations_cheapest_tie_or_costs_more(study):
    """It rests on the same bounds, and only looks at the frontier's points."""
    recommended = recommend(study, margin=0.3)
    found = frontier(study, tried_only=True).cheapest(within=0.3)
    assert found.allocation in [tie.allocation for tie in recommended.ties] + [
        recommended.allocation
    ]


@pytest.mark.parametrize("sign", [1, -1])
def test_knee_is_where_gains_stop(study, sign):
    """It is the bend of a curve that rises steeply and then hardly."""
    found = frontier(study, tried_only=True)
    curve = [(1, 0.2), (4, 0.65), (16, 0.7), (64, 0.71)]
    points = [replace(found.best, cost=float(c), value=sign * v) for c, v in curve]
    assert replace(found, points=tuple(points)).knee == points[1]
    assert replace(found, points=(points[2],)).knee == points[2]
    level = [replace(point, value=0.5) for point in points]
    assert replace(found, points=tuple(level)).knee == level[0]


def priced(**facts):
    """Return a task of one stage whose models state some facts."""
    models = [
        Model(name, parameters=size, **facts) for name, size in ((SMALL, 3e9), (LARGE, 7e10))
    ]
    stage = Stage("answer", models=models, prompt_tokens=256, generation_tokens=64, max_samples=64)
    return Task(name="one", stages=[stage], budget=1000)


def test_costs_are_given_in_each_unit():
    """Each is the sum over the stages of what the cost model says."""
    task = priced(input_price=0.1, output_price=0.4)
    made = study_of(task, [(small(n), 0.1 * n) for n in (1, 2, 4)])
    found = frontier(made, task)
    expected = priced(input_price=0.1, output_price=0.4)
    dollars = Task(name="usd", stages=expected.stages, budget=1, cost=PriceCost())
    for point in found.points:
        assert point.costs == {"USD": pytest.approx(dollars.cost(point.allocation))}
        assert point.cost == pytest.approx(task.cost(point.allocation))
    assert found.unit == "reference samples"
    assert len(found.missing) == 1
    assert "no cost in s: LatencyCost needs `prompt_tokens_per_second`" in found.missing[0]
    assert str(found).endswith("no cost in s: `Frontier.missing` has the reason")
    assert "reference samples per instance cost USD" in " ".join(str(found).split())


def test_missing_facts_are_an_error_only_if_asked_for():
    """Given cost models must be known; two of a unit are told apart."""
    task = priced()
    made = study_of(task, [(small(n), 0.1 * n) for n in (1, 2, 4)])
    assert len(frontier(made, task).missing) == 2
    with pytest.raises(MissingFactError, match="PriceCost needs `input_price`"):
        frontier(made, task, costs=[PriceCost()])
    for wrong in ("USD", PriceCost):
        with pytest.raises(TaskError, match="`costs` must hold cost models, got"):
            frontier(made, task, costs=[wrong])
    with pytest.raises(TaskError, match="`costs` must be a list of cost models, got PriceCost"):
        frontier(made, task, costs=PriceCost())
    with pytest.raises(TaskError, match="must be finite and 0 or more, got nan"):
        frontier(made, task, costs=[Tenths(math.nan)])
    found = frontier(made, task, costs=[FlopsCost(), FlopsCost(fusion=True)])
    assert list(found.best.costs) == ["reference samples (2)"]
    assert frontier(made, task, costs=()).best.costs == {}
    with pytest.raises(MissingFactError, match="LatencyCost"):
        frontier(made, task, costs=(FlopsCost(), LatencyCost()))


class Tenths:
    """Cost of a multiple of a tenth for each sample, in a unit of its own."""

    unit = "tenths"

    def __init__(self, factor=0.1):
        self.factor = factor

    def stage_cost(self, stage, model, samples):
        """Return the cost of samples."""
        return samples * self.factor


def test_costs_that_differ_by_rounding_errors_are_one_budget():
    """0.1 + 0.5 is less than 0.2 + 0.4 for floats: only the better one is a point."""
    stages = [
        Stage(name, models=[Model("m")], prompt_tokens=1, generation_tokens=1, max_samples=8)
        for name in "ab"
    ]
    task = Task(name="t", stages=stages, budget=2, cost=Tenths(), metric_range=(0, 1))
    chosen = [{"a": ("m", a), "b": ("m", b)} for a, b in ((2, 4), (1, 2), (1, 3), (1, 5))]
    costs = [task.cost(allocation) for allocation in chosen]
    assert 0 < abs(costs[0] - costs[3]) < 1e-9
    for order in (chosen, [chosen[3], *chosen[1:3], chosen[0]]):
        made = study_of(task, [(each, (0.9, 0.3, 0.4, 0.7)[i]) for i, each in enumerate(order)])
        found = frontier(made, task, tried_only=True)
        assert all(found.at(point.cost) is point for point in found.points)
        assert found.best.allocation == order[0]
    assert found.at(10**400) is found.best


def test_recognized_stages_have_relative_costs_only():
    """Their token lengths are unknown, so no other unit is."""
    made = optuna.create_study(direction="maximize")

    def target(trial):
        model = trial.suggest_categorical("answer.model", ["qwen-7B", "qwen-72B"])
        return 0.1 * trial.suggest_int("answer.samples", 1, 5) + 0.2 * (model == "qwen-72B")

    made.optimize(target, n_trials=10)
    found = frontier(made)
    assert found.best.costs == {}
    assert "recognized by the names of their parameters" in found.missing[0]
    with pytest.raises(MissingFactError, match="pass `task=`"):
        frontier(made, costs=[FlopsCost()])


def test_constraints_outliers_and_failures_are_left_out():
    """No point violated a constraint, failed too often, or scored an outlier."""
    task = one_stage(metric_range=(0, 1))
    made = optuna.create_study(direction="maximize")
    for n, value, violated in ((1, 0.3, -1.0), (2, 0.9, 1.0), (8, 0.5, -1.0)):
        attributes = {"constraints": [violated]}
        made.add_trial(trial_of(task, small(n), value, system_attrs=attributes))
    made.add_trial(trial_of(task, small(4), -7.0, system_attrs={"constraints": [-1.0]}))
    for _ in range(4):
        made.add_trial(trial_of(task, small(3), None, state=TrialState.FAIL))
    for tried_only in (False, True):
        found = frontier(made, task, tried_only=tried_only)
        samples = {
            point.allocation["answer"].samples
            for point in found.points
            if point.allocation["answer"].model == SMALL
        }
        assert not samples & {2, 3, 4}
        assert found.best.allocation == small(8)


def test_stopped_allocations_are_points_with_the_instances_they_saw():
    """A stopped trial is better than none if nothing else is as cheap."""
    task = one_stage(metric_range=(0, 1))
    table = draw_outcomes(np.random.default_rng(0), [0.3, 0.8], 40)
    rows = list(zip(map(small, (2, 32)), table))
    found = frontier(study_with_outcomes(task, rows, seen={0: 15}), task, tried_only=True)
    assert [point.instances for point in found.points] == [15, 40]


def test_fresh_instances_count_for_the_points_that_saw_them():
    """After a confirmation the frontier still ends in the recommendation, and still rises."""
    task = one_stage(metric_range=(0, 1))
    table = draw_outcomes(np.random.default_rng(0), [0.3, 0.5, 0.7, 0.72], 140)
    made = study_with_outcomes(task, list(zip(map(small, (1, 4, 16, 64)), table[:, :40])))
    for samples, row in zip((16, 64), table[2:, 40:]):
        made.add_trial(
            trial_of(
                task,
                small(samples),
                float(row.mean()),
                intermediate_values=dict(enumerate(row.tolist(), 1000)),
                system_attrs=storage.confirmation_marks(1),
            )
        )
    found, expected = frontier(made, task, tried_only=True), recommend(made, task)
    assert_monotone(found)
    assert found.best.allocation == expected.allocation
    assert found.best.value == pytest.approx(expected.value)
    instances = {p.allocation["answer"].samples: p.instances for p in found.points}
    assert instances[found.best.allocation["answer"].samples] == 140
    assert instances.get(4, 40) == 40
    assert found.least == 40


@pytest.mark.slow
def test_large_tasks_take_seconds():
    """Twelve models in five stages of 100 samples are too many to list."""
    sizes = (0.5, 1, 1.5, 3, 4, 7, 8, 14, 24, 32, 70, 72)
    models = [Model(f"m-{size}B", parameters=size * 1e9) for size in sizes]
    stages = [
        Stage(f"s{i}", models=models, prompt_tokens=300, generation_tokens=100) for i in range(5)
    ]
    task = Task(name="large", stages=stages, metric_range=(0, 1))
    made = optuna.create_study(direction="maximize", sampler=RandomSampler(seed=0))

    def target(trial):
        allocation = task.suggest(trial)
        sizes = [float(a.model[2:-1]) * a.samples**0.3 for a in allocation.values()]
        return float(np.mean([size / (5 + size) for size in sizes]))

    made.optimize(target, n_trials=20)
    start = time.process_time()
    found = frontier(made)
    assert time.process_time() - start < 20
    assert_monotone(found)
    assert len(found.points) > 3


def test_frontier_of_a_study_without_evidence_is_refused():
    """The errors are those of `recommend`."""
    with pytest.raises(NoEvidenceError, match="has no completed trial"):
        frontier(optuna.create_study(), one_stage())
    several = optuna.create_study(directions=["maximize"] * 2)
    with pytest.raises(NoTaskError, match=r"2 objectives .*`frontier` needs a score"):
        frontier(several, one_stage())
    with pytest.raises(TaskError, match="`score_sd` must be finite and above 0"):
        frontier(optuna.create_study(), one_stage(), score_sd=0)


def test_table_shows_what_a_point_is(study):
    """One line of a terminal for each point: cost, score, interval, instances and allocation."""
    found = frontier(study, tried_only=True)
    scale, heads, *lines = str(found).splitlines()
    assert scale == "cost in reference samples per instance"
    assert heads.split()[0] == "cost"
    assert "90 % interval" in heads
    assert lines[len(found.points) - 1].startswith(f"{found.best.cost:.4g} ")
    for point, line in zip(found.points, lines):
        assert all(f"{s.samples} x {s.model}" in line for s in point.allocation.values())
    assert all(len(line) <= 80 for line in (scale, heads, *lines))
    alone = frontier(study_of(one_stage(), [(small(4), 0.5)]), one_stage())
    assert "no interval: trials reported no or too few outcomes" in str(alone)
    best = str(found.best)
    assert f"cost {found.best.cost:.4g} reference samples per instance" in best
    extrapolated = [point for point in frontier(study).points if not point.tried]
    assert all(str(point).endswith(", not tried") for point in extrapolated)


def test_data_frame_has_a_row_for_each_point(study):
    """Costs, values and parameters are its columns."""
    pandas = pytest.importorskip("pandas")
    found = frontier(study)
    table = found.to_dataframe()
    assert isinstance(table, pandas.DataFrame)
    assert table["value"].tolist() == [point.value for point in found.points]
    assert table["reference samples"].tolist() == [point.cost for point in found.points]
    assert table["answer.samples"].tolist() == [
        point.allocation["answer"].samples for point in found.points
    ]
    assert table["low"].tolist() == [point.interval[0] for point in found.points]


def test_data_frame_names_pandas_if_it_is_missing(study, monkeypatch):
    """Pandas is imported only there, and the error has the command."""
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "pandas":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    found = frontier(study)
    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(AgentTTSError, match=r"pip install optuna-agenttts\[pandas\]"):
        found.to_dataframe()
