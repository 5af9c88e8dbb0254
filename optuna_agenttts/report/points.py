"""Frontier of cost and score: the allocation to use for each budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

from optuna_agenttts.exceptions import BudgetError, TaskError
from optuna_agenttts.report.fragments import allocation_cell, cost_title, scores_table
from optuna_agenttts.report.frames import to_frame
from optuna_agenttts.report.saved import Saved
from optuna_agenttts.report.text import NO_INTERVAL, allocation_table, score_text, sentence
from optuna_agenttts.support import html
from optuna_agenttts.support.html import Html
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.support.plain import amount_text, one_line
from optuna_agenttts.task.allocation import Allocation

if TYPE_CHECKING:
    from pandas import DataFrame

ROUNDING = 1e-9
"""Rounding errors of costs, as a share."""
_SHOWN = 12
"""Points in the printed table; `Frontier.points` has all. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class FrontierPoint(Saved):
    """Allocation to use from a budget on.

    Args:
        params: The allocation as Optuna parameters, ready for `Study.enqueue_trial`.
        allocation: The allocation, by stage.
        value: Expected value, in units of the metric; see `Recommendation`.
        interval: Central 90 % interval of the value; see `Recommendation`.
        cost: Cost for one instance, in units of the task's cost model, or as predicted from the
            second values of trials, if these are other costs: the smallest budget that the
            allocation is for.
        costs: Cost for one instance in the units of other cost models, by unit.
        tried: Whether a trial ran it. If not, value and interval are extrapolated from other
            allocations.
        instances: Number of instances whose outcomes its trials reported.
        loss: One-sided 95 % upper bound of what it loses to the frontier's best point, in units of
            the metric; 0 for that point itself.
        shared: Number of instances that both saw.
        unit: Unit of `cost`; empty if it has none.
    """

    params: dict[str, Any]
    allocation: Allocation
    value: float
    interval: tuple[float, float] | None
    cost: float
    costs: dict[str, float]
    tried: bool
    instances: int
    loss: float
    shared: int
    unit: str = ""

    def __str__(self) -> str:
        """Describe the point in one line."""
        text = f"{sentence(self.allocation)}: {score_text(self.value)}"
        if self.interval is not None:
            text += " (90 % interval {} to {})".format(*map(score_text, self.interval))
        text += f", cost {amount_text(self.cost, self.unit)} per instance"
        return text if self.tried else f"{text}, not tried"

    def _repr_html_(self) -> str:
        """Show the point in a notebook."""
        return points_table([self], self.unit)


@dataclass(frozen=True, slots=True)
class Frontier(Saved):
    """Allocations to use for all budgets up to the searched one.

    `str` shows a table.

    Args:
        points: The allocations, cheapest first. Expected scores rise with costs. The last one is
            the allocation that `recommend` returns.
        unit: Unit of `FrontierPoint.cost`.
        budget: The searched budget; the largest cost if costs were measured.
        missing: For each cost model that is left out, the reason.
        maximize: Whether higher values are better.
        margin: Difference of scores that is worth printing, in units of the metric.
        least: Number of instances that a point must share with the best one to be shown to lose
            little.
    """

    points: tuple[FrontierPoint, ...]
    unit: str
    budget: float
    missing: tuple[str, ...]
    maximize: bool
    margin: float
    least: int

    @property
    def best(self) -> FrontierPoint:
        """The point of the best expected score, which is the most expensive one."""
        return self.points[-1]

    @property
    def knee(self) -> FrontierPoint:
        """The point farthest above the line from the first to the last point.

        From it on, a unit of cost gains less than the average over the frontier. V. Satopaa, J.
        Albrecht, D. Irwin and B. Raghavan (2011), ICDCS workshops, pp. 166-171.
        """
        first, last = self.points[0], self.points[-1]
        width, height = last.cost - first.cost, last.value - first.value

        def above(point: FrontierPoint) -> float:
            rise = (point.value - first.value) / height if height else 0.0
            return rise - ((point.cost - first.cost) / width if width else 0.0)

        # The cheapest one of equals.
        return max(self.points, key=above)

    @property
    def shown(self) -> Sequence[FrontierPoint]:
        """The points that tables show: the first, the last, and some between."""
        return _spread(self.points)

    def at(self, budget: float) -> FrontierPoint:
        """Return the allocation to use within a budget.

        Args:
            budget: Upper bound of the cost, in units of `unit`.
                Above the searched budget, the best point is returned.

        Raises:
            TaskError: The budget is not a number.
            BudgetError: The cheapest point costs more.
        """
        if isinstance(budget, bool) or not isinstance(budget, Real) or budget != budget:
            raise TaskError(f"`budget` must be a number, got {budget!r}.")
        # Not the budget, which may be an integer that no float can hold.
        found = [point for point in self.points if point.cost / (1 + ROUNDING) <= budget]
        if not found:
            raise BudgetError(
                f"`budget` is {budget:g}, and the cheapest point of the frontier costs "
                f"{self.points[0].cost:g} {self.unit} per instance: raise it."
            )
        return found[-1]

    def cheapest(self, *, within: float) -> FrontierPoint:
        """Return the cheapest allocation that is shown to lose less than a margin.

        It is shown by non-inferiority, as for the ties of `recommend`: the 95 % upper bound of its
        loss to the best point is below the margin, by the posterior and by the outcomes on the
        instances that both saw: at least 20, and all that a trial of the search saw.

        Args:
            within: The margin, in units of the metric, above 0.

        Returns:
            The point; the best one if no cheaper one is shown to lose so little.

        Raises:
            TaskError: `within` is out of range.
        """
        if not (is_finite(within) and within > 0):
            raise TaskError(f"`within` must be finite and above 0, got {within!r}.")
        alike = (p for p in self.points if p.loss < within and p.shared >= self.least)
        return next(alike, self.best)

    def to_dataframe(self) -> DataFrame:
        """Return the points as a pandas DataFrame, one row each.

        The columns are the cost in each unit, the value, the ends of its interval (`low` and
        `high`), `tried`, `instances`, `loss`, and the parameters.

        Raises:
            AgentTTSError: pandas is not installed.
        """
        return to_frame(
            "to_dataframe",
            (
                {
                    self.unit or "cost": point.cost,
                    **point.costs,
                    "value": point.value,
                    "low": point.interval[0] if point.interval else math.nan,
                    "high": point.interval[1] if point.interval else math.nan,
                    "tried": point.tried,
                    "instances": point.instances,
                    "loss": point.loss,
                    **point.params,
                }
                for point in self.points
            ),
        )

    def __str__(self) -> str:
        """Show a table of the points, and what is left out."""
        head = ("cost", *self.points[0].costs, "score", "90 % interval", "instances")
        rows = [
            (
                [
                    *(f"{cost:.4g}" for cost in (point.cost, *point.costs.values())),
                    score_text(point.value, self.margin),
                    " to ".join(score_text(end, self.margin) for end in point.interval or ())
                    or "-",
                    _instances(point),
                ],
                point.allocation,
            )
            for point in self.shown
        ]
        unit = one_line(self.unit) or "units of the task's cost"
        scale = f"cost in {unit} per instance"
        return "\n".join([scale, *allocation_table(head, rows), *self._notes()])

    def _repr_html_(self) -> str:
        """Show a table of the points, and what is left out, in a notebook."""
        table = points_table(self.shown, self.unit, margin=self.margin)
        return html.join([table, html.bullets(self._notes())])

    def _notes(self) -> list[str]:
        """Describe what is left out, one line each."""
        lines = []
        if (shown := len(self.shown)) < len(self.points):
            lines.append(f"and {len(self.points) - shown} more between these")
        if not all(point.tried for point in self.points):
            lines.append(
                "not tried: extrapolated from other allocations; try it before you use it"
            )
        if any(point.interval is None for point in self.points):
            lines.append(NO_INTERVAL)
        if self.missing:
            without = " and ".join(reason.partition(": ")[0] for reason in self.missing)
            lines.append(f"{without}: `Frontier.missing` has the reason")
        return lines


def points_table(points: Sequence[FrontierPoint], unit: str, *, margin: float = 0.0) -> Html:
    """Return a table of points with their intervals drawn.

    Args:
        points: The points.
        unit: Unit of their cost.
        margin: Difference of scores that is worth showing, in units of the metric.
    """
    rows = [
        (
            [allocation_cell(point.allocation)],
            point.value,
            point.interval,
            [
                _instances(point),
                amount_text(point.cost),
                *map(amount_text, point.costs.values()),
            ],
        )
        for point in points
    ]
    after = ["instances", cost_title(unit), *map(cost_title, points[0].costs)]
    return scores_table(rows, ["allocation"], after, margin=margin)


def measured_cost(front: Frontier | None, cost: float, unit: str) -> str:
    """Return the measured cost of a front's best point with its unit, "" if it is the task's.

    Args:
        front: The front; None if there is none.
        cost: Cost of the point, in units of the task's cost model.
        unit: Unit of `cost`.
    """
    if front is None or (front.unit, front.best.cost) == (unit, cost):
        return ""
    return amount_text(front.best.cost, front.unit)


def _instances(point: FrontierPoint) -> str:
    """Return the number of a point's instances as text."""
    return str(point.instances or "-") if point.tried else "not tried"


def _spread(points: Sequence[FrontierPoint]) -> list[FrontierPoint]:
    """Return the first, the last and evenly spread points in between."""
    if len(points) <= _SHOWN:
        return list(points)
    return [points[round(i * (len(points) - 1) / (_SHOWN - 1))] for i in range(_SHOWN)]
