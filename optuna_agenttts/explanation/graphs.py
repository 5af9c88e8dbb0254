"""Figures of a study as graphs in optuna-dashboard."""

from __future__ import annotations

import importlib.util
import json
import math
from typing import TYPE_CHECKING, Any

from optuna_agenttts import storage
from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.support.encoding import json_ready
from optuna_agenttts.task.task import Task

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_PREFIX = "agenttts-"
"""Start of the IDs of our graphs."""
_LARGEST = 150_000
"""Characters of a graph: the dashboard loads all graphs with each page of the study, and they are
read with all attributes of the study. Chosen by hand."""
_DIGITS = 4
"""Significant digits of numbers: an image of 450 pixels shows no more."""


def figure_names(task: Task | None = None) -> tuple[str, ...]:
    """Return the names of a task's figures, of all without a task; none without Plotly."""
    if importlib.util.find_spec("plotly") is None:
        return ()
    # Imported on first use: the sampler would start later otherwise.
    from optuna_agenttts.visualization import figures

    return tuple(figures.ALL_FIGURES) if task is None else figures.figure_names(task)


def save_graph(view: StudyView, name: str) -> None:
    """Write a figure of a study, unless there is nothing to draw yet."""
    from optuna_agenttts.visualization.figures import ALL_FIGURES

    try:
        figure = ALL_FIGURES[name](view)
    except AgentTTSError:
        # No complete trial, or several objectives: the note describes it.
        return
    storage.write_graph(view.study, f"{_PREFIX}{name}", graph_of(figure))


def graph_of(figure: Figure) -> str:
    """Return a figure as JSON that fits its card, which is 450 pixels high.

    Numbers are rounded. A large figure loses its hover texts, and a larger one is a reference to
    the command line.
    """
    values = json_ready(figure.to_plotly_json(), _rounded)
    traces, layout = values["data"], values["layout"]
    for size in ("height", "width"):
        layout.pop(size, None)
    if template := layout.get("template"):
        kinds = {trace.get("type", "scatter") for trace in traces}
        template["data"] = {k: v for k, v in template.get("data", {}).items() if k in kinds}
    text = _json(traces, layout)
    if len(text) > _LARGEST:
        for trace in traces:
            if isinstance(trace.pop("hovertext", None), list):
                trace["hoverinfo"] = "x+y"
        text = _json(traces, layout)
    if len(text) > _LARGEST:
        message = "This figure is too large for the dashboard: see `agenttts plot`."
        words = {"text": message, "showarrow": False, "xref": "paper", "yref": "paper"}
        hidden = {"visible": False}
        layout = {"title": layout.get("title", {}), "annotations": [words]}
        text = _json([], {**layout, "xaxis": hidden, "yaxis": hidden})
    return text


def _json(traces: list[Any], layout: dict[str, Any]) -> str:
    return json.dumps({"data": traces, "layout": layout}, separators=(",", ":"))


def _rounded(number: float) -> float | None:
    """Round a number of a figure."""
    return float(f"{number:.{_DIGITS}g}") if math.isfinite(number) else None
