"""Parts that figures of expected scores share: a panel for each stage, a line for each model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

from optuna_agenttts.report.saturation import SaturationCurve
from optuna_agenttts.report.thinking import ThinkingCurve
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.visualization.marks import bar_marker, trial_marker
from optuna_agenttts.visualization.style import (
    GRAY,
    RECOMMENDED,
    Mark,
    brief,
    legend_entry,
    lines,
    points_trace,
    short_names,
    value_limits,
    value_title,
)

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

TITLES = 36
"""Characters of the stages' names below a row of panels, which must not overlap. Chosen by
hand."""
STAGE = 14
"""Characters of the names of stages without a line of their own below the title. Chosen by
hand."""
_LINES = 3
"""Stages with a line of their own below the title. Chosen by hand."""
_LEAST = 3
"""Trials from which on saturation is stated. Chosen by hand."""


def tells_saturation(view: StudyView) -> bool:
    """Return whether a study has enough trials, and scores that differ, to state saturation."""
    return view.recommendation.trials >= _LEAST and view.candidates.scale.informative


def findings(
    view: StudyView, chosen: Sequence[SaturationCurve] | Sequence[ThinkingCurve], question: str
) -> list[str] | None:
    """Return what is found about the recommended models, or why nothing is.

    Args:
        view: The study.
        chosen: Curves of the recommended models.
        question: What the figure tells, such as "where samples saturate".

    Returns:
        Lines for below the title; None if the stages are too many for a line of each.
    """
    if view.recommendation.trials < _LEAST:
        return [f"Too few trials to tell {question}"]
    if not view.candidates.scale.informative:
        return [f"All scores are equal: they do not tell {question}"]
    if len(chosen) <= _LINES:
        return [f"{brief(c.stage)}, {brief(c.model)}: {c.finding}" for c in chosen]
    return None


def band(
    ends: Iterable[tuple[float, float, float]], look: Mark, *, recommended: bool
) -> dict[str, Any]:
    """Return the trace of the intervals along a curve.

    Args:
        ends: Place, lower and upper end of each interval.
        look: Look of the model.
        recommended: Whether the model is the recommended one.
    """
    ends = list(ends)
    area = [(x, high) for x, _, high in ends] + [(x, low) for x, low, _ in reversed(ends)]
    return {
        "x": [x for x, _ in area],
        "y": [end for _, end in area],
        "fill": "toself",
        "fillcolor": look.transparent(0.18 if recommended else 0.05),
        "mode": "lines",
        "line": {"width": 0},
        "hoverinfo": "skip",
    }


def recommended_point(view: StudyView, stage: str, x: float) -> Any:
    """Return the point of the recommended allocation in the panel of a stage."""
    best = view.recommendation
    setting = best.allocation[stage]
    text = lines(["recommended", f"{stage}: {setting.samples} × {setting.model}"])
    return points_trace([x], [best.value], RECOMMENDED, text, showlegend=False)


def share_value_axes(figure: Figure, view: StudyView, rows: int, columns: int) -> None:
    """Give all panels one axis of values, with its title and labels at the left."""
    for row, column in list(product(range(1, rows + 1), range(1, columns + 1)))[1:]:
        figure.update_yaxes(matches="y", row=row, col=column)
    figure.update_yaxes(**value_limits(view))
    # The titles of several rows would overlap.
    figure.update_yaxes(title_text=value_title(view, expected=True), row=rows, col=1)
    for column in range(2, columns + 1):
        figure.update_yaxes(showticklabels=False, col=column)


def add_symbols(figure: Figure, thin: str) -> None:
    """Add to the legend what symbols mean, and a thin line of a name."""
    gray = Mark(GRAY, "circle", "solid")
    for name, marker in (
        ("recommended", {**RECOMMENDED, "size": 12}),
        ("saturates", bar_marker(GRAY, 10)),
        ("trial, rest as recommended", trial_marker(gray, alike=True)),
        ("other trial", trial_marker(gray, alike=False)),
        ("90 % interval", {"symbol": "square", "size": 12, "color": gray.transparent(0.2)}),
    ):
        figure.add_trace(legend_entry(name, mode="markers", marker=marker))
    figure.add_trace(legend_entry(thin, mode="lines", line={"color": GRAY, "width": 1}))


def add_models(figure: Figure, marks: Mapping[str, Mark]) -> None:
    """Add the looks of models to the legend."""
    names = short_names(list(marks))
    for model, look in marks.items():
        figure.add_trace(
            legend_entry(
                names[model],
                mode="lines+markers",
                line={"color": look.color, "dash": look.dash, "width": 2},
                marker={"color": look.color, "symbol": look.symbol, "size": 8},
                legendgroup=model,
            )
        )
