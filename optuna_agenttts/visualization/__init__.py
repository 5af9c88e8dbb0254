"""Figures of a study, as those of `optuna.visualization`.

Each function returns a `plotly.graph_objects.Figure`. Plotly is imported when the first figure is
made: ``pip install optuna-agenttts[plot]``.
"""

from optuna_agenttts.visualization.allocation_map import plot_allocation_map
from optuna_agenttts.visualization.frontier import plot_frontier
from optuna_agenttts.visualization.importances import plot_importances
from optuna_agenttts.visualization.outcomes import plot_outcomes
from optuna_agenttts.visualization.saturation import plot_saturation
from optuna_agenttts.visualization.search import plot_search
from optuna_agenttts.visualization.spend import plot_spend
from optuna_agenttts.visualization.thinking import plot_thinking

__all__ = [
    "plot_allocation_map",
    "plot_frontier",
    "plot_importances",
    "plot_outcomes",
    "plot_saturation",
    "plot_search",
    "plot_spend",
    "plot_thinking",
]
