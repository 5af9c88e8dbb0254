"""Figures of expected scores agree with what `recommend`, `frontier` and the reports return."""

import builtins
import itertools

import numpy as np
import optuna
import pytest
from core_support import SMALL, allocation_of, wiki_task
from core_support import score as rate_of
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.samplers import TPESampler
from optuna.trial import TrialState
from study_cases import draw_outcomes, one_stage, small, study_with_outcomes, trial_of

from optuna_agenttts import (
    AgentTTSError,
    Model,
    NoEvidenceError,
    Stage,
    Task,
    TaskError,
    frontier,
    recommend,
)
from optuna_agenttts.report.importances import importances_of
from optuna_agenttts.report.maps import map_of
from optuna_agenttts.report.saturation import saturation_of
from optuna_agenttts.report.text import score_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.visualization import (
    plot_allocation_map,
    plot_frontier,
    plot_importances,
    plot_saturation,
    style,
)

TASK = wiki_task(max_samples=32, metric="exact match", metric_range=(0, 1))


def searched(sign=1, trials=24, task=TASK):
    """Return a study of TPE with outcomes around a known rate, negated to minimize."""

    def target(trial):
        rng = np.random.default_rng(trial.number)
        outcomes = draw_outcomes(rng, [rate_of(task.suggest(trial))], 30)[0]
        outcomes = outcomes if sign > 0 else 1 - outcomes
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(outcome, step)
        if trial.number == 5:
            raise optuna.TrialPruned
        return float(outcomes.mean())

    direction = "maximize" if sign > 0 else "minimize"
    study = optuna.create_study(direction=direction, sampler=TPESampler(seed=0))
    study.optimize(target, n_trials=trials)
    return study


@pytest.fixture(scope="module")
def study():
    return searched()


@pytest.fixture(scope="module")
def minimized():
    return searched(sign=-1)


def many_models_task(stages=2, models=7):
    """Return a task of many models and stages."""
    return Task(
        name="many",
        stages=[
            Stage(
                name,
                models=[Model(f"m{i}-{i + 1}B") for i in range(models)],
                prompt_tokens=100,
                generation_tokens=50,
                max_samples=6,
            )
            for name in "abcdef"[:stages]
        ],
        budget=300,
    )


def any_study(task, trials=8, seed=0):
    """Return a study of random allocations with random scores."""
    rng = np.random.default_rng(seed)
    found = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed)
    )

    def target(trial):
        task.suggest(trial)
        return float(rng.random())

    found.optimize(target, n_trials=trials)
    return found


def stars(figure):
    """Return the places of the recommended allocation, as (x, y)."""
    return [
        (trace.x[0], trace.y[0])
        for trace in figure.data
        if trace.type == "scatter" and trace.marker.symbol == "star" and trace.x[0] is not None
    ]


def subtitle(figure):
    """Return the lines below the title."""
    return figure.layout.title.subtitle.text.replace("<br>", " ")


# The frontier.


@pytest.mark.parametrize("kind", ["study", "minimized"])
def test_the_frontier_is_what_frontier_returns(kind, request):
    study = request.getfixturevalue(kind)
    figure, found, best = plot_frontier(study), frontier(study), recommend(study)
    points = {
        (x, y)
        for trace in figure.data
        if (trace.name or "").startswith("on the frontier")
        for x, y in zip(trace.x, trace.y)
    }
    assert points == {(point.cost, point.value) for point in found.points}
    assert stars(figure) == [(best.cost, best.value)]
    low, high = (t for t in figure.data if t.line.width == 0)
    assert high.fill == "tonexty"
    assert list(zip(low.y, high.y))[:-1] == [point.interval for point in found.points]
    line = next(trace for trace in figure.data if trace.name == "frontier, expected")
    assert line.line.shape == "hv"
    assert line.x[-1] == TASK.budget, "the last point is the one to use up to the budget"


def test_each_trial_is_at_its_cost_and_value(study):
    figure = plot_frontier(study)
    shown = {
        (x, y): trace.name
        for trace in figure.data
        if "trial" in (trace.name or "")
        for x, y in zip(trace.x, trace.y)
    }
    for trial in study.trials:
        outcomes = list(trial.intermediate_values.values())
        if not outcomes:
            continue  # No samples fit the budget beside the suggested models.
        cost = TASK.cost(allocation_of(trial))
        name = "trial" if trial.state == TrialState.COMPLETE else "stopped trial, mean so far"
        place = next(place for place in shown if place == pytest.approx((cost, np.mean(outcomes))))
        assert shown[place] == name


def test_ties_are_marked():
    rng = np.random.default_rng(0)
    same = draw_outcomes(rng, [0.8], 60)[0]
    study = study_with_outcomes(one_stage(), [(small(2), same), (small(8), same)])
    best = recommend(study, one_stage())
    figure = plot_frontier(study, one_stage())
    ties = [trace for trace in figure.data if trace.name == "as good for less"]
    assert [(x, y) for t in ties for x, y in zip(t.x, t.y)] == [
        (tie.cost, tie.value) for tie in best.ties
    ]


def test_trials_that_violate_constraints_are_told_apart():
    study = any_study(TASK, trials=0)

    def target(trial):
        TASK.suggest(trial)
        trial.set_user_attr("c", 1.0 if trial.number % 2 else -1.0)
        return 0.5

    study.sampler = TPESampler(
        seed=0, constraints_func=lambda trial: [trial.user_attrs.get("c", -1.0)]
    )
    study.optimize(target, n_trials=8)
    names = [trace.name for trace in plot_frontier(study).data]
    assert "violates constraints" in names


# Saturation.


@pytest.mark.parametrize("kind", ["study", "minimized"])
def test_lines_bars_and_trials_are_those_of_the_curves(kind, request):
    study = request.getfixturevalue(kind)
    figure, view = plot_saturation(study), StudyView(study)
    found = view.get(saturation_of)
    best = view.recommendation
    assert stars(figure) == [
        (allocation.samples, best.value) for allocation in best.allocation.values()
    ]
    for curve in found.curves:
        name = f"{curve.stage}: {curve.model},"
        traces = [t for t in figure.data if name in (t.hovertemplate or "")]
        lines = [t for t in traces if t.mode == "lines"]
        expected = dict(zip(curve.samples, curve.values))
        drawn = {x: y for line in lines for x, y in zip(line.x, line.y)}
        assert drawn
        assert all(expected[x] == y for x, y in drawn.items())
        if curve.affordable:
            thick = max(lines, key=lambda line: line.line.width)
            assert max(thick.x) == curve.affordable
        bars = [t for t in traces if t.marker.symbol == "line-ns"]
        saturates = curve.saturates_at is not None and curve.saturates_at < curve.affordable
        assert [bar.x[0] for bar in bars] == ([curve.saturates_at] if saturates else [])
        if curve.recommended:
            assert f"{curve.stage}, {curve.model}: " in subtitle(figure)
        points = [t for t in traces if "trial" in t.hovertemplate]
        assert {
            (number, x, y) for t in points for (number, _), x, y in zip(t.customdata, t.x, t.y)
        } == {(trial.number, trial.samples, trial.value) for trial in curve.trials}


def test_the_band_is_the_interval_within_the_budget(study):
    figure, found = plot_saturation(study), StudyView(study).get(saturation_of)
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    for band in bands:
        curve = max(
            (c for c in found.curves if c.model == band.legendgroup), key=lambda c: c.affordable
        )
        half = len(band.x) // 2
        intervals = dict(zip(curve.samples, curve.intervals))
        for x, high, low in zip(band.x[:half], band.y[:half], band.y[half:][::-1]):
            assert (low, high) == intervals[x]


@pytest.mark.parametrize(("stages", "colored"), [(2, 4), (4, 2)])
def test_of_many_models_the_best_ones_have_colors(stages, colored):
    task = many_models_task(stages)
    view = StudyView(any_study(task), task)
    figure, found = plot_saturation(view.study, task), view.get(saturation_of)
    legend = [t.name for t in figure.data if t.showlegend is not False]
    assert "other models" in legend
    bands = {t.legendgroup for t in figure.data if t.mode == "lines"} - {"other models"}
    assert len(bands) <= colored * stages
    assert {c.model for c in found.curves if c.recommended} <= bands


@pytest.mark.slow
def test_figures_of_a_thousand_trials_are_small():
    task = many_models_task(stages=4)
    study = any_study(task, trials=1000)
    for plot in (plot_saturation, plot_frontier, plot_allocation_map, plot_importances):
        assert len(plot(study, task).to_json()) < 150_000


def test_axes_of_scores_do_not_leave_the_range_of_the_metric(study):
    for plot in (plot_saturation, plot_frontier):
        axis = plot(study).layout.yaxis
        assert -0.1 < axis.minallowed < 0
        assert 1 < axis.maxallowed < 1.1
    free = wiki_task(max_samples=8)
    assert plot_frontier(any_study(free), free).layout.yaxis.minallowed is None


# Importances.


def test_bars_are_the_importances_with_their_intervals(study):
    figure, found = plot_importances(study), StudyView(study).get(importances_of)
    shares = {}
    for trace in figure.data:
        for i, (x, y) in enumerate(zip(trace.x, trace.y)):
            ends = (x - trace.error_x.arrayminus[i]) / 100, (x + trace.error_x.array[i]) / 100
            shares[figure.layout.yaxis.ticktext[y].split("<br>")[0]] = (x / 100, ends)
    assert len(shares) == len(found)
    for importance in found:
        share, ends = shares[f"{importance.stage}: {importance.setting}"]
        assert share == pytest.approx(importance.share)
        assert ends == pytest.approx(importance.interval)
    order = sorted(range(len(found)), key=lambda i: found[i].share)
    labels = [text.split("<br>")[0] for text in figure.layout.yaxis.ticktext]
    assert labels == [f"{found[i].stage}: {found[i].setting}" for i in order]


# The map.


@pytest.mark.parametrize("kind", ["study", "minimized"])
def test_panels_are_those_of_the_map(kind, request):
    study = request.getfixturevalue(kind)
    figure, view = plot_allocation_map(study), StudyView(study)
    found = map_of(view)
    heatmaps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(heatmaps) == len(found.panels) == 4
    drawn = [
        value for trace in heatmaps for line in trace.z for value in line if value is not None
    ]
    within = [v for panel in found.panels for v in panel.values.ravel() if not np.isnan(v)]
    assert sorted(drawn) == sorted(within)
    assert len(stars(figure)) == 1
    trials = [t for t in figure.data if t.hovertext and "trial" in t.hovertext[0]]
    assert sum(len(t.x) for t in trials) == sum(len(p.trials) for p in found.panels)
    # Bright colors are good ones.
    assert bool(figure.layout.coloraxis.reversescale) == (kind == "minimized")


def test_trials_are_at_their_samples_also_over_the_budget():
    task = wiki_task(max_samples=32, metric_range=(0, 1), budget=300)
    found = optuna.create_study(direction="maximize")
    for number, value in ((1, 0.2), (2, 0.3), (32, 0.9), (30, 0.8)):
        allocation = {stage.name: (stage.models[0].name, number) for stage in task.stages}
        found.add_trial(trial_of(task, allocation, value))
    figure = plot_allocation_map(found, task)
    drawn = set()
    for trace in figure.data:
        if trace.hovertext and "trial" in trace.hovertext[0]:
            axis = figure.layout[trace.xaxis.replace("x", "xaxis")]
            ticks = {int(text): place for place, text in zip(axis.tickvals, axis.ticktext)}
            drawn |= {x / max(ticks.values()) for x in trace.x}
            assert max(ticks) == 32
    assert max(drawn) == 1
    assert len(drawn) == 4


def test_what_violates_constraints_is_not_called_over_the_budget():
    study = any_study(TASK, trials=0)

    def target(trial):
        settings = TASK.suggest(trial).values()
        trial.set_user_attr("c", sum(setting.samples for setting in settings) - 20.0)
        return 1 / (2 + trial.number)

    study.sampler = TPESampler(
        seed=0, constraints_func=lambda trial: [trial.user_attrs.get("c", 1.0)]
    )
    study.optimize(target, n_trials=12)
    for plot in (plot_saturation, plot_allocation_map):
        figure = plot(study)
        texts = [subtitle(figure), *(trace.name or "" for trace in figure.data)]
        named = [text for text in texts if "budget" in text]
        assert named
        assert all("over the budget or constraints" in text for text in named)


def test_the_recommended_models_are_shown_among_many():
    task = many_models_task()
    for seed in range(3):
        study = any_study(task, seed=seed)
        figure = plot_allocation_map(study, task)
        assert len([t for t in figure.data if t.type == "heatmap"]) == 12
        assert len(stars(figure)) == 1
        assert "left out" in subtitle(figure)


def test_more_stages_have_a_panel_for_each_pair():
    task = many_models_task(stages=4, models=2)
    study = any_study(task)
    figure = plot_allocation_map(study, task)
    titles = [axis.title.text for axis in figure.select_xaxes()]
    assert titles == ["samples of a", "samples of b", "samples of c"]
    assert len(stars(figure)) == 3
    one = plot_allocation_map(study, task, earlier="a", later="c")
    assert "samples of a (across) and c (up)" in subtitle(one)
    with pytest.raises(TaskError, match="one of a, b, c, d"):
        plot_allocation_map(study, task, earlier="e")


# The style.


def luminance(color):
    """Return the relative luminance of a color (WCAG 2.2)."""
    parts = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(
    ("score", "margin", "text"),
    [
        (1.0000003881e12, 2e4, "1.000000388e+12"),
        (3.881e11, 2e10, "3.88e+11"),
        (3.881e-10, 2e-11, "3.88e-10"),
        (0.5 + 3e-12, 2e-12, "0.5000000000030"),
        (0.0, 1e-12, "0.00"),
        (1e12, 0.0, "1.00e+12"),
        (0.4281, 0.05, "0.428"),
    ],
)
def test_scores_that_differ_have_different_texts(score, margin, text):
    assert score_text(score, margin) == text
    if margin:
        assert float(score_text(score + 2 * margin, margin)) > float(text)


def test_numbers_have_no_metric_prefixes(study):
    for plot in (plot_saturation, plot_frontier, plot_allocation_map):
        layout = plot(study).layout
        assert layout.template.layout.yaxis.exponentformat == "power"
    assert layout.coloraxis.colorbar.exponentformat == "power"


def test_panels_of_six_stages_have_room():
    task = many_models_task(stages=6, models=8)
    figure = plot_saturation(any_study(task), task)
    assert figure.layout.title.subtitle.text.count("<br>") < 4
    titles = [axis.title.text for axis in figure.select_yaxes() if axis.title.text]
    assert len(titles) == 1
    importances = plot_importances(any_study(task), task)
    assert not any("<br>" in text for text in importances.layout.yaxis.ticktext)


def test_lines_differ_by_more_than_color():
    marks = [style.mark(position) for position in range(280)]
    assert len(set(marks)) == 280
    for first, second in itertools.combinations(marks[:20], 2):
        assert (first.symbol, first.dash) != (second.symbol, second.dash)


def test_colors_stand_out_on_white():
    """The contrast of graphical objects (WCAG 2.2, 1.4.11) is at least 2, of most of them 3."""
    contrasts = [1.05 / (luminance(color) + 0.05) for color in style.COLORS]
    assert min(contrasts) > 2
    assert sum(contrast > 3 for contrast in contrasts) > len(contrasts) / 2


TEXTS = st.text(max_size=60) | st.text(alphabet="ab /<&$\n\ud800😀", max_size=60)


@given(st.lists(TEXTS, max_size=6, unique=True), st.integers(4, 30))
@settings(max_examples=200)
def test_short_names_are_different_and_short(names, length):
    found = style.short_names(names, length)
    assert list(found) == names
    assert len(set(found.values())) == len(names)
    longest = max(map(len, found.values()), default=0)
    # An escaped character takes six, and a number that tells equal names apart four more.
    assert longest <= 6 * (2 * length) + 4


@given(TEXTS)
def test_texts_are_shown_as_they_are(text):
    for shown in (style.escape(text), style.lines([text]).replace("<br>", " ")):
        assert not set(shown) & set("<>${}\n")
        shown.encode()


def test_numbers_of_equal_names_are_not_names_of_others():
    names = ["a (2)", "a", "a  ", "a   "]
    assert len(set(style.short_names(names).values())) == len(names)


def test_only_names_of_the_hub_are_cut_at_a_slash():
    assert style.short_names(["<b>plan</b> & go", "yes / no"]) == {
        "<b>plan</b> & go": "&lt;b&gt;plan&lt;/b&gt; &amp; go",
        "yes / no": "yes / no",
    }


def test_the_name_of_a_model_on_the_hub_loses_its_organization():
    names = style.short_names(["Qwen/Qwen2.5-7B-Instruct", "meta-llama/Llama-3.1-8B"])
    assert list(names.values()) == ["Qwen2.5-7B-Instruct", "Llama-3.1-8B"]
    names = style.short_names(["a/model", "b/model"])
    assert list(names.values()) == ["a/model", "b/model"]


def test_without_plotly_the_error_has_the_command(study, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name.partition(".")[0] == "plotly":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(AgentTTSError, match=r"pip install optuna-agenttts\[plot\]"):
        plot_importances(study)


def test_one_model_and_one_sample_have_figures():
    stage = Stage("a", models=[Model(SMALL)], prompt_tokens=9, generation_tokens=9, max_samples=1)
    task = Task(name="one", stages=[stage])
    study = any_study(task, trials=2)
    assert plot_frontier(study, task).data
    assert "Too few trials" in subtitle(plot_saturation(study, task))
    with pytest.raises(NoEvidenceError, match="Too few different trials"):
        plot_importances(study, task)
