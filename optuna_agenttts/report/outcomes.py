"""Outcomes of instances in trials: which instances fail, and which ones decide."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from optuna.trial import TrialState

from optuna_agenttts import storage
from optuna_agenttts.planner.evidence import Floats
from optuna_agenttts.report.frames import to_frame
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.study.archive import explaining_outcomes, is_maximized
from optuna_agenttts.study.fresh import instance_names
from optuna_agenttts.study.objectives import has_cost
from optuna_agenttts.task.task import Task

if TYPE_CHECKING:
    from pandas import DataFrame

_ROUNDING = 1e-12
"""Spread of outcomes that rounding may explain, as a share of the largest one."""


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
    """Outcomes of the search's instances in its trials.

    Args:
        instances: The instances, those that fail most often first.
        trials: Numbers of the trials, the best one first.
        values: Outcomes, shape (instances, trials); NaN where a trial did not run an instance.
        best: Best possible outcome: the limit of the metric's range if it is known, else the best
            observed one; NaN without outcomes.
    """

    instances: tuple[InstanceOutcomes, ...]
    trials: tuple[int, ...]
    values: Floats = field(compare=False)
    best: float = field(default=math.nan, compare=False)

    @property
    def failing(self) -> tuple[InstanceOutcomes, ...]:
        """Instances that do not have the best outcome in all trials."""
        return tuple(each for each in self.instances if not math.isclose(each.mean, self.best))

    def to_dataframe(self) -> DataFrame:
        """Return the outcomes as a pandas DataFrame, one row for each instance.

        The columns are the ``instance``, its ``step``, its ``mean`` outcome, how far it
        ``decides``, and the numbers of the trials.

        Raises:
            AgentTTSError: pandas is not installed.
        """
        facts = ("instance", "step", "mean", "decides")
        rows = (
            {
                **dict(zip(facts, (i.name, i.step, i.mean, i.decides))),
                **dict(zip(self.trials, row)),
            }
            for i, row in zip(self.instances, self.values.tolist())
        )
        return to_frame("to_dataframe", rows, (*facts, *self.trials))


def outcomes_of_study(view: StudyView) -> OutcomeTable:
    """Return the outcomes of instances in the trials of a search.

    Trials whose value is not the mean of what they reported have none, and fresh instances, which
    few trials ran, are left out. The table is empty for other objectives than a score, or a score
    and then a cost.
    """
    found = {}
    several = len(view.study.directions) > 1 and not has_cost(view.study)
    for trial in () if several else view.trials:
        if trial.state.is_finished() and not storage.confirmation_block(trial):
            found[trial.number] = explaining_outcomes(trial)
    numbers = [number for number, outcomes in found.items() if outcomes]
    steps = sorted({step for outcomes in found.values() for step in outcomes})
    values = np.full((len(steps), len(numbers)), np.nan)
    for column, number in enumerate(numbers):
        rows = np.searchsorted(steps, list(found[number]))
        values[rows, column] = list(found[number].values())
    sign = 1.0 if several or is_maximized(view.study.directions) else -1.0
    complete = [view.trials[number].state == TrialState.COMPLETE for number in numbers]
    # All sums leave out what a trial did not run.
    seen = np.isfinite(values)
    known = np.where(seen, values, 0.0)
    means = known.sum(axis=1) / np.maximum(1, seen.sum(axis=1))
    scores = sign * known.sum(axis=0) / np.maximum(1, seen.sum(axis=0))
    decides = _discrimination(known[:, complete], seen[:, complete])
    rows = np.argsort(sign * means, kind="stable")
    # Those that saw all instances first.
    columns = np.lexsort((-scores, ~np.array(complete, dtype=bool)))
    name_of = instance_names(view.study)
    return OutcomeTable(
        instances=tuple(
            InstanceOutcomes(
                step=steps[row],
                name=name_of(steps[row]) or f"step {steps[row]}",
                mean=float(means[row]),
                trials=int(seen[row].sum()),
                decides=float(decides[row]),
            )
            for row in rows.tolist()
        ),
        trials=tuple(numbers[column] for column in columns.tolist()),
        values=values[np.ix_(rows, columns)],
        best=_best(view.task, sign, values),
    )


def _best(task: Task, sign: float, values: Floats) -> float:
    """Return the best outcome that is possible, or else the best observed one."""
    ends = values[np.isfinite(values)] if task.metric_range is None else task.metric_range
    return sign * max((sign * float(end) for end in ends), default=math.nan)


def _discrimination(values: Floats, seen: Floats) -> Floats:
    """Return the correlation of each instance's outcomes with the means of the other instances.

    It is known as the item-rest correlation, or corrected item-total correlation, in test theory.

    Args:
        values: Outcomes, shape (instances, trials); 0 where there is none.
        seen: Whether there is one.
    """
    counts = seen.sum(axis=0) - seen
    rest = (values.sum(axis=0) - values) / np.maximum(1, counts)
    weights = (seen & (counts > 0)).astype(float)
    number = np.maximum(1.0, weights.sum(axis=1, keepdims=True))
    ours = weights * (values - (weights * values).sum(axis=1, keepdims=True) / number)
    theirs = weights * (rest - (weights * rest).sum(axis=1, keepdims=True) / number)
    product = (ours * theirs).sum(axis=1)
    sizes = [np.sqrt((part**2).sum(axis=1)) for part in (ours, theirs)]
    # Up to rounding, which is as large as the outcomes are.
    varies = np.min(sizes, axis=0) > _ROUNDING * np.abs(values).max(initial=0.0)
    return np.where(varies, product / np.where(varies, sizes[0] * sizes[1], 1.0), 0.0)
