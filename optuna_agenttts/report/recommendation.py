"""The allocation to use, its interval, and what is as good for less.

The best trial of a noisy study is the luckiest one. The recommendation is the allocation with the
highest posterior mean among those that were tried, which weighs each score with those of its
neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts.exceptions import NoEvidenceError, NoTaskError
from optuna_agenttts.planner.evidence import Evidence, Floats, Ints
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.posterior import Z90, Posterior
from optuna_agenttts.planner.surrogate import Surrogate
from optuna_agenttts.study.archive import Archive, is_maximized
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.recognition import recognise_task
from optuna_agenttts.task.task import Task

_RESAMPLES = 20
_LEAST_INSTANCES = 8
_FEWEST = 5
_SHOWN = 3
"""How many ties are told in words; all of them are in `Recommendation.ties`."""


@dataclass(frozen=True, slots=True)
class Tie:
    """A cheaper allocation that the evidence cannot tell from the winner.

    Args:
        allocation: The allocation.
        value: Its expected score, in the metric's own units.
        cost: What it costs for one instance.
    """

    allocation: Allocation
    value: float
    cost: float


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The allocation to use.

    Args:
        params: The allocation as Optuna parameters, ready for `Study.enqueue_trial`.
        allocation: The allocation, by stage.
        value: Its expected score, in the metric's own units: the posterior mean, freed of what it
            flatters the winner and of what it takes off the better trials alike.
        interval: The central 90 % of what its score can be on instances like those searched on.
        cost: What it costs for one instance, in units of the task's cost model.
        ties: Cheaper allocations that were tried and are statistically tied with it (the central
            90 % of the difference contains zero), cheapest first.
        trials: How many trials the recommendation rests on.
    """

    params: dict[str, Any]
    allocation: Allocation
    value: float
    interval: tuple[float, float]
    cost: float
    ties: tuple[Tie, ...]
    trials: int

    @property
    def cheapest(self) -> Allocation:
        """The cheapest allocation that the evidence cannot tell from the best: the first tie."""
        return self.ties[0].allocation if self.ties else self.allocation

    def __str__(self) -> str:
        """A sentence or two for people."""
        low, high = self.interval
        lines = [
            f"{_sentence(self.allocation)}: {self.value:.3f} "
            f"(90 % interval {low:.3f} to {high:.3f}), cost {self.cost:.4g}"
        ]
        lines += [
            f"tied for less: {_sentence(tie.allocation)}: {tie.value:.3f}, cost {tie.cost:.4g}"
            for tie in self.ties[:_SHOWN]
        ]
        if len(self.ties) > _SHOWN:
            lines.append(f"and {len(self.ties) - _SHOWN} more ties")
        return "\n".join(lines)


def recommend(study: Study, task: Task | None = None) -> Recommendation:
    """Recommend an allocation from a study's trials, whatever sampler ran them.

    Args:
        study: A study of one objective.
        task: The task that it tunes. Default: the one registered on the study, or else one
            recognised from the names of its parameters.

    Returns:
        The recommendation.

    Raises:
        NoTaskError: The study does not say which task it tunes, or has several objectives.
        NoEvidenceError: No trial has been completed.
    """
    if len(study.directions) > 1:
        raise NoTaskError(
            f"Study {study.study_name!r} has {len(study.directions)} objectives: recommend "
            "needs one; see `Study.best_trials` for the Pareto front."
        )
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    task = task or Task.registered(study) or recognise_task(trials)
    if task is None:
        raise NoTaskError(
            f"Study {study.study_name!r} does not say which task it tunes: pass `task=`."
        )
    evidence = Archive(task, maximize=is_maximized(study.directions)).read(trials)
    if len(evidence.scores) == 0:
        raise NoEvidenceError(
            f"Study {study.study_name!r} has no completed trial of task {task.name!r}: run some "
            "trials first."
        )
    surrogate = Surrogate(task, np.random.default_rng(0))
    posterior = Posterior(surrogate, evidence)
    tried, first = np.unique(
        np.stack([evidence.models, evidence.samples], axis=-1), axis=0, return_index=True
    )
    # In order of trial, so that of equals the first one tried wins.
    tried = tried[np.argsort(first)]
    points = surrogate.points(tried[..., 0], tried[..., 1])
    costs = task.feasible.costs_of(points.models, points.samples)
    mean = posterior.at(points).mean()
    # How sure that is, the noise as it is says better: see `TEMPER`.
    spread = Posterior(surrogate, evidence, temper=1.0).at(points)
    _, sd = spread.mean_and_sd()
    within = np.flatnonzero(costs <= task.feasible.limit)
    candidates = within if len(within) else np.arange(len(mean))
    best = int(candidates[np.argmax(mean[candidates])])
    sign = 1.0 if is_maximized(study.directions) else -1.0
    shared = _instance_variance(trials, sign) / posterior.scale.span**2

    optimism, lift = _biases(posterior, evidence, points, candidates, mean)

    def value(rate: float) -> float:
        return float(sign * posterior.scale.scores(np.array([rate + lift]))[0])

    # Outcomes tell the error of the winner's own score. Where there are none, the posterior's.
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
            # On the winner's level, so that none looks better than what it is tied with.
            Tie(allocations[i], value(mean[i] - optimism), float(costs[i]))
            for i in sorted(tied, key=lambda i: (costs[i], -mean[i]))
        ),
        trials=len(evidence.scores),
    )


def _biases(
    posterior: Posterior,
    evidence: Evidence,
    points: Points,
    candidates: Ints,
    mean: Floats,
) -> tuple[float, float]:
    """What is wrong with the posterior mean of the best, in rates; zeros where nothing tells.

    Returns:
        By how much the best of several is expected to look better than it is. Instances are drawn
        again with replacement and the winner chosen anew: how much better it looks there than on
        the instances as they are (Efron & Gong 1983, section 7). All trials share their instances
        and allocations that are alike much of their luck, so that no formula for independent
        scores would do.

        And how far the better quarter of the trials lie above their posterior means: a smooth
        posterior takes something off all that is good. On the playground that was .12, and
        intervals around it covered 62 % instead of 88 %.
    """
    whole = max((len(outcomes) for outcomes in evidence.outcomes), default=0)
    told = [row for row, outcomes in enumerate(evidence.outcomes) if len(outcomes) == whole]
    if whole < _LEAST_INSTANCES or len(told) < 2:
        return 0.0, 0.0
    surrogate, scale = posterior.surrogate, posterior.scale
    steps = sorted(evidence.outcomes[told[0]])
    told = [row for row in told if sorted(evidence.outcomes[row]) == steps]
    table = np.array([[evidence.outcomes[row][step] for step in steps] for row in told])
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES):
        drawn = rng.integers(0, whole, whole)
        scores, outcomes = evidence.scores.copy(), list(evidence.outcomes)
        scores[told] = evidence.sign * table[:, drawn].mean(axis=1)
        for row, values in zip(told, table[:, drawn].tolist()):
            outcomes[row] = dict(zip(steps, values))
        resampled = replace(evidence, scores=scores, outcomes=tuple(outcomes))
        again = Posterior(surrogate, resampled).at(points).mean()
        chosen = candidates[np.argmax(again[candidates])]
        # What all trials gained by the draw is no optimism about the winner.
        luck = float(np.mean(scores[told] - evidence.scores[told])) / scale.span
        found.append(again[chosen] - mean[chosen] - luck)
    fitted = posterior.at(surrogate.points(evidence.models[told], evidence.samples[told])).mean()
    gaps = scale.rates(evidence.scores[told]) - fitted
    better = np.argsort(-fitted, kind="stable")[: max(_FEWEST, len(told) // 4)]
    return max(0.0, float(np.mean(found))), float(np.mean(gaps[better]))


def _instance_variance(trials: Sequence[FrozenTrial], sign: float) -> float:
    """Variance of a mean score that comes from which instances, and samples of them, were drawn.

    All trials share their instances, and where samples are reused those as well, so comparing
    trials cannot show it. The spread of outcomes within a trial can: the median over the better
    half of the trials of the squared standard error. Zero where no trial reported outcomes, or
    reported something whose mean is not its value.
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
        if abs(outcomes.mean() - value) < 1e-6
    ]
    if not errors:
        return 0.0
    middle = np.median([value for value, _ in errors])
    return float(np.median([error for value, error in errors if value >= middle]))


def _sentence(allocation: Allocation) -> str:
    return ", ".join(
        f"{stage}: {setting.samples} x {setting.model}" for stage, setting in allocation.items()
    )
