"""Limits of a confirmation, and what its evaluations cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.report.text import count_text, spend_text
from optuna_agenttts.study.drawn import ExpectedCosts
from optuna_agenttts.study.spending import INSTANCES, evaluations_of, spend_of_trial, stated_spend
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.task import Task

_SLACK = 1e-9
"""Relative error of sums of costs that is no excess."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a search or confirmation, of which at least one is given.

    Args:
        spend: Limit in units of the task's cost model, over all instances; infinity for none.
        evaluations: Limit on runs of the pipeline, on one instance each; likewise.
    """

    spend: float = math.inf
    evaluations: float = math.inf

    @classmethod
    def checked(cls, function: str, spend: float | None, evaluations: int | None) -> Limits:
        """Return the limits that a user gave.

        Raises:
            TaskError: None is given, or one is out of range.
        """
        if spend is None and evaluations is None:
            raise TaskError(f"{function}: give `spend`, `evaluations`, or both.")
        for name, value in (("spend", spend), ("evaluations", evaluations)):
            if value is not None and not (is_finite(value) and value > 0):
                raise TaskError(f"{function}: `{name}` must be finite and above 0, got {value!r}.")
        # Storages keep JSON, which has no numbers of numpy.
        return cls.of(None if value is None else float(value) for value in (spend, evaluations))

    @classmethod
    def of(cls, written: Iterable[float | None]) -> Limits:
        """Return the limits of `written`."""
        return cls(*(math.inf if value is None else value for value in written))

    @property
    def written(self) -> list[float | None]:
        """Limits as JSON, which has no infinity."""
        return [None if math.isinf(each) else each for each in (self.spend, self.evaluations)]

    def less(self, used: Used) -> Limits:
        """Return what is left, not below 0."""
        spend, evaluations = self.spend - used.spend, self.evaluations - used.evaluations
        return Limits(max(0.0, spend), max(0.0, evaluations))

    def within(self, spend: float) -> Limits:
        """Return the limits with at most this spend."""
        return replace(self, spend=max(0.0, min(spend, self.spend)))

    def larger_than(self, other: Limits) -> bool:
        """Return whether these allow more than other ones."""
        pairs = ((self.spend, other.spend), (self.evaluations, other.evaluations))
        return all(own > limit for own, limit in pairs if limit < math.inf)

    def share(self, share: float) -> Limits:
        """Return a share of the limits."""
        return Limits(share * self.spend, share * self.evaluations)

    def instances(self, costs: Sequence[float]) -> float:
        """Return the number of instances that allocations of some costs can run on, all of them.

        Args:
            costs: Cost of each allocation for one instance.
        """
        total, spend = math.fsum(costs), math.inf if self.spend else 0.0
        if total:
            spend = self.spend * (1 + _SLACK) / total
        return min(spend, self.evaluations / len(costs))

    def reached(self, used: Used) -> bool:
        """Return whether a limit is reached."""
        spent = used.spend >= self.spend * (1 - _SLACK)
        return spent or used.evaluations >= self.evaluations

    def text(self, unit: str) -> str:
        """Describe the limits."""
        parts = []
        if self.spend < math.inf:
            parts.append(spend_text(self.spend, unit))
        if self.evaluations < math.inf:
            parts.append(count_text(int(self.evaluations), "evaluation"))
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class Used:
    """Spend and number of evaluations so far."""

    spend: float = 0.0
    evaluations: float = 0.0


def used_by(task: Task, trials: Iterable[FrozenTrial], instances: int = 1) -> Used:
    """Return the spend and the evaluations of trials.

    A trial that does not report its spend counts the cost of its allocation for each evaluation.

    Args:
        task: The task.
        trials: The trials.
        instances: Number of instances of a complete or failed trial that reported no outcomes.
    """
    spend, evaluations = [0.0], 0
    for trial in trials:
        if storage.confirmation_block(trial):
            count = evaluations_of(trial)
        else:
            # Samplers that do not know of the budget propose allocations that are pruned at once.
            ran = trial.state.is_finished() and trial.state != TrialState.PRUNED
            most = int(trial.user_attrs.get(INSTANCES, instances if ran else 0))
            count = len(outcomes_of(trial)) or most
        evaluations += count
        spend.append(spend_of_trial(task, trial, count))
    return Used(math.fsum(spend), evaluations)


class Prices:
    """Cost of allocations for one fresh instance: measured, as far as trials confirmed them.

    Args:
        task: The task.
        trials: Confirmation trials of the study.
        search: Other trials of the study, which show how many samples votes draw.
    """

    def __init__(
        self, task: Task, trials: Sequence[FrozenTrial], search: Sequence[FrozenTrial] = ()
    ) -> None:
        """See the class."""
        self._expected = ExpectedCosts(task, [*search, *trials])
        self._paid: dict[Choices, tuple[float, int]] = {}
        declared = [0.0]
        for trial in trials:
            spend, count = stated_spend(trial), len(outcomes_of(trial))
            choices = task.read(trial.params)
            if spend is not None and count and choices is not None:
                total, runs = self._paid.get(choices, (0.0, 0))
                self._paid[choices] = total + spend, runs + count
                declared.append(count * self._expected.of(choices))
        paid = math.fsum(total for total, _ in self._paid.values())
        # Reused samples and other lengths than declared make a difference.
        self._ratio = paid / math.fsum(declared) if paid and any(declared) else 1.0

    def of(self, choices: Choices) -> float:
        """Return the cost of an allocation for one instance."""
        total, runs = self._paid.get(choices, (0.0, 0))
        return total / runs if total else self._ratio * self._expected.of(choices)
