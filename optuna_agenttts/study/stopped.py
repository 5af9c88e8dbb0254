"""Stopped trials: what they saw, and the value that Optuna keeps for them.

Optuna keeps a pruned trial's last intermediate value as its value. Where intermediate values are
outcomes of single instances, that is the outcome of one instance, so a stopped trial reports the
mean of what it saw once more, at a last step that no instance has.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from optuna.trial import BaseTrial, FrozenTrial

from optuna_agenttts import storage


def outcomes_of(trial: FrozenTrial) -> Mapping[int, float]:
    """Return a trial's outcomes by instance: its intermediate values without that of the mean."""
    reported: Mapping[int, float] = trial.intermediate_values
    reserved = storage.read_trial_fact(trial, storage.MEAN_STEP)
    if reserved not in reported:
        return reported
    return {step: value for step, value in reported.items() if step != reserved}


def mean_outcome(outcomes: Iterable[float]) -> float:
    """Return the mean of the finite outcomes; NaN if there is none, infinite if it overflows."""
    finite = [value for value in outcomes if math.isfinite(value)]
    with np.errstate(over="ignore"):
        return float(np.mean(finite)) if finite else math.nan


def report_stopped(trial: BaseTrial, outcomes: Iterable[float], step: int) -> None:
    """Report the mean outcome of a trial that ends pruned, which becomes its value.

    Args:
        trial: The running trial. It must be pruned next, without asking the pruner again.
        outcomes: The outcomes that it reported; without any, nothing is reported.
        step: A step after those of all instances.
    """
    mean = mean_outcome(outcomes)
    if not math.isnan(mean):
        storage.write_trial_facts(trial, {storage.MEAN_STEP: step})
        trial.report(mean, step)
