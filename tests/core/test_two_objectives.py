"""Searches for good scores at every cost, and for the cheapest allocation of a score."""

import copy
import pickle
import threading
from dataclasses import replace

import numpy as np
import optuna
import pytest
from core_support import open_storage, params_of, score, wiki_task
from optuna.samplers import TPESampler
from posterior_cases import draw_allocations, draw_evidence

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    Recommendation,
    Stage,
    StopWhenExhausted,
    StopWhenSettled,
    Task,
    TaskError,
    frontier,
    recommend,
    report_outcomes,
    summarize,
)
from optuna_agenttts.planner.acquisition import BestScore
from optuna_agenttts.planner.costs import Costs
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.frontier_improvement import FrontierImprovement
from optuna_agenttts.planner.kernels import surrogate_of
from optuna_agenttts.planner.posterior import Posterior

TASK = wiki_task()


def two(trial):
    """Return score and cost."""
    allocation = TASK.suggest(trial)
    return score(allocation), TASK.cost(allocation)


def search(target=two, n_trials=12, directions=("maximize", "minimize"), storage=None, **options):
    """Search with two objectives."""
    sampler = AgentTTSSampler(TASK, explain=False, **options)
    study = optuna.create_study(directions=directions, sampler=sampler, storage=storage)
    study.optimize(target, n_trials=n_trials)
    return study


def acquisition(seed, floor=None, evidence=None):
    """Return the acquisition functions of random trials, their posterior, and allocations."""
    rng = np.random.default_rng(seed)
    surrogate = surrogate_of(TASK)[0]
    evidence = evidence or draw_evidence(TASK, "scores", seed=seed, trials=10)
    posterior = Posterior(surrogate, evidence)
    points = surrogate.points(*draw_allocations(TASK, rng, 60))
    among = surrogate.points(*draw_allocations(TASK, rng, 200))
    found = FrontierImprovement(posterior, Costs(evidence), among, floor)
    return found, posterior, points


# The acquisition.


@pytest.mark.parametrize("floor", [None, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_the_sum_over_steps_is_the_integral_over_the_cost_axis(seed, floor):
    found, posterior, points = acquisition(seed, floor)
    view = posterior.at(points)
    mean, sd = view.moments().mean(), view.moments().sd()
    own, incumbents = found.positions(points), posterior.incumbents
    places, levels = found.positions(incumbents.points), incumbents.mean()
    axis = found.end * (np.arange(2000) + 0.5) / 2000
    front = np.array([levels[places <= t].max(initial=found.reference) for t in axis])
    nodes = np.random.default_rng(0).normal(size=(1, 4000))
    for row in range(0, len(points), 6):
        rates = mean[row] + sd[row] * nodes
        if floor is not None:
            rates, front = np.minimum(rates, found.cap), np.minimum(front, found.cap)
        steps, counts = np.unique(front[axis >= own[row]], return_counts=True)
        gains = np.maximum(rates - steps[:, None], 0).mean(axis=1)
        integral = float(counts @ gains) / len(axis)
        assert found.expected(view)[row] == pytest.approx(integral, rel=0.15, abs=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_what_is_certainly_dominated_is_worth_nothing(seed):
    """Allocations far below the front at their cost add nothing."""
    found, posterior, points = acquisition(seed)
    view = posterior.at(points)
    found.levels = found.levels + 3.0
    found.levels[0] = 3.0
    assert found.expected(view).max() < 1e-6


@pytest.mark.parametrize("seed", range(4))
def test_the_most_expensive_allocation_counts_beyond_its_cost(seed):
    """Its expected improvement over the front counts over the end of the axis."""
    found, posterior, points = acquisition(seed)
    costs = found.positions(points)
    dearest = FrontierImprovement(
        posterior, Costs(draw_evidence(TASK, "scores", seed=seed, trials=10)), points
    )
    row = int(np.argmax(costs))
    assert dearest.positions(points)[row] == 1.0
    moments = posterior.at(points).moments()
    gap, sd = moments.mean()[row] - dearest.levels[-1], moments.sd()[row]
    gains = np.maximum(gap + sd * np.random.default_rng(0).normal(size=200_000), 0.0).mean()
    share = (dearest.end - 1) / dearest.end
    assert dearest.expected(posterior.at(points))[row] == pytest.approx(share * gains, rel=0.1)


def test_a_model_that_takes_most_of_the_budget_is_tried():
    """One call of the large model in the first stage costs nine tenths of the budget."""
    models = [Model("small-7B"), Model("large-72B")]
    lengths = {"retrieval": (2048, 128), "answer": (256, 64)}
    stages = [
        Stage(name, models=models, prompt_tokens=prompt, generation_tokens=reply)
        for name, (prompt, reply) in lengths.items()
    ]
    task = Task(name="qa", stages=stages, budget=900, metric="accuracy", metric_range=(0, 1))
    rng = np.random.default_rng(0)

    def objective(trial):
        allocation = task.suggest(trial)
        found = 0.8 if allocation["retrieval"].model == "large-72B" else 0.5
        outcomes = rng.random(50) < found * (1 - 0.5 / allocation["answer"].samples ** 0.5)
        report_outcomes(trial, outcomes.astype(float).tolist())
        return outcomes.mean(), task.cost(allocation)

    sampler = AgentTTSSampler(task, explain=False, seed=0)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(objective, n_trials=20)
    found = recommend(study)
    assert found.allocation["retrieval"].model == "large-72B"
    assert found.allocation["answer"].samples > 10


@pytest.mark.parametrize(
    ("options", "directions", "words"),
    [
        ({}, ["maximize"], "to improve the recommendation by "),
        ({}, ["maximize", "minimize"], "to raise the best score by "),
        ({"at_least": 0.4}, ["maximize"], " % of the range of costs"),
    ],
)
def test_reasons_say_what_is_expected_to_be_gained(options, directions, words):
    sampler = AgentTTSSampler(TASK, explain=False, **options)
    study = optuna.create_study(directions=directions, sampler=sampler)
    study.optimize(lambda trial: two(trial)[: len(directions)], n_trials=8)
    assert words in study.trials[-1].user_attrs["agenttts:reason"]


@pytest.mark.parametrize("seed", range(4))
def test_equal_costs_leave_a_search_for_the_best_score(seed):
    """The area above one cost is the best posterior mean."""
    _, posterior, points = acquisition(seed)
    equal = FrontierImprovement(posterior, lambda points: np.ones(len(points)), points)
    view = posterior.at(points)
    ours, theirs = equal.gradient(view), BestScore(posterior).gradient(view)
    assert np.allclose(ours, theirs, atol=2e-3)


@pytest.mark.parametrize("seed", range(4))
def test_a_floor_is_all_that_is_searched_for(seed):
    """Scores far above it add as much as those above, and cheaper ones of them more.

    No allocation is expected to lower the front.
    """
    found, posterior, points = acquisition(seed, floor=-2.0)
    view = posterior.at(points)
    assert (found.gradient(view) > -1e-9).all()
    found.starts, found.levels = np.zeros(1), np.array([found.reference])
    places, gains = found.positions(points), found.expected(view)
    assert np.allclose(gains, (found.cap - found.reference) * (found.end - places) / found.end)
    assert gains.min() > 0


@pytest.mark.parametrize("floor", [50.0, 1e6])
def test_out_of_reach_a_floor_still_ranks_allocations(floor):
    found, posterior, points = acquisition(0, floor)
    gains = found.expected(posterior.at(points))
    assert np.isfinite(gains).all()
    assert len(np.unique(gains)) > 10


# Costs.


def test_costs_are_those_of_the_task_up_to_a_constant():
    surrogate = surrogate_of(TASK)[0]
    evidence = draw_evidence(TASK, "scores", trials=8)
    own = TASK.feasible.costs_of(evidence.models, evidence.samples)
    measured = replace(evidence, measured=tuple(50 * own))
    points = surrogate.points(*draw_allocations(TASK, np.random.default_rng(1), 30))
    expected = TASK.feasible.costs_of(points.models, points.samples)
    assert np.allclose(Costs(measured)(points), expected)


def test_measured_costs_that_differ_are_predicted():
    """A latency that favors one model is learned within some percent from 25 trials."""
    surrogate = surrogate_of(TASK)[0]
    evidence = draw_evidence(TASK, "scores", trials=25)

    def latency(models, samples):
        return ((1 + 3 * models) * samples**0.5).sum(axis=1)

    evidence = replace(evidence, measured=tuple(latency(evidence.models, evidence.samples)))
    points = surrogate.points(*draw_allocations(TASK, np.random.default_rng(1), 200))
    truth = latency(points.models, points.samples)

    def error(predicted):
        """Return the mean error of the logarithm, up to a constant."""
        ratios = np.log(predicted / truth)
        return np.abs(ratios - np.median(ratios)).mean()

    plain = TASK.feasible.costs_of(points.models, points.samples)
    assert error(Costs(evidence)(points)) < 0.25 * error(plain)


@pytest.mark.parametrize("values", [1e300, [1e-300, 1e300], [1.0, 1e9], [1e-3, 1.0, 1e3]])
def test_any_measured_costs_leave_predictions_finite(values):
    evidence = draw_evidence(TASK, "scores", trials=20)
    measured = tuple(np.resize(np.array(values), len(evidence.scores)).tolist())
    surrogate = surrogate_of(TASK)[0]
    points = surrogate.points(*draw_allocations(TASK, np.random.default_rng(1), 30))
    predicted = Costs(replace(evidence, measured=measured))(points)
    assert np.isfinite(predicted).all()
    assert (predicted > 0).all()


def test_repeated_measurements_count_as_their_mean():
    """One lucky latency among many does not make an allocation cheap."""
    evidence = draw_evidence(TASK, "scores", trials=6)
    evidence = evidence.take(np.repeat(np.arange(6), 10))
    own = TASK.feasible.costs_of(evidence.models, evidence.samples)
    noise = np.tile([0.1, *[1.0] * 9], 6)
    points = surrogate_of(TASK)[0].points(evidence.models, evidence.samples)
    predicted = Costs(replace(evidence, measured=tuple(own * noise)))(points)
    ratios = predicted / own
    assert np.allclose(ratios / ratios.mean(), 1, atol=0.2)


# Searches.


def test_a_search_finds_a_better_front_than_tpe():
    """By the area under the front, from a score of 0 up to the budget."""

    def area(study):
        pairs = sorted((t.values[1], t.values[0]) for t in study.trials if t.values)
        costs, scores = np.array(pairs).T
        front = np.maximum.accumulate(scores)
        return float(np.diff(costs, append=TASK.budget) @ front)

    ours = area(search(n_trials=20))
    for seed in range(2):
        study = optuna.create_study(
            directions=["maximize", "minimize"], sampler=TPESampler(seed=seed)
        )
        study.optimize(two, n_trials=20)
        assert ours > area(study)


def test_the_same_trials_give_the_same_search_in_any_units():
    """Also of costs times a constant, of a score to minimize, and by a copied sampler."""
    expected = params_of(search())

    def dearer(trial):
        found, cost = two(trial)
        return found, 50 * cost

    assert params_of(search(dearer)) == expected

    def error(trial):
        found, cost = two(trial)
        return 1 - found, cost

    minimized = search(error, directions=["minimize"] * 2)
    assert params_of(minimized)[:3] == expected[:3]
    sampler = pickle.loads(pickle.dumps(copy.deepcopy(AgentTTSSampler(TASK, explain=False))))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    study.optimize(two, n_trials=12)
    assert params_of(study) == expected


def two_cost(trial):
    """Return the cost of what a trial was given."""
    known = TASK.choices_from_params(trial.params)
    return TASK.feasible.cost([known[stage] for stage in range(len(TASK.stages))])


@pytest.mark.parametrize("directions", [["maximize"], ["maximize", "minimize"]])
def test_earlier_studies_are_experience_whatever_they_cost(directions):
    """Scores of earlier studies have one meaning, with and without a second objective."""

    def target(trial):
        return two(trial)[: len(directions)]

    earlier = search(n_trials=6)
    assert params_of(search(target, 4, directions, experience=[earlier])) != params_of(
        search(target, 4, directions)
    )
    third = search(lambda trial: (*two(trial), 1.0), 1, ["maximize", "minimize", "minimize"])
    with pytest.raises(TaskError, match="then a cost to minimize"):
        AgentTTSSampler(TASK, experience=[third])


def test_workers_share_a_search(tmp_path):
    """Two workers repeat no allocation."""
    optuna.create_study(
        directions=["maximize", "minimize"],
        study_name="s",
        storage=open_storage("sqlite", tmp_path / "s.db"),
    )

    def work():
        storage = open_storage("sqlite", tmp_path / "s.db")
        sampler = AgentTTSSampler(TASK, explain=False)
        study = optuna.load_study(study_name="s", storage=storage, sampler=sampler)
        study.optimize(two, n_trials=6)
        storage.engine.dispose()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    study = optuna.load_study(study_name="s", storage=open_storage("sqlite", tmp_path / "s.db"))
    assert len(study.trials) == 12
    assert len({str(sorted(params.items())) for params in params_of(study)}) == 12


def test_ranges_of_the_objective_are_kept():
    def ranged(trial):
        model = trial.suggest_categorical("retrieval.model", ["qwen-7B", "qwen-72B"])
        trial.suggest_categorical("answer.model", ["small-3B"])
        number = trial.suggest_int("retrieval.samples", 1, 3)
        other = trial.suggest_int("answer.samples", 2, 20, step=2)
        allocation = TASK.allocation([(["qwen-7B", "qwen-72B"].index(model), number), (0, other)])
        return score(allocation), TASK.cost(allocation)

    study = search(ranged)
    assert {t.user_attrs["agenttts:origin"] for t in study.trials} <= {"opening", "numerical"}
    assert len({str(params) for params in params_of(study)}) == 12


def test_constraints_are_met():
    """Most later trials meet a constraint, and so does all of the frontier that was tried."""

    def constraints(trial):
        return (trial.user_attrs["samples"] - 20.0,)

    def constrained(trial):
        allocation = TASK.suggest(trial)
        trial.set_user_attr("samples", sum(setting.samples for setting in allocation.values()))
        return score(allocation), TASK.cost(allocation)

    study = search(constrained, n_trials=16, constraints_func=constraints)
    late = [t.user_attrs["samples"] <= 20 for t in study.trials[8:]]
    assert sum(late) >= 5
    for point in recommend(study).frontier.points:
        if point.tried:
            assert sum(setting.samples for setting in point.allocation.values()) <= 20


@pytest.mark.parametrize(
    ("directions", "values", "reason"),
    [
        (["maximize", "maximize"], lambda s, c: (s, c), "is maximized"),
        (["maximize", "minimize", "minimize"], lambda s, c: (s, c, c), "it has 3 objectives"),
        (["minimize", "minimize"], lambda s, c: (c, 1 - s), "return the score first"),
        (["maximize", "minimize"], lambda s, c: (c, 1 - s), "return the score first"),
        (["maximize", "minimize"], lambda s, c: (s, -c), "below 0"),
    ],
)
def test_other_objectives_are_those_of_tpe_and_named_once(directions, values, reason, caplog):
    study = search(lambda t: values(*two(t)), 8, directions)
    (line,) = [r.getMessage() for r in caplog.records if "objectives" in r.getMessage()]
    assert reason in line
    assert "agenttts:origin" not in study.trials[-1].user_attrs


def test_scores_of_0_are_no_costs():
    """Early trials of a hard task all fail, and are planned like any others."""
    study = search(lambda trial: (0.0, two(trial)[1]), n_trials=6)
    assert all("agenttts:origin" in trial.user_attrs for trial in study.trials)


# What is reported.


def test_a_recommendation_has_the_frontier(tmp_path):
    study = search()
    found = recommend(study)
    assert found.frontier == frontier(study)
    assert found.allocation == found.frontier.best.allocation
    assert str(found.frontier) in str(found)
    assert "frontier" in str(summarize(study)).lower()
    found.save(tmp_path / "found.json")
    assert Recommendation.load(tmp_path / "found.json") == found
    assert found._repr_html_()


@pytest.mark.parametrize("factor", [0.001, 1.0, 50.0])
def test_the_frontier_is_in_units_of_the_second_value(factor):
    """Prices are the task's cost times a constant, which need not be 1."""

    def priced(trial):
        found, cost = two(trial)
        return found, factor * cost

    study = search(priced)
    prices = {str(dict(sorted(t.params.items()))): t.values[1] for t in study.trials}
    tried = [point for point in recommend(study).frontier.points if point.tried]
    assert tried
    for point in tried:
        assert point.cost == pytest.approx(prices[str(dict(sorted(point.params.items())))])


def test_callbacks_stop_searches_with_two_objectives():
    study = search(n_trials=1)
    callbacks = [StopWhenSettled(gain=0.5, trials=1), StopWhenExhausted()]
    study.optimize(two, n_trials=20, callbacks=callbacks)
    assert len(study.trials) < 20


# Searches for the cheapest allocation of a score.


def test_a_search_for_a_floor_finds_a_cheap_allocation():
    """It is cheaper than what the search for the best score finds, or as cheap."""
    costs = []
    for floor in (0.5, None):
        study = optuna.create_study(
            direction="maximize", sampler=AgentTTSSampler(TASK, at_least=floor, explain=False)
        )
        study.optimize(lambda t: two(t)[0], n_trials=15)
        reach = [two_cost(t) for t in study.trials if t.value >= 0.5]
        costs.append(min(reach))
    assert costs[0] <= costs[1]


def test_a_floor_must_fit_the_direction():
    for direction, options, message in (
        ("maximize", {"at_most": 0.4}, "maximizes: give `at_least`"),
        ("minimize", {"at_least": 0.4}, "minimizes: give `at_most`"),
    ):
        study = optuna.create_study(direction=direction, sampler=AgentTTSSampler(TASK, **options))
        with pytest.raises(TaskError, match=message):
            study.optimize(lambda t: two(t)[0], n_trials=1)
        assert study.trials[0].state == optuna.trial.TrialState.FAIL
    for options in ({"at_least": float("nan")}, {"at_least": 0.5, "at_most": 0.5}):
        with pytest.raises(TaskError, match="at_least"):
            AgentTTSSampler(TASK, **options)


def test_evidence_of_one_objective_has_no_measured_costs():
    assert not Evidence.empty(TASK).frontier
    assert Evidence.empty(TASK).measured == ()
