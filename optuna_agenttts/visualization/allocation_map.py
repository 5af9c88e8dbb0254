"""Figure of the map of allocations: scores by the models and samples of two stages."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from optuna.study import Study, StudyDirection

from optuna_agenttts.report.maps import AllocationMap, MapPanel, map_of
from optuna_agenttts.report.text import count_text, score_text
from optuna_agenttts.report.tried import numbers_shown
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization.style import (
    BLACK,
    NUMBERS,
    RECOMMENDED,
    ROW_TITLES,
    SCALE,
    allocation_lines,
    beyond_limits,
    brief,
    graph_objects,
    legend_entry,
    lines,
    metric_text,
    new_figure,
    panels,
    points_trace,
    setting_text,
    short_names,
    value_title,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_ROWS, _COLUMNS = 3, 4
"""Models of the later and the earlier stage that are shown. Chosen by hand."""
_HEIGHT, _WIDTH = 36, 64
"""Characters of all models' names along the axes, which must not overlap. Chosen by hand."""
_EFFORT = 8
"""Characters of the name of a thinking effort. Chosen by hand."""
_STAGE = 12
"""Characters of a stage's name at an axis of a pair of stages. Chosen by hand."""
_TICKS = 4
"""Ticks of an axis, about. Chosen by hand."""
_HIDDEN, _BEST = {"color": BLACK, "width": 5}, {"color": "white", "width": 2.5}
"""Line of the best later samples, with its outline: it is seen on dark and bright colors."""
_TRIAL = {"symbol": "circle", "size": 6, "color": "white", "line": {"color": BLACK, "width": 1.2}}


def plot_allocation_map(
    study: Study,
    task: Task | None = None,
    *,
    earlier: str | None = None,
    later: str | None = None,
) -> Figure:
    """Plot expected scores by the models and samples of two stages.

    Each pair of models has a panel. A line marks the best number of samples of the later stage
    for each number of the earlier one. Other stages are as recommended. For a task of more than
    two stages, the panels are the pairs of consecutive stages with their recommended models,
    unless a pair of stages is given.

    Args:
        study: A study of a score, or of a score and then a cost, of any sampler.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.
        earlier: Name of the earlier stage. Default: the one before `later`.
        later: Name of the later stage. Default: the one after `earlier`.

    Returns:
        The figure.

    Raises:
        AgentTTSError: Plotly is not installed.
        NoTaskError: The study has no task, or other objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
        TaskError: The task has one stage, or `earlier` or `later` is invalid.
    """
    return figure_of_allocation_map(StudyView(study, task), earlier, later)


def figure_of_allocation_map(
    view: StudyView, earlier: str | None = None, later: str | None = None
) -> Figure:
    """Return the figure of a study; see `plot_allocation_map`."""
    stages = [stage.name for stage in view.task.stages]
    if len(stages) > 2 and earlier is None and later is None:
        maps = [_cropped(view, map_of(view, *pair)) for pair in pairwise(stages)]
        return _figure_of_pairs(view, maps)
    found = _cropped(view, map_of(view, earlier, later))
    across, dropped = _best_models(view, found, lambda panel: panel.earlier_model, _COLUMNS)
    up, hidden = _best_models(view, found, lambda panel: panel.later_model, _ROWS)
    notes = [f"samples of {brief(found.earlier)} (across) and {brief(found.later)} (up), by model"]
    if dropped or hidden:
        notes.append("models with lower scores are left out")
    figure = _new_figure(view, notes, len(up), len(across))
    for panel in found.panels:
        if panel.earlier_model in across and panel.later_model in up:
            row, column = up.index(panel.later_model), across.index(panel.earlier_model)
            _add_panel(figure, view, found, panel, row + 1, column + 1)
    names = short_names(across, _WIDTH // len(across))
    for column, model in enumerate(across, 1):
        figure.update_xaxes(title_text=names[model], row=len(up), col=column)
    length = _HEIGHT // len(up)
    thinking = [model for model in up if ", " in model]
    names = short_names([model for model in up if model not in thinking], length)
    # Efforts have a line of their own.
    names |= short_names(thinking, length + _EFFORT)
    for row, model in enumerate(up, 1):
        figure.update_yaxes(title_text=names[model].replace(", ", ",<br>"), row=row, col=1)
    figure.update_xaxes(showticklabels=False)
    figure.update_yaxes(showticklabels=False)
    figure.update_xaxes(showticklabels=True, row=len(up))
    figure.update_yaxes(showticklabels=True, col=1)
    return figure


def _cropped(view: StudyView, found: AllocationMap) -> AllocationMap:
    """Return a map without numbers of samples over the budget in all panels that none has."""
    rows, columns = np.nonzero(np.any([np.isfinite(p.values) for p in found.panels], axis=0))
    best = view.recommendation.allocation
    tried = [trial for panel in found.panels for trial in panel.trials]
    most = (
        max([best[found.later].samples, *(later for _, _, later, _ in tried)]),
        max([best[found.earlier].samples, *(earlier for _, earlier, _, _ in tried)]),
    )
    up, across = (
        1 + min(max([*places, int(np.searchsorted(grid, number))]), len(grid) - 1)
        for places, grid, number in zip(
            (rows.tolist(), columns.tolist()), (found.later_samples, found.earlier_samples), most
        )
    )
    return replace(
        found,
        earlier_samples=found.earlier_samples[:across],
        later_samples=found.later_samples[:up],
        panels=tuple(
            replace(panel, values=panel.values[:up, :across], best_later=panel.best_later[:across])
            for panel in found.panels
        ),
    )


def _figure_of_pairs(view: StudyView, maps: Sequence[AllocationMap]) -> Figure:
    """Return a figure with a panel of the recommended models for each pair of stages."""
    rows, columns = panels(len(maps))
    notes = ["samples of consecutive stages, models as recommended"]
    figure = _new_figure(view, notes, rows, columns, gap=0.3, row_gap=ROW_TITLES)
    names = short_names([stage.name for stage in view.task.stages], _STAGE)
    for position, found in enumerate(maps):
        row, column = position // columns + 1, position % columns + 1
        panel = next(panel for panel in found.panels if _is_recommended(view, found, panel))
        _add_panel(figure, view, found, panel, row, column)
        figure.update_xaxes(title_text=f"samples of {names[found.earlier]}", row=row, col=column)
        figure.update_yaxes(title_text=f"samples of {names[found.later]}", row=row, col=column)
    return figure


def _new_figure(
    view: StudyView,
    notes: Sequence[str],
    rows: int,
    columns: int,
    gap: float = 0.12,
    row_gap: float = 0.32,
) -> Figure:
    """Return a figure without panels, with its legend and color bar."""
    figure = new_figure(
        f"Expected {metric_text(view.task)} by allocation",
        *notes,
        f"blank: {beyond_limits(view)}",
        rows=rows,
        columns=columns,
        gap=gap,
        row_gap=row_gap,
    )
    lower = view.study.directions[0] == StudyDirection.MINIMIZE
    figure.update_layout(
        coloraxis={
            "colorscale": SCALE,
            "reversescale": lower,
            "colorbar": {
                "title": {"text": value_title(view, expected=True), "side": "right"},
                "thickness": 14,
                **NUMBERS,
            },
        },
    )
    figure.update_xaxes(showgrid=False, mirror=True)
    figure.update_yaxes(showgrid=False, mirror=True)
    for name, look in (
        ("recommended", {"mode": "markers", "marker": {**RECOMMENDED, "size": 12}}),
        ("trial", {"mode": "markers", "marker": _TRIAL}),
        ("best samples of the later stage", {"mode": "lines", "line": {**_HIDDEN, "width": 3}}),
    ):
        figure.add_trace(legend_entry(name, **look))
    return figure


def _is_recommended(view: StudyView, found: AllocationMap, panel: MapPanel) -> bool:
    """Return whether a panel has the recommended models."""
    best = view.recommendation.allocation
    chosen = best[found.earlier].model, best[found.later].model
    return chosen == (panel.earlier_model, panel.later_model)


def _best_models(
    view: StudyView, found: AllocationMap, model_of: Callable[[MapPanel], str], most: int
) -> tuple[list[str], int]:
    """Return the models of a stage to show, those with the best scores, and how many are not."""
    sign = view.candidates.evidence.sign
    scores: dict[str, float] = {}
    for panel in found.panels:
        best = float(np.nan_to_num(sign * panel.values, nan=-np.inf).max())
        # The recommended model is shown in any case.
        best = math.inf if _is_recommended(view, found, panel) else best
        model = model_of(panel)
        scores[model] = max(scores.get(model, -math.inf), best)
    shown = sorted(scores, key=lambda model: -scores[model])[:most]
    return [model for model in scores if model in shown], len(scores) - len(shown)


def _add_panel(
    figure: Figure, view: StudyView, found: AllocationMap, panel: MapPanel, row: int, column: int
) -> None:
    """Add a panel: scores, the best later samples, trials, and the recommended allocation."""
    go, place = graph_objects(), {"row": row, "col": column}
    metric, margin = metric_text(view.task), view.recommendation.margin
    across, up = found.earlier_samples, found.later_samples
    names = (
        setting_text(found.earlier, panel.earlier_model),
        setting_text(found.later, panel.later_model),
    )
    trials = [
        trial
        for trial in panel.trials
        # The task may have allowed more samples when a trial ran.
        if trial[0] in view.get(numbers_shown) and trial[1] <= across[-1] and trial[2] <= up[-1]
    ]
    figure.add_trace(
        go.Heatmap(
            z=[[None if math.isnan(value) else value for value in line] for line in panel.values],
            customdata=[[[x, y] for x in across] for y in up],
            coloraxis="coloraxis",
            hovertemplate=f"expected {lines([metric])}: %{{z:.3g}}<br>"
            f"{lines([names[0]])}: %{{customdata[0]}} samples<br>"
            f"{lines([names[1]])}: %{{customdata[1]}} samples<extra></extra>",
        ),
        **place,
    )
    best: list[tuple[int, int | None]] = [
        (x, up.index(later)) for x, later in enumerate(panel.best_later) if later is not None
    ]
    # Plotly logs errors about a panel without a point.
    best = best or [(0, None)]
    for line in (_HIDDEN, _BEST):
        figure.add_trace(
            go.Scatter(
                x=[x for x, _ in best],
                y=[y for _, y in best],
                mode="lines",
                line=line,
                hoverinfo="skip",
                showlegend=False,
            ),
            **place,
        )
    figure.add_trace(
        points_trace(
            [_position(across, earlier) for _, earlier, _, _ in trials],
            [_position(up, later) for _, _, later, _ in trials],
            _TRIAL,
            [
                lines(
                    [
                        f"trial {number}: {metric} {score_text(value, margin)}",
                        f"{names[0]}: {count_text(earlier, 'sample')}",
                        f"{names[1]}: {count_text(later, 'sample')}",
                    ]
                )
                for number, earlier, later, value in trials
            ],
            showlegend=False,
        ),
        **place,
    )
    if _is_recommended(view, found, panel):
        allocation = view.recommendation.allocation
        figure.add_trace(
            points_trace(
                [_position(across, allocation[found.earlier].samples)],
                [_position(up, allocation[found.later].samples)],
                RECOMMENDED,
                [lines(["recommended", *allocation_lines(allocation)])],
                showlegend=False,
            ),
            **place,
        )
    figure.update_xaxes(range=[-0.5, len(across) - 0.5], **_ticks(across), **place)
    figure.update_yaxes(range=[-0.5, len(up) - 0.5], **_ticks(up), **place)


def _position(grid: Sequence[int], samples: int) -> float:
    """Return the position of a number of samples on an axis, between those of the grid."""
    return float(np.interp(math.log(samples), np.log(grid), range(len(grid))))


def _ticks(grid: Sequence[int]) -> dict[str, Any]:
    """Return the ticks of an axis: numbers of samples at evenly spaced positions."""
    places = sorted({round(i) for i in np.linspace(0, len(grid) - 1, _TICKS).tolist()})
    return {"tickvals": places, "ticktext": [f"{grid[place]:,}" for place in places]}
