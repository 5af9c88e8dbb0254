"""What a confirmation found: the recommendation, and the standing of the contenders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from optuna_agenttts.report.recommendation import Recommendation
from optuna_agenttts.task.allocation import Allocation


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
        stages = ", ".join(f"{s}: {a.samples} x {a.model}" for s, a in self.allocation.items())
        text = f"{stages}: {self.mean:.3g} on {self.instances}"
        if self.difference is not None and self.interval is not None:
            low, high = self.interval
            text += f", {self.difference:+.3f} ({low:+.3f} to {high:+.3f})"
        if self.dropped is not None:
            text += f", until look {self.dropped}"
        return f"{text}, failed" if self.failed else text


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
        """Describe the recommendation and the contenders, one line each."""
        looks = f"{self.looks} look{'s' if self.looks != 1 else ''}"
        spend = f"{self.spend:.5g} {self.unit or 'units of the cost'}"
        lines = [str(self.recommendation)]
        if self.contenders:
            lines.append(
                f"confirmed on {self.instances} fresh instances in {looks}; mean, and difference "
                "to the recommended one with its 90 % interval:"
            )
        lines += [f"  {standing}" for standing in self.contenders]
        lines.append(
            f"spent {spend} on {self.evaluations} evaluations; stopped because {self.reason}"
        )
        return "\n".join(lines)


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
        """Describe the result, one line each."""
        spend = f"{self.spend:.5g} {self.unit or 'units of the cost'}"
        return (
            f"{self.confirmation}\nafter {self.trials} trials on {len(self.search_instances)} "
            f"instances, with {len(self.fresh_instances)} left for the confirmation; spent "
            f"{spend} on {self.evaluations} evaluations in all"
        )
