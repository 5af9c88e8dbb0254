"""Outcomes of instances in trials: which instances fail, and which ones decide."""

from __future__ import annotations

from dataclasses import dataclass

from optuna_agenttts.planner.evidence import Floats


@dataclass(frozen=True, slots=True)
class InstanceOutcomes:
    """Outcomes of one instance over the trials.

    Args:
        step: Step at which trials report its outcome.
        name: ID of the instance; "step 3" if it is not known.
        mean: Mean outcome, in units of the metric.
        trials: Number of trials that ran it.
        decides: Correlation of its outcomes with the means of the trials' other instances, from -1
            to 1: large for instances that tell good allocations from bad ones, 0 for those that
            always have the same outcome.
    """

    step: int
    name: str
    mean: float
    trials: int
    decides: float


@dataclass(frozen=True, slots=True)
class OutcomeTable:
    """Outcomes of instances in trials.

    Args:
        instances: The instances, those that fail most often first.
        trials: Numbers of the trials, the best one first.
        values: Outcomes, shape (instances, trials); NaN where a trial did not run an instance.
    """

    instances: tuple[InstanceOutcomes, ...]
    trials: tuple[int, ...]
    values: Floats
