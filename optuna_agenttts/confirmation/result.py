"""Results of confirmations: the recommendation, and the standing of the contenders."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from optuna_agenttts.report.recommendation import Recommendation
from optuna_agenttts.report.text import count_text, score_text, sentence, spend_text, table
from optuna_agenttts.support import html
from optuna_agenttts.task.allocation import Allocation

_HEAD = ["score", "instances", "difference (90 % interval)", "allocation"]
"""Titles of the contenders' cells."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Standing of a contender.

    Args:
        params: The allocation as Optuna parameters.
        allocation: The allocation, by stage.
        cost: Cost for one instance, in units of the task's cost model.
        mean: Mean outcome on fresh instances; NaN without any.
        instances: Number of fresh instances that it was evaluated on.
        difference: Mean outcome minus that of the recommended allocation on the fresh instances
            that both saw; of the contender with the best mean if the recommended one saw none.
            None for that one itself, and if they share none.
        interval: Central 90 % interval of the difference.
        dropped: Last look that it took part in, if others followed; else None.
        failed: Whether its evaluation failed in its last look.
    """

    params: dict[str, Any]
    allocation: Allocation
    cost: float
    mean: float
    instances: int
    difference: float | None
    interval: tuple[float, float] | None
    dropped: int | None
    failed: bool = False

    def __str__(self) -> str:
        """Describe the standing in one line."""
        return "  ".join(self.cells())

    def cells(self, reference: str = "-") -> list[str]:
        """Return score, instances, difference and allocation as text.

        Args:
            reference: Text for a difference that there is none of.
        """
        difference = reference
        if self.difference is not None and self.interval is not None:
            low, high = self.interval
            # Two digits of the error.
            size = math.floor(math.log10(high - low)) if high > low else -2
            shown = f"+.{min(max(0, 1 - size), 15)}f"
            difference = f"{self.difference:{shown}} ({low:{shown}} to {high:{shown}})"
        allocation = sentence(self.allocation)
        if self.dropped is not None:
            allocation += f" (left out after look {self.dropped})"
        if self.failed:
            allocation += " (failed)"
        return [score_text(self.mean), str(self.instances), difference, allocation]


@dataclass(frozen=True, slots=True)
class Confirmation:
    """Result of `confirm`.

    Instances, evaluations and spend are those of all confirmation trials of the study.

    Args:
        recommendation: Recommended allocation, from all trials of the study.
        contenders: Standing of each contender, the best mean first.
        instances: Number of fresh instances that were used.
        looks: Number of looks.
        evaluations: Number of runs of the pipeline on one instance.
        spend: Spend of the confirmation, in units of the task's cost model.
        unit: Unit of the spend.
        reason: Reason why it stopped.
    """

    recommendation: Recommendation
    contenders: tuple[Standing, ...]
    instances: int
    looks: int
    evaluations: int
    spend: float
    unit: str
    reason: str

    def __str__(self) -> str:
        """Describe the recommendation, and show a table of the contenders."""
        lines = [str(self.recommendation)]
        if self.contenders:
            shown = self._shown()
            rows = [self._cells(each) for each in shown]
            lines.append(f"{self._title(shown)}:")
            lines += [f"  {line}" for line in table([_HEAD, *rows])]
        return "\n".join([*lines, self._end()])

    def _repr_html_(self) -> str:
        """Show the recommendation and the contenders in a notebook."""
        parts: list[object] = [self.recommendation._repr_html_()]
        if self.contenders:
            shown = self._shown()
            scale = html.limits(end for each in shown for end in (0.0, *(each.interval or ())))
            rows = []
            for each in shown:
                cells = self._cells(each)
                ends, value = each.interval, each.difference or 0.0
                drawing = html.interval(value, ends, scale, label=cells[2], marked=0.0)
                rows.append([*cells[:3], drawing if ends else None, cells[3]])
            head = [*_HEAD[:3], "", _HEAD[3]]
            title = self._title(shown)
            parts.append(html.table(head, rows, numbers=(0, 1), caption=title))
        return html.join([*parts, html.paragraph(self._end())])

    def _shown(self) -> list[Standing]:
        """Return the contenders, the recommended one first."""
        best = self.recommendation.allocation
        return sorted(self.contenders, key=lambda standing: standing.allocation != best)

    def _cells(self, each: Standing) -> list[str]:
        """Return a contender's cells as text."""
        recommended = each.allocation == self.recommendation.allocation
        return each.cells("recommended" if recommended else "-")

    def _title(self, shown: Sequence[Standing]) -> str:
        """Describe what the contenders were confirmed on."""
        named = shown[0].allocation == self.recommendation.allocation and shown[0].instances
        return (
            f"confirmed on {count_text(self.instances, 'fresh instance')} in "
            f"{count_text(self.looks, 'look')}; differences are from the "
            f"{'recommended' if named else 'best'} allocation"
        )

    def _end(self) -> str:
        """Describe the spend, and why it stopped."""
        return (
            f"the confirmation spent {spend_text(self.spend, self.unit)} on "
            f"{count_text(self.evaluations, 'evaluation')}; stopped because {self.reason}"
        )


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Result of `search`.

    Args:
        recommendation: Recommended allocation, from all trials of the study.
        confirmation: Result of the confirmation.
        trials: Number of finished trials of the search, without those of the confirmation.
        search_instances: Names of the instances of these trials.
        fresh_instances: Names of the instances for the confirmation, in order of use.
        evaluations: Number of runs of the pipeline on one instance, of both.
        spend: Spend of both, with the agent's as far as it is priced, in units of the task's cost
            model.
        unit: Unit of the spend.
    """

    recommendation: Recommendation
    confirmation: Confirmation
    trials: int
    search_instances: tuple[str, ...]
    fresh_instances: tuple[str, ...]
    evaluations: int
    spend: float
    unit: str

    def __str__(self) -> str:
        """Describe the result, and what it took."""
        return f"{self.confirmation}\n{self._end()}"

    def _repr_html_(self) -> str:
        """Show the result, and what it took, in a notebook."""
        return html.join([self.confirmation._repr_html_(), html.paragraph(self._end())])

    def _end(self) -> str:
        """Describe what the search took."""
        return (
            f"the search ran {count_text(self.trials, 'trial')} on "
            f"{count_text(len(self.search_instances), 'instance')}, and left "
            f"{len(self.fresh_instances)} for the confirmation; both spent "
            f"{spend_text(self.spend, self.unit)} on {count_text(self.evaluations, 'evaluation')}"
        )
