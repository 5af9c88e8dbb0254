"""Style of all figures: colors, symbols, titles, and texts that Plotly takes literally.

Models differ by color, symbol and dash, so that figures can be read by the color-blind and in
black and white. Sizes fit the smallest place where figures are shown: a card of optuna-dashboard,
650 x 450 pixels.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.study import StudyDirection

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.report.text import NO_INTERVAL, score_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.support.plain import amount_text, one_line, shortened
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.task import Task
from optuna_agenttts.task.thinking import brief_choice

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

BLACK, GRAY, FAINT, LIGHT = "#000000", "#666666", "#aaaaaa", "#dddddd"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colors that the color-blind can tell apart (M. Okabe and K. Ito, 2008, "Color universal
design"), without the yellow, which is faint on white."""
SYMBOLS = ("circle", "square", "diamond", "cross", "triangle-up", "x", "triangle-down", "pentagon")
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
NUMBERS = {"exponentformat": "power", "minexponent": 6, "separatethousands": True}
"""Numbers at ticks, in place of metric prefixes: "500p" is not the number of anything."""
SCALE = "Cividis"
"""Color scale of scores: equal for the color-blind, and increasing in black and white."""

RECOMMENDED = {
    "symbol": "star",
    "size": 16,
    "color": "#F0E442",
    "line": {"color": BLACK, "width": 1.5},
}
"""Marker of the recommended allocation in all figures."""

_ENTITIES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;", "{": "&#123;", "}": "&#125;"}
)
_HUB_ID = re.compile(r"^[\w.-]+/([\w.-]+(?:, .+)?)$")
"""Name of a model on the Hugging Face Hub, with its organization, and perhaps its effort."""
_TEXT = 1000
"""Characters of any text, to bound the size of figures. Chosen by hand."""
_NAME, _LONG, _LINE, _NOTE = 24, 100, 70, 100
"""Characters of names, of names in hover texts, of lines in these, and of lines below a title,
which fit into 650 pixels. Chosen by hand."""


ROW_TITLES = 0.45
"""Space between rows that have titles of their own, as a share of the height. Chosen by hand."""
_BELOW = {"orientation": "h", "yref": "container", "y": 0, "yanchor": "bottom", "x": 0}
_BESIDE = {"x": 1.02, "y": 1, "font": {"size": 10}, "tracegroupgap": 0}
_ENTRIES = 12
"""Entries of a legend below a figure: more of them are beside it. Chosen by hand."""
_SPACE = 0.05
"""Space beyond the range of a metric, as a share of it. Chosen by hand."""
_DECADES = 4
"""Powers of ten from which an axis has no ticks in between. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Look of a line and its points.

    Args:
        color: Color, as ``#rrggbb``.
        symbol: Symbol of the points.
        dash: Dash of the line.
    """

    color: str
    symbol: str
    dash: str

    def transparent(self, opacity: float) -> str:
        """Return the color with an opacity from 0 to 1, for areas."""
        red, green, blue = (int(self.color[i : i + 2], 16) for i in (1, 3, 5))
        return f"rgba({red},{green},{blue},{opacity:g})"


def mark(position: int) -> Mark:
    """Return the look of the line at a position; 280 lines look different."""
    return Mark(*(looks[position % len(looks)] for looks in (COLORS, SYMBOLS, DASHES)))


def graph_objects() -> Any:
    """Return `plotly.graph_objects`, imported on first use.

    Raises:
        AgentTTSError: Plotly is not installed.
    """
    try:
        from plotly import graph_objects as module
    except ImportError as error:
        raise AgentTTSError(
            "Figures need Plotly: run `pip install optuna-agenttts[plot]`."
        ) from error
    return module


def new_figure(
    title: str,
    *notes: str,
    rows: int = 1,
    columns: int = 1,
    gap: float = 0.12,
    row_gap: float = 0.32,
) -> Figure:
    """Return an empty figure.

    Args:
        title: Title, as plain text.
        notes: Lines below the title, as plain texts: what the figure shows of this study.
        rows: Rows of panels.
        columns: Columns of panels.
        gap: Space between all columns, as a share of the width.
        row_gap: Space between all rows, as a share of the height.
    """
    figure, subtitle = graph_objects().Figure(), lines(notes, _NOTE)
    figure.set_subplots(
        rows, columns, horizontal_spacing=gap / columns, vertical_spacing=row_gap / rows
    )
    axis = {
        "gridcolor": LIGHT,
        "linecolor": GRAY,
        "showline": True,
        "ticks": "outside",
        "tickcolor": GRAY,
        "zeroline": False,
        "automargin": True,
        "title": {"standoff": 8},
        **NUMBERS,
    }
    figure.update_layout(
        title={
            "text": escape(title),
            "subtitle": {"text": subtitle, "font": {"size": 12, "color": GRAY}},
            "x": 0,
            "xref": "container",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 12, "l": 16},
            "font": {"size": 16},
        },
        template={
            "layout": {
                "font": {"family": "Helvetica, Arial, sans-serif", "size": 12, "color": "#222222"},
                "plot_bgcolor": "white",
                "paper_bgcolor": "white",
                "hoverlabel": {"align": "left", "bgcolor": "white", "font": {"color": BLACK}},
                "xaxis": axis,
                "yaxis": axis,
            }
        },
        margin={"l": 60, "r": 20, "t": 66 + 18 * subtitle.count("<br>"), "b": 50},
        legend={**_BELOW, "traceorder": "normal"},
        hovermode="closest",
    )
    return figure


def escape(text: str) -> str:
    """Return a text that Plotly shows as it is, in one line.

    Plotly reads some HTML, names of values in braces in templates, and TeX between dollar signs
    where MathJax is loaded.
    """
    return one_line(text, _TEXT).translate(_ENTITIES)


def lines(texts: Iterable[str], length: int = _LINE) -> str:
    """Return plain texts as lines that Plotly shows as they are; empty ones are left out."""
    wrapped = (line for text in texts for line in textwrap.wrap(one_line(text, _TEXT), length))
    return "<br>".join(map(escape, wrapped))


def brief(name: str, length: int = _NAME) -> str:
    """Return a name as plain text, shortened in the middle."""
    return _fitted(one_line(name, _TEXT), length)


def _fitted(text: str, length: int) -> str:
    """Shorten a name in the middle to a number of characters, but not its thinking effort."""
    if len(text) <= length or (brief := brief_choice(text)) == text:
        return shortened(text, length)
    name, _, effort = brief.rpartition(", ")
    return f"{shortened(name, max(length - len(effort) - 2, 5))}, {effort}"


def brief_allocation(allocation: Allocation) -> str:
    """Describe an allocation in plain text, with short names."""
    parts = allocation_lines(allocation, _NAME)
    # Names of thinking efforts have a comma.
    return ("; " if any(", " in part for part in parts) else ", ").join(parts)


def setting_text(stage: str, model: str) -> str:
    """Return the model of a stage as plain text for hover texts."""
    return f"{brief(stage, _LONG)}: {brief(model, _LONG)}"


def allocation_lines(allocation: Allocation, length: int = _LONG) -> list[str]:
    """Return one plain text for each stage of an allocation, by default for hover texts.

    Args:
        allocation: The allocation.
        length: Maximum length of a name, in characters.
    """
    return [
        f"{brief(stage, length)}: {s.samples} × {brief(s.model, length)}"
        for stage, s in allocation.items()
    ]


def short_names(names: Sequence[str], length: int = _NAME) -> dict[str, str]:
    """Return names for ticks and legends, escaped, and shortened in the middle.

    Names of the Hugging Face Hub lose their organization. Names that would be equal get up to
    twice as long, and a number if they still are.

    Args:
        names: The names.
        length: Maximum number of characters.
    """
    full = {name: one_line(name, _TEXT) for name in names}
    bare = {name: _HUB_ID.sub(r"\1", text) for name, text in full.items()}
    if len(set(bare.values())) == len(full):
        full = bare
    if any(len(text) > length for text in full.values()):
        full = {name: brief_choice(text) for name, text in full.items()}
    found = {name: _fitted(text, length) for name, text in full.items()}
    for longer in range(length + 1, 2 * length + 1):
        counts = Counter(found.values())
        for name, text in found.items():
            if counts[text] > 1:
                found[name] = _fitted(full[name], longer)
    used = set(found.values())
    numbered: dict[str, str] = {}
    for name, text in found.items():
        number, unique = 1, text
        while unique in numbered.values() or (number > 1 and unique in used):
            number += 1
            unique = f"{text} ({number})"
        numbered[name] = unique
    return {name: escape(text) for name, text in numbered.items()}


def interval_text(interval: tuple[float, float] | None, margin: float = 0.0) -> str:
    """Describe an interval as plain text."""
    if interval is None:
        return NO_INTERVAL
    return "90 % interval {} to {}".format(*(score_text(end, margin) for end in interval))


def cost_text(cost: float, unit: str) -> str:
    """Describe the cost of an allocation as plain text."""
    return f"cost {amount_text(cost, unit)} per instance"


def metric_text(task: Task) -> str:
    """Return the name of a task's metric as plain text, shortened, or "score"."""
    return brief(task.metric) or "score"


def value_title(view: StudyView, *, expected: bool = False) -> str:
    """Return the title of an axis of scores.

    Args:
        view: The study.
        expected: Whether the axis has expected scores.
    """
    text = f"expected {metric_text(view.task)}" if expected else metric_text(view.task)
    lower = view.study.directions[0] == StudyDirection.MINIMIZE
    return lines([f"{text} (lower is better)" if lower else text])


def value_limits(view: StudyView) -> dict[str, float]:
    """Return the limits of an axis of scores: the metric's range, and space for symbols."""
    scale, sign = view.candidates.scale, view.candidates.evidence.sign
    if not scale.bounded:
        return {}
    low, high = sorted((sign * scale.low, sign * (scale.low + scale.span)))
    space = _SPACE * (high - low)
    return {"minallowed": low - space, "maxallowed": high + space}


def beyond_limits(view: StudyView) -> str:
    """Return what allocations are that a study does not recommend."""
    constrained = view.candidates.evidence.constraints
    return "over the budget or constraints" if constrained else "over the budget"


def cost_title(unit: str) -> str:
    """Return the title of an axis of costs."""
    return lines([with_unit("cost per instance", unit)])


def log_axis(low: float, high: float) -> dict[str, Any]:
    """Return a logarithmic axis with few ticks as plain numbers.

    Args:
        low: Smallest value, above 0.
        high: Largest value.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first < _DECADES else (1,)
    ticks = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return {
        "type": "log",
        "range": [math.log10(low / 1.12), math.log10(high * 1.12)],
        "tickvals": ticks,
        "ticktext": list(map(amount_text, ticks)),
    }


def panels(count: int) -> tuple[int, int]:
    """Return the rows and columns of a number of panels."""
    columns = 2 if count in (2, 4) else min(count, 3)
    return -(-count // columns), columns


def place_legend(figure: Figure) -> None:
    """Put a long legend beside the figure, where it takes less space."""
    if sum(trace.showlegend is not False for trace in figure.data) > _ENTRIES:
        figure.update_layout(legend=None).update_layout(legend=_BESIDE)


def legend_entry(name: str, **look: Any) -> Any:
    """Return a trace without points that adds an entry to the legend.

    Args:
        name: The entry, escaped.
        look: Arguments of `plotly.graph_objects.Scatter`.
    """
    return graph_objects().Scatter(x=[None], y=[None], name=name, hoverinfo="skip", **look)


def points_trace(
    x: Sequence[float], y: Sequence[float], marker: Mapping[str, Any], hovers: object, **look: Any
) -> Any:
    """Return a trace of points with hover texts.

    Args:
        x: Places of the points.
        y: Their heights.
        marker: Their marker.
        hovers: Text of each point, or of all.
        look: Further arguments of `plotly.graph_objects.Scatter`.
    """
    look |= {"marker": marker, "hovertext": hovers, "hoverinfo": "text"}
    return graph_objects().Scatter(x=x, y=y, mode="markers", **look)


def with_unit(name: str, unit: str) -> str:
    """Return the title of an axis with its unit in parentheses, as plain text."""
    return f"{name} ({unit})" if unit else name


def error_bars(
    values: Sequence[float], intervals: Sequence[tuple[float, float] | None]
) -> dict[str, Any]:
    """Return error bars for intervals around values; none where there is no interval."""
    pairs = [
        (0.0, 0.0) if interval is None else (interval[1] - value, value - interval[0])
        for value, interval in zip(values, intervals)
    ]
    return {
        "type": "data",
        "symmetric": False,
        "array": [up for up, _ in pairs],
        "arrayminus": [down for _, down in pairs],
        "thickness": 1.2,
        "width": 3,
        "visible": any(interval is not None for interval in intervals),
    }
