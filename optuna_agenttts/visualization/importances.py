"""Figure of importances: how much each stage's model and samples matter."""

from __future__ import annotations

from typing import TYPE_CHECKING

from optuna.study import Study

from optuna_agenttts.exceptions import NoEvidenceError
from optuna_agenttts.report.importances import Importance, importances_of
from optuna_agenttts.report.text import score_text, share_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization.style import (
    BLACK,
    COLORS,
    brief,
    error_bars,
    graph_objects,
    lines,
    metric_text,
    new_figure,
    short_names,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_LOOKS = {"model": (COLORS[5], ""), "thinking": (COLORS[2], "."), "samples": (COLORS[4], "/")}
"""Color and pattern of the bars of each setting."""
_BARS = 8
"""Bars with two lines of text; of more of them, lines would overlap. Chosen by hand."""


def plot_importances(study: Study, task: Task | None = None) -> Figure:
    """Plot how much the model and the samples of each stage matter for the score.

    Unlike `optuna.visualization.plot_param_importances`, they are about all allocations within
    the budget, and not about the trials, most of which a search chooses among the best ones.

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
    return figure_of_importances(StudyView(study, task))


def figure_of_importances(view: StudyView) -> Figure:
    """Return the figure of a study; see `plot_importances`."""
    found = sorted(view.get(importances_of), key=lambda importance: importance.share)
    if not found:
        raise NoEvidenceError(
            "Too few different trials are complete to state what matters, or their scores are all "
            "equal."
        )
    metric = metric_text(view.task)
    top = found[-1]
    note = f"Most: {top.setting} of {brief(top.stage)}, {share_text(top.share)}; a random one is "
    note += f"{_worse(view, top)} than the recommended one"
    figure = new_figure(
        f"What matters for {metric}",
        note,
    )
    names = short_names([importance.stage for importance in found])
    for setting, (color, pattern) in _LOOKS.items():
        rows = [i for i, importance in enumerate(found) if importance.setting == setting]
        if not rows:
            continue
        shares = [100 * found[i].share for i in rows]
        ends = [(100 * found[i].interval[0], 100 * found[i].interval[1]) for i in rows]
        figure.add_trace(
            graph_objects().Bar(
                x=shares,
                y=rows,
                orientation="h",
                name=setting,
                marker={
                    "color": color,
                    "line": {"color": BLACK, "width": 1},
                    "pattern": {"shape": pattern, "fgcolor": BLACK, "solidity": 0.2},
                },
                error_x={**error_bars(shares, ends), "color": BLACK},
                hovertext=[
                    lines(
                        [
                            f"{brief(found[i].stage, 100)}: {setting}",
                            f"{share_text(share / 100)} of the variance",
                            f"90 % interval {share_text(low / 100)} to {share_text(high / 100)}",
                            f"a random one is {_worse(view, found[i])} than the recommended one",
                        ]
                    )
                    for i, share, (low, high) in zip(rows, shares, ends)
                ],
                hoverinfo="text",
            )
        )
    figure.update_xaxes(
        title_text=lines([f"share of the variance of {metric} within the budget, 90 % intervals"]),
        ticksuffix=" %",
        rangemode="tozero",
    )
    figure.update_yaxes(
        tickvals=list(range(len(found))),
        ticktext=[
            f"{names[i.stage]}: {i.setting}"
            + f'<br><span style="font-size:10px">a random one: {_worse(view, i)}</span>'
            * (len(found) <= _BARS)
            for i in found
        ],
        showgrid=False,
    )
    return figure


def _worse(view: StudyView, importance: Importance) -> str:
    """Describe what a random setting loses."""
    text = score_text(importance.loss, view.recommendation.margin)
    return f"{text} worse" if float(text) else "no worse"
