"""Figure of the outcomes of instances in trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from optuna.study import Study

from optuna_agenttts.exceptions import NoEvidenceError
from optuna_agenttts.report.outcomes import OutcomeTable, outcomes_of_study
from optuna_agenttts.report.text import count_text, score_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization import style

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_INSTANCES, _TRIALS = 300, 200
"""Maximum numbers of rows and columns: more are smaller than a pixel in a card of
optuna-dashboard, and their figure is large. Chosen by hand."""
_DIGITS = 4
"""Digits of outcomes after the first one in which they differ, which keep the figure small. Chosen
by hand."""
_NAME = 16
"""Characters of the names of instances. Chosen by hand."""
_NAMED = 3
"""Instances that decide most, in the subtitle. Chosen by hand."""


def plot_outcomes(study: Study, task: Task | None = None) -> Figure:
    """Plot the outcomes of instances in trials.

    Rows are instances, those that fail most often on top; columns are trials, the best one first,
    and those that were stopped early at the end. Bars show which instances decide, that is, tell
    good allocations from bad ones: the correlation of their outcomes with the mean outcomes of the
    trials' other instances.

    Args:
        study: A study of a score, or of a score and then a cost, whose trials report outcomes of
            single instances, as those of `MultiStageObjective` do.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.

    Returns:
        The figure. Of more than 300 instances or 200 trials, it shows evenly spaced ones.

    Raises:
        AgentTTSError: Plotly is not installed.
        NoTaskError: The study has no task, or other objectives.
        NoEvidenceError: No trial reported outcomes whose mean is its value.
    """
    return figure_of_outcomes(StudyView(study, task))


def figure_of_outcomes(view: StudyView) -> Figure:
    """Return the figure of a study; see `plot_outcomes`."""
    _check(view)
    found = view.get(outcomes_of_study)
    rows = _spaced(len(found.instances), _INSTANCES)
    columns = _spaced(len(found.trials), _TRIALS)
    figure = style.new_figure(
        "Outcomes of instances in trials", _finding(found, rows, columns), rows=1, columns=2
    )
    go, metric = style.graph_objects(), style.metric_text(view.task)
    instances = [found.instances[row] for row in rows]
    short = style.short_names([instance.name for instance in instances], _NAME)
    names = [short[instance.name] for instance in instances]
    numbers = [str(found.trials[column]) for column in columns]
    values = found.values[rows][:, columns]
    figure.add_trace(
        go.Heatmap(
            x=numbers,
            y=names,
            z=_rounded(values),
            colorscale=style.SCALE,
            hoverongaps=False,
            # Plotly fills in names and numbers; a text for each cell would take megabytes.
            hovertemplate="trial %{x}<br>%{y}: %{z}<extra></extra>",
            colorbar=_colorbar(metric, [v for v in values.flat if not math.isnan(v)]),
        ),
        row=1,
        col=1,
    )
    figure.add_trace(
        go.Bar(
            x=[instance.decides for instance in instances],
            y=names,
            orientation="h",
            marker={"color": style.GRAY, "line": {"width": 0}},
            showlegend=False,
            hovertext=[
                style.lines(
                    [
                        f"{instance.name} (step {instance.step})",
                        f"mean {metric} {score_text(instance.mean)} "
                        f"in {count_text(instance.trials, 'trial')}",
                        f"decides: correlation {instance.decides:.2f} with other instances",
                    ]
                )
                for instance in instances
            ],
            hoverinfo="text",
        ),
        row=1,
        col=2,
    )
    categories = {"type": "category", "showgrid": False, "zeroline": False}
    figure.update_xaxes(title_text="trial, best first", domain=[0, 0.8], **categories, col=1)
    figure.update_yaxes(title_text="instance, hardest on top", autorange="reversed", **categories)
    figure.update_yaxes(matches="y", showticklabels=False, title_text="", ticks="", col=2)
    lowest = min(0.0, *(instance.decides for instance in instances))
    figure.update_xaxes(
        title_text="decides<br>(correlation)", domain=[0.83, 1], range=[lowest, 1.0], col=2
    )
    figure.update_layout(bargap=0.1, plot_bgcolor="white")
    return figure


def _check(view: StudyView) -> None:
    """Raise if a study has no outcomes; see `plot_outcomes`."""
    name = view.study.study_name
    if len(view.study.directions) > 1:
        # Raises an error if they are not a score and then a cost.
        _ = view.candidates
    if not view.get(outcomes_of_study).trials:
        raise NoEvidenceError(
            f"No trial of study {name!r} reported outcomes of single instances whose mean is its "
            "value: call `report_outcomes(trial, outcomes)` in the objective."
        )


def _spaced(count: int, most: int) -> list[int]:
    """Return evenly spaced positions, the first and the last included."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def _rounded(values: NDArray[np.float64]) -> list[list[float | None]]:
    """Return short numbers, integers if possible, and None for NaN."""
    spread = float(np.nanmax(values) - np.nanmin(values))
    digits = _DIGITS - math.floor(math.log10(spread or 1.0))

    def short(value: float) -> float | None:
        if math.isnan(value):
            return None
        return int(value) if value == int(value) else round(value, digits)

    return [list(map(short, row)) for row in values.tolist()]


def _colorbar(metric: str, values: Sequence[float]) -> dict[str, Any]:
    """Return the color bar, with ticks at 0 and 1 alone if there are no other outcomes."""
    ticks = {"tickvals": [0, 1]} if set(values) <= {0.0, 1.0} else {}
    title = {"text": style.lines([metric]), "side": "right"}
    return {"title": title, "thickness": 12, "outlinewidth": 0, **ticks, **style.NUMBERS}


def _finding(found: OutcomeTable, rows: Sequence[int], columns: Sequence[int]) -> str:
    """Describe how many instances decide, and which ones most."""
    instances, trials = len(found.instances), len(found.trials)
    text = f"{count_text(instances, 'instance')}, {count_text(trials, 'trial')}"
    if len(rows) < instances or len(columns) < trials:
        text += f" (shown: {len(rows)} and {len(columns)}, evenly spaced)"
    if trials > 1:
        same = sum(len(set(row[~np.isnan(row)].tolist())) == 1 for row in found.values)
        text += f". {same} had the same outcome in all trials"
        most = sorted(found.instances, key=lambda instance: -instance.decides)[:_NAMED]
        if named := [style.brief(one.name) for one in most if one.decides > 0]:
            text += f"; those that decide most: {', '.join(named)}"
    return f"{text}. White: not run."
