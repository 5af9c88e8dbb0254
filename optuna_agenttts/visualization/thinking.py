"""Figure of thinking efforts: score over the tokens of a sample, for each stage and model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from optuna_agenttts.exceptions import NoEvidenceError
from optuna_agenttts.report.text import score_text, share_text
from optuna_agenttts.report.thinking import EffortPoint, ThinkingCurve, ThinkingCurves, thinking_of
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
from optuna_agenttts.visualization.marks import bar_marker, base_marks, trial_marker
from optuna_agenttts.visualization.style import (
    Mark,
    brief,
    escape,
    graph_objects,
    interval_text,
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

_ROWS = 0.65
"""Space between rows, whose ticks have two lines, as a share of the height. Chosen by hand."""
_MARGIN, _APART = 1.2, 0.12
"""Space beside the least and the most tokens, as a ratio, and between ticks, as a share of the
axis. Chosen by hand."""
_ALIKE = "samples as recommended"


def plot_thinking(study: Study, task: Task | None = None) -> Figure:
    """Plot the expected score over the thinking effort, for each stage and model.

    Each stage has a panel, in which the other stages are as recommended. A line is the expected
    score of a model with the samples that are best beside each effort within the budget, with its
    central 90 % interval as a band. A bar across it marks the effort beyond which more thinking
    gains next to nothing. A thin line shows the recommended model with as many samples as
    recommended, also over the budget. Points are trials: filled ones have the recommended settings
    in all other stages. Efforts are placed by the mean length of a sample with its thoughts, on a
    logarithmic axis, whose ticks are the efforts of one model; those of others are beside points.

    Args:
        study: A study of a score, or of a score and then a cost, of any sampler.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.

    Returns:
        The figure.

    Raises:
        AgentTTSError: Plotly is not installed.
        NoTaskError: The study has no task, or other objectives.
        NoEvidenceError: No model has several thinking efforts, no trial is complete, or none meets
            the constraints of the study.
    """
    return figure_of_thinking(StudyView(study, task))


def figure_of_thinking(view: StudyView) -> Figure:
    """Return the figure of a study; see `plot_thinking`."""
    found = view.get(thinking_of)
    if not found.curves:
        raise NoEvidenceError(
            f"No model of task {view.task.name!r} has several thinking efforts: see `efforts` and "
            "`Stage.thinking`."
        )
    stages = list(dict.fromkeys(curve.stage for curve in found.curves))
    looks = base_marks(view.task)
    marks = {curve.model: looks[curve.model] for curve in found.curves}
    rows, columns = panels(len(stages))
    figure = new_figure(
        f"Expected {metric_text(view.task)} by thinking effort",
        *_findings(view, found),
        rows=rows,
        columns=columns,
        row_gap=_ROWS if rows > 1 else 0.0,
    )
    for position, stage in enumerate(stages):
        place = {"row": position // columns + 1, "col": position % columns + 1}
        curves = [curve for curve in found.curves if curve.stage == stage]
        ticked = next((curve for curve in curves if curve.recommended), curves[0])
        for curve in sorted(curves, key=lambda curve: curve.recommended):
            for trace in _traces(view, curve, marks[curve.model]):
                figure.add_trace(trace, **place)
        at = _recommended_tokens(view, stage)
        figure.add_trace(recommended_point(view, stage, at), **place)
        tokens = [at, *(point.tokens for curve in curves for point in curve.points)]
        axis, width = _axis(tokens, ticked), TITLES // columns
        names = [
            f"thinking of {brief(stage, width)}, tokens of a sample",
            f"(logarithmic; ticks: {brief(ticked.model, width)})",
        ]
        figure.update_xaxes(title_text=lines(names), **axis, **place)
        for curve in curves:
            figure.add_trace(_labels(curve, axis, marks[curve.model]), **place)
    share_value_axes(figure, view, rows, columns)
    add_symbols(figure, _ALIKE)
    add_models(figure, marks)
    place_legend(figure)
    return figure


def _axis(tokens: Sequence[float], curve: ThinkingCurve) -> dict[str, Any]:
    """Return the axis of a stage, with ticks at the efforts of a model.

    Args:
        tokens: All lengths of samples in the panel.
        curve: The curve of the model.
    """
    axis = log_axis(min(tokens) / _MARGIN, max(tokens) * _MARGIN)
    width = axis["range"][1] - axis["range"][0]
    ticks: dict[float, str] = {}
    for point in curve.points:
        place = math.log10(point.tokens)
        if all(abs(place - math.log10(other)) > _APART * width for other in ticks):
            ticks[point.tokens] = f"{escape(point.effort)}<br>{amount_text(point.tokens)}"
    return {**axis, "tickvals": list(ticks), "ticktext": list(ticks.values()), "tickangle": 0}


def _labels(curve: ThinkingCurve, axis: Mapping[str, Any], look: Mark) -> Any:
    """Return the efforts of a curve's points as texts, but of those that are ticks of the axis."""
    ticks = {(x, text.split("<br>")[0]) for x, text in zip(axis["tickvals"], axis["ticktext"])}
    shown = [point for point in curve.points if point.samples] or list(curve.points)
    points = [point for point in shown if (point.tokens, escape(point.effort)) not in ticks]
    return graph_objects().Scatter(
        x=[point.tokens for point in points],
        y=[point.value for point in points],
        mode="text",
        text=[escape(point.effort) for point in points],
        textposition="top center",
        textfont={"color": look.color, "size": 9},
        hoverinfo="skip",
        legendgroup=curve.model,
        showlegend=False,
    )


def _findings(view: StudyView, found: ThinkingCurves) -> list[str]:
    """Describe where thinking of the recommended models saturates."""
    chosen = [curve for curve in found.curves if curve.recommended]
    shown = findings(view, chosen, "how much thinking pays")
    if shown is not None:
        return shown
    parts = [
        f"{brief(c.stage, STAGE)}: {c.points[c.saturates_at].effort} ({low} to {high})"
        for c in chosen
        if c.saturates_at is not None and c.saturates_between is not None
        for low, high in [(c.points[i].effort for i in c.saturates_between)]
    ]
    return [f"Efforts that are enough within the budget (90 % interval): {'; '.join(parts)}"]


def _traces(view: StudyView, curve: ThinkingCurve, look: Mark) -> list[Any]:
    """Return the band, lines, bar and trials of a curve."""
    go, common = graph_objects(), {"legendgroup": curve.model, "showlegend": False}
    within = [point for point in curve.points if point.samples]
    traces = []
    ends = [(point.tokens, *point.interval) for point in within if point.interval]
    if ends:
        traces.append(go.Scatter(**band(ends, look, recommended=curve.recommended), **common))
    line = {"color": look.color, "dash": look.dash}
    if curve.recommended:
        thin = go.Scatter(
            x=[point.tokens for point in curve.points],
            y=[point.value_alike for point in curve.points],
            mode="lines+markers",
            line={"color": look.color, "width": 1},
            marker={"color": look.color, "symbol": f"{look.symbol}-open", "size": 5},
            opacity=0.6,
            **_hover(view, curve, list(curve.points), alike=True),
            **common,
        )
        traces.append(thin)
    shown = within or list(curve.points)
    traces.append(
        go.Scatter(
            x=[point.tokens for point in shown],
            y=[point.value for point in shown],
            mode="lines+markers" if within else "markers",
            line={**line, "width": 3 if curve.recommended else 1.8},
            marker={"color": look.color, "symbol": look.symbol, "size": 7},
            opacity=1.0 if within else 0.4,
            **_hover(view, curve, shown),
            **common,
        )
    )
    if (
        tells_saturation(view)
        and curve.saturates_at is not None
        and curve.points[curve.saturates_at] != within[-1]
    ):
        at = curve.points[curve.saturates_at]
        bar = {"mode": "markers", "marker": bar_marker(look.color), "hoverinfo": "skip"}
        traces.append(go.Scatter(x=[at.tokens], y=[at.value], **bar, **common))
    for alike in (False, True):
        if (trace := _trials(view, curve, alike=alike)) is not None:
            traces.append(trace.update(common))
            traces[-1].marker = trial_marker(look, alike=alike)
    return traces


def _hover(
    view: StudyView, curve: ThinkingCurve, points: list[EffortPoint], *, alike: bool = False
) -> dict[str, Any]:
    """Return the hover texts of some points of a curve."""
    margin, unit = view.recommendation.margin, view.task.cost_model.unit
    recommended = view.recommendation.allocation[curve.stage].samples
    texts = []
    for point in points:
        samples = recommended if alike else max(point.samples, 1)
        value, cost = (point.value_alike, point.cost_alike) if alike else (point.value, point.cost)
        over = cost > view.task.budget
        texts.append(
            lines(
                [
                    setting_text(curve.stage, point.choice),
                    f"{amount_text(point.tokens, 'tokens')} a sample, samples: {samples}",
                    f"expected {metric_text(view.task)}: {score_text(value, margin)}",
                    "" if alike else interval_text(point.interval, margin),
                    f"cost per instance: {amount_text(cost, unit)}{' (over the budget)' * over}",
                    *ended_text(point),
                ]
            )
        )
    return {"hovertext": texts, "hoverinfo": "text"}


def ended_text(point: EffortPoint) -> list[str]:
    """Return the share of replies that ended inside their thoughts as a line, if it is known."""
    if point.ended is None:
        return []
    return [f"{share_text(point.ended)} of replies ended inside their thoughts"]


def _trials(view: StudyView, curve: ThinkingCurve, *, alike: bool) -> Any | None:
    """Return the points of the trials of a curve; None if there are none."""
    margin, shown = view.recommendation.margin, view.get(numbers_shown)
    trials = [
        (point, trial)
        for point in curve.points
        for trial in point.trials
        if trial.alike == alike and (alike or trial.number in shown)
    ]
    if not trials:
        return None
    metric = metric_text(view.task)
    return graph_objects().Scatter(
        x=[point.tokens for point, _ in trials],
        y=[trial.value for _, trial in trials],
        mode="markers",
        hovertext=[
            lines(
                [
                    f"trial {trial.number}: {metric} {score_text(trial.value, margin)}",
                    f"{setting_text(curve.stage, point.choice)}, samples: {trial.samples}",
                ]
            )
            for point, trial in trials
        ],
        hoverinfo="text",
    )


def _recommended_tokens(view: StudyView, stage: str) -> float:
    """Return the mean length of a sample of a stage's recommended model."""
    own = next(each for each in view.task.stages if each.name == stage)
    name = view.recommendation.allocation[stage].model
    return own.sample_tokens(next(model for model in own.models if model.name == name))
