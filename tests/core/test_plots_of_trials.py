"""Figures of a study's spend, its outcomes and its course agree with what the trials hold."""

import math

import numpy as np
import optuna
import pytest
from core_support import run, wiki_task
from optuna.samplers import TPESampler
from study_cases import draw_outcomes, one_stage, small, study_of, study_with_outcomes

from optuna_agenttts import (
    AgentTTSSampler,
    Model,
    NoEvidenceError,
    NoTaskError,
    Stage,
    Task,
    recommend,
    spend,
)
from optuna_agenttts.report.expenditure import Expenditure, Expense, expenditure_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.visualization import plot_outcomes, plot_search, plot_spend
from optuna_agenttts.visualization.spend import figure_of_spend


def traces(figure, kind, **wanted):
    """Return the traces of a type whose attributes have the given values."""
    return [
        trace
        for trace in figure.data
        if trace.type == kind and all(trace[name] == value for name, value in wanted.items())
    ]


def subtitle(figure):
    """Return the line below the title."""
    return figure.layout.title.subtitle.text.replace("<br>", " ")


def study_with_answers(task, rng, trials=8, instances=20, **options):
    """Return a study of increasing samples, with outcomes that improve with them."""
    rates = np.linspace(0.2, 0.8, trials)
    outcomes = draw_outcomes(rng, rates, instances)
    return study_with_outcomes(
        task, [(small(i + 1), outcomes[i]) for i in range(trials)], **options
    )


def spend_of_hand(task, **values):
    """Return the figure of an expenditure."""
    view = StudyView(optuna.create_study(), task)
    common = {"confirmation": 0.0, "agent": 0.0, "agent_tokens": 0, "by_trial": ()}
    common = {**common, "measured": True, "whole": True, "unit": "TFLOPs"}
    view._computed[expenditure_of] = Expenditure(**{**common, **values})
    return figure_of_spend(view)


# Spend.


@pytest.mark.parametrize("sampler", [AgentTTSSampler(), TPESampler(seed=0)])
def test_bars_add_up_to_the_spend(sampler):
    study = run(sampler, n_trials=8)
    figure = plot_spend(study)
    spent, saved, _ = figure.data
    assert sum(spent.x) == pytest.approx(spend(study).total)
    assert sum(saved.x) == 0
    assert "(reference samples)" in figure.layout.xaxis.title.text
    assert "for one instance of each trial" in subtitle(figure)


def test_saved_samples_are_hatched_beside_what_was_spent():
    task = wiki_task()
    expenses = (
        Expense("retrieval", "qwen-7B", 30.0, 10.0, 3),
        Expense("answer", "small-3B", 50.0, 0.0, 3),
    )
    figure = spend_of_hand(task, expenses=expenses, total=80.0, agent=20.0, agent_tokens=999)
    spent, saved, *legend, texts = figure.data
    assert list(figure.layout.yaxis.ticktext)[-1] == "agent"
    assert (list(spent.x), list(saved.x)) == ([30.0, 50.0, 20.0], [10.0, 0.0, 0.0])
    assert [text.strip() for text in texts.text] == [
        f"{share} % of spend" for share in (30, 50, 20)
    ]
    assert saved.marker.pattern.shape == "/"
    assert [entry.name for entry in legend] == ["spent", "saved by reuse"]
    assert "reuse saved 10 TFLOPs" in subtitle(figure)
    # The text beside the longest bar ends within 350 pixels, of letters of 12 points.
    end = 350 * max(texts.x) / figure.layout.xaxis.range[1]
    assert end + 6.2 * max(map(len, texts.text)) <= 350
    assert "999 tokens" in spent.hovertext[2]


def test_small_bars_are_added_up():
    """A card of the dashboard has room for 14."""
    models = [Model(f"m{i}", parameters=1e9) for i in range(20)]
    stage = Stage("find", models=models, prompt_tokens=1, generation_tokens=1)
    task = Task(name="many", stages=[stage], budget=1e9)
    expenses = tuple(Expense("find", f"m{i}", float(i), 0.0, 1) for i in range(20))
    figure = spend_of_hand(task, expenses=expenses, total=190.0)
    assert list(figure.layout.yaxis.ticktext)[-1] == "7 others"
    assert sum(figure.data[0].x) == 190
    assert len(figure.data[0].x) == 14


def test_a_study_without_a_complete_trial_has_spent():
    study = optuna.create_study(direction="maximize")
    task = wiki_task()

    def fail(trial):
        task.suggest(trial)
        raise ValueError

    study.optimize(fail, n_trials=3, catch=ValueError)
    assert sum(plot_spend(study).data[0].x) == pytest.approx(spend(study).total)
    for plot, message in ((plot_search, "failed"), (plot_outcomes, "single instances")):
        with pytest.raises(NoEvidenceError, match=message):
            plot(study)


# Outcomes.


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_cells_are_the_outcomes_of_trials(direction):
    task = one_stage()
    study = study_with_answers(
        task, np.random.default_rng(0), direction=direction, seen={1: 7, 3: 5}
    )
    (cells,) = traces(plot_outcomes(study, task), "heatmap")
    for column, number in enumerate(cells.x):
        reported = study.trials[int(number)].intermediate_values
        for row, name in enumerate(cells.y):
            assert cells.z[row][column] == reported.get(int(name.removeprefix("step ")))
    assert [int(number) for number in cells.x][-2:] in ([1, 3], [3, 1])
    means = [study.trials[int(number)].value for number in cells.x[:-2]]
    assert means == sorted(means, reverse=direction == "maximize")


def test_of_many_instances_and_trials_evenly_spaced_ones_are_shown():
    task, rng = one_stage(max_samples=300, budget=1e9), np.random.default_rng(0)
    figure = plot_outcomes(study_with_answers(task, rng, trials=250, instances=400), task)
    (cells,) = traces(figure, "heatmap")
    assert (len(cells.z), len(cells.z[0])) == (300, 200)
    assert "400 instances, 250 trials (shown: 300 and 200, evenly spaced)" in (subtitle(figure))
    # A graph of the dashboard is loaded with each view of the study.
    assert len(figure.to_json()) < 300_000


def test_instances_that_decide_have_long_bars():
    """One with the same outcome everywhere has none; one that only good trials solve has."""
    task = one_stage()
    # Trials by instances: two are constant, three are harder and harder, the last one is random.
    table = [[0, 1, 0, 0, 0, 1], [0, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 1], [0, 1, 1, 1, 1, 0]]
    study = study_with_outcomes(task, [(small(i + 1), row) for i, row in enumerate(table)])
    figure = plot_outcomes(study, task)
    (bars,) = traces(figure, "bar")
    decides = dict(zip(bars.y, bars.x))
    assert decides["step 0"] == decides["step 1"] == 0
    assert decides["step 3"] > 0.5 > 0 > decides["step 5"]
    assert "2 had the same outcome in all trials" in subtitle(figure)


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0.0), (1e6, 1e12), (1.0, -5.0)])
def test_outcomes_do_not_depend_on_the_unit_of_the_metric(scale, shift):
    task, rng = one_stage(), np.random.default_rng(0)
    outcomes = rng.random((6, 20))
    figures = [
        plot_outcomes(study_with_outcomes(task, [(small(i + 1), row) for i, row in rows]))
        for rows in (list(enumerate(outcomes)), list(enumerate(scale * outcomes + shift)))
    ]
    (cells,), (others,) = (traces(figure, "heatmap") for figure in figures)
    (bars,), (same,) = (traces(figure, "bar") for figure in figures)
    expected = scale * np.array(cells.z, dtype=float) + shift
    np.testing.assert_allclose(np.array(others.z, dtype=float), expected, atol=2e-4 * scale)
    np.testing.assert_allclose(same.x, bars.x, atol=1e-4)
    assert max(bars.x) > 0.1


def test_outcomes_need_one_objective_and_reports():
    task = wiki_task()
    several = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    several.optimize(lambda trial: (len(task.suggest(trial)), 1.0, 1.0), n_trials=2)
    for plot in (plot_outcomes, plot_search):
        with pytest.raises(NoTaskError, match="3 objectives"):
            plot(several)
    with pytest.raises(NoEvidenceError, match="single instances"):
        plot_outcomes(run(TPESampler(seed=0), n_trials=2))


# Course of a search.


@pytest.mark.parametrize("sampler", [AgentTTSSampler(), TPESampler(seed=0)])
def test_the_line_ends_at_the_recommendation(sampler):
    study = run(sampler, n_trials=12)
    figure = plot_search(study)
    (line,) = traces(figure, "scatter", mode="lines", hoverinfo="text")
    assert line.x[-1] == 11
    assert line.y[-1] == pytest.approx(recommend(study).value)
    points = [t for t in traces(figure, "scatter", mode="markers") if "(" in t.name]
    shown = {x: y for trace in points for x, y in zip(trace.x, trace.y)}
    valued = {trial.number: trial.value for trial in study.trials if trial.value is not None}
    assert shown == valued
    if isinstance(sampler, TPESampler):
        assert [trace.name for trace in points] == [f"trial ({len(valued)})"]
    else:
        assert {trace.name.rpartition(" (")[0] for trace in points} == {
            "opening",
            "numerical planner",
        }


def test_the_band_is_the_interval_of_the_recommendation():
    task = one_stage()
    study = study_with_answers(task, np.random.default_rng(1))
    low, high = traces(plot_search(study, task), "scatter", mode="lines", hoverinfo="skip")
    assert (low.y[-1], high.y[-1]) == pytest.approx(recommend(study, task).interval)
    assert (low.fill, high.fill) == (None, "tonexty")


def test_stopped_trials_are_open_and_failed_ones_are_counted():
    """The value of a stopped trial is the mean of what it saw."""
    task = one_stage()
    study = study_with_answers(task, np.random.default_rng(2), seen={2: 4})
    waiting = study.trials[0]
    study.enqueue_trial(waiting.params)
    study.add_trial(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL))
    figure = plot_search(study, task)
    (points,) = (t for t in traces(figure, "scatter", mode="markers") if t.name == "trial (8)")
    symbols = dict(zip(points.x, points.marker.symbol))
    assert {n for n, symbol in symbols.items() if symbol.endswith("-open")} == {2}
    seen = list(study.trials[2].intermediate_values.values())
    assert dict(zip(points.x, points.y))[2] == pytest.approx(np.mean(seen))
    assert "Not shown: 1 failed, 1 waiting." in subtitle(figure)


def test_without_outcomes_there_is_no_band():
    task = one_stage()
    study = study_of(task, [(small(i), i / 10) for i in (1, 2, 3)], direction="minimize")
    figure = plot_search(study, task)
    assert "90 % interval" not in [t.name for t in figure.data if t.showlegend]
    assert "lower is better" in figure.layout.yaxis.title.text
    assert not any(math.isnan(y) for trace in figure.data for y in trace.y or () if y is not None)


def test_nothing_is_said_of_trials_between_the_points():
    """The recommendation may have changed there, and changed back."""
    task, rng = one_stage(), np.random.default_rng(0)
    study = study_with_answers(task, rng, trials=8)
    study.add_trials(study.get_trials()[:6] * 3)
    text = subtitle(plot_search(study, task))
    assert "since trial" not in text or "at all points of the line since trial" in text


def test_points_are_over_the_band_and_below_the_line():
    """Traces are drawn in order, and the band is opaque."""
    task = one_stage()
    figure = plot_search(study_with_answers(task, np.random.default_rng(1)), task)
    kinds = [(trace.mode, trace.hoverinfo) for trace in figure.data]
    band, points = ("lines", "skip"), ("markers", "text")
    assert kinds == [band, band, points, ("lines", "text"), points]
