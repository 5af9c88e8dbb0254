"""Figure of saturation: score over samples, for each stage and model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from optuna_agenttts.report.saturation import (
    Saturation,
    SaturationCurve,
    SaturationTrial,
    saturation_of,
)
from optuna_agenttts.report.text import score_text
from optuna_agenttts.report.thinking import thinking_of, without_other_efforts
from optuna_agenttts.report.tried import numbers_shown
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.support.plain import amount_text
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization.curves import (
    STAGE,
    TITLES,
    add_models,
    add_symbols,
    band,
    findings,
    recommended_point,
    share_value_axes,
    tells_saturation,
)
from optuna_agenttts.visualization.marks import bar_marker, model_marks, trial_marker
from optuna_agenttts.visualization.style import (
    FAINT,
    ROW_TITLES,
    Mark,
    beyond_limits,
    brief,
    escape,
    graph_objects,
    interval_text,
    legend_entry,
    lines,
    log_axis,
    metric_text,
    new_figure,
    panels,
    place_legend,
    setting_text,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_MODELS, _STAGES = 4, 2
"""Models of a stage that have a color, a band and a bar, and stages up to which it is so many; of
more stages it is half of them. More curves are not told apart. Chosen by hand."""
_OTHERS = Mark(FAINT, "circle", "solid")
_GROUP = "other models"
"""Look and name of the other models."""
_BEYOND = 2
"""Numbers of samples that are shown, as a multiple of those within the budget: they show what a
larger budget would gain. Chosen by hand."""
_STEP = 1.1
"""Ratio of neighboring points of a line, which bounds the size of figures. Chosen by hand."""


def plot_saturation(study: Study, task: Task | None = None) -> Figure:
    """Plot the expected score over the number of samples, for each stage and model.

    Each stage has a panel, in which the other stages are as recommended. A line is the expected
    score of a model, with its central 90 % interval as a band, and it is thin over the budget. A
    bar across it marks the number of samples beyond which further ones gain next to nothing.
    Points are trials: filled ones have the recommended settings in all other stages. Where a stage
    has many models, those of lower scores are gray, without bands and bars.

    Args:
        study: A study of a score, or of a score and then a cost, of any sampler.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.

    Returns:
        The figure.

    Raises:
        AgentTTSError: Plotly is not installed.
        NoTaskError: The study has no task, or other objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    return figure_of_saturation(StudyView(study, task))


def figure_of_saturation(view: StudyView) -> Figure:
    """Return the figure of a study; see `plot_saturation`."""
    found, best = view.get(saturation_of), view.recommendation
    # Efforts have a figure of their own.
    shown = without_other_efforts(found.curves, view.get(thinking_of))
    found = replace(found, curves=tuple(shown))
    stages = [stage.name for stage in view.task.stages]
    metric = metric_text(view.task)
    rows, columns = panels(len(stages))
    figure = new_figure(
        f"Expected {metric} by number of samples",
        *_findings(view, found),
        rows=rows,
        columns=columns,
        row_gap=ROW_TITLES if rows > 1 else 0.0,
    )
    marks = model_marks(view.task)
    main = {stage: _main_models(view, found, stage) for stage in stages}
    for position, stage in enumerate(stages):
        place = {"row": position // columns + 1, "col": position % columns + 1}
        curves = [curve for curve in found.curves if curve.stage == stage]
        samples = best.allocation[stage].samples
        most = _BEYOND * max(samples, *(curve.affordable for curve in curves))
        last = max(number for curve in curves for number in curve.samples if number <= most)
        for curve in sorted(curves, key=lambda curve: curve.model in main[stage]):
            mark = marks[curve.model] if curve.model in main[stage] else _OTHERS
            for trace in _traces(view, curve, mark, last):
                figure.add_trace(trace, **place)
        figure.add_trace(recommended_point(view, stage, samples), **place)
        figure.update_xaxes(
            title_text=lines([f"samples of {brief(stage, TITLES // columns)}"]),
            **log_axis(1, last),
            **place,
        )
    share_value_axes(figure, view, rows, columns)
    models = dict.fromkeys(c.model for c in found.curves if c.model in main[c.stage])
    others = any(c.model not in main[c.stage] for c in found.curves)
    add_symbols(figure, beyond_limits(view))
    add_models(figure, {model: marks[model] for model in models})
    if others:
        line = {"color": _OTHERS.color, "width": 2}
        figure.add_trace(legend_entry(_GROUP, mode="lines", line=line, legendgroup=_GROUP))
    place_legend(figure)
    return figure


def _main_models(view: StudyView, found: Saturation, stage: str) -> set[str]:
    """Return the models of a stage that have a color: the recommended one, and the best others."""
    sign = view.candidates.evidence.sign

    def best(curve: SaturationCurve) -> float:
        values = [sign * v for n, v in zip(curve.samples, curve.values) if n <= curve.affordable]
        return math.inf if curve.recommended else max(values, default=-math.inf)

    curves = [curve for curve in found.curves if curve.stage == stage]
    count = _MODELS if len(view.task.stages) <= _STAGES else _MODELS // 2
    return {curve.model for curve in sorted(curves, key=best, reverse=True)[:count]}


def _findings(view: StudyView, found: Saturation) -> list[str]:
    """Describe where the recommended models saturate."""
    chosen = [curve for curve in found.curves if curve.recommended]
    shown = findings(view, chosen, "where samples saturate")
    if shown is not None:
        return shown
    parts = [
        f"{brief(c.stage, STAGE)}: {c.saturates_at} ({low} to {high}) of {c.affordable}"
        for c in chosen
        if c.saturates_between is not None
        for low, high in [c.saturates_between]
    ]
    return [f"Samples that saturate (90 % interval) of the most allowed: {'; '.join(parts)}"]


def _traces(view: StudyView, curve: SaturationCurve, mark: Mark, last: int) -> list[Any]:
    """Return the band, line, bar and trials of a curve up to a number of samples."""
    go, main = graph_objects(), mark != _OTHERS
    group = curve.model if main else _GROUP
    common = {"legendgroup": group, "showlegend": False}
    shown = _shown(curve, last)
    within = [i for i in shown if curve.samples[i] <= curve.affordable]
    beyond = shown[max(len(within) - 1, 0) :] if len(within) < len(shown) else []
    traces = []
    ends = [(curve.samples[i], *ends) for i in within if (ends := curve.intervals[i])]
    if main and ends:
        traces.append(go.Scatter(**band(ends, mark, recommended=curve.recommended), **common))
    bar = []
    known = main and tells_saturation(view)
    if known and curve.saturates_at is not None and curve.saturates_at < curve.affordable:
        bar.append(curve.samples.index(curve.saturates_at))
    width = 3 if curve.recommended else 1.8 if main else 1
    for part, note, look in (
        (within, "", {"mode": "lines", "line": {"width": width}}),
        (beyond, beyond_limits(view), {"mode": "lines", "line": {"width": 1}, "opacity": 0.5}),
        (bar, "saturates here", {"mode": "markers", "marker": bar_marker(mark.color)}),
    ):
        if part:
            trace = go.Scatter(
                x=[curve.samples[i] for i in part],
                y=[curve.values[i] for i in part],
                line={"color": mark.color, "dash": mark.dash},
                **_hover(view, curve, part, note),
                **common,
            )
            traces.append(trace.update(look))
    for alike in (False, True):
        if trials := [trial for trial in curve.trials if trial.alike == alike]:
            traces.append(_trial_trace(view, curve, trials).update(common))
            traces[-1].marker = trial_marker(mark, alike=alike)
    return traces


def _hover(
    view: StudyView, curve: SaturationCurve, part: Sequence[int], note: str
) -> dict[str, Any]:
    """Return the hover text of some points of a curve, as a template and its values."""
    unit, margin = view.task.cost_model.unit, view.recommendation.margin
    template = (
        f"{lines([setting_text(curve.stage, curve.model)])}, samples: %{{x}}<br>"
        f"expected {escape(metric_text(view.task))}: %{{customdata[0]}}<br>%{{customdata[1]}}<br>"
        f"cost per instance: %{{customdata[2]}} {lines([unit])}<br>{lines([note])}"
    )
    values = [
        [
            score_text(curve.values[i], margin),
            interval_text(curve.intervals[i], margin),
            amount_text(curve.costs[i]),
        ]
        for i in part
    ]
    return {"customdata": values, "hovertemplate": f"{template}<extra></extra>"}


def _trial_trace(
    view: StudyView, curve: SaturationCurve, trials: Sequence[SaturationTrial]
) -> Any:
    """Return the points of some trials of a curve."""
    margin, shown = view.recommendation.margin, view.get(numbers_shown)
    trials = [trial for trial in trials if trial.alike or trial.number in shown]
    template = (
        f"trial %{{customdata[0]}}: {escape(metric_text(view.task))} %{{customdata[1]}}<br>"
        f"{lines([setting_text(curve.stage, curve.model)])}, samples: %{{x}}<extra></extra>"
    )
    return graph_objects().Scatter(
        x=[trial.samples for trial in trials],
        y=[trial.value for trial in trials],
        mode="markers",
        customdata=[[trial.number, score_text(trial.value, margin)] for trial in trials],
        hovertemplate=template,
    )


def _shown(curve: SaturationCurve, last: int) -> list[int]:
    """Return the positions of a curve's points to draw, evenly by ratio if they are many."""
    kept = {1, last, curve.affordable, curve.saturates_at}
    shown: list[int] = []
    for i, samples in enumerate(curve.samples):
        if samples <= last and (
            samples in kept or not shown or samples >= _STEP * curve.samples[shown[-1]]
        ):
            shown.append(i)
    return shown
