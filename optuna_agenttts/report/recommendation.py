"""Recommend an allocation, with an interval and cheaper ties.

The best trial of a noisy study is the luckiest one. The recommendation is the tried allocation
with the highest posterior mean, which weighs each score with those of similar allocations, and
with the outcomes of fresh instances if there are trials that confirm allocations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.ties import MARGIN, Contender, Tie, Undecided, compare
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.stage import is_finite
from optuna_agenttts.task.task import Task

_LISTED = 10
"""Maximum number of trials listed in the printed text. Chosen by hand."""
_SHOWN = 3
"""Ties, and undecided allocations, in the printed text; the fields have all. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Recommended allocation.

    Args:
        params: The allocation as Optuna parameters, ready for `Study.enqueue_trial`.
        allocation: The allocation, by stage.
        value: Expected value, in units of the metric and within its range: the posterior mean,
            corrected for selection optimism (the winner's curse) and shrinkage.
        interval: Central 90 % interval of the value on instances like those of the search, within
            the metric's range. None if no trial reported outcomes of single instances whose mean
            is its score, and no `score_sd` was given: scores alone do not tell how far they are
            from the truth.
        cost: Cost for one instance, in units of the task's cost model.
        unit: Unit of the cost.
        ties: Cheaper tried allocations that lose less than `margin`, cheapest first. Empty if no
            trial reported outcomes; few allocations can be told to be as good on 50 instances.
        undecided: Cheaper tried allocations that may be as good, but are not shown to lose less
            than `margin`; those that can lose least first.
        margin: The margin, in units of the metric; 0 if none was given, all scores are equal and
            the range of the metric is unknown.
        trials: Number of trials used.
        failed: Numbers of failed trials, whose allocations may be worth another try.
        unreadable: Numbers of trials that are left out because their parameters do not fit the
            task.
        outliers: Numbers and values of trials that are left out because their value is far from
            all others, or outside of the metric's range.
    """

    params: dict[str, Any]
    allocation: Allocation
    value: float
    interval: tuple[float, float] | None
    cost: float
    unit: str
    ties: tuple[Tie, ...]
    undecided: tuple[Undecided, ...]
    margin: float
    trials: int
    failed: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()
    outliers: tuple[tuple[int, float], ...] = ()

    @property
    def cheapest(self) -> Allocation:
        """Cheapest tied allocation, or the recommended one without ties."""
        return self.ties[0].allocation if self.ties else self.allocation

    def __str__(self) -> str:
        """Describe the recommendation, ties and undecided allocations, one line each."""
        interval = "no interval: scores without outcomes of instances do not show their error"
        if self.interval is not None:
            low, high = map(self._score, self.interval)
            interval = f"90 % interval {low} to {high}"
        lines = [
            f"{_sentence(self.allocation)}: {self._score(self.value)} ({interval}), "
            f"{self._cost(self.cost)}"
        ]
        lines += [
            f"as good for less (margin {self.margin:.2g}): {_sentence(tie.allocation)}: "
            f"{self._score(tie.value)}, loses less than {max(tie.loss, 0):.2g} (95 % bound), "
            f"{self._cost(tie.cost)}"
            for tie in self.ties[:_SHOWN]
        ]
        lines += _more(self.ties, "that are as good for less")
        lines += [
            f"not decided yet: {_sentence(other.allocation)}: {self._score(other.value)}, may "
            f"lose {max(other.loss, 0):.2g} (95 % bound), {self._cost(other.cost)}; if it is as "
            f"good, about {other.instances} instances would show it ({other.shared} so far)"
            for other in self.undecided[:_SHOWN]
        ]
        lines += _more(self.undecided, "that are not decided yet")
        numbers = [number for number, _ in self.outliers]
        for trials, what in (
            (self.failed, "failed"),
            (self.unreadable, "left out, since parameters do not fit the task"),
            (numbers, "left out, since their values are outliers"),
        ):
            if trials:
                lines.append(f"trials {what}: {_numbers(trials)}")
        return "\n".join(lines)

    def _score(self, score: float) -> str:
        """Format a score with three digits, or more if differences of the margin take more."""
        size, digits = abs(score), 3
        if self.margin and size > self.margin:
            digits = max(digits, math.ceil(math.log10(size / self.margin)) + 1)
        if 1e3 <= size < 1e6:
            digits = max(digits, math.floor(math.log10(size)) + 1)
        return f"{score:.{min(digits, 15)}g}"

    def _cost(self, cost: float) -> str:
        """Format a cost."""
        return f"cost {cost:.4g} {self.unit}".rstrip() + " per instance"


def recommend(
    study: Study,
    task: Task | None = None,
    *,
    margin: float | None = None,
    score_sd: float | None = None,
) -> Recommendation:
    """Recommend an allocation from the trials of a study with any sampler.

    Args:
        study: A study of one objective.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.
        margin: Loss, in units of the metric, below which a cheaper allocation is named a tie,
            above 0. Default: a twentieth of the metric's range, or of the spread of the observed
            scores if the range is unknown.
        score_sd: Standard deviation of a score around the truth, in units of the metric, above
            0, for studies whose trials report no outcomes of single instances. Default: unknown,
            and no interval.

    Returns:
        The recommendation.

    Raises:
        NoTaskError: The study has no task, or several objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
        TaskError: `margin` or `score_sd` is out of range.
    """
    for name, given in (("margin", margin), ("score_sd", score_sd)):
        if given is not None and not (is_finite(given) and given > 0):
            raise TaskError(f"recommend: `{name}` must be finite and above 0, got {given!r}.")
    found = Candidates(study, task, "recommend")
    task, scale = found.task, found.scale
    every = np.ones(len(found.keys), dtype=np.bool_)
    best = found.best(np.flatnonzero(every))
    values = found.values(found.mean + found.biases([every])[0] * found.inherited)
    margin = margin or MARGIN * scale.extent
    gains = found.exact.at(found.points).differences_from(best)
    ties, undecided = compare(
        [
            Contender(
                allocation=task.allocation(key),
                value=float(values[i]),
                cost=float(found.costs[i]),
                bounds=(float(low), float(high)),
                outcomes=found.outcomes.get(key, {}),
            )
            for i, key, low, high in zip(
                range(len(values)), found.keys, *(q * scale.span for q in gains.bounds())
            )
        ],
        best,
        margin,
        scale.extent,
        found.fresh,
    )
    allocation, value = task.allocation(found.keys[best]), float(values[best])
    return Recommendation(
        params=task.params(allocation),
        allocation=allocation,
        value=value,
        interval=found.interval(found.keys[best], value, score_sd),
        cost=float(found.costs[best]),
        unit=task.cost_model.unit,
        ties=ties,
        undecided=undecided,
        margin=margin,
        trials=len(found.evidence.scores),
        failed=tuple(t.number for t in found.trials if t.state == TrialState.FAIL),
        unreadable=found.unreadable,
        outliers=found.evidence.outliers,
    )


def _more(others: Sequence[object], what: str) -> list[str]:
    """Return a line that counts the allocations that are not shown, if there are any."""
    more = len(others) - _SHOWN
    return [f"and {more} more {what}"] if more > 0 else []


def _sentence(allocation: Allocation) -> str:
    return ", ".join(
        f"{stage}: {setting.samples} x {setting.model}" for stage, setting in allocation.items()
    )


def _numbers(numbers: Sequence[int]) -> str:
    """List the first numbers of trials."""
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return f"{shown} and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else shown
