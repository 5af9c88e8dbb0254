"""Recommend an allocation, with an interval and cheaper ties.

The best trial of a noisy study is the luckiest one. The recommendation is the tried allocation
with the highest posterior mean, which weighs each score with those of similar allocations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoEvidenceError, NoTaskError
from optuna_agenttts.planner.evidence import Evidence, Floats, Ints
from optuna_agenttts.planner.feasibility import known_feasibility
from optuna_agenttts.planner.kernels import Points, Surrogate
from optuna_agenttts.planner.posterior import Z90, Posterior
from optuna_agenttts.study.archive import Archive, is_maximized
from optuna_agenttts.study.constraints import constraints_of, violations
from optuna_agenttts.study.tasks import find_task
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.task import Task

_RESAMPLES = 20
"""Bootstrap resamples of the instances. Each conditions a posterior, some 10 ms."""
_LEAST_INSTANCES = 8
"""Minimum number of instances for bootstrap estimates. Chosen by hand."""
_FEWEST = 5
"""Minimum number of trials to average shrinkage over. Chosen by hand."""
_LISTED = 10
"""Maximum number of trials listed in the printed text. Chosen by hand."""
_SHOWN = 3
"""Ties in the printed text; all are in `Recommendation.ties`. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class Tie:
    """Cheaper allocation that is statistically tied with the recommended one.

    Args:
        allocation: The allocation.
        value: Expected value, in units of the metric.
        cost: Cost for one instance, in units of the task's cost model.
    """

    allocation: Allocation
    value: float
    cost: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """Recommended allocation.

    Args:
        params: The allocation as Optuna parameters, ready for `Study.enqueue_trial`.
        allocation: The allocation, by stage.
        value: Expected value, in units of the metric: the posterior mean, corrected for selection
            optimism (the winner's curse) and shrinkage.
        interval: Central 90 % interval of the value on instances like those of the search.
        cost: Cost for one instance, in units of the task's cost model.
        ties: Cheaper tried allocations that are statistically tied with it (the central 90 %
            interval of the difference contains zero), cheapest first.
        trials: Number of trials used.
        failed: Numbers of failed trials, whose allocations may be worth another try.
        unreadable: Numbers of trials that are left out because their parameters do not fit the
            task.
    """

    params: dict[str, Any]
    allocation: Allocation
    value: float
    interval: tuple[float, float]
    cost: float
    ties: tuple[Tie, ...]
    trials: int
    failed: tuple[int, ...] = ()
    unreadable: tuple[int, ...] = ()

    @property
    def cheapest(self) -> Allocation:
        """Cheapest tied allocation, or the recommended one without ties."""
        return self.ties[0].allocation if self.ties else self.allocation

    def __str__(self) -> str:
        """Describe the recommendation and some ties, one line each."""
        low, high = self.interval
        lines = [
            f"{_sentence(self.allocation)}: {self.value:.3f} "
            f"(90 % interval {low:.3f} to {high:.3f}), cost {self.cost:.4g}"
        ]
        lines += [
            f"tied for less: {_sentence(tie.allocation)}: {tie.value:.3f}, cost {tie.cost:.4g}"
            for tie in self.ties[:_SHOWN]
        ]
        more = len(self.ties) - _SHOWN
        if more > 0:
            lines.append(f"and {more} more tie{'s' if more > 1 else ''}")
        for numbers, what in (
            (self.failed, "failed"),
            (self.unreadable, "left out, since parameters do not fit the task"),
        ):
            if numbers:
                lines.append(f"trials {what}: {_numbers(numbers)}")
        return "\n".join(lines)


def recommend(study: Study, task: Task | None = None) -> Recommendation:
    """Recommend an allocation from the trials of a study with any sampler.

    Args:
        study: A study of one objective.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.

    Returns:
        The recommendation.

    Raises:
        NoTaskError: The study has no task, or several objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    trials, evidence, unreadable = _read(study, task)
    task = evidence.task
    surrogate = Surrogate(task, np.random.default_rng(0))
    posterior = Posterior(surrogate, evidence)
    tried, first = np.unique(
        np.stack([evidence.models, evidence.samples], axis=-1), axis=0, return_index=True
    )
    # In order of trial, so that the first of equal ones wins.
    tried = tried[np.argsort(first)]
    if known := known_feasibility(evidence):
        # An allocation whose feasibility differs between its trials violates a constraint.
        tried = tried[[known.get(tuple(map(tuple, both)), False) for both in tried.tolist()]]
        if len(tried) == 0:
            raise NoEvidenceError(_nothing_feasible(study, trials))
    points = surrogate.points(tried[..., 0], tried[..., 1])
    costs = task.feasible.costs_of(points.models, points.samples)
    mean = posterior.at(points).mean()
    # Uncertainty comes from the untempered likelihood; see `LIKELIHOOD_POWER`.
    spread = Posterior(surrogate, evidence, power=1.0).at(points)
    _, sd = spread.mean_and_sd()
    within = np.flatnonzero(costs <= task.feasible.limit)
    candidates = within if len(within) else np.arange(len(mean))
    best = int(candidates[np.argmax(mean[candidates])])
    sign = evidence.sign
    shared = _instance_variance(trials, sign) / posterior.scale.span**2

    optimism, shrinkage = _biases(posterior, evidence, points, candidates, mean)

    def value(rate: float) -> float:
        return float(sign * posterior.scale.scores(np.array([rate + shrinkage]))[0])

    # Standard error of the winner's score by its outcomes; without outcomes, the posterior's.
    half = Z90 * float(np.sqrt(shared or sd[best] ** 2))
    expected = mean[best] - optimism
    ends = sorted((value(expected - half), value(expected + half)))
    difference = spread.difference_sd(best)
    tied = [
        i
        for i in candidates.tolist()
        if costs[i] < costs[best] and mean[best] - mean[i] <= Z90 * difference[i]
    ]
    allocations = [
        task.allocation(list(zip(models, samples)))
        for models, samples in zip(points.models.tolist(), points.samples.tolist())
    ]
    return Recommendation(
        params=task.params(allocations[best]),
        allocation=allocations[best],
        value=value(expected),
        interval=(ends[0], ends[1]),
        cost=float(costs[best]),
        ties=tuple(
            # Corrected like the winner's value, so that no tie looks better than the winner.
            Tie(allocations[i], value(mean[i] - optimism), float(costs[i]))
            for i in sorted(tied, key=lambda i: (costs[i], -mean[i]))
        ),
        trials=len(evidence.scores),
        failed=tuple(t.number for t in trials if t.state == TrialState.FAIL),
        unreadable=unreadable,
    )


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
    archive = Archive(task, maximize=is_maximized(study.directions))
    evidence = archive.read(trials)
    if len(evidence.scores) == 0:
        raise NoEvidenceError(
            f"Study {study.study_name!r} has no completed trial of task {task.name!r}: run some "
            "trials first."
        )
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


def _biases(
    posterior: Posterior,
    evidence: Evidence,
    points: Points,
    candidates: Ints,
    mean: Floats,
) -> tuple[float, float]:
    """Estimate the biases of the winner's posterior mean, in rates; 0 without enough outcomes.

    Returns:
        Selection optimism: the expected excess of the best of several estimates over its truth, by
        the bootstrap of Efron & Gong (1983, section 7). Instances are resampled, the winner is
        chosen again, and its mean there is compared with its mean on the original instances.
        Formulas for independent scores do not apply: all trials share their instances.

        Shrinkage: the mean gap between score and posterior mean of the better quarter of the
        trials. It was .12 on the playground, where intervals without it covered 62 % instead of
        88 %.
    """
    whole = max((len(outcomes) for outcomes in evidence.outcomes), default=0)
    rows = [row for row, outcomes in enumerate(evidence.outcomes) if len(outcomes) == whole]
    if whole < _LEAST_INSTANCES or len(rows) < 2:
        return 0.0, 0.0
    surrogate, scale = posterior.surrogate, posterior.scale
    steps = sorted(evidence.outcomes[rows[0]])
    rows = [row for row in rows if sorted(evidence.outcomes[row]) == steps]
    table = np.array([[evidence.outcomes[row][step] for step in steps] for row in rows])
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, whole, whole)
        scores, outcomes = evidence.scores.copy(), list(evidence.outcomes)
        scores[rows] = evidence.sign * table[:, drawn].mean(axis=1)
        for row, values in zip(rows, table[:, drawn].tolist()):
            outcomes[row] = dict(zip(steps, values))
        resampled = replace(evidence, scores=scores, outcomes=tuple(outcomes))
        again = Posterior(surrogate, resampled).at(points).mean()
        chosen = candidates[np.argmax(again[candidates])]
        # A gain that all trials share is not optimism about the winner.
        luck = float(np.mean(scores[rows] - evidence.scores[rows])) / scale.span
        found.append(again[chosen] - mean[chosen] - luck)
    fitted = posterior.at(surrogate.points(evidence.models[rows], evidence.samples[rows])).mean()
    gaps = scale.rates(evidence.scores[rows]) - fitted
    better = np.argsort(-fitted, kind="stable")[: max(_FEWEST, len(rows) // 4)]
    return max(0.0, float(np.mean(found))), float(np.mean(gaps[better]))


def _instance_variance(trials: Sequence[FrozenTrial], sign: float) -> float:
    """Return the variance of a mean score due to the draw of instances and samples.

    All trials share their instances, and reused samples, so differences between trials cannot
    show it. The estimate is the median squared standard error of the better half of the trials.
    It is 0 if no trial reported outcomes whose mean is its value.
    """
    complete = [
        (trial.values[0], np.array(list(trial.intermediate_values.values())))
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and trial.values is not None
        and len(trial.intermediate_values) >= 2
    ]
    errors = [
        (sign * value, outcomes.var(ddof=1) / len(outcomes))
        for value, outcomes in complete
        if abs(outcomes.mean() - value) < 1e-6  # up to rounding
    ]
    if not errors:
        return 0.0
    middle = np.median([value for value, _ in errors])
    return float(np.median([error for value, error in errors if value >= middle]))


def _sentence(allocation: Allocation) -> str:
    return ", ".join(
        f"{stage}: {setting.samples} x {setting.model}" for stage, setting in allocation.items()
    )


def _numbers(numbers: Sequence[int]) -> str:
    """List the first numbers of trials."""
    shown = ", ".join(map(str, numbers[:_LISTED]))
    return f"{shown} and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else shown
