"""Figure of saturation: score over samples, for each stage and model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from optuna_agenttts.report.saturation import Saturation, SaturationCurve, saturation_of
from optuna_agenttts.report.text import count_text, score_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization.style import (
    FAINT,
    GRAY,
    RECOMMENDED,
    Mark,
    brief,
    cost_text,
    graph_objects,
    interval_text,
    legend_entry,
    lines,
    log_axis,
    metric_text,
    model_marks,
    new_figure,
    panels,
    place_legend,
    short_names,
    value_title,
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
        study: A study of one objective, of any sampler.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.

    Returns:
        The figure.

    Raises:
        AgentTTSError: Plotly is not installed.
        NoTaskError: The study has no task, or several objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    return figure_of_saturation(StudyView(study, task))


def figure_of_saturation(view: StudyView) -> Figure:
    """Return the figure of a study; see `plot_saturation`."""
    found, best = view.get(saturation_of), view.recommendation
    stages = [stage.name for stage in view.task.stages]
    metric = metric_text(view.task)
    rows, columns = panels(len(stages))
    figure = new_figure(
        f"Expected {metric} by number of samples",
        *(_finding(curve) for curve in found.curves if curve.recommended and curve.affordable),
        rows=rows,
        columns=columns,
    )
    marks, go = model_marks(view.task), graph_objects()
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
        star = go.Scatter(
            x=[samples],
            y=[best.value],
            mode="markers",
            marker=RECOMMENDED,
            hovertext=lines(
                ["recommended", f"{stage}: {samples} × {best.allocation[stage].model}"]
            ),
            hoverinfo="text",
            showlegend=False,
        )
        figure.add_trace(star, **place)
        figure.update_xaxes(
            title_text=lines([f"samples of {brief(stage)}"]),
            **log_axis(1, last),
            **place,
        )
    figure.update_yaxes(matches="y")
    figure.update_yaxes(title_text=value_title(view, expected=True), col=1)
    for column in range(2, columns + 1):
        figure.update_yaxes(showticklabels=False, col=column)
    models = dict.fromkeys(c.model for c in found.curves if c.model in main[c.stage])
    others = any(c.model not in main[c.stage] for c in found.curves)
    _add_legend(figure, {model: marks[model] for model in models}, others=others)
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


def _finding(curve: SaturationCurve) -> str:
    """Describe where a curve saturates."""
    text = f"{brief(curve.stage)}: {brief(curve.model)} "
    if curve.affordable == 1:
        return f"{text}has 1 sample; the budget allows no more"
    if curve.saturates_at == curve.affordable:
        return f"{text}still gains at {count_text(curve.affordable, 'sample')}, the budget's most"
    text += f"saturates at {count_text(curve.saturates_at or 0, 'sample')}"
    if curve.saturates_between is not None:
        text += " (90 % interval {} to {})".format(*curve.saturates_between)
    return f"{text}; the budget allows {curve.affordable}"


def _traces(view: StudyView, curve: SaturationCurve, mark: Mark, last: int) -> list[Any]:
    """Return the band, line, bar and trials of a curve up to a number of samples."""
    go, metric, margin = graph_objects(), metric_text(view.task), view.recommendation.margin
    main = mark != _OTHERS
    group = curve.model if main else _GROUP
    common = {"legendgroup": group, "showlegend": False, "hoverinfo": "text"}
    shown = _shown(curve, last)
    within = [i for i in shown if curve.samples[i] <= curve.affordable]
    name = f"{curve.stage}: {curve.model}"
    texts = {
        i: lines(
            [
                f"{name}, {count_text(curve.samples[i], 'sample')}",
                f"expected {metric}: {score_text(curve.values[i], margin)}",
                interval_text(curve.intervals[i], margin),
                cost_text(curve.costs[i], view.task)
                + ("" if i in within else ": over the budget"),
            ]
        )
        for i in shown
    }
    traces = []
    ends = [(curve.samples[i], *ends) for i in within if (ends := curve.intervals[i])]
    if main and ends:
        area = [(n, high) for n, _, high in ends] + [(n, low) for n, low, _ in reversed(ends)]
        traces.append(
            go.Scatter(
                x=[n for n, _ in area],
                y=[end for _, end in area],
                fill="toself",
                fillcolor=mark.transparent(0.18 if curve.recommended else 0.05),
                mode="lines",
                line={"width": 0},
                **{**common, "hoverinfo": "skip"},
            )
        )
    for part, width, opacity in (
        (within, 3 if curve.recommended else 1.8 if main else 1, 1.0),
        (shown[max(len(within) - 1, 0) :] if len(within) < len(shown) else [], 1, 0.5),
    ):
        if not part:
            continue
        traces.append(
            go.Scatter(
                x=[curve.samples[i] for i in part],
                y=[curve.values[i] for i in part],
                mode="lines",
                line={"color": mark.color, "dash": mark.dash, "width": width},
                opacity=opacity,
                hovertext=[texts[i] for i in part],
                **common,
            )
        )
    if main and curve.saturates_at is not None and curve.saturates_at < curve.affordable:
        at = curve.samples.index(curve.saturates_at)
        traces.append(
            go.Scatter(
                x=[curve.saturates_at],
                y=[curve.values[at]],
                mode="markers",
                marker=_bar(mark.color),
                hovertext=[f"saturates here<br>{texts[at]}"],
                **common,
            )
        )
    return traces + _trial_traces(view, curve, mark, common)


def _trial_traces(
    view: StudyView, curve: SaturationCurve, mark: Mark, common: Mapping[str, Any]
) -> list[Any]:
    """Return the trials of a curve."""
    metric, margin, traces = metric_text(view.task), view.recommendation.margin, []
    for alike in (False, True):
        if not (trials := [trial for trial in curve.trials if trial.alike == alike]):
            continue
        hovers = [
            [
                f"trial {trial.number}: {metric} {score_text(trial.value, margin)}",
                f"{curve.stage}: {curve.model}, {count_text(trial.samples, 'sample')}",
                "" if alike else "other stages are not as recommended",
            ]
            for trial in trials
        ]
        traces.append(
            graph_objects().Scatter(
                x=[trial.samples for trial in trials],
                y=[trial.value for trial in trials],
                mode="markers",
                marker=_point(mark, alike=alike),
                hovertext=list(map(lines, hovers)),
                **common,
            )
        )
    return traces


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


def _bar(color: str, size: int = 22) -> dict[str, Any]:
    """Return the marker of the number of samples at which a curve saturates."""
    return {"symbol": "line-ns", "size": size, "line": {"color": color, "width": 3}}


def _point(mark: Mark, *, alike: bool) -> dict[str, Any]:
    """Return the marker of a trial."""
    symbol = mark.symbol if alike else f"{mark.symbol}-open"
    return {
        "symbol": symbol,
        "color": mark.color,
        "size": 8 if alike else 6,
        "opacity": 0.9 if alike else 0.35,
    }


def _add_legend(figure: Figure, models: Mapping[str, Mark], *, others: bool) -> None:
    """Add the legend: what symbols mean, and models."""
    gray = Mark(GRAY, "circle", "solid")
    for name, marker in (
        ("recommended", {**RECOMMENDED, "size": 12}),
        ("saturates", _bar(GRAY, 10)),
        ("trial, rest as recommended", _point(gray, alike=True)),
        ("other trial", _point(gray, alike=False)),
        ("90 % interval", {"symbol": "square", "size": 12, "color": gray.transparent(0.2)}),
    ):
        figure.add_trace(legend_entry(name, mode="markers", marker=marker))
    thin = {"color": GRAY, "width": 1}
    figure.add_trace(legend_entry("over the budget", mode="lines", line=thin))
    names = short_names(list(models))
    for model, mark in models.items():
        figure.add_trace(
            legend_entry(
                names[model],
                mode="lines+markers",
                line={"color": mark.color, "dash": mark.dash, "width": 2},
                marker={"color": mark.color, "symbol": mark.symbol, "size": 8},
                legendgroup=model,
            )
        )
    if others:
        line = {"color": _OTHERS.color, "width": 2}
        figure.add_trace(legend_entry(_GROUP, mode="lines", line=line, legendgroup=_GROUP))
    place_legend(figure)
