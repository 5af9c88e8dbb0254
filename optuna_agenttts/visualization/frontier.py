"""Figure of the frontier: score over cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from optuna_agenttts.report.points import FrontierPoint
from optuna_agenttts.report.text import score_text
from optuna_agenttts.report.tried import numbers_shown, tried_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.support.plain import amount_text
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization.style import (
    BLACK,
    COLORS,
    GRAY,
    RECOMMENDED,
    Mark,
    allocation_lines,
    brief_allocation,
    cost_text,
    cost_title,
    graph_objects,
    interval_text,
    legend_entry,
    lines,
    log_axis,
    metric_text,
    new_figure,
    points_trace,
    value_limits,
    value_title,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_FRONTIER = Mark(COLORS[0], "circle", "solid")
_TIE = {"symbol": "diamond", "size": 11, "color": COLORS[2], "line": {"color": BLACK, "width": 1}}
_TRIALS = {
    "complete": ("trial", "circle-open"),
    "stopped": ("stopped trial, mean so far", "triangle-down-open"),
    "fresh": ("trial on fresh instances", "square-open"),
    "infeasible": ("violates constraints", "x-thin-open"),
}
"""Name and symbol of each kind of trials."""
_RATIO = 10
"""Ratio of costs above which the axis of costs is logarithmic. Chosen by hand."""


def plot_frontier(study: Study, task: Task | None = None) -> Figure:
    """Plot scores over costs: trials, the frontier, the recommended allocation and its ties.

    The frontier has the allocation to use for each budget, with its expected score and its
    central 90 % interval; see `frontier`.

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
    return figure_of_frontier(StudyView(study, task))


def figure_of_frontier(view: StudyView) -> Figure:
    """Return the figure of a study; see `plot_frontier`."""
    best, points, task = view.recommendation, view.frontier.points, view.task
    metric, margin, measured = metric_text(task), best.margin, view.candidates.measures_cost
    # Ties are cheaper by the task's cost; the frontier shows what is cheaper by another one.
    ties, cost = () if measured else best.ties, points[-1].cost
    figure = new_figure(
        f"{metric[:1].upper()}{metric[1:]} over cost",
        f"Recommended: {brief_allocation(best.allocation)}",
        f"{score_text(best.value, margin)}, {interval_text(best.interval, margin)}, "
        f"{cost_text(cost, view.candidates.unit)}",
        *(
            f"As good for less: {brief_allocation(tie.allocation)}: "
            f"{score_text(tie.value, margin)}, cost {amount_text(tie.cost)}"
            for tie in ties[:1]
        ),
    )
    figure.add_traces(_trial_traces(view))
    figure.add_traces(_frontier_traces(view, points))
    if ties:
        figure.add_trace(
            _points(
                view,
                "as good for less",
                _TIE,
                ties,
                [f"loses less than {max(tie.loss, 0):.2g} (95 % bound)" for tie in ties],
            )
        )
    text = interval_text(best.interval, margin)
    hover = _hover(view, "recommended", best.allocation, best.value, cost, text)
    figure.add_trace(points_trace([cost], [best.value], RECOMMENDED, [hover], name="recommended"))
    costs = [cost for trace in figure.data for cost in trace.x if cost > 0]
    low, high = min(costs, default=1.0), max([*costs, *[task.budget] * (not measured)])
    if not measured:
        line = {"color": GRAY, "dash": "dash", "width": 1.5}
        figure.add_vline(x=task.budget, line=line)
        name = f"budget, {amount_text(task.budget)}"
        figure.add_trace(legend_entry(name, mode="lines", line=line))
    figure.update_xaxes(title_text=cost_title(view.candidates.unit))
    if high > _RATIO * low:
        figure.update_xaxes(**log_axis(low, high))
    figure.update_yaxes(title_text=value_title(view), **value_limits(view))
    return figure


def _points(
    view: StudyView,
    name: str,
    marker: Mapping[str, Any],
    members: Sequence[Any],
    notes: Sequence[str],
) -> Any:
    """Return a trace of ties, trials or points of the frontier.

    Args:
        view: The study.
        name: Name of the trace.
        marker: Its marker.
        members: What has an allocation, a value and a cost, and trials a number.
        notes: Last line of the hover text of each.
    """
    hovers = [
        _hover(
            view,
            f"trial {each.number}" if hasattr(each, "number") else name,
            *(each.allocation, each.value, each.cost, note),
        )
        for each, note in zip(members, notes)
    ]
    costs, values = [each.cost for each in members], [each.value for each in members]
    return points_trace(costs, values, marker, hovers, name=name)


def _hover(
    view: StudyView, name: str, allocation: Allocation, value: float, cost: float, *notes: str
) -> str:
    """Return the hover text of an allocation."""
    score = score_text(value, view.recommendation.margin)
    return lines(
        [
            f"{name}: {metric_text(view.task)} {score}",
            *allocation_lines(allocation),
            cost_text(cost, view.candidates.unit),
            *notes,
        ]
    )


def _trial_traces(view: StudyView) -> list[Any]:
    """Return the trials, by what happened to them."""
    traces, shown = [], view.get(numbers_shown)
    tried = [trial for trial in view.get(tried_of) if trial.number in shown]
    for kind, (name, symbol) in _TRIALS.items():
        if members := [trial for trial in tried if trial.kind == kind]:
            marker = {"symbol": symbol, "color": GRAY, "size": 7, "opacity": 0.6}
            notes = ["" if kind == "complete" else name] * len(members)
            traces.append(_points(view, name, marker, members, notes))
    return traces


def _frontier_traces(view: StudyView, points: tuple[FrontierPoint, ...]) -> list[Any]:
    """Return the frontier as steps, with its band, and its points."""
    go, color = graph_objects(), _FRONTIER.color
    # Steps end at the budget, up to which the last point is the one to use.
    costs = [point.cost for point in points]
    costs.append(max(view.frontier.budget, costs[-1]))
    steps = {"x": costs, "mode": "lines", "hoverinfo": "skip"}
    traces = []
    intervals = [point.interval for point in points if point.interval is not None]
    if len(intervals) == len(points):
        for end, fill in ((0, None), (1, "tonexty")):
            ends = [interval[end] for interval in intervals]
            traces.append(
                go.Scatter(
                    y=[*ends, ends[-1]],
                    line={"width": 0, "shape": "hv"},
                    fill=fill,
                    fillcolor=_FRONTIER.transparent(0.15),
                    name="90 % interval",
                    showlegend=fill is not None,
                    **steps,
                )
            )
    values = [point.value for point in points]
    traces.append(
        go.Scatter(
            y=[*values, values[-1]],
            line={"color": color, "width": 2.5, "shape": "hv"},
            name="frontier, expected",
            **steps,
        )
    )
    for tried, name in ((True, "on the frontier"), (False, "on the frontier, not tried")):
        members = [point for point in points if point.tried == tried]
        symbol = _FRONTIER.symbol if tried else f"{_FRONTIER.symbol}-open"
        if members:
            marker = {"symbol": symbol, "color": color, "size": 8, "line": {"width": 1.5}}
            notes = [interval_text(p.interval, view.recommendation.margin) for p in members]
            traces.append(_points(view, name, marker, members, notes))
    return traces
