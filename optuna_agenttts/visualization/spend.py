"""Figure of what a search was spent on, and what reuse saved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optuna.study import Study

from optuna_agenttts.report.expenditure import Expenditure, expenditure_of
from optuna_agenttts.report.text import count_text, share_text, spend_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.task import Task
from optuna_agenttts.visualization import style
from optuna_agenttts.visualization.marks import model_marks

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_BARS = 14
"""Maximum number of bars, to fit a card of optuna-dashboard: the smallest ones beyond are added
up. Chosen by hand."""


_LETTER = 0.019
"""Width of a letter beside a bar, as a share of the axis, beside long names in a figure of 600
pixels."""


@dataclass(frozen=True, slots=True)
class _Bar:
    tick: str
    color: str
    spend: float
    saved: float
    hover: tuple[str, ...]


def plot_spend(study: Study, task: Task | None = None) -> Figure:
    """Plot what a search was spent on: models of stages, the agent, and what reuse saved.

    Bars are sums over all trials, also those that failed, were stopped, or confirm allocations.

    Args:
        study: The study, with any sampler.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.

    Returns:
        The figure.

    Raises:
        NoTaskError: The study has no task.
        AgentTTSError: Plotly is not installed.
    """
    return figure_of_spend(StudyView(study, task))


def figure_of_spend(view: StudyView) -> Figure:
    """Return the figure of `plot_spend`."""
    spent = view.get(expenditure_of)
    bars = _bars(view.task, spent)
    total, saves = spent.total + spent.agent, any(bar.saved for bar in bars)
    go, unit = style.graph_objects(), spent.unit or "units of the cost"
    figure = style.new_figure("Where the spend went", _summary(view.task, spent))
    rows = list(range(len(bars)))
    hover = [style.lines(bar.hover) for bar in bars]
    looks: tuple[tuple[list[float], dict[str, Any]], ...] = (
        ([bar.spend for bar in bars], {"color": [bar.color for bar in bars]}),
        # Hatched, so that it differs in black and white as well.
        ([bar.saved for bar in bars], _hatched([bar.color for bar in bars])),
    )
    for lengths, look in looks:
        figure.add_trace(
            go.Bar(
                x=lengths,
                y=rows,
                orientation="h",
                marker=look,
                hovertext=hover,
                hoverinfo="text",
                showlegend=False,
            )
        )
    if saves:
        for name, look in (
            ("spent", {"color": style.GRAY}),
            ("saved by reuse", _hatched(style.GRAY)),
        ):
            figure.add_trace(go.Bar(x=[None], y=[None], name=name, marker=look))
    # Beside savings, the length of the whole bar is no share.
    what = " of spend" if saves else ""
    shares = [f"{share_text(bar.spend / total)}{what}" if total else "" for bar in bars]
    figure.add_trace(
        go.Scatter(
            x=[bar.spend + bar.saved for bar in bars],
            y=rows,
            mode="text",
            text=[f" {style.escape(share)}" for share in shares],
            textposition="middle right",
            hoverinfo="skip",
            showlegend=False,
        )
    )
    longest = max((bar.spend + bar.saved for bar in bars), default=0.0)
    figure.update_xaxes(
        title_text=style.escape(f"spend over all trials ({unit})"),
        range=[0, longest / (1 - _LETTER * (1 + max(map(len, shares), default=0))) or 1],
    )
    figure.update_yaxes(
        tickvals=rows,
        ticktext=[bar.tick for bar in bars],
        range=[len(bars) - 0.5, -0.5],
        showgrid=False,
        ticks="",
    )
    figure.update_layout(barmode="stack", bargap=0.3)
    return figure


def _hatched(colors: str | list[str]) -> dict[str, Any]:
    return {
        "color": "white",
        "pattern": {"shape": "/", "fgcolor": colors, "size": 6},
        "line": {"color": colors, "width": 1},
    }


def _bars(task: Task, spent: Expenditure) -> list[_Bar]:
    """Return the bars: models in order of the task, then what is added up, then the agent."""
    stages = style.short_names([stage.name for stage in task.stages], 16)
    short = style.short_names([model.name for stage in task.stages for model in stage.models])
    marks = model_marks(task)
    largest = sorted(spent.expenses, key=lambda item: -item.spend - item.saved)
    shown = largest if len(largest) <= _BARS else largest[: _BARS - 1]
    bars = [
        _Bar(
            tick=f"{stages[item.stage]}: {short[item.model]}",
            color=marks[item.model].color,
            spend=item.spend,
            saved=item.saved,
            hover=(
                f"{item.stage}: {item.model}",
                f"spent {spend_text(item.spend, spent.unit)}",
                *((f"reuse saved {spend_text(item.saved, spent.unit)}",) if item.saved else ()),
                count_text(item.trials, "trial"),
            ),
        )
        for item in spent.expenses
        if item in shown
    ]
    if rest := largest[len(shown) :]:
        others = sum(item.spend for item in rest)
        saved = sum(item.saved for item in rest)
        hover = f"spent {spend_text(others, spent.unit)} on {len(rest)} others"
        bars.append(_Bar(f"{len(rest)} others", style.GRAY, others, saved, (hover,)))
    if spent.agent:
        hover = f"spent {spend_text(spent.agent, spent.unit)} on {spent.agent_tokens:,} tokens"
        bars.append(_Bar("agent", style.GRAY, spent.agent, 0.0, ("agent", hover)))
    return bars


def _summary(task: Task, spent: Expenditure) -> str:
    """Describe the total in one line."""
    total = spent.total + spent.agent
    text = f"Spent {spend_text(total, spent.unit)}"
    text += " over all instances" if spent.whole else " for one instance of each trial"
    if total:
        for stage in task.stages:
            share = sum(e.spend for e in spent.expenses if e.stage == stage.name) / total
            text += f", {share_text(share)} on {style.brief(stage.name)}"
        if spent.confirmation:
            text += f" ({share_text(spent.confirmation / total)} of all on confirmation)"
    saved = sum(item.saved for item in spent.expenses)
    if saved:
        text += f"; reuse saved {spend_text(saved, spent.unit)}"
    if spent.agent_tokens and not spent.agent:
        text += f"; the agent took {spent.agent_tokens:,} tokens, whose cost is not known"
    if not spent.measured:
        text += ". Stages are estimated from the costs of allocations"
    return f"{text}."
