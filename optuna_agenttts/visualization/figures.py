"""All figures by name, for the command line, the dashboard and the web page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.stage import has_efforts
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization.allocation_map import figure_of_allocation_map
from optuna_agenttts.visualization.frontier import figure_of_frontier
from optuna_agenttts.visualization.importances import figure_of_importances
from optuna_agenttts.visualization.outcomes import figure_of_outcomes
from optuna_agenttts.visualization.saturation import figure_of_saturation
from optuna_agenttts.visualization.search import figure_of_search
from optuna_agenttts.visualization.spend import figure_of_spend
from optuna_agenttts.visualization.thinking import figure_of_thinking

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

FIGURES: Mapping[str, Callable[[StudyView], Figure]] = {
    "frontier": figure_of_frontier,
    "saturation": figure_of_saturation,
    "allocation-map": figure_of_allocation_map,
    "importances": figure_of_importances,
    "search": figure_of_search,
    "outcomes": figure_of_outcomes,
    "spend": figure_of_spend,
}
"""Function of each figure: what to use first, then why, then how it was found."""
EFFORT_FIGURES: Mapping[str, Callable[[StudyView], Figure]] = {"thinking": figure_of_thinking}
"""Figures of tasks whose models have thinking efforts."""
ALL_FIGURES = {**FIGURES, **EFFORT_FIGURES}


def figure_names(task: Task) -> tuple[str, ...]:
    """Return the names of the figures of a task's studies."""
    return tuple(ALL_FIGURES if has_efforts(task.stages) else FIGURES)
