"""Confirm a search's best allocations on fresh instances."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any
from uuid import uuid4

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState, create_trial

from optuna_agenttts import storage
from optuna_agenttts.confirmation import policy
from optuna_agenttts.confirmation.evaluation import (
    Evaluate,
    Evaluated,
    SplittableObjective,
    check_function,
    evaluate_on,
    find_objective,
    name_instances,
)
from optuna_agenttts.confirmation.limits import Limits, Prices, Used, used_by
from optuna_agenttts.confirmation.looks import Look, State, read_state, write_look
from optuna_agenttts.confirmation.planning import contender_choices, limits_of, next_block
from optuna_agenttts.confirmation.result import Confirmation
from optuna_agenttts.confirmation.standings import standings
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.explanation.explaining import explainer_of
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.recommendation import recommend
from optuna_agenttts.report.text import count_text
from optuna_agenttts.study.fresh import FreshInstances, prepare_fresh, read_fresh
from optuna_agenttts.study.spending import INSTANCES, rounded
from optuna_agenttts.study.stopped import write_outcomes
from optuna_agenttts.support.experimental import experimental_function
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)

Callback = Callable[[Study, FrozenTrial], None]

_LEAST = 10
"""Instances of a look, at least, as far as limits allow: fewer show nothing. Chosen by hand."""
_STOPPED = "the study was stopped"


@experimental_function("0.1.0")
def confirm(
    study: Study,
    evaluate: Evaluate | SplittableObjective,
    instances: Sequence[Any] | Mapping[str, Any],
    *,
    spend: float | None = None,
    evaluations: int | None = None,
    task: Task | None = None,
    margin: float | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
) -> Confirmation:
    """Compare the best allocations of a study on fresh instances, and recommend one.

    The luckiest of many trials on the same few instances is rarely the best one. This evaluates
    the allocations that may be the best on instances that no trial has seen, in at most four
    looks, and drops those that cannot win any more after each. The study may have any sampler.

    Each evaluation of an allocation in a look is added to the study as a complete trial when it
    ends. Its outcomes are at steps of their own, beyond those of the search. After an
    interruption, call the function again with the same arguments: no finished trial is evaluated
    twice. Several workers may confirm the same study: each evaluates what no other one has begun,
    and at the end of a look what another one has not finished yet. An allocation whose evaluation
    fails is recorded as a failed trial and left out; a later call tries it again.

    Args:
        study: Study of one objective, with finished trials; or of a score and then a cost, whose
            frontier is confirmed.
        evaluate: Function that runs an allocation on a list of instances, and returns their
            outcomes: as a sequence in the order given, as a mapping by name, or as an object with
            such `outcomes` (and `spend`, and `metrics`, if it has them). Or a
            `MultiStageObjective`.
        instances: Fresh instances, or a mapping of them by name. Text and integers are their own
            names; others have the attribute or key ``id``, or else their position, and must keep
            it when the function is called again. An objective names them as its own. A resumed
            confirmation appends instances that are new.
        spend: Limit on the spend of all confirmation trials of the study, in units of the task's
            cost model, over all instances. Spend that is not metered counts the allocation's cost.
        evaluations: Limit on the runs of the pipeline on one instance of all confirmation trials
            of the study. At least one limit is needed.
        task: Task that the study tunes. Default: as for `recommend`.
        margin: Margin of ties; see `recommend`.
        seed: Seed of the order of the fresh instances.
        callbacks: Functions that are called with the study and each confirmation trial.
            `Study.stop` ends the confirmation.

    Returns:
        The recommendation, the standing of the contenders, and the spend.

    Raises:
        NoTaskError: The study has no task, or other objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
        TaskError: An argument is out of range, some instances occur in the search, or the limits
            do not cover one instance of two contenders.
        Exception: That of `evaluate`, if it failed for all contenders.
    """
    limits = Limits.checked("confirm", spend, evaluations)
    found = Candidates(study, task, "confirm").task
    objective = find_objective(evaluate)
    if objective is None:
        check_function(evaluate, "confirm: `evaluate`")
        named: Mapping[str, Any] = name_instances(instances)
    else:
        named = objective.fresh_instances(instances)
        searched = read_state(study, found).search
        limits = limits.within(
            objective.max_spend - used_by(found, searched, len(objective.instances)).spend
        )
    known = read_fresh(study)
    if shared := [name for name in (known and known.search) or () if name in named]:
        raise TaskError(
            f"confirm: `instances` must not occur in the search, got {len(shared)} that do, for "
            f"example {shared[0]!r}: pass other ones."
        )
    run = Run(study, evaluate, named, task=found, limits=limits, seed=seed, callbacks=callbacks)
    return run.result(run.reason(), margin)


class Run:
    """One call of `confirm`.

    Args:
        study: The study.
        evaluate: The function, or an objective.
        named: Fresh instances, by name.
        task: The task.
        limits: Limits of the confirmation, or of a search with it.
        seed: Seed of the order of the instances.
        callbacks: Functions that are called after each trial.
        before: What the search has used of the limits, if they are its own.
    """

    def __init__(
        self,
        study: Study,
        evaluate: Any,
        named: Mapping[str, Any],
        *,
        task: Task,
        limits: Limits,
        seed: int,
        callbacks: Sequence[Callback],
        before: Used | None = None,
    ) -> None:
        """See the class."""
        self._study, self._evaluate, self._named = study, evaluate, named
        self._task, self._seed, self._callbacks = task, seed, callbacks
        self._limits, self._before = limits, before or Used()
        self._worker = uuid4().hex
        self._failed: set[tuple[int, Choices]] = set()
        self._error: Exception | None = None
        self._fresh = read_fresh(study) or FreshInstances(0)

    def reason(self, *, strict: bool = True) -> str:
        """Run the confirmation, and return the reason why it stopped.

        Args:
            strict: Whether limits that cover nothing are an error.
        """
        with _stoppable(self._study):
            while True:
                looks = self._state().looks
                if looks and (reason := self._finish(looks[-1])):
                    return reason
                state = self._state()
                if len(state.looks) > len(looks):
                    # Another worker has planned the next one.
                    continue
                planned = self._plan(state, strict)
                if isinstance(planned, str):
                    return planned
                if self._state().last < planned.number:
                    write_look(self._study, self._task, planned)

    def _state(self) -> State:
        return read_state(self._study, self._task)

    def _left(self, state: State) -> Limits:
        return self._limits.less(self._before).less(used_by(self._task, state.confirmations))

    def _plan(self, state: State, strict: bool) -> Look | str:
        """Return the next look, or the reason why there is none."""
        failed = {choices for _, choices in self._failed}
        if state.current and failed.issuperset(state.looks[-1].allocations):
            assert self._error is not None
            raise self._error
        looks = policy.LOOKS - state.current
        if looks < 1:
            return f"all {policy.LOOKS} looks are used"
        found = Candidates(self._study, self._task, "confirm")
        keys = contender_choices(found, failed)
        if len(keys) < 2:
            return "there is no other allocation to compare"
        self._fresh = prepare_fresh(self._study, list(self._named), seed=self._seed)
        steps = self._fresh.steps()
        fresh = sorted({steps[name] for name in self._named} - state.used)
        if not fresh:
            return "no fresh instance is left"
        prices = Prices(self._task, state.confirmations, state.search)
        costs = np.array([prices.of(key) for key in keys])
        limits = limits_of(self._left(state), costs, len(fresh))
        cheapest = np.argsort(limits.costs.sum(axis=0))[:2]
        if limits.instances(cheapest) < 1:
            limit = self._limits.text(self._task.cost_model.unit)
            if state.confirmations or not strict:
                return f"its limit of {limit} is reached"
            raise TaskError(
                f"confirm: the limit of {limit} does not cover one instance of the two cheapest "
                "contenders: raise it."
            )
        block = next_block(found, keys, limits, looks)
        if block is None:
            return "the choice is decided: further instances are not expected to change it"
        chosen = tuple(keys[position] for position in block.positions.tolist())
        count = max(block.instances, min(_LEAST, limits.instances(block.positions)))
        _logger.info(
            "Study %r: look %d of at most %d compares %d allocations on %s.",
            *(self._study.study_name, state.current + 1, policy.LOOKS),
            *(len(chosen), count_text(count, "fresh instance")),
        )
        return Look(state.last + 1, chosen, tuple(fresh[:count]), state.finished, self._limits)

    def _finish(self, look: Look) -> str:
        """Evaluate what is missing of a look; return a reason to stop, or an empty string.

        Workers evaluate the allocations that no other one has begun, and at last those, too: the
        others may have been killed.
        """
        while True:
            state = self._state()
            missing = self._missing(look, state)
            if self._study._stop_flag:
                return _STOPPED
            if not missing:
                return ""
            begun = {
                position
                for position, worker in storage.read_workers(self._study, look.number).items()
                if position in missing and worker not in (self._worker, "")
            }
            position = min(missing, key=lambda position: (position in begun, position))
            prices = Prices(self._task, state.confirmations, state.search)
            # What other workers have begun will be paid for.
            costs = {i: prices.of(look.allocations[i]) for i in missing}
            reserved = begun - {position}
            left = self._left(state).less(
                Used(
                    math.fsum(costs[i] * len(missing[i]) for i in reserved),
                    sum(len(missing[i]) for i in reserved),
                )
            )
            names = missing[position]
            count = int(min(len(names), left.instances([costs[position]])))
            if count:
                block = {name: self._named[name] for name in names[:count]}
                storage.write_worker(self._study, look.number, position, self._worker)
                workers = storage.read_workers(self._study, look.number)
                if workers[position] != self._worker:
                    # Another one began it at the same time, and was the last to write.
                    continue
                try:
                    found = self._add(look, look.allocations[position], block, left, state)
                except BaseException:
                    storage.write_worker(self._study, look.number, position, "")
                    raise
                if 0 <= found < count:
                    return "the limit on the spend does not cover the next call"
            if count < len(names):
                limit = self._limits.text(self._task.cost_model.unit)
                return f"its limit of {limit} is reached"

    def _missing(self, look: Look, state: State) -> dict[int, list[str]]:
        """Return the instances that are missing of a look, by position of the allocation."""
        found = {}
        for position, choices in enumerate(look.allocations):
            seen = state.seen.get(choices, {})
            names = map(self._fresh.name, (step for step in look.steps if step not in seen))
            known = [name for name in names if name in self._named]
            if known and (look.number, choices) not in self._failed:
                found[position] = known
        return found

    def _add(
        self, look: Look, choices: Choices, block: Mapping[str, Any], left: Limits, state: State
    ) -> int:
        """Evaluate an allocation on a block, add a trial, and call the callbacks.

        Returns:
            The number of instances that were evaluated; -1 if the evaluation failed.
        """
        allocation, cost = self._task.allocation(choices), self._task.feasible.cost(choices)
        attributes: dict[str, Any] = {
            "cost": rounded(cost),
            INSTANCES: len(block),
            storage.ORIGIN: "confirmation",
            storage.REASON: f"look {look.number} on {len(block)} fresh instances",
        }
        example = self._example(choices, state)
        # A parameter outside the task has the value of the example.
        params = {**example.params, **self._task.params(allocation)}
        trial = create_trial(
            state=TrialState.FAIL,
            params=example.params if self._task.read(example.params) == choices else params,
            distributions=example.distributions,
        )
        facts = storage.confirmation_marks(look.number)
        trial.datetime_start = datetime.now()
        failed = False
        try:
            found = evaluate_on(self._evaluate, allocation, block, left.written[0])
        except Exception as error:
            failed, self._error = True, error
            self._failed.add((look.number, choices))
            attributes["error"] = f"{type(error).__name__}: {error}"[:500]
            found = Evaluated({}, getattr(error, "spend", None))
            _logger.warning(
                "Study %r: the confirmation of %s on %d instances failed and is left out: %s",
                self._study.study_name,
                dict(allocation),
                len(block),
                attributes["error"],
            )
        outcomes = found.outcomes
        if found.spend is not None:
            attributes["spend"] = rounded(found.spend)
            facts |= {storage.SPEND: found.spend, storage.STAGES: found.stage_spends}
        if outcomes or failed or found.spend:
            steps = self._fresh.steps()
            metrics = {name: rounded(value) for name, value in found.metrics.items()}
            trial.user_attrs, trial.system_attrs = {**metrics, **attributes}, facts
            reported = {steps[name]: outcomes[name] for name in outcomes}
            if outcomes:
                trial.state = TrialState.COMPLETE
                write_outcomes(trial, reported, example)
            trial.datetime_complete = datetime.now()
            added = storage.add_finished_trial(self._study, trial)
            for callback in self._callbacks:
                callback(self._study, added)
        return -1 if failed else len(outcomes)

    def _example(self, choices: Choices, state: State) -> FrozenTrial:
        """Return the latest trial of an allocation, or of another one if no trial ran it itself.

        That is the case if another one's outcomes are known to be the same.
        """

        def rank(trial: FrozenTrial) -> tuple[bool, bool, int]:
            own = self._task.read(trial.params) == choices
            return own, trial.state == TrialState.COMPLETE, trial.number

        return max(state.search, key=rank)

    def result(self, reason: str, margin: float | None) -> Confirmation:
        """Return the result; see `confirm`."""
        found = Candidates(self._study, self._task, "confirm")
        state, scale, sign = self._state(), found.scale, found.evidence.sign
        recommended = recommend(self._study, self._task, margin=margin)
        used = used_by(self._task, state.confirmations)
        steps = {step for outcomes in state.seen.values() for step in outcomes}
        if (explainer := explainer_of(self._study.sampler)) is not None:
            explainer.finish(self._study, self._task)
        return Confirmation(
            recommendation=recommended,
            contenders=standings(state, self._task, recommended, scale.extent, sign),
            instances=len(steps),
            looks=state.last,
            evaluations=int(used.evaluations),
            spend=used.spend,
            unit=self._task.cost_model.unit,
            reason=reason,
        )


@contextmanager
def _stoppable(study: Study) -> Iterator[None]:
    """Let callbacks and functions call `Study.stop`, as in `Study.optimize`."""
    local = study._thread_local
    if local.in_optimize_loop:
        raise RuntimeError("`confirm` cannot be called inside `Study.optimize`.")
    local.in_optimize_loop, study._stop_flag = True, False
    try:
        yield
    finally:
        local.in_optimize_loop = False
