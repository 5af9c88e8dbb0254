"""Outcomes of single instances in trials, and the value that Optuna keeps for stopped trials.

Optuna keeps a pruned trial's last intermediate value as its value. Where intermediate values are
outcomes of single instances, that is the outcome of one instance, so a stopped trial reports the
mean of what it saw once more, at a last step that no instance has.

In studies of several objectives, `Trial.report` raises an error, and Optuna's samplers would read
the intermediate values of pruned trials as those of a single objective. Outcomes are a system
attribute there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from optuna.trial import BaseTrial, FrozenTrial

from optuna_agenttts import storage


def outcomes_of(trial: FrozenTrial) -> Mapping[int, float]:
    """Return a trial's outcomes by instance: its intermediate values without that of the mean."""
    reported: Mapping[int, float] = trial.intermediate_values
    stored = trial.system_attrs.get(storage.OUTCOMES)
    if isinstance(stored, Mapping):
        return {int(step): float(value) for step, value in stored.items()}
    reserved = storage.read_trial_fact(trial, storage.MEAN_STEP)
    if reserved not in reported:
        return reported
    return {step: value for step, value in reported.items() if step != reserved}


def mean_outcome(outcomes: Iterable[float]) -> float:
    """Return the mean of the finite outcomes; NaN if there is none, infinite if it overflows."""
    finite = [value for value in outcomes if math.isfinite(value)]
    with np.errstate(over="ignore"):
        return float(np.mean(finite)) if finite else math.nan


def report_outcomes(trial: BaseTrial, outcomes: Sequence[float] | Mapping[int, float]) -> None:
    """Report a trial's outcomes of single instances, also in studies of two objectives.

    Intervals of `recommend`, and the planner's noise, come from outcomes whose mean is the trial's
    score. In studies of one objective this is `Trial.report` for each; of several, for which that
    method raises an error, it is called once, with all outcomes of the trial.

    Args:
        trial: The running trial.
        outcomes: Outcomes in the order of the instances, the same in all trials, or by number of
            the instance.
    """
    if not isinstance(outcomes, Mapping):
        outcomes = dict(enumerate(outcomes))
    if has_several_objectives(trial):
        reported = {str(step): float(outcome) for step, outcome in outcomes.items()}
        storage.write_trial_facts(trial, {storage.OUTCOMES: reported})
    else:
        for step, outcome in outcomes.items():
            trial.report(outcome, step)


def write_outcomes(
    trial: FrozenTrial, outcomes: Mapping[int, float], example: FrozenTrial
) -> None:
    """Set the outcomes and values of a trial that runs the allocation of another one again.

    Args:
        trial: The trial.
        outcomes: Its outcomes by step, at least one.
        example: The other trial, whose second value is repeated if it has one.
    """
    mean = math.fsum(outcomes.values()) / len(outcomes)
    if len(example.values or ()) == 2:
        trial.values = [mean, example.values[1]]
        trial.system_attrs = {
            **trial.system_attrs,
            storage.OUTCOMES: {str(step): value for step, value in outcomes.items()},
        }
    else:
        trial.value, trial.intermediate_values = mean, dict(outcomes)


def measured_cost(trial: FrozenTrial) -> float:
    """Return a finished trial's second value if it is a measured cost, else NaN.

    The task computes its own costs, those of allocations tried before it was measured, too. A
    confirmation repeats the value of another trial.
    """
    second = trial.values[1] if len(trial.values or ()) > 1 else math.nan
    known = second == trial.system_attrs.get(storage.COST) or storage.confirmation_block(trial)
    return math.nan if known or not math.isfinite(second) else second


def has_several_objectives(trial: BaseTrial) -> bool:
    """Return whether a trial is one of a study of several objectives."""
    return len(getattr(storage.study_of(trial), "directions", ())) > 1


def report_stopped(trial: BaseTrial, outcomes: Iterable[float], step: int) -> None:
    """Report the mean outcome of a trial that ends pruned, which becomes its value.

    Args:
        trial: The running trial. It must be pruned next, without asking the pruner again.
        outcomes: The outcomes that it reported; without any, nothing is reported.
        step: A step after those of all instances.
    """
    mean = mean_outcome(outcomes)
    if not (math.isnan(mean) or has_several_objectives(trial)):
        storage.write_trial_facts(trial, {storage.MEAN_STEP: step})
        trial.report(mean, step)
