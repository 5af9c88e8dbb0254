"""Confirm a search's best allocations on fresh instances."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

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
from optuna_agenttts.confirmation.limits import Limits, Prices, used_by
from optuna_agenttts.confirmation.looks import (
    Look,
    State,
    choices_of_trial,
    read_state,
    write_look,
)
from optuna_agenttts.confirmation.planning import Contenders
from optuna_agenttts.confirmation.result import Confirmation
from optuna_agenttts.confirmation.standings import standings
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.planner.evidence import Choices
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.recommendation import recommend
from optuna_agenttts.report.text import count_text
from optuna_agenttts.study.fresh import FreshInstances, prepare_fresh, read_fresh
from optuna_agenttts.study.spending import INSTANCES
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
    instances: Sequence[Any],
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
    interruption, call the function again with the same arguments: nothing is evaluated twice. An
    allocation whose evaluation fails is recorded as a failed trial and left out; a later call
    tries it again.

    Args:
        study: Study of one objective, with finished trials.
        evaluate: Function that runs an allocation on a list of instances, and returns their
            outcomes: as a sequence in the order given, as a mapping by name, or as an object with
            such `outcomes` (and `spend`, and `metrics`, if it has them). Or a
            `MultiStageObjective`.
        instances: Fresh instances. Text and numbers are their own names; others have the
            attribute or key ``id``, or else their position. An objective names them as its own.
            A resumed confirmation appends instances that are new.
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
        NoTaskError: The study has no task, or several objectives.
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
    _check_names(study, named)
    run = Run(study, evaluate, named, task=found, limits=limits, seed=seed, callbacks=callbacks)
    return run.result(run.reason(), margin)


class Run:
    """One call of `confirm`.

    Args:
        study: The study.
        evaluate: The function, or an objective.
        named: Fresh instances, by name.
        task: The task.
        limits: Limits of the confirmation.
        seed: Seed of the order of the instances.
        callbacks: Functions that are called after each trial.
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
    ) -> None:
        """See the class."""
        self._study, self._evaluate, self._named = study, evaluate, named
        self._task, self._limits, self._seed, self._callbacks = task, limits, seed, callbacks
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
                state = self._state()
                look = state.looks[-1] if state.looks else None
                if look is not None and (reason := self._finish(look, state)):
                    return reason
                planned = self._plan(self._state(), strict)
                if isinstance(planned, str):
                    return planned
                write_look(self._study, self._task, planned)

    def _state(self) -> State:
        return read_state(self._study, self._task)

    def _left(self, state: State) -> Limits:
        return self._limits.less(used_by(self._task, state.confirmations))

    def _plan(self, state: State, strict: bool) -> Look | str:
        """Return the next look, or the reason why there is none."""
        number = state.earlier + len(state.looks) + 1
        failed = {choices for _, choices in self._failed}
        if state.looks and failed.issuperset(state.looks[-1].allocations):
            assert self._error is not None
            raise self._error
        looks = policy.LOOKS - len(state.looks)
        if looks < 1:
            return f"all {policy.LOOKS} looks are used"
        found = Contenders.of(Candidates(self._study, self._task, "confirm"), failed)
        if len(found.keys) < 2:
            return "there is no other allocation to compare"
        self._fresh = prepare_fresh(self._study, list(self._named), seed=self._seed)
        steps = self._fresh.steps()
        fresh = sorted({steps[name] for name in self._named} - state.used)
        if not fresh:
            return "no fresh instance is left"
        prices = Prices(self._task, state.confirmations)
        limits = found.limits(self._left(state), prices, len(fresh))
        cheapest = np.argsort(limits.costs.sum(axis=0))[:2]
        if limits.instances(cheapest) < 1:
            limit = self._limits.text(self._task.cost_model.unit)
            if state.confirmations or not strict:
                return f"its limit of {limit} is reached"
            raise TaskError(
                f"confirm: the limit of {limit} does not cover one instance of the two cheapest "
                "contenders: raise it."
            )
        block = policy.next_block(found.belief, limits, looks)
        if block is None:
            return "the choice is decided: further instances are not expected to change it"
        chosen = found.choices(block.positions)
        count = max(block.instances, min(_LEAST, limits.instances(block.positions)))
        _logger.info(
            "Study %r: look %d of at most %d compares %d allocations on %s.",
            *(self._study.study_name, len(state.looks) + 1, policy.LOOKS),
            *(len(chosen), count_text(count, "fresh instance")),
        )
        return Look(number, chosen, tuple(fresh[:count]), state.finished)

    def _finish(self, look: Look, state: State) -> str:
        """Evaluate what is missing of a look; return a reason to stop, or an empty string."""
        for choices in look.allocations:
            seen = state.seen.get(choices, {})
            names = map(self._fresh.name, (step for step in look.steps if step not in seen))
            missing = {name: self._named[name] for name in names if name in self._named}
            if not missing or (look.number, choices) in self._failed:
                continue
            if self._study._stop_flag:
                return _STOPPED
            # What was evaluated meanwhile is paid for.
            now = self._state()
            price = Prices(self._task, now.confirmations).of(choices)
            left = self._left(now)
            count = int(min(len(missing), left.instances([price])))
            if count:
                block = dict(list(missing.items())[:count])
                if 0 <= self._add(look, choices, block, left, now) < count:
                    return "the limit on the spend does not cover the next call"
            if count < len(missing):
                limit = self._limits.text(self._task.cost_model.unit)
                return f"its limit of {limit} is reached"
        return _STOPPED if self._study._stop_flag else ""

    def _add(
        self, look: Look, choices: Choices, block: Mapping[str, Any], left: Limits, state: State
    ) -> int:
        """Evaluate an allocation on a block, and add a trial.

        Returns:
            The number of instances that were evaluated; -1 if the evaluation failed.
        """
        allocation, started = self._task.allocation(choices), datetime.now()
        attributes: dict[str, Any] = {
            "cost": self._task.cost(allocation),
            INSTANCES: len(block),
            storage.ORIGIN: "confirmation",
            storage.REASON: f"look {look.number} on {len(block)} fresh instances",
        }
        most = self._hard_limit(left, state)
        try:
            found = evaluate_on(self._evaluate, allocation, block, most)
        except Exception as error:
            self._failed.add((look.number, choices))
            self._error = error
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
            attributes["spend"] = found.spend
        failed = (look.number, choices) in self._failed
        if outcomes or failed or found.spend:
            attributes.update({k: v for k, v in found.metrics.items() if k not in attributes})
            steps = self._fresh.steps()
            self._store(
                choices,
                state,
                datetime_start=started,
                value=math.fsum(outcomes.values()) / len(outcomes) if outcomes else None,
                state_of=TrialState.COMPLETE if outcomes else TrialState.FAIL,
                outcomes={steps[name]: value for name, value in outcomes.items()},
                attributes=attributes,
                marks=storage.confirmation_marks(look.number, look.number),
            )
        return -1 if failed else len(outcomes)

    def _hard_limit(self, left: Limits, state: State) -> float:
        """Return the most that an objective may spend on a block."""
        objective = find_objective(self._evaluate)
        most = math.inf if left.spend is None else left.spend
        if objective is None or math.isinf(objective.max_spend):
            return most
        used = used_by(self._task, [*state.search, *state.confirmations], len(objective.instances))
        return min(most, objective.max_spend - used.spend)

    def _store(
        self,
        choices: Choices,
        state: State,
        *,
        datetime_start: datetime,
        value: float | None,
        state_of: TrialState,
        outcomes: Mapping[int, float],
        attributes: Mapping[str, Any],
        marks: Mapping[str, Any],
    ) -> None:
        """Add a trial to the study, and call the callbacks."""
        # The latest trial of the allocation also has values of parameters outside the task.
        same = [t for t in state.search if choices_of_trial(self._task, t) == choices]
        example = next((t for t in same[::-1] if t.state == TrialState.COMPLETE), same[-1])
        trial = create_trial(
            state=state_of,
            value=value,
            params=example.params,
            distributions=example.distributions,
            user_attrs=dict(attributes),
            system_attrs=dict(marks),
            intermediate_values=dict(outcomes),
        )
        trial.datetime_start = datetime_start
        added = storage.add_finished_trial(self._study, trial)
        for callback in self._callbacks:
            callback(self._study, added)

    def result(self, reason: str, margin: float | None) -> Confirmation:
        """Return the result; see `confirm`."""
        found = Candidates(self._study, self._task, "confirm")
        state, scale, sign = self._state(), found.scale, found.evidence.sign
        recommended = recommend(self._study, self._task, margin=margin)
        used = used_by(self._task, state.confirmations)
        steps = {step for outcomes in state.seen.values() for step in outcomes}
        return Confirmation(
            recommendation=recommended,
            contenders=standings(state, self._task, recommended, scale.extent, sign),
            instances=len(steps),
            looks=len(state.looks),
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


def _check_names(study: Study, named: Mapping[str, Any]) -> None:
    """Raise if fresh instances have the names of instances of the search.

    Raises:
        TaskError: Some have.
    """
    known = read_fresh(study)
    shared = [name for name in (known and known.search) or () if name in named]
    if shared:
        raise TaskError(
            f"confirm: `instances` must not occur in the search, got {len(shared)} that do, for "
            f"example {shared[0]!r}: pass other ones."
        )
