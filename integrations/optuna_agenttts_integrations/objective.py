"""Objective of a search: run a pipeline on instances and score it."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna

from optuna_agenttts import Task, storage
from optuna_agenttts.study.choice_lengths import has_own_lengths
from optuna_agenttts.study.drawn import cost_of_drawn
from optuna_agenttts.study.fresh import note_instances
from optuna_agenttts.study.measured import effective_task
from optuna_agenttts.study.objectives import with_cost
from optuna_agenttts.study.spending import rounded
from optuna_agenttts.study.stopped import (
    has_several_objectives,
    report_outcomes,
    report_stopped,
)
from optuna_agenttts.support.logs import is_first
from optuna_agenttts.task.allocation import Allocation, AllocationLike
from optuna_agenttts.task.stage import has_efforts
from optuna_agenttts_integrations.arguments import check_names, check_numbers
from optuna_agenttts_integrations.calls.endpoints import Endpoints, with_choices
from optuna_agenttts_integrations.calls.metering import Account, Ledger, check_max_spend
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.diagnosis import DiagnosableObjective
from optuna_agenttts_integrations.exceptions import TooManyFailuresError
from optuna_agenttts_integrations.instances import InstanceId, check_disjoint, named_instances
from optuna_agenttts_integrations.lengths import (
    apply_measured_lengths,
    drawn_by_rules,
    ended_in_thoughts,
    mean_lengths,
    thinking_of_stages,
    thought_attributes,
)
from optuna_agenttts_integrations.limit import SpendLimit
from optuna_agenttts_integrations.pipeline.effects import settings_without_effect
from optuna_agenttts_integrations.pipeline.evaluation import Evaluation, InstanceResult
from optuna_agenttts_integrations.pipeline.progress import ProgressBar, is_shown
from optuna_agenttts_integrations.pipeline.run import run_instances
from optuna_agenttts_integrations.pipeline.stage_calls import RunContext
from optuna_agenttts_integrations.pipeline.stages import Pipeline
from optuna_agenttts_integrations.pruning import blocks_of, check_pruner, uses_pruner
from optuna_agenttts_integrations.splitting import SplittableObjective
from optuna_agenttts_integrations.stage_diagnostics import diagnostic_facts

_logger = logging.getLogger(__name__)

_LISTED_CAUSES = 3
"""Causes of failures listed in a message. Chosen by hand, to keep it on one line."""


class MultiStageObjective(DiagnosableObjective, SplittableObjective):
    """Objective that scores an allocation by running a pipeline; pass it to `Study.optimize`.

    A trial's value is the mean outcome over the instances. Outcomes are reported as intermediate
    values, one step per instance, in a shuffled order that is the same in every trial, as
    `optuna.pruners.WilcoxonPruner` expects. That pruner is consulted after each tenth of the
    instances; the value of a trial that it stops is the mean outcome so far, reported at a last
    step. Other pruners are ignored: they compare learning curves, and outcomes of single
    instances are not a learning curve.

    Each completion is written to the store when it arrives, so that an interrupted search loses
    nothing, and is reused wherever the same request recurs.

    Args:
        pipeline: Pipeline to run. Each `StageProgram` must have the name of a stage of the task,
            in the same order.
        instances: Instances to run it on.
        task: Task to tune.
        endpoints: Endpoint of each of the task's models, by name; see `connect_endpoints`. That
            of a model is the endpoint of all of its thinking efforts.
        store: Store for completions. Default: in memory.
        instance_id: Function that returns the unique ID of an instance. Default: the attribute or
            key ``id``, or else the position.
        concurrency: Maximum number of instances run at once. Each endpoint also limits its
            requests.
        seed: Seed of the samples and of the order of instances.
        max_failed: Maximum fraction of instances, from 0 to 1, that may fail before the trial
            fails. Instances that failed because no reply was readable do not count: that is the
            model's quality, which the score measures.
        max_spend: Hard limit on the spend of a study's trials, over all instances, in units of the
            task's cost model; None for no limit. Before each call, the most that it can cost is
            reserved. When the limit does not cover the next call, the trial is kept as pruned and
            the study stops. What the study's trials have recorded counts, stored samples are
            free, and the tokens of an agent are not included. Workers in other processes count
            only once their trials end: give each of them a share.
        measure_after: Number of finished trials after which measured token lengths replace the
            task's declared ones where they differ by more than 10 %. Costs follow, and the budget
            too if it is the default one. Those of thinking efforts are measured again after 2, 4,
            ... 32 times as many. None keeps the declared lengths.
        replay: Whether to take all samples from the store and send no requests.
        progress: Whether to show a progress bar for each trial. Default: on a terminal
            and in a notebook.
        clock: Monotonic clock, in seconds.

    Raises:
        PipelineError: Stages, instances and endpoints do not match, or an argument is out of
            range.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        instances: Sequence[Any],
        *,
        task: Task,
        endpoints: Endpoints,
        store: CompletionStore | None = None,
        instance_id: InstanceId | None = None,
        # These defaults were chosen by hand.
        concurrency: int = 64,
        seed: int = 0,
        max_failed: float = 0.1,
        max_spend: float | None = None,
        measure_after: int | None = 3,
        replay: bool = False,
        progress: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class."""
        endpoints = with_choices(endpoints, task)
        check_names(pipeline, task, endpoints)
        check_numbers(
            concurrency=concurrency,
            max_failed=max_failed,
            measure_after=measure_after,
            max_spend=max_spend,
        )
        self.pipeline, self.task, self.endpoints = pipeline, task, endpoints
        self.store = store if store is not None else CompletionStore()
        self._instance_id = instance_id
        self._concurrency, self._seed, self._max_failed = concurrency, seed, max_failed
        self._measure_after, self._replay = measure_after, replay
        self._limit = SpendLimit(max_spend, task.cost_model.unit)
        self._progress = is_shown() if progress is None else progress
        self._clock = clock
        named = list(named_instances(instances, instance_id).items())
        random.Random(seed).shuffle(named)
        self.instances = dict(named)
        self._steps = {name: step for step, name in enumerate(self.instances)}
        self._reset()

    def _open_ledger(self, max_spend: float | None) -> Ledger:
        return self._limit.open_evaluation(max_spend).ledger

    def __call__(self, trial: optuna.Trial) -> float | tuple[float, float]:
        """Score the allocation that a trial suggests.

        Sets user attributes on the trial: ``cost`` (of the allocation, per instance, with the
        samples that were drawn), ``spend`` (cost of all calls over all instances, failed and
        repeated ones included; a call whose reply was lost counts its `max_tokens`), ``tokens``
        (generated), ``naive_tokens`` (generated without reuse), ``drawn`` (numbers of samples, if
        votes stopped early), ``reused`` (fraction of calls), ``failed`` (instances),
        ``malformed`` (replies), ``seconds``, and the pipeline's metrics under their names. If
        models think, also ``thought_tokens`` and ``thoughts`` (stages with replies that ended
        inside their thoughts). Numbers are rounded to four significant digits, for people;
        `optuna_agenttts.spend` adds up exact ones.

        Sets system attributes that reports and later trials read: exact spend, spend by stage,
        measured token lengths, what each stage did, and settings without an effect on any outcome;
        and, if the study's sampler has an agent that reads them, transcripts of three instances.

        Args:
            trial: The trial to score.

        Returns:
            The mean outcome; in studies of a score and a cost, also the cost of all samples.

        Raises:
            optuna.TrialPruned: The allocation exceeds the budget, the pruner stops the trial, or
                `max_spend` is reached.
            SpendLimitError: `max_spend` is too low for a single call; nothing was spent.
            TooManyFailuresError: More than `max_failed` of the instances failed.
            PipelineError: The pruner needs a package that is not installed.
        """
        check_pruner(trial)
        task = self._effective_task(trial)
        allocation = task.suggest(trial)
        self._note_instances(trial)
        started = self._clock()
        account = self._limit.open_account(trial)
        results: dict[str, InstanceResult] = {}
        pruned, several = False, has_several_objectives(trial)
        try:
            title = f"trial {trial.number}"
            with self._progress_bar(len(self.instances), title) as bar:
                for block in blocks_of(self.instances, trial):
                    for name, result in self._run(task, allocation, block, bar, account).items():
                        results[name] = result
                        if not several:
                            trial.report(result.outcome, step=self._steps[name])
                    unfinished = len(results) < len(self.instances)
                    pruned = unfinished and uses_pruner(trial) and trial.should_prune()
                    if pruned or account.refused is not None:
                        break
        finally:
            evaluation = Evaluation(results, self._clock() - started)
            if several:
                outcomes = evaluation.outcomes
                report_outcomes(trial, {self._steps[name]: outcomes[name] for name in outcomes})
            self._write_attributes(trial, task, allocation, evaluation, account)
        progress = f"{len(results)} of {len(self.instances)} instances"
        self._limit.stop(trial, account, progress, finished=bool(results))
        self._check_failures(evaluation)
        if pruned or account.refused is not None:
            report_stopped(trial, evaluation.outcomes.values(), len(self.instances))
            mean = f", with a mean outcome of {evaluation.mean:.3f}" if results else ""
            cause = "" if account.refused is None else " by `max_spend`"
            raise optuna.TrialPruned(f"Pruned{cause} after {progress}{mean}.")
        free = settings_without_effect(self.pipeline.programs, allocation, results.values())
        if free:
            storage.write_trial_facts(trial, {storage.EQUAL: free})
        return with_cost(trial, evaluation.mean, task.cost(allocation))

    def evaluate(
        self,
        allocation: AllocationLike,
        instances: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        baseline: AllocationLike | None = None,
        max_spend: float | None = None,
        partial: bool = False,
    ) -> Evaluation:
        """Score an allocation outside of a trial, for example on held-out instances.

        Args:
            allocation: ``{"stage": (model, samples)}``; it may exceed the budget.
            instances: Instances to run it on, or instances by ID, disjoint from those of the
                search. Default: the objective's own instances.
            baseline: Another allocation to run on the same instances and compare with.
            max_spend: Hard limit on the spend of this evaluation, baseline included, apart from
                what searches spend. Default: the objective's `max_spend`; infinity lifts it.
            partial: Whether to return the instances that were finished, instead of an error, if
                `max_spend` does not cover all calls. There may be none.

        Returns:
            The evaluation, with its comparison if there is a baseline.

        Raises:
            TaskError: The allocation does not match the task.
            PipelineError: There are no instances, two share an ID, or some occur in the search.
            SpendLimitError: `max_spend` does not cover all calls; those made are in the store.
            TooManyFailuresError: More than `max_failed` of the instances failed.
        """
        check_max_spend(max_spend)
        account = self._limit.open_evaluation(max_spend)
        named = self.instances
        if instances is not None:
            named = named_instances(instances, self._instance_id)
            check_disjoint(self.instances, named)
        evaluation = self._evaluate(allocation, named, "evaluate", account, partial=partial)
        if baseline is None:
            return evaluation
        other = self._evaluate(baseline, named, "baseline", account)
        return replace(evaluation, comparison=evaluation.against(other))

    def _evaluate(
        self,
        allocation: AllocationLike,
        named: Mapping[str, Any],
        title: str,
        account: Account,
        *,
        partial: bool = False,
    ) -> Evaluation:
        checked = self.task.allocation(self.task.choices(allocation))
        started, before = self._clock(), account.spent
        with self._progress_bar(len(named), title) as bar:
            results = self._run(self.task, checked, named, bar, account)
        if account.refused is not None and not partial:
            raise account.refused
        evaluation = Evaluation(
            results,
            self._clock() - started,
            metric_range=self.task.metric_range,
            paid=account.spent - before,
            metric=self.task.metric,
            unit=self.task.cost_model.unit,
        )
        try:
            self._check_failures(evaluation)
        except TooManyFailuresError as error:
            error.spend = evaluation.spend
            raise
        return evaluation

    def _effective_task(self, trial: optuna.Trial) -> Task:
        """Return the task, with measured token lengths once the study has them."""
        study = storage.study_of(trial)
        if self._measure_after is None or study is None:
            return self.task
        task = effective_task(study, self.task, fresh=True)
        if task is not self.task and not any(map(has_own_lengths, self.task.stages)):
            return task
        measured = apply_measured_lengths(study, self.task, self._measure_after, task)
        return task if measured is self.task else measured

    def _note_instances(self, trial: optuna.Trial) -> None:
        """Write the names of the instances to the study, once for each study and process."""
        study, names = storage.study_of(trial), tuple(self.instances)
        if study is not None and is_first(study, f"instances:{hash(names)}"):
            note_instances(study, names)

    def _run(
        self,
        task: Task,
        allocation: Allocation,
        instances: Mapping[str, Any],
        bar: ProgressBar,
        account: Account,
    ) -> dict[str, InstanceResult]:
        return self._loop.run(
            run_instances(
                self.pipeline,
                instances,
                allocation,
                RunContext(task, self._completions, self.endpoints, account),
                concurrency=self._concurrency,
                on_result=bar.add,
            )
        )

    def _check_failures(self, evaluation: Evaluation) -> None:
        """Log failed instances, and raise if there are too many."""
        total = len(evaluation.results)
        failed = sum(r.failed and not r.unreadable for r in evaluation.results.values())
        if not failed:
            return
        causes = self._completions.failures.most_common(_LISTED_CAUSES)
        listed = "; ".join(f"{count} x {cause}" for cause, count in causes)
        if failed > self._max_failed * total:
            raise TooManyFailuresError(
                f"{failed} of {total} instances failed, more than `max_failed` "
                f"({self._max_failed:g}) allows, so their mean is not a valid score. Most common "
                f"causes since the objective was opened: {listed}. Fix the causes and run again: "
                "completions generated so far are in the store."
            )
        _logger.warning(
            "%d of %d instances failed and score 0. Most common causes since the objective was "
            "opened: %s",
            failed,
            total,
            listed,
        )

    def _write_attributes(
        self,
        trial: optuna.Trial,
        task: Task,
        allocation: Allocation,
        evaluation: Evaluation,
        account: Account,
    ) -> None:
        # Unfinished instances have no result, but their calls are paid for.
        spent, drawn = account.spent, drawn_by_rules(self.pipeline.programs, evaluation)
        cost = cost_of_drawn(task, tuple(task.choices(allocation)), drawn)
        values: dict[str, Any] = {
            "cost": rounded(cost),
            "spend": rounded(spent),
            "tokens": account.tokens,
        }
        facts: dict[str, Any] = {storage.SPEND: spent}
        if evaluation.results:
            thinking = thinking_of_stages(task, allocation)
            values |= {
                "naive_tokens": evaluation.naive_tokens,
                "reused": round(evaluation.reused, 4),
                "failed": evaluation.failed,
                "malformed": evaluation.malformed,
                "seconds": rounded(evaluation.seconds),
                **thought_attributes(trial, evaluation, allocation, thinking),
                **({"drawn": text} if (text := evaluation.drawn_text) else {}),
                **{name: rounded(value) for name, value in evaluation.metrics.items()},
            }
            # Models without an effort may think, too: their answers are those of the stage.
            measured = [stage.name for stage in task.stages if has_efforts([stage])]
            facts[storage.LENGTHS] = mean_lengths(evaluation.results, self.pipeline, measured)
            facts[storage.DRAWN] = drawn
            facts[storage.STAGES] = evaluation.stage_spends
            facts |= diagnostic_facts(trial, self.pipeline, self.instances, evaluation.results)
            if thinking:
                facts[storage.ENDED] = {s: ended_in_thoughts(evaluation, s) for s in thinking}
        storage.write_trial_values(trial, values)
        storage.write_trial_facts(trial, facts)
