"""Figure of the course of a search: its trials, and what was recommended after them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from optuna_agenttts.report.progress import Progress, ProgressPoint, SearchTrial, progress_of
from optuna_agenttts.report.text import count_text, score_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization import style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_ORIGINS = {
    "opening": "opening",
    "numerical": "numerical planner",
    "agent": "agent",
    "fallback": "planner in place of the agent",
    "confirmation": "confirmation",
    "": "trial",
}
"""Names of origins; others are shown as they are stored."""
_FEW = 10
"""Trials of which each has a tick, as Plotly puts ticks between a few. Chosen by hand."""
_DETAILED = 200
"""Latest trials whose allocation is in the hover text, to bound the size of the figure, and trials
from which points are small. Chosen by hand."""
_STATES = ("pruned", "failed", "running", "waiting")


def plot_search(study: Study, task: Task | None = None) -> Figure:
    """Plot the course of a search: trials, and the expected score of the recommendation.

    The line is the expected score of what was recommended after a number of trials, with its
    central 90 % interval; a star is where another allocation came to be recommended. Points are
    trials by origin of their allocation. Open ones were stopped early; their value is the mean of
    what they saw.

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
    return figure_of_search(StudyView(study, task))


def figure_of_search(view: StudyView) -> Figure:
    """Return the figure of a study; see `plot_search`."""
    margin = view.recommendation.margin
    found = view.get(progress_of)
    figure = style.new_figure("Course of the search", _finding(view.task, found, margin))
    *band, line, stars = _recommended(view.task, found.points, margin)
    # The points are over the band and below the line.
    figure.add_traces([*band, *_trials(view, found.trials), line, stars])
    last = found.trials[-1].number
    pad = max(0.5, 0.02 * last)
    ticks = {"dtick": 1} if last < _FEW else {}
    figure.update_xaxes(title_text="trial", range=[-pad, last + pad], **ticks)
    figure.update_yaxes(title_text=style.value_title(view))
    return figure


def _finding(task: Task, found: Progress, margin: float) -> str:
    """Describe the recommendation's score, since when it is the same, and what has no point."""
    *earlier, now = found.points
    since = now.number
    for point in reversed(earlier):
        if point.allocation != now.allocation:
            break
        since = point.number
    text = f"Expected {style.metric_text(task)} {score_text(now.value, margin)} "
    text += f"({style.interval_text(now.interval, margin)})"
    text += f" after {count_text(len(found.trials), 'trial')}"
    # Trials between the points are not known.
    if since < now.number:
        text += f"; the same recommendation at all points of the line since trial {since}"
    text += "."
    states = Counter(trial.state for trial in found.trials if trial.value is None)
    counts = [f"{states[state]} {state}" for state in _STATES if states[state]]
    return f"{text} Not shown: {', '.join(counts)}." if counts else text


def _recommended(task: Task, points: Sequence[ProgressPoint], margin: float) -> list[Any]:
    """Return the line of the recommendation's expected score, its band, and stars."""
    go, metric = style.graph_objects(), style.metric_text(task)
    ends = [(p.number, p.interval) for p in points if p.interval is not None]
    numbers = [number for number, _ in ends]
    band = {"mode": "lines", "line": {"width": 0, "shape": "hv"}, "hoverinfo": "skip"}
    traces = [
        go.Scatter(
            x=numbers,
            y=[interval[side] for _, interval in ends],
            fill=fill,
            fillcolor=style.LIGHT,
            name="90 % interval",
            showlegend=fill == "tonexty" and bool(ends),
            **band,
        )
        for side, fill in ((0, None), (1, "tonexty"))
    ]
    texts = [
        style.lines(
            [
                f"recommended after trial {point.number}:",
                *style.allocation_lines(point.allocation),
                f"expected {metric} {score_text(point.value, margin)}",
                style.interval_text(point.interval, margin),
                style.cost_text(point.cost, task.cost_model.unit),
            ]
        )
        for point in points
    ]
    common = {"x": [point.number for point in points], "hovertext": texts, "hoverinfo": "text"}
    traces.append(
        go.Scatter(
            y=[point.value for point in points],
            mode="lines",
            line={"color": style.BLACK, "width": 2, "shape": "hv"},
            name=f"recommended: expected {style.escape(metric)}",
            **common,
        )
    )
    changed = [
        i for i, p in enumerate(points) if not i or p.allocation != points[i - 1].allocation
    ]
    traces.append(
        style.points_trace(
            [points[i].number for i in changed],
            [points[i].value for i in changed],
            {**style.RECOMMENDED, "size": 12},
            [texts[i] for i in changed],
            name="another one recommended",
        )
    )
    return traces


def _trials(view: StudyView, trials: Sequence[SearchTrial]) -> Iterator[Any]:
    """Yield the points of the trials, one trace for each origin."""
    go, metric = style.graph_objects(), style.metric_text(view.task)
    params = {trial.number: trial.params for trial in view.trials[-_DETAILED:]}
    origins = dict.fromkeys((*_ORIGINS, *(trial.origin for trial in trials)))
    for position, origin in enumerate(origins):
        shown = [t for t in trials if _origin(t) == origin and t.value is not None]
        # The legend has the symbol of the first one.
        shown.sort(key=lambda trial: trial.state == "pruned")
        if not shown:
            continue
        mark = style.mark(position)
        texts = []
        for trial in shown:
            choices = view.task.read(params.get(trial.number, {}))
            allocation = None if choices is None else view.task.allocation(choices)
            stopped = " of what it saw: stopped early" if trial.state == "pruned" else ""
            texts.append(
                style.lines(
                    [
                        f"trial {trial.number} ({_name(origin)})",
                        f"{metric} {score_text(trial.value or 0.0)}{stopped}",
                        *(style.allocation_lines(allocation) if allocation else ()),
                    ]
                )
            )
        yield go.Scatter(
            x=[trial.number for trial in shown],
            y=[trial.value for trial in shown],
            mode="markers",
            marker={
                "color": mark.color,
                "symbol": [
                    f"{mark.symbol}-open" if trial.state == "pruned" else mark.symbol
                    for trial in shown
                ],
                "size": 7 if len(trials) <= _DETAILED else 4,
                "opacity": 0.85,
            },
            name=style.escape(f"{_name(origin)} ({len(shown)})"),
            hovertext=texts,
            hoverinfo="text",
        )
    if any(trial.state == "pruned" and trial.value is not None for trial in trials):
        marker = {"color": style.GRAY, "symbol": "circle-open", "size": 7}
        yield style.legend_entry("open: stopped early", mode="markers", marker=marker)


def _origin(trial: SearchTrial) -> str:
    return "confirmation" if trial.confirms else trial.origin


def _name(origin: str) -> str:
    return _ORIGINS.get(origin, origin)
