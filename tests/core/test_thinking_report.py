"""Reports of tasks whose models have thinking efforts: curves, sections, figures."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from study_cases import draw_outcomes, study_with_outcomes, trial_of

from optuna_agenttts import (
    Model,
    NoEvidenceError,
    Stage,
    Task,
    efforts,
    recommend,
    storage,
    summarize,
    trials_dataframe,
)
from optuna_agenttts.explanation.graphs import figure_names
from optuna_agenttts.explanation.note import note
from optuna_agenttts.explanation.webpage import web_page
from optuna_agenttts.report.importances import _masks, importances_of
from optuna_agenttts.report.printing import _Columns
from optuna_agenttts.report.saturation import saturation_of
from optuna_agenttts.report.text import models_of, section_text, sentence
from optuna_agenttts.report.thinking import thinking_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.visualization import (
    plot_allocation_map,
    plot_importances,
    plot_saturation,
    plot_thinking,
)
from optuna_agenttts.visualization.figures import EFFORT_FIGURES, FIGURES
from optuna_agenttts.visualization.marks import base_marks, model_marks
from optuna_agenttts.visualization.style import brief, short_names

SMALL, LARGE = "org/model-8B", "org/model-32B"
HOSTILE = "<img src=x onerror=alert(1)> | %{hostile} `b`\n$x$"


def make_task(small=SMALL, **options):
    """Return a task of two stages: two models at three efforts, and one that cannot think."""
    models = [
        *efforts(Model(small, parameters=8e9), off={"a": 0}, low={"a": 1}, high={"a": 2}),
        *efforts(Model(LARGE, parameters=32e9), off={"a": 0}, low={"a": 1}, high={"a": 2}),
        Model("plain-3B", parameters=3e9),
    ]
    stages = [
        Stage(name, models=models, prompt_tokens=500, generation_tokens=100, max_samples=16)
        for name in ("retrieve", "answer")
    ]
    task = {"name": "thinking", "budget": 800, "metric": "F1", "metric_range": (0, 1)}
    return Task(stages=stages, **{**task, **options})


TASK = make_task()


def rate(task, allocation):
    """Return a rate that gains in the second stage from low thinking, but no more from high."""
    logit = -0.9
    for position, (stage, (name, samples)) in enumerate(zip(task.stages, allocation.values())):
        model = next(model for model in stage.models if model.name == name)
        thinks = model.thinking is not None and model.thinking.tokens > 0
        logit += 0.2 * math.log(model.parameters / 8e9) + 0.2 * math.log(min(samples, 4))
        logit += 1.3 * thinks * position
    return 1 / (1 + math.exp(-logit))


def study_of_efforts(task, *, ended=True, instances=60, direction="maximize"):
    """Return a study with each choice of each stage, and the replies that ended in thoughts."""
    rng = np.random.default_rng(0)
    large = 4
    chosen = [(m, 2, large, 3) for m in range(7)] + [(0, 4, m, 3) for m in range(7)]
    chosen += [(0, 4, 4, 4), (1, 4, 4, 4), (4, 2, 1, 8), (4, 4, 1, 4)]
    allocations = [
        task.allocation(task.feasible.project([(a, n), (b, m)]))
        for a, n, b, m in chosen
        if task.feasible.fits([(a, 1), (b, 1)])
    ]
    rates = [rate(task, allocation) for allocation in allocations]
    study = optuna.create_study(direction=direction)
    for allocation, outcomes in zip(allocations, draw_outcomes(rng, rates, instances)):
        facts = {
            stage: [31 if ", high" in model else 0, 100]
            for stage, (model, _) in allocation.items()
            if ", " in model
        }
        trial = trial_of(
            task,
            allocation,
            float(outcomes.mean()),
            intermediate_values=dict(enumerate(outcomes.tolist())),
            system_attrs={storage.ENDED: facts} if ended else {},
        )
        study.add_trial(trial)
    return study


@pytest.fixture(scope="module")
def view():
    return StudyView(study_of_efforts(TASK), TASK)


def test_curves_contain_the_recommendation(view):
    """At the recommended effort, value, interval and cost are those of `recommend`."""
    found = recommend(view.study, TASK)
    chosen = [c.chosen for c in thinking_of(view).curves if c.recommended]
    assert len(chosen) == 2
    for point, (model, samples) in zip(chosen, found.allocation.values()):
        assert (point.choice, point.samples) == (model, samples)
        assert point.value == point.value_alike == pytest.approx(found.value)
        assert point.interval == pytest.approx(found.interval)
        assert point.cost == point.cost_alike == pytest.approx(found.cost)


def test_curves_have_all_efforts_in_order(view):
    """Two stages of two models at three efforts; the model that cannot think has no curve."""
    curves = thinking_of(view).curves
    assert [(c.stage, c.model) for c in curves] == [
        (stage, model) for stage in ("retrieve", "answer") for model in (SMALL, LARGE)
    ]
    for curve in curves:
        assert [point.effort for point in curve.points] == ["off", "low", "high"]
        assert [point.tokens for point in curve.points] == [100, 612, 8292]
    trials = [point.trials for curve in curves for point in curve.points]
    plain = [c.trials for c in saturation_of(view).curves if c.model == "plain-3B"]
    assert sum(map(len, trials)) + sum(map(len, plain)) == 2 * len(view.trials)


def test_each_effort_has_its_best_samples_within_the_budget(view):
    """None within the budget has a better expected value, and those over it have none."""
    curves = {(curve.stage, curve.model): curve for curve in saturation_of(view).curves}
    for curve in thinking_of(view).curves:
        for point in curve.points:
            own = curves[curve.stage, point.choice]
            within = [v for n, v in zip(own.samples, own.values) if n <= own.affordable]
            assert bool(point.samples) == bool(within)
            if not own.recommended and within:
                assert point.value == max(within)
            assert (point.cost <= TASK.budget * (1 + 1e-9)) == bool(within)


def test_saturation_follows_from_its_definition(view):
    """It is the least effort beyond which more thinking gains at most the margin."""
    found = thinking_of(view)
    for curve in found.curves:
        within = [i for i, point in enumerate(curve.points) if point.samples]
        values = [curve.points[i].value for i in within]
        gains = [max(values[i:]) - value for i, value in enumerate(values)]
        first = next(i for i, gain in enumerate(gains) if gain <= found.margin)
        assert curve.saturates_at == within[first]
        assert curve.gain == pytest.approx(gains[first])
        low, high = curve.saturates_between
        assert low <= curve.saturates_at <= high
        loss = values[first] - values[-1]
        assert curve.loss == (pytest.approx(loss) if loss > found.margin else 0)


def test_a_stage_that_gains_by_thinking_is_told_from_one_that_does_not(view):
    """In words, as figures and sections say it."""
    findings = {c.stage: c.finding for c in thinking_of(view).curves if c.recommended}
    assert findings["retrieve"].startswith("gains little by thinking")
    assert "low" in findings["answer"].partition("(")[0]


def test_shares_of_replies_without_an_answer_add_up_over_trials(view):
    points = [point for curve in thinking_of(view).curves for point in curve.points]
    for point in points:
        expected = 0.31 if point.effort == "high" else 0.0
        assert point.ended == (expected if point.trials else None)
    text = str(summarize(view.study, TASK))
    assert "ended in thoughts" in text
    assert " 31 %" in text
    silent = StudyView(study_of_efforts(TASK, ended=False), TASK)
    assert all(p.ended is None for c in thinking_of(silent).curves for p in c.points)
    assert "ended in thoughts" not in str(summarize(silent.study, TASK))


def test_odd_reports_are_left_out():
    """Attributes may be written by anyone."""
    study = study_of_efforts(TASK, ended=False)
    for trial, value in zip(study.trials, [3, [], {"answer": 1}, {"answer": ["a", 2]}, {"x": 1}]):
        study._storage._get_trial(trial._trial_id).system_attrs[storage.ENDED] = value
    curves = thinking_of(StudyView(study, TASK)).curves
    assert all(point.ended is None for curve in curves for point in curve.points)


def test_minimized_scores_have_the_same_curves():
    """With values and their range reflected."""
    study = study_of_efforts(TASK)
    task = make_task(metric_range=(-1, 0))
    mirrored = optuna.create_study(direction="minimize")
    for trial in study.trials:
        steps = {step: -value for step, value in trial.intermediate_values.items()}
        mirrored.add_trial(
            optuna.trial.create_trial(
                params=trial.params,
                distributions=trial.distributions,
                value=-trial.value,
                intermediate_values=steps,
                state=TrialState.COMPLETE,
            )
        )
    ours, theirs = (
        thinking_of(StudyView(s, t)).curves for s, t in ((study, TASK), (mirrored, task))
    )
    for one, other in zip(ours, theirs):
        assert (one.finding, one.recommended) == (other.finding, other.recommended)
        assert [p.samples for p in one.points] == [p.samples for p in other.points]
        assert [p.value for p in one.points] == pytest.approx([-p.value for p in other.points])


def test_sections_name_each_model_once(view):
    """The table of samples has the chosen effort, and the section on thinking the others."""
    summary = summarize(view.study, TASK)
    text = str(summary)
    assert "Which model, at which thinking effort, and how many samples" in text
    assert f"{SMALL} (off, low, high)" in text
    section = text.partition("Which model, and how many")[2].partition("How much thinking")[0]
    # Models whose names do not fit stand in the line below their row.
    rows = re.split(r"\n  (?=\w)", section)
    for stage in TASK.stages:
        lines = [row for row in rows if row.startswith(stage.name)]
        assert sum(LARGE in line for line in lines) == sum(SMALL in line for line in lines) == 1
    shown = text.partition("How much thinking")[2].partition("Which instances")[0]
    assert max(map(len, shown.splitlines())) < 99


def test_text_of_many_stages_and_efforts_is_complete():
    """Recommended models have their table in each stage, names are whole, and lines fit a page."""
    words = ("off", "minimal", "low", "medium", "high")
    name = "meta-llama/Llama-3.3-70B-Instruct"
    models = [Model(name), Model("Qwen/Qwen3-8B"), Model("Qwen/Qwen3-1.7B")]
    stages = [
        Stage(f"s{i}", models=models, thinking=words, prompt_tokens=200, generation_tokens=100)
        for i in range(5)
    ]
    task = Task(name="t", stages=stages, budget=1e5)
    study = optuna.create_study(direction="maximize")
    for model in (*range(5), 0):
        allocation = task.allocation([(model, 2)] * 5)
        study.add_trial(trial_of(task, allocation, 0.5 + model / 10))
    summary = summarize(study, task)
    text = section_text(summary.sections["tuned"])
    assert text.count(name) == 5
    assert " ".join(text.split()).count("(off, minimal, low, medium, high)") == 15
    assert max(map(len, text.splitlines())) <= 98
    thinking = section_text(summary.sections["thinking"])
    assert all(f"s{i}, {name} (recommended at" in thinking.replace("\n  ", " ") for i in range(5))
    assert "counts as none" in thinking
    # Stages are apart, though names of efforts have a comma.
    assert len(sentence(recommend(study, task).allocation).split("; ")) == 5


def test_a_model_as_it_is_is_listed_beside_its_efforts():
    plain = Model(SMALL)
    stage = make_task().stages[0]
    models = [plain, *efforts(plain, off=None, low=None)]
    assert models_of(replace(stage, models=models)) == [SMALL, f"{SMALL} (off, low)"]


def test_other_tasks_have_nothing_of_it():
    """No section, and no figure: the names of figures are those of all tasks."""
    models = [Model("m-1B", parameters=1e9), Model("m-8B", parameters=8e9)]
    stage = Stage("answer", models=models, prompt_tokens=100, generation_tokens=50, max_samples=8)
    task = Task(name="plain", stages=[stage])
    study = optuna.create_study(direction="maximize")
    study.add_trials([trial_of(task, {"answer": ("m-1B", n)}, 0.1 * n) for n in (1, 2, 3)])
    summary = summarize(study, task)
    assert summary.thinking is None
    assert "think" not in str(summary)
    assert figure_names(task) == tuple(FIGURES)
    assert set(figure_names(TASK)) == {*FIGURES, *EFFORT_FIGURES}
    with pytest.raises(NoEvidenceError, match="several thinking efforts"):
        plot_thinking(study, task)


def test_figures_show_every_effort_and_trial(view):
    """Lines have the points of the curves, and the filled points are the trials alike."""
    figure, found = plot_thinking(view.study, TASK), thinking_of(view)
    drawn = [list(zip(trace.x, trace.y)) for trace in figure.data if trace.mode == "lines+markers"]
    for curve in found.curves:
        within = [(point.tokens, point.value) for point in curve.points if point.samples]
        assert within in drawn
    # Every point has its effort, as a tick or as a text.
    for axis, stage in ((figure.layout.xaxis, "retrieve"), (figure.layout.xaxis2, "answer")):
        assert "logarithmic" in axis.title.text
        own = "x" if stage == "retrieve" else "x2"
        texts = [t for t in figure.data if t.mode == "text" and t.xaxis == own]
        named = {(x, s) for t in texts for x, s in zip(t.x, t.text)}
        named |= {(x, s.split("<br>")[0]) for x, s in zip(axis.tickvals, axis.ticktext)}
        curves = [curve for curve in found.curves if curve.stage == stage]
        assert named >= {(p.tokens, p.effort) for c in curves for p in c.points if p.samples}
        (ticked,) = [curve.model for curve in curves if curve.recommended] or [curves[0].model]
        assert brief(ticked.split("/")[-1]) in axis.title.text
    words = " ".join(str(text) for trace in figure.data for text in np.ravel(trace.hovertext))
    assert "31 % of replies ended inside their thoughts" in words
    for curve in found.curves:
        assert not curve.recommended or curve.finding in figure.layout.title.subtitle.text.replace(
            "<br>", " "
        )


def test_names_are_shown_as_they_are():
    """Figures, notes and pages of hostile names contain no markup of theirs."""
    task = make_task(HOSTILE)
    study = study_of_efforts(task)
    figure = plot_thinking(study, task)
    assert "<img" not in figure.to_html(include_plotlyjs=False)
    assert "%{hostile}" not in json.dumps([t.hovertemplate for t in figure.data])
    assert not re.search(r"(?<!\\)<img", note(summarize(study, task)))
    page = web_page(StudyView(study, task), {})
    assert "<img" not in page
    assert "How much thinking" in page


def test_too_few_trials_say_so():
    study = optuna.create_study(direction="maximize")
    study.add_trial(trial_of(TASK, TASK.allocation([(0, 1), (0, 1)]), 0.5))
    assert "Too few trials" in plot_thinking(study, TASK).layout.title.subtitle.text
    with pytest.raises(NoEvidenceError):
        plot_thinking(optuna.create_study(direction="maximize"), TASK)


def test_ties_that_think_less_are_said_to():
    """Where an effort less is shown to lose less than the margin, in words."""
    models = efforts(Model(SMALL, parameters=8e9), off={"a": 0}, high={"a": 1})
    stage = Stage("answer", models=models, prompt_tokens=100, generation_tokens=50, max_samples=8)
    task = Task(name="ties", stages=[stage], budget=1e4, metric_range=(0, 1))
    outcomes = np.tile([0.0, 1.0, 1.0, 1.0], 150)
    better = outcomes.copy()
    better[0] = 1.0
    evidence = [(("no", 1), outcomes), (("high", 1), better), (("no", 2), outcomes)]
    study = study_with_outcomes(
        task, [({"answer": (f"{SMALL}, {e} thinking", n)}, o) for (e, n), o in evidence]
    )
    text = " ".join(str(summarize(study, task)).split())
    assert recommend(study, task).ties
    assert "Less thinking is as good: answer at off in place of high loses < 0.0" in text


def test_dataframes_have_models_and_efforts_apart(view):
    """Beside the parameters, of stages whose models have efforts."""
    frame = trials_dataframe(view.study, TASK)
    columns = list(frame.columns)
    place = columns.index("retrieve.base_model")
    assert columns[place : place + 4] == [
        f"{stage}.{name}"
        for stage in ("retrieve", "answer")
        for name in ("base_model", "thinking")
    ]
    for _, row in frame.iterrows():
        for stage in TASK.stages:
            model = next(m for m in stage.models if m.name == row[stage.model_parameter])
            thinking = model.thinking
            base = model.name if thinking is None else thinking.model
            assert row[f"{stage.name}.base_model"] == base
            effort = "" if thinking is None else thinking.effort
            assert row[f"{stage.name}.thinking"] == effort


def test_lines_of_trials_fit_a_terminal(view):
    """Names of choices become short, and stay different."""
    columns = _Columns(TASK, True, True, 79)
    lines = [*columns.head()[1:], *(columns.line(trial, False) for trial in view.trials)]
    assert max(map(len, lines)) <= 79
    shown = {line.rstrip().rpartition(" x ")[2] for line in lines[1:]}
    assert {"model-8B, off", "model-8B, low", "model-32B, low", "plain-3B"} <= shown
    full = _Columns(TASK, True, True, 10**6).line(view.trials[0], False)
    assert f"{SMALL}, no thinking" in full


def test_figures_keep_the_effort_of_a_long_name():
    """It is what tells choices apart; a model has one color at all efforts."""
    long = "organization/a-model-of-a-very-long-name-8B"
    task = make_task(long)
    names = [model.name for model in task.stages[0].models]
    shown = short_names(names)
    assert len(set(shown.values())) == len(names)
    assert max(map(len, shown.values())) <= 28
    for name, effort in zip(names, ("off", "low", "high")):
        assert shown[name].endswith(f", {effort}")
        assert brief(name).endswith(f", {effort}")
    assert brief("an ordinary name of a model, which is long") == "an ordinary …ich is long"
    marks, bases = model_marks(task), base_marks(task)
    assert {marks[name].color for name in names[:3]} == {bases[long].color}
    assert len({(m.color, m.symbol, m.dash) for m in marks.values()}) == len(names)


def test_shares_of_warnings_are_over_all_trials():
    """A warning of the latest trial gets the share of all of them."""
    study = study_of_efforts(TASK)
    name = TASK.stages[1].models[2].name
    for trial in study.trials:
        if trial.params["answer.model"] == name:
            rest = f"the replies of {name!r} in stage 'answer' ended inside their thoughts: x"
            study._storage._get_trial(trial._trial_id).user_attrs["thoughts"] = f"7 % of {rest}"
    warnings = summarize(study, TASK).warnings
    assert [text for text in warnings if "ended inside" in text] == [f"31 % of {rest}."]


def test_importances_tell_the_effort_from_the_model(view):
    """Thinking matters in the second stage alone, where it gains; shares add up to 1."""
    found = importances_of(view)
    assert [(i.stage, i.setting) for i in found] == [
        (stage.name, setting)
        for stage in TASK.stages
        for setting in ("model", "thinking", "samples")
    ]
    assert sum(i.share for i in found) == pytest.approx(1)
    shares = {(i.stage, i.setting): i for i in found}
    assert shares["answer", "thinking"].share > 3 * shares["retrieve", "thinking"].share
    assert shares["answer", "thinking"].loss > shares["retrieve", "thinking"].loss
    assert shares["answer", "thinking"].parameter == "answer.model"
    assert {trace.name for trace in plot_importances(view.study, TASK).data} == {
        "model",
        "thinking",
        "samples",
    }


def test_settings_are_drawn_again_alone():
    """A model changes to the nearest effort of another one, an effort to another of the model."""
    models = list(TASK.stages[0].models)
    masks = _masks(models)
    assert masks["thinking"].sum(axis=1).tolist() == [3, 3, 3, 3, 3, 3, 1]
    assert [np.flatnonzero(row).tolist() for row in masks["model"]] == [
        [0, 3, 6],
        [1, 4, 6],
        [2, 5, 6],
        [0, 3, 6],
        [1, 4, 6],
        [2, 5, 6],
        [0, 3, 6],
    ]
    assert _masks([models[6]])["model"].all()


def test_more_thinking_over_the_budget_is_advised_where_it_gains():
    """With as many samples as recommended, at an effort that does not fit beside the rest."""
    models = efforts(Model(SMALL, parameters=8e9), off={"a": 0}, low={"a": 1}, high={"a": 2})
    stage = Stage("answer", models=models, prompt_tokens=100, generation_tokens=50, max_samples=4)
    task = Task(name="more", stages=[stage], budget=40, metric_range=(0, 1))
    assert not task.fits({"answer": (models[2].name, 1)})
    rng = np.random.default_rng(0)
    evidence = [
        ({"answer": (model.name, n)}, draw_outcomes(rng, [rate], 100)[0])
        for model, rate in zip(models, (0.3, 0.6, 0.9))
        for n in (1, 2)
    ]
    study = study_with_outcomes(task, evidence)
    advice = [text for text in summarize(study, task).next_steps if "thinking" in text]
    assert len(advice) == 1
    assert advice[0].startswith("Try a larger budget: thinking at high in place of low by")


def test_saturation_of_samples_is_shown_at_one_effort_of_each_model(view):
    """The other efforts would hide it, and make figures too large for the dashboard."""
    chosen = {c.chosen.choice for c in thinking_of(view).curves if c.stage == "answer"}
    words = " ".join(
        str(trace.hovertemplate)
        for trace in plot_saturation(view.study, TASK).data
        if "expected" in str(trace.hovertemplate) and "answer" in trace.hovertemplate
    )
    shown = {model.name for model in TASK.stages[1].models if f": {model.name}," in words}
    assert shown == {*chosen, "plain-3B"}


def test_names_of_rows_of_the_map_do_not_overlap(view):
    """They are turned: each line fits a third of the height."""
    figure = plot_allocation_map(view.study, TASK)
    titles = [axis.title.text for axis in figure.select_yaxes() if axis.title.text]
    assert len(titles) == 3
    assert all(len(line) <= 14 for title in titles for line in title.split("<br>"))
    assert all(
        title.endswith((",<br>off", ",<br>low", ",<br>high", "plain-3B")) for title in titles
    )
