"""What people read of studies of two objectives: intervals, confirmations, reports, figures."""

import math
from functools import partial

import numpy as np
import optuna
import optuna_dashboard
import pytest
from core_support import open_storage, score, wiki_task
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from optuna_agenttts import (
    AgentTTSSampler,
    PrintTrials,
    StopAtSpend,
    carry_over,
    confirm,
    explain,
    frontier,
    recommend,
    report_outcomes,
    search,
    storage,
    summarize,
    trials_dataframe,
)
from optuna_agenttts.confirmation import policy
from optuna_agenttts.explanation.attributes import facts_of
from optuna_agenttts.explanation.webpage import web_page
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.archive import Archive
from optuna_agenttts.visualization.figures import ALL_FIGURES

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

TASK = wiki_task(metric="exact match", metric_range=(0, 1))
BOTH = ["maximize", "minimize"]
FRESH = list(range(1000, 1300))
LUCK = np.random.default_rng(0).random(2000)


def outcomes_of(allocation, instances):
    """Return outcomes of 0 and 1 whose mean is near the score."""
    return [float(LUCK[instance] < score(allocation)) for instance in instances]


def latency(allocation):
    """Return a latency that is no multiple of the task's cost."""
    return sum(math.sqrt(setting.samples) for setting in allocation.values())


def objective(trial, second=TASK.cost):
    """Report outcomes of 30 instances, and return their mean, with a second value if asked for."""
    allocation = TASK.suggest(trial)
    outcomes = outcomes_of(allocation, range(30))
    report_outcomes(trial, outcomes)
    mean = float(np.mean(outcomes))
    return (mean, second(allocation)) if len(trial.study.directions) == 2 else mean


def searched(n_trials=12, second=TASK.cost, sampler=None, storage=None, callbacks=()):
    """Return a study of two objectives."""
    sampler = sampler or AgentTTSSampler(TASK, explain=False)
    study = optuna.create_study(directions=BOTH, sampler=sampler, storage=storage)
    TASK.register(study)
    study.optimize(partial(objective, second=second), n_trials=n_trials, callbacks=callbacks)
    return study


# Outcomes.


def test_the_same_trials_have_the_same_intervals_with_one_objective():
    study = searched()
    single = optuna.create_study(direction="maximize")
    for trial in study.trials:
        single.enqueue_trial(trial.params)
    single.optimize(objective, n_trials=len(study.trials))
    ours, theirs = recommend(study, TASK), recommend(single, TASK)
    assert ours.interval == theirs.interval
    assert ours.interval is not None
    assert ours.frontier == frontier(single, TASK)
    assert all(point.interval for point in ours.frontier.points)


@pytest.mark.parametrize("name", ["sqlite", "journal"])
def test_outcomes_survive_storages(name, tmp_path):
    opened = open_storage(name, tmp_path / "s")
    study = searched(6, storage=opened)
    again = optuna.load_study(study_name=study.study_name, storage=opened)
    assert recommend(again).interval == recommend(searched(6)).interval


def test_stopped_trials_with_outcomes_do_not_disturb_samplers():
    """Optuna's TPE raises an error on intermediate values of pruned trials of two objectives."""

    def stopped(trial):
        value = objective(trial)
        trial.suggest_float("other", 0, 1)
        if trial.number % 3 == 0:
            raise optuna.TrialPruned
        return value

    for sampler in (AgentTTSSampler(TASK, explain=False, n_startup_trials=2), TPESampler(seed=0)):
        study = optuna.create_study(directions=BOTH, sampler=sampler)
        study.optimize(stopped, n_trials=15)
        TASK.register(study)
        assert recommend(study).interval is not None
        evidence = Archive.of(study, TASK).read(study.trials)
        assert sum(evidence.stopped) == 5


def test_costs_that_the_task_knows_are_not_measured():
    """Also if the task's lengths were measured since."""

    def known(trial):
        score, cost = objective(trial)
        storage.write_trial_facts(trial, {storage.COST: cost})
        return score, cost

    study = optuna.create_study(directions=BOTH, sampler=AgentTTSSampler(TASK, explain=False))
    study.optimize(known, n_trials=3)
    study.optimize(objective, n_trials=3)
    measured = Archive.of(study, TASK).read(study.trials).measured
    assert [math.isnan(value) for value in measured] == [True] * 3 + [False] * 3


# Confirmations.


def test_the_frontier_is_confirmed_on_fresh_instances():
    study = searched()
    tried = {str(p.allocation) for p in frontier(study, tried_only=True).points}
    found = confirm(study, outcomes_of, FRESH, evaluations=600)
    assert 0 < found.evaluations <= 600
    first = [t for t in study.trials if storage.confirmation_block(t) == 1]
    assert {str(TASK.allocation(TASK.read(t.params))) for t in first} <= tried
    for trial in first:
        same = [t for t in study.trials[:12] if t.params == trial.params]
        assert trial.values[1] == same[0].values[1]
        assert trial.state == TrialState.COMPLETE
    assert found.recommendation.frontier is not None
    assert all(point.interval for point in found.recommendation.frontier.points)
    assert max(point.instances for point in found.recommendation.frontier.points) > 30
    count = len(study.trials)
    confirm(study, outcomes_of, FRESH, evaluations=600)
    assert len(study.trials) - count <= len(first)


def test_a_block_of_a_front_leaves_out_what_adds_least():
    """As many as the limits cover on forty instances each; the ends always stay."""
    means = np.array([0.1, 0.11, 0.5, 0.51, 0.6])
    costs = np.array([1.0, 2.0, 3.0, 50.0, 50.5])
    for evaluations, kept in ((2000, [0, 1, 2, 3, 4]), (160, [0, 1, 2, 4]), (120, [0, 2, 4])):
        limits = policy.Limits(np.array([float(evaluations)]), np.ones((1, 5)), 1000)
        block = policy.front_block(means, costs, limits, 4)
        assert block.positions.tolist() == kept
        assert block.instances == evaluations // len(kept) // 4
    limits = policy.Limits(np.array([2.0]), np.ones((1, 5)), 1000)
    assert policy.front_block(means, costs, limits, 4).positions.tolist() == [0, 4]


def test_a_search_confirms_the_frontier_within_one_limit():
    study = optuna.create_study(directions=BOTH, sampler=AgentTTSSampler(TASK, explain=False))
    found = search(study, outcomes_of, list(range(300)), evaluations=1000, per_trial=25)
    assert 300 <= found.trials * 25 <= 400 < found.evaluations <= 1000
    assert found.recommendation.frontier is not None
    assert all(len(trial.values) == 2 for trial in study.trials)
    assert "frontier" not in str(found.confirmation.reason)


# Measured costs.


def test_the_frontier_of_measured_costs_is_over_them():
    """Its points are the best scores at every latency, in the latency's unit."""
    study = searched(14, latency)
    study.set_metric_names(["exact match", "seconds"])
    found = frontier(study, tried_only=True)
    assert found.unit == "seconds"
    assert "cost in seconds per instance" in str(found)
    costs = [point.cost for point in found.points]
    assert costs == sorted(costs)
    for point in found.points:
        assert point.cost == pytest.approx(latency(point.allocation), rel=0.3)
        assert point.costs["reference samples"] == TASK.cost(point.allocation)
    assert found.at(costs[0]).allocation == found.points[0].allocation
    assert f"cost {found.points[0].cost:.4g} seconds per instance" in str(found.points[0])
    assert "no cost in" not in str(found)
    summary, cost = summarize(study), f"{found.best.cost:.4g} seconds"
    assert f"Cost: {cost} per instance; the task's cost is" in " ".join(str(summary).split())
    assert facts_of(summary)["Cost"].startswith(f"{cost}; ")
    assert f"for {cost} per instance" in web_page(StudyView(study), {})
    figure = ALL_FIGURES["frontier"](StudyView(study))
    assert "seconds" in figure.layout.xaxis.title.text
    shown = next(trace for trace in figure.data if trace.name == "trial")
    assert set(shown.x) <= {trial.values[1] for trial in study.trials}
    confirmed = confirm(study, outcomes_of, FRESH, evaluations=200)
    assert confirmed.recommendation.frontier.unit == "seconds"
    assert str(frontier(carry_over(study, TASK))) == str(frontier(study))


# Reports.


@pytest.mark.parametrize("second", [TASK.cost, latency])
def test_every_report_shows_the_frontier(second, tmp_path, capsys):
    """Of the task's costs, and of measured ones: nothing raises."""
    study = searched(10, second, callbacks=[PrintTrials(), StopAtSpend(1e9)])
    printed = capsys.readouterr().out
    assert ("second value" in printed) == (second is latency)
    text = str(summarize(study))
    assert "What to use for a budget" in text
    assert summarize(study).recommendation == recommend(study)
    assert "report_outcomes" not in text
    assert "may show that a cheaper one is as good" not in text
    assert summarize(study)._repr_html_()
    explain(study)
    note = optuna_dashboard.get_note(study)
    assert "What to use for a budget" in note
    assert "recommend(study).frontier.at(budget)" in note
    attributes = study._storage.get_study_system_attrs(study._study_id)
    assert attributes["dashboard:objective_names"] == ["exact match", "cost"]
    notes = [text for key, text in attributes.items() if ":note_str:" in key]
    assert any("Worst of 30 instances" in each for each in notes)
    assert any("second value" in each for each in notes) == (second is latency)
    assert "**Best Trials** are the Pareto front" in note
    assert list(trials_dataframe(study).instances) == [30] * 10
    view = StudyView(study)
    for name, figure in ALL_FIGURES.items():
        if name != "thinking":
            assert figure(view).data, name
    page = web_page(view, {})
    assert "What to use for a budget" in page


def test_notes_are_written_beside_any_pruner(caplog):
    """`HyperbandPruner` hands samplers a study that lacks some properties."""
    study = optuna.create_study(
        directions=BOTH,
        sampler=AgentTTSSampler(TASK),
        pruner=optuna.pruners.HyperbandPruner(),
    )
    study.optimize(objective, n_trials=3)
    assert "could not be explained" not in caplog.text
    assert any(key.startswith("dashboard:") for key in storage.attributes_of(study))
