"""Search and confirm within one limit."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.study import MaxTrialsCallback, Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.confirmation import policy
from optuna_agenttts.confirmation.confirming import Callback, Run
from optuna_agenttts.confirmation.evaluation import (
    Evaluate,
    SplittableObjective,
    check_function,
    evaluate_on,
    find_objective,
)
from optuna_agenttts.confirmation.limits import Limits, Used, used_by
from optuna_agenttts.confirmation.looks import read_state
from optuna_agenttts.confirmation.planning import belief_of, contender_choices, limits_of
from optuna_agenttts.confirmation.result import SearchResult
from optuna_agenttts.confirmation.splitting import Split, largest_cost, split_instances
from optuna_agenttts.exceptions import NoTaskError, TaskError
from optuna_agenttts.report.callbacks import StopWhenExhausted, planners_of
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.study.drawn import ExpectedCosts
from optuna_agenttts.study.fates import guidelines
from optuna_agenttts.study.fresh import read_fresh
from optuna_agenttts.study.measured import effective_task
from optuna_agenttts.study.objectives import has_cost, with_cost
from optuna_agenttts.study.planners import Planners
from optuna_agenttts.study.spending import INSTANCES, rounded
from optuna_agenttts.study.stopped import report_outcomes
from optuna_agenttts.study.tasks import require_task
from optuna_agenttts.support.experimental import experimental_function
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)


@experimental_function("0.1.0")
def search(
    study: Study,
    objective: SplittableObjective | Evaluate,
    instances: Sequence[Any] | Mapping[str, Any] | None = None,
    *,
    spend: float | None = None,
    evaluations: int | None = None,
    n_trials: int | None = None,
    per_trial: int | None = None,
    task: Task | None = None,
    margin: float | None = None,
    seed: int = 0,
    callbacks: Sequence[Callback] = (),
    catch: tuple[type[Exception], ...] = (),
) -> SearchResult:
    """Run trials, confirm the best allocations on fresh instances, and recommend one.

    The instances are split, and the log says how: trials run on some of them, up to 50, and the
    others confirm. Trials go on until another one is worth less than the fresh instances that it
    costs, by the posterior; then `confirm` spends the rest. Both count towards one limit.

    After an interruption, call the function again with the same arguments. With a larger limit,
    it runs further trials. `objective(trial)` alone still scores every instance of the objective.

    Args:
        study: Study of one objective, with any sampler; or of a score and then a cost, whose
            trials take two fifths of the limit and whose frontier is confirmed.
        objective: A `MultiStageObjective`, or a function that runs an allocation on a list of
            instances and returns their outcomes; see `confirm`.
        instances: All instances. Default: those of the objective. When a search is resumed, they
            must include those of its trials; new ones are fresh.
        spend: Limit on the spend of the study, in units of the task's cost model, over all
            instances: trials, confirmation, and the agent as far as it is priced. What other
            workers are running, or a killed process had run, is not counted until it ends.
        evaluations: Limit on the runs of the pipeline on one instance. At least one limit is
            needed; an objective's `max_spend` counts as well.
        n_trials: Limit on the finished trials of the search.
        per_trial: Number of instances of the trials. Default: a fiftieth of the limit, from 20
            (or a twentieth of the limit, if that is less) to 50, and at most half of all.
        task: Task to tune. Default: that of the objective, of the sampler, or of the study.
        margin: Margin of ties; see `recommend`.
        seed: Seed of the split, and of the order of fresh instances.
        callbacks: Functions that are called with the study and each trial, those of the
            confirmation included. `Study.stop` ends the trials, or the confirmation.
        catch: Exceptions of trials that do not end the search; see `Study.optimize`.

    Returns:
        The recommendation, the confirmation, and how instances and spend were used.

    Raises:
        NoTaskError: There is no task, or the study has other objectives.
        NoEvidenceError: No trial is complete.
        TaskError: An argument is out of range, or the study has trials of unknown instances.
    """
    limits = Limits.checked("search", spend, evaluations)
    trials = Trials.of(study, objective, instances, task, limits, per_trial, seed)
    trials.run(n_trials, callbacks, catch)
    return trials.confirm(margin, callbacks)


class Trials:
    """Trials of a search, until another one is worth less than confirming.

    Args:
        study: The study.
        objective: The objective, or a function of the user.
        split: The instances.
        task: The task.
        limits: Limits of search and confirmation.
        seed: Seed of the order of fresh instances.
    """

    def __init__(
        self, study: Study, objective: Any, split: Split, *, task: Task, limits: Limits, seed: int
    ) -> None:
        """See the class."""
        self._study, self._split, self._task, self._limits = study, split, task, limits
        self._seed = seed
        splittable = find_objective(objective)
        self.evaluate: Any = objective if splittable is None else splittable.on(split.search)
        """The function, or the objective on the instances of the trials."""
        self._planners = Planners((1, 2, 3), ())
        self._reason = ""

    @classmethod
    def of(
        cls,
        study: Study,
        objective: Any,
        instances: Sequence[Any] | Mapping[str, Any] | None,
        task: Task | None,
        limits: Limits,
        per_trial: int | None,
        seed: int,
    ) -> Trials:
        """Check the arguments of `search`, and split the instances."""
        if len(study.directions) > 1 and not has_cost(study):
            raise NoTaskError(
                f"Study {study.study_name!r} has {len(study.directions)} objectives, and "
                "`search` needs a score, or a score and then a cost to minimize."
            )
        splittable = find_objective(objective)
        if splittable is not None:
            task = task or splittable.task
            limits = limits.within(splittable.max_spend)
        else:
            check_function(objective, "search: `objective`")
        if task is None:
            # The sampler registers its own at the first trial.
            own = getattr(study.sampler, "_task", None)
            task = require_task(study, own if isinstance(own, Task) else None)
        split = split_instances(
            study, splittable, instances, task=task, limits=limits, per_trial=per_trial, seed=seed
        )
        if limits.spend < math.inf:
            # For the agent, and for `spend(study)`.
            storage.write_limit(study, limits.spend)
        return cls(study, objective, split, task=task, limits=limits, seed=seed)

    def run(
        self,
        n_trials: int | None,
        callbacks: Sequence[Callback],
        catch: tuple[type[Exception], ...],
    ) -> None:
        """Run trials; none if the confirmation has begun, unless the limits are larger now."""
        if self._is_over():
            return
        finished = read_state(self._study, self._task).finished
        left = None if n_trials is None else n_trials - finished
        if left is not None and left < 1:
            return
        self._study.optimize(
            self._run_trial,
            n_trials=left,
            catch=catch,
            callbacks=[*callbacks, StopWhenExhausted(task=self._task), self._stop],
        )
        _logger.info(
            "Study %r: the trials end%s.",
            self._study.study_name,
            f", since {self._reason}" if self._reason else "",
        )

    def confirm(self, margin: float | None, callbacks: Sequence[Callback]) -> SearchResult:
        """Confirm the best allocations with what is left, and return the result."""
        task = effective_task(self._study, self._task, fresh=True)
        run = Run(
            self._study,
            self.evaluate,
            self._split.fresh,
            task=task,
            limits=self._limits,
            before=self.used(),
            seed=self._seed,
            # These count all trials, and would end the confirmation at once.
            callbacks=[c for c in callbacks if not isinstance(c, MaxTrialsCallback)],
        )
        confirmation = run.result(run.reason(strict=False), margin)
        total, fresh = self.used(everything=True), read_fresh(self._study)
        return SearchResult(
            recommendation=confirmation.recommendation,
            confirmation=confirmation,
            trials=read_state(self._study, task).finished,
            search_instances=tuple(self._split.search),
            fresh_instances=fresh.names if fresh is not None else (),
            evaluations=int(total.evaluations),
            spend=total.spend,
            unit=task.cost_model.unit,
        )

    def used(self, *, everything: bool = False) -> Used:
        """Return what trials and agent have used.

        Args:
            everything: Whether to include the confirmation.
        """
        trials = [
            trial
            for trial in storage.read_trials(self._study)
            if everything or not storage.confirmation_block(trial)
        ]
        used = used_by(self._task, trials, len(self._split.search))
        agent = sum(planned.cost or 0.0 for planned in guidelines(self._study))
        return Used(used.spend + agent, used.evaluations)

    def _run_trial(self, trial: optuna.Trial) -> float | tuple[float, float]:
        """Run a trial, unless the limits do not cover it.

        Raises:
            TaskError: They do not cover the first one.
            TrialPruned: They do not cover another one, and the study is stopped.
        """
        left, size = self._limits.less(self.used(everything=True)), len(self._split.search)
        if left.instances([largest_cost(self._task)]) < size:
            task = effective_task(self._study, self._task)
            cost = task.cost(task.suggest(trial))
            if left.instances([cost]) < size:
                unit = task.cost_model.unit
                if not any(t.state == TrialState.COMPLETE for t in self._study.trials):
                    raise TaskError(
                        f"search: the limit of {self._limits.text(unit)} does not cover a trial "
                        f"on {size} instances, which costs {size * cost:.5g}: raise it, or pass "
                        "a smaller `per_trial`."
                    )
                self._over("the limit does not cover another one", True)
                self._study.stop()
                raise optuna.TrialPruned
        if find_objective(self.evaluate) is None:
            return self._score(trial)
        found: float | tuple[float, float] = self.evaluate(trial)
        return found

    def _score(self, trial: optuna.Trial) -> float | tuple[float, float]:
        """Score a trial's allocation with the user's function."""
        task = effective_task(self._study, self._task)
        allocation = task.suggest(trial)
        storage.write_trial_values(trial, {INSTANCES: len(self._split.search)})
        found = evaluate_on(self.evaluate, allocation, self._split.search)
        spend = found.spend
        if spend is None:
            spend = task.cost(allocation) * len(self._split.search)
        values = {**found.metrics, "cost": task.cost(allocation), "spend": spend}
        storage.write_trial_values(trial, {name: rounded(values[name]) for name in values})
        storage.write_trial_facts(trial, {storage.SPEND: float(spend)})
        report_outcomes(trial, [found.outcomes[name] for name in self._split.search])
        mean = math.fsum(found.outcomes.values()) / len(found.outcomes)
        return with_cost(trial, mean, task.cost(allocation))

    def _stop(self, study: Study, trial: FrozenTrial) -> None:
        """Stop the study once another trial is worth less than confirming."""
        if self._is_over():
            study.stop()

    def _is_over(self) -> bool:
        """Return whether another trial is worth less than the fresh instances that it costs."""
        state = read_state(self._study, self._task)
        if state.last and not (state.looks and self._limits.larger_than(state.looks[-1].limits)):
            return self._over("the confirmation has begun", True)
        used, size = self.used(), len(self._split.search)
        left = self._limits.less(self.used(everything=True))
        if not any(trial.state == TrialState.COMPLETE for trial in state.search):
            # Of a cost that is not known yet.
            return self._over("the limit is reached", left.instances([0.0]) < size)
        least, most = (self._limits.share(share).reached(used) for share in policy.SHARES)
        if has_cost(self._study):
            # The gain of another trial is over all budgets, that of a confirmation is not known.
            over = most or state.finished >= policy.TRIALS
            return self._over("they have used their share of the limit", over)
        if most or not (least or state.finished >= policy.TRIALS):
            return self._over("they have used their share of the limit", most)
        task = effective_task(self._study, self._task)
        found = Candidates(self._study, task, "search")
        planners = planners_of(self._study.sampler) or self._planners
        with planners.lock(found.task):
            planner = planners.get(found.task)
            if planner.in_opening(found.evidence):
                # The posterior does not judge it.
                return False
            candidate = planner.propose(found.evidence)
        keys = [*contender_choices(found), candidate.choices]
        belief = belief_of(found, keys)
        expected = ExpectedCosts(found.task, storage.read_trials(self._study))
        costs = np.array([expected.of(key) for key in keys])
        limits = limits_of(left, costs, len(self._split.fresh))
        gain = 0.0 if least else policy.MIN_GAIN
        over = not policy.worth_another_trial(belief, limits, size, gain)
        return self._over("another one is worth less than the instances that it costs", over)

    def _over(self, reason: str, over: bool) -> bool:
        self._reason = reason if over else ""
        return over
