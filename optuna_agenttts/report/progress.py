"""How the recommendation of a search changed from trial to trial."""

from __future__ import annotations

from dataclasses import dataclass

from optuna_agenttts.task.allocation import Allocation


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """Recommendation after a number of trials.

    Args:
        number: Number of the last trial that it is based on.
        allocation: The allocation.
        value: Expected value, in units of the metric.
        interval: Central 90 % interval; see `Recommendation.interval`.
        cost: Cost for one instance, in units of the task's cost model.
    """

    number: int
    allocation: Allocation
    value: float
    interval: tuple[float, float] | None
    cost: float


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """Trial of a search.

    Args:
        number: Number of the trial.
        value: Its value, or the mean of what it saw if it was stopped; None without one.
        state: ``"complete"``, ``"pruned"``, ``"failed"``, ``"running"`` or ``"waiting"``.
        origin: Where its allocation came from, such as "opening", "numerical" or "agent"; empty if
            the sampler does not write it down.
        confirms: Whether it confirms an allocation on fresh instances.
    """

    number: int
    value: float | None
    state: str
    origin: str
    confirms: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Course of a search.

    Args:
        points: Recommendations, at most 30 numbers of trials, the last one included.
        trials: All trials.
    """

    points: tuple[ProgressPoint, ...]
    trials: tuple[SearchTrial, ...]
