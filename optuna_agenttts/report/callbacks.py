"""Callbacks for `Study.optimize`."""

from __future__ import annotations

import logging

from optuna.samplers import BaseSampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.study.archive import Archive
from optuna_agenttts.study.drawn import ExpectedCosts
from optuna_agenttts.study.planners import Planners
from optuna_agenttts.study.spending import read_limit, spend
from optuna_agenttts.study.tasks import find_task, require_task
from optuna_agenttts.support.experimental import experimental_class
from optuna_agenttts.support.logs import log_once
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)


class StopAtSpend:
    """Callback that stops a search once trials and agent have spent a limit.

    This is a soft limit: it is checked after each trial, and running trials are finished, so the
    spend may exceed it by what they cost. `MultiStageObjective(max_spend=...)` is a hard limit.
    The agent's prompts include spend and limit.

    Args:
        limit: Limit in units of the task's cost model, above 0: over all trials, and over all
            instances if the objective reports its spend (user attribute ``spend``), as
            `MultiStageObjective` does. Otherwise each trial counts the cost of its allocation for
            one instance; this is warned about once per study.
        task: The task. Default: the one registered on the study, else one recognized from the
            names of its parameters.

    Raises:
        TaskError: The limit is not a finite number above 0.
    """

    def __init__(self, limit: float, *, task: Task | None = None) -> None:
        """See the class."""
        if not (is_finite(limit) and limit > 0):
            raise TaskError(f"StopAtSpend: `limit` must be finite and above 0, got {limit!r}.")
        self._limit, self._task = float(limit), task

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Stop the study if its spend has reached the limit.

        Raises:
            NoTaskError: No task is registered on the study, and none was given.
        """
        if read_limit(storage.attributes_of(study)) != self._limit:
            storage.write_limit(study, self._limit)
        found = spend(study, self._task)
        if not found.whole:
            message = (
                "Study %r: the objective reports no spend (user attribute `spend`), so the limit "
                "of %g %s counts the cost of one instance per trial, however many instances a "
                "trial runs."
            )
            values = (study.study_name, self._limit, found.unit)
            log_once(
                _logger, logging.WARNING, study, "StopAtSpend without spend", message, *values
            )
        if found.total >= self._limit:
            limit = f"{self._limit:g} {found.unit}".rstrip()
            reason = f"the spend of the search has reached the limit of {limit}. {found}"
            _stop(self, study, trial, reason)


@experimental_class("0.1.0")
class StopWhenSettled:
    """Callback that stops a search once the expected gain of another trial is small.

    The gain is the largest expected improvement over the incumbent under the numerical planner's
    posterior, with or without an agent. Insights and earlier studies are those of the study's
    `AgentTTSSampler`. ``docs/benchmarks.md`` measures what the callback saves and loses.

    Args:
        gain: Stop when the expected gain is below this, in units of the metric, above 0. Default:
            a hundredth of the metric's scale, which is .01 for metrics from 0 to 1 and follows
            the spread of the scores for others.
        worth: Value of one unit of the metric, in units of the task's cost model: stop when the
            expected gain is worth less than the next trial is expected to cost over all
            instances. Overrides `gain`.
        trials: Number of consecutive trials for which this must hold, 1 or more.
        task: The task. Default: the one registered on the study, else one recognized from the
            names of its parameters.

    Raises:
        TaskError: An argument is out of range.
    """

    def __init__(
        self,
        gain: float | None = None,
        *,
        worth: float | None = None,
        trials: int = 3,
        task: Task | None = None,
    ) -> None:
        """See the class."""
        for name, value in (("gain", gain), ("worth", worth)):
            if value is not None and not (is_finite(value) and value > 0):
                raise TaskError(
                    f"StopWhenSettled: `{name}` must be finite and above 0, got {value!r}."
                )
        if trials < 1:
            raise TaskError(f"StopWhenSettled: `trials` must be 1 or more, got {trials!r}.")
        self._gain, self._worth, self._trials, self._task = gain, worth, trials, task
        self._planners = Planners((1, 2, 3), ())
        self._study, self._settled = "", 0

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Stop the study if the expected gain was small for enough trials in a row.

        Raises:
            NoTaskError: The study has no task, and none was given.
        """
        if storage.confirmation_block(trial):
            # Says nothing about another trial of the search.
            return
        trials = storage.read_trials(study)
        task = require_task(study, self._task)
        evidence = Archive.of(study, task).read(trials)
        planners = planners_of(study.sampler) or self._planners
        with planners.lock(task):
            planner = planners.get(task)
            if planner.in_opening(evidence):
                return
            compared = planner.compare(evidence)
        left = compared.improvement
        least, meaning = self._gain, "`gain`"
        if self._worth is not None:
            blocks = evidence.block_of_rows().tolist()
            counts = (len(row) for row, block in zip(evidence.outcomes, blocks) if not block)
            instances = max([1, *counts])
            cost = instances * ExpectedCosts(task, trials).of(compared.proposal.choices)
            least = cost / self._worth
            meaning = f"what the next trial costs, {cost:.3g} {task.cost_model.unit}".rstrip()
        elif least is None:
            least = evidence.scale.extent / 100
            meaning = "a hundredth of the metric's scale"
        if study.study_name != self._study:
            self._study, self._settled = study.study_name, 0
        self._settled = self._settled + 1 if left <= least else 0
        if self._settled >= self._trials:
            reason = "all scores are equal."
            if evidence.scale.informative:
                reason = (
                    f"the expected gain of another trial is {left:.2g} in units of "
                    f"{task.metric or 'the score'}, and has been below {least:.2g} ({meaning}) "
                    f"for {self._settled} trials."
                )
            _stop(self, study, trial, reason)


class StopWhenExhausted:
    """Callback that stops a search once every allocation within budget and ranges was tried.

    Enqueued trials are run before, also if they repeat an allocation.

    Args:
        task: The task. Default: the one registered on the study, else one recognized from the
            names of its parameters.
    """

    def __init__(self, *, task: Task | None = None) -> None:
        """See the class."""
        self._task = task

    def __call__(self, study: Study, trial: FrozenTrial) -> None:
        """Stop the study if nothing is left to try."""
        if storage.confirmation_block(trial):
            return
        trials = storage.read_trials(study)
        if any(other.state == TrialState.WAITING for other in trials):
            return
        task = find_task(study, self._task)
        if task is None:
            message = (
                "StopWhenExhausted does not stop study %r: it has no task, and none is recognized "
                "from the names of its parameters. Pass `task=`."
            )
            event = "StopWhenExhausted without a task"
            log_once(_logger, logging.WARNING, study, event, message, study.study_name)
            return
        archive = Archive.of(study, task)
        # A failed allocation that may be tried again is left to try.
        evidence = archive.read(trials)
        if archive.suggestions.is_exhausted(evidence.tried | evidence.failed):
            reason = "every allocation within the budget and the suggested ranges was tried."
            _stop(self, study, trial, reason)


def _stop(callback: object, study: Study, trial: FrozenTrial, reason: str) -> None:
    """Stop a study, and log the reason unless an earlier trial has stopped it."""
    first = not study._stop_flag
    study.stop()
    if first:
        _logger.info(
            "%s stops study %r after trial %d: %s",
            type(callback).__name__,
            study.study_name,
            trial.number,
            reason,
        )


def planners_of(sampler: BaseSampler) -> Planners | None:
    """Return the planners of an `AgentTTSSampler`, also inside a `PartialFixedSampler`."""
    while hasattr(sampler, "_base_sampler"):
        sampler = sampler._base_sampler
    planners = getattr(sampler, "_planners", None)
    return planners if isinstance(planners, Planners) else None
