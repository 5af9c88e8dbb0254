"""Standings of the contenders of a confirmation."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from optuna.trial import TrialState

from optuna_agenttts import storage
from optuna_agenttts.confirmation.looks import State
from optuna_agenttts.confirmation.result import Standing
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.report.recommendation import Recommendation
from optuna_agenttts.report.ties import Paired
from optuna_agenttts.task.task import Task


def standings(
    state: State, task: Task, recommended: Recommendation, extent: float, sign: float
) -> tuple[Standing, ...]:
    """Return the standing of each contender, the best mean first.

    Args:
        state: Trials and looks of the study.
        task: The task.
        recommended: The recommendation.
        extent: Width of the range of the metric.
        sign: 1 if higher outcomes are better, else -1.
    """
    last_looks: dict[Choices, int] = {}
    for look in state.looks:
        last_looks.update(dict.fromkeys(look.allocations, look.number))
    keys = [*dict.fromkeys([*last_looks, *state.seen])]
    means = {key: _mean(state.seen.get(key, {})) for key in keys}
    keys.sort(key=lambda key: -sign * means[key] if not math.isnan(means[key]) else math.inf)
    best = tuple(task.choices(recommended.allocation))
    reference = best if state.seen.get(best) else next(iter(keys), best)
    last = state.looks[-1].number if state.looks else 0
    ended = {
        (task.read(trial.params), storage.confirmation_block(trial), trial.state)
        for trial in state.confirmations
    }
    return tuple(
        _standing(
            task,
            key,
            state.seen.get(key, {}),
            state.seen.get(reference, {}) if key != reference else {},
            extent,
            dropped=last_looks[key] if key in last_looks and last_looks[key] < last else None,
            failed=(key, last_looks.get(key), TrialState.FAIL) in ended
            and (key, last_looks.get(key), TrialState.COMPLETE) not in ended,
        )
        for key in keys
    )


def _standing(
    task: Task,
    key: Choices,
    own: Mapping[int, float],
    reference: Mapping[int, float],
    extent: float,
    *,
    dropped: int | None,
    failed: bool,
) -> Standing:
    paired = Paired.of(own, reference, extent)
    allocation = task.allocation(key)
    return Standing(
        params=task.params(allocation),
        allocation=allocation,
        cost=task.cost(allocation),
        mean=_mean(own),
        instances=len(own),
        difference=paired.mean if paired.shared else None,
        interval=(max(paired.lower, -extent), min(paired.upper, extent))
        if paired.shared
        else None,
        dropped=dropped,
        failed=failed,
    )


def _mean(outcomes: Mapping[int, float]) -> float:
    return float(np.mean(list(outcomes.values()))) if outcomes else math.nan
