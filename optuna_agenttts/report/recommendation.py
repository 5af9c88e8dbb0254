"""Recommend an allocation, with an interval and cheaper ties.

The best trial of a noisy study is the luckiest one. The recommendation is the tried allocation
with the highest posterior mean, which weighs each score with those of similar allocations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoEvidenceError, NoTaskError, TaskError
from optuna_agenttts.planner.evidence import Choices, Evidence
from optuna_agenttts.planner.feasibility import known_feasibility
from optuna_agenttts.planner.kernels import Surrogate
from optuna_agenttts.planner.pools import choices_of
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.report.bias import estimate_bias
from optuna_agenttts.report.intervals import bounded_interval
from optuna_agenttts.report.ties import (
    MARGIN,
    Contender,
    Tie,
    Undecided,
    cheapest_alike,
    compare,
    complete_outcomes,
)
from optuna_agenttts.study.archive import Archive, is_maximized, log_unreadable
from optuna_agenttts.study.constraints import constraints_of, violations
from optuna_agenttts.study.tasks import find_task
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.direction import warn_of_direction
from optuna_agenttts.task.stage import is_finite
from optuna_agenttts.task.task import Task

_INFLATION = 1.25
"""Standard deviation of the winner's value relative to that of the posterior, which does not know
of the error of the bias. Chosen by the coverage on development landscapes, near 90 %."""
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
    trials, evidence, unreadable = _read(study, task)
    task, scale = evidence.task, evidence.scale
    surrogate = Surrogate(task, np.random.default_rng(0))
    keys = _candidates(study, trials, evidence)
    points = surrogate.points_of(keys)
    costs = task.feasible.costs_of(points.models, points.samples)
    mean = Posterior(surrogate, evidence).at(points).mean()
    outcomes = complete_outcomes(evidence)
    best = int(np.argmax(mean))
    best = cheapest_alike(keys, costs, outcomes, best)
    rates = mean + estimate_bias(surrogate, evidence, points)
    # No expected score is beyond all that were observed.
    values = evidence.sign * scale.scores(np.clip(rates, *scale.limits))
    # The noise as it is; see `LIKELIHOOD_POWER`.
    exact = Posterior(surrogate, evidence, power=1.0)
    margin = margin or MARGIN * scale.extent
    gains = exact.at(points).differences_from(best)
    ties, undecided = compare(
        [
            Contender(
                allocation=task.allocation(keys[i]),
                value=float(values[i]),
                cost=float(costs[i]),
                bounds=(float(low), float(high)),
                outcomes=outcomes.get(keys[i], {}),
            )
            for i, low, high in zip(range(len(keys)), *(q * scale.span for q in gains.bounds()))
        ],
        best,
        margin,
        scale.extent,
    )
    allocation, value = task.allocation(keys[best]), float(values[best])
    return Recommendation(
        params=task.params(allocation),
        allocation=allocation,
        value=value,
        interval=_interval(evidence, exact, keys[best], value, score_sd),
        cost=float(costs[best]),
        unit=task.cost_model.unit,
        ties=ties,
        undecided=undecided,
        margin=margin,
        trials=len(evidence.scores),
        failed=tuple(t.number for t in trials if t.state == TrialState.FAIL),
        unreadable=unreadable,
        outliers=evidence.outliers,
    )


def _interval(
    evidence: Evidence, exact: Posterior, winner: Choices, value: float, score_sd: float | None
) -> tuple[float, float] | None:
    """Return the interval of the winner's value; see `recommend`."""
    scale, size = evidence.scale, exact.noise.instances or None
    if size is not None:
        point = exact.mixture.surrogate.points_of([winner])
        score_sd = _INFLATION * scale.span * float(exact.at(point).moments().sd()[0])
    elif not scale.informative:
        # Equal scores of an unknown range have no rates, but outcomes that may differ.
        own = list(complete_outcomes(evidence).get(winner, {}).values())
        score_sd = float(np.std(own, ddof=1)) / len(own) ** 0.5 if len(own) > 1 else score_sd
    if not score_sd:
        return None
    if scale.bounded:
        ends = evidence.sign * scale.low, evidence.sign * (scale.low + scale.span)
        return bounded_interval(value, score_sd, min(ends), max(ends), size=size)
    low, high = bounded_interval(value, score_sd, None, None)
    # No mean is beyond all outcomes of hundreds that were observed.
    seen = [outcome for outcomes in evidence.outcomes for outcome in outcomes.values()]
    if seen:
        low, high = max(low, min(*seen, value)), min(high, max(*seen, value))
    return low, high


def _candidates(study: Study, trials: Sequence[FrozenTrial], evidence: Evidence) -> list[Choices]:
    """Return the allocations to recommend from, in order of trial.

    They are the tried ones that meet the constraints of the study and, as far as there are such,
    are within the budget and were not only tried by trials that were stopped early.

    Raises:
        NoEvidenceError: No trial meets the constraints.
    """
    keys = choices_of(evidence.models, evidence.samples)
    found = list(dict.fromkeys(keys))
    if known := known_feasibility(evidence):
        # An allocation whose feasibility differs between its trials violates a constraint.
        found = [key for key in found if known.get(key, False)]
        if not found:
            raise NoEvidenceError(_nothing_feasible(study, trials))
    whole = {key for key, stopped in zip(keys, evidence.stopped) if not stopped}
    for preferred in (evidence.task.feasible.fits, whole.__contains__):
        found = [key for key in found if preferred(key)] or found
    return found


def _read(
    study: Study, task: Task | None
) -> tuple[Sequence[FrozenTrial], Evidence, tuple[int, ...]]:
    """Read a study's trials as evidence; see `recommend` for arguments and errors."""
    if len(study.directions) > 1:
        raise NoTaskError(
            f"Study {study.study_name!r} has {len(study.directions)} objectives, and `recommend` "
            "needs one: use `Study.best_trials` for the Pareto front."
        )
    trials = storage.read_trials(study)
    task = find_task(study, task)
    if task is None:
        raise NoTaskError(f"No task is registered on study {study.study_name!r}: pass `task=`.")
    warn_of_direction(study, task.metric)
    archive = Archive(task, maximize=is_maximized(study.directions))
    evidence = archive.read(trials)
    log_unreadable(study, archive, trials)
    if all(evidence.stopped):
        text = f"Study {study.study_name!r} has no completed trial of task {task.name!r}"
        if evidence.outliers:
            number, value = evidence.outliers[0]
            where = "an outlier"
            if task.metric_range is not None:
                where = "outside of its `metric_range`, {:g} to {:g}".format(*task.metric_range)
            text += f" with a usable value: {value:g}, of trial {number}, is {where}"
        raise NoEvidenceError(f"{text}. Run some trials first.")
    return trials, evidence, tuple(archive.unreadable)


def _nothing_feasible(study: Study, trials: Sequence[FrozenTrial]) -> str:
    """Describe the trial that violates its constraints least."""
    violated = {trial.number: violations(constraints_of(trial)) for trial in trials}
    keys = sorted({key for values in violated.values() for key in values})
    text = f"No trial of study {study.study_name!r} meets all constraints"
    if keys:
        number = min(
            (number for number, values in violated.items() if values),
            key=lambda number: sum(violated[number].values()),
        )
        excess = ", ".join(f"{key!r} by {value:.4g}" for key, value in violated[number].items())
        text += (
            f" ({', '.join(map(repr, keys))}). Trial {number} is the closest and exceeds {excess}"
        )
    return f"{text}. Run more trials, or relax the constraints."


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
