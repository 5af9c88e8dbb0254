"""The objective: runs a pipeline on instances, and is what `Study.optimize` gets."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import optuna
from optuna.pruners import WilcoxonPruner
from optuna.study import Study
from tqdm import tqdm

from optuna_agenttts import Task
from optuna_agenttts.llm import Report
from optuna_agenttts.llm.loop import LoopThread, gather
from optuna_agenttts.llm.port import close_chat
from optuna_agenttts.study.measured import effective_task
from optuna_agenttts.task.allocation import Allocation, AllocationLike
from optuna_agenttts_integrations.calls.completions import Completions
from optuna_agenttts_integrations.calls.endpoints import Endpoints
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.check import check_data, check_servers
from optuna_agenttts_integrations.exceptions import PipelineError, TooManyFailuresError
from optuna_agenttts_integrations.instances import InstanceId, named_instances, refuse_overlap
from optuna_agenttts_integrations.lengths import mean_lengths, measure
from optuna_agenttts_integrations.pipeline.evaluation import Evaluation, InstanceResult
from optuna_agenttts_integrations.pipeline.run import run_instance
from optuna_agenttts_integrations.pipeline.stages import Pipeline

_logger = logging.getLogger(__name__)

_BLOCKS = 10
"""How often a pruner is asked within a trial: after each tenth of the instances."""


class MultiStageObjective:
    """Scores allocations by running a pipeline; give it to `Study.optimize`.

    A trial's value is the mean outcome over the instances. Outcomes are reported as intermediate
    values, step by step in one fixed shuffled order, as `optuna.pruners.WilcoxonPruner` expects;
    with that pruner a hopeless trial is pruned after some of the instances. Other pruners compare
    learning curves, which outcomes of single instances are not: they are not asked.

    What is generated is kept in the store at once, so that an interrupted search loses nothing,
    and samples are reused wherever the same request comes up again (`completions.py`).

    Args:
        pipeline: What to run; its stages that ask models must be the task's.
        instances: What to run it on.
        task: What is tuned.
        endpoints: Where each of the task's models is served; see `connect_endpoints`.
        store: Where completions are kept. Default: in memory.
        instance_id: Names an instance; names must be unique. Default: its attribute or key
            ``id``, or else its position.
        concurrency: How many instances may be under way at once; each endpoint bounds its
            requests besides.
        seed: Of the samples and of the order of instances.
        max_failed: The largest share of instances, 0 to 1, that may fail before the trial fails.
            Those of which no reply could be read do not count: that is what the score is for.
        measure_after: After so many finished trials the task's token lengths are replaced by what
            those trials measured, where they differ by more than a tenth; so are its costs, and
            its budget if that is the default one. None keeps what is declared.
        replay: Whether to take every sample from the store and ask no server at all.
        progress: Whether to show a progress bar for each trial. Default: on a terminal.
        clock: Seconds, as from `time.monotonic`.

    Raises:
        PipelineError: Stages, instances and endpoints do not fit together.
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
        concurrency: int = 64,
        seed: int = 0,
        max_failed: float = 0.1,
        measure_after: int | None = 3,
        replay: bool = False,
        progress: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class."""
        _check(pipeline, task, endpoints)
        if concurrency < 1:
            raise PipelineError(f"`concurrency` is {concurrency!r}: give 1 or more.")
        if not 0 <= max_failed <= 1:
            raise PipelineError(f"`max_failed` is {max_failed!r}: give a share from 0 to 1.")
        if measure_after is not None and measure_after < 1:
            raise PipelineError(f"`measure_after` is {measure_after!r}: give 1 or more, or None.")
        self.pipeline, self.task, self.endpoints = pipeline, task, endpoints
        self.store = store if store is not None else CompletionStore()
        self._instance_id = instance_id
        self._concurrency, self._seed, self._max_failed = concurrency, seed, max_failed
        self._measure_after, self._replay = measure_after, replay
        self._progress = sys.stderr.isatty() if progress is None else progress
        self._clock = clock
        named = list(named_instances(instances, instance_id).items())
        random.Random(seed).shuffle(named)
        self.instances = dict(named)
        self._steps = {name: step for step, name in enumerate(self.instances)}
        self._start()

    def _start(self) -> None:
        self._loop = LoopThread(partial(close_chats, self.endpoints))
        self._completions = self._new_completions()

    def _new_completions(self) -> Completions:
        return Completions(
            store=self.store,
            seed=self._seed,
            rng=random.Random(self._seed),
            replay=self._replay,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loop behind; another process starts its own."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_loop", "_completions")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        self.__dict__.update(state)
        self._start()

    def close(self) -> None:
        """Stop the event loop; it starts again when it is needed. The store stays open."""
        self._loop.close()
        self._completions = self._new_completions()

    def __enter__(self) -> MultiStageObjective:
        """Close at the end of a ``with`` block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def check(self) -> Report:
        """Examine data, store and servers before anything is spent on a search.

        Servers are asked a handful of requests for a token or a few each.

        Returns:
            What was found, to be printed as a table; `Report.raise_for_errors` stops a script.
        """
        data = check_data(self.pipeline, self.instances, self.task, self.store)
        servers = check_servers(self.pipeline, self.instances, self.task, self.endpoints)
        return data + self._loop.run(servers)

    def __call__(self, trial: optuna.Trial) -> float:
        """Score the allocation that a trial suggests.

        Writes onto the trial, as user attributes: ``cost`` (of the allocation, per instance),
        ``spend`` (cost of what was really generated, over all instances), ``tokens``
        (generated), ``naive_tokens`` (without reuse), ``reused`` (share of calls), ``failed``
        (instances), ``malformed`` (replies), ``lengths`` (for each stage, tokens of a prompt and
        of a sample), ``seconds``, and the pipeline's further metrics under their names.

        Raises:
            optuna.TrialPruned: The allocation is over the budget, or the pruner says so.
            TooManyFailuresError: More than `max_failed` of the instances failed.
            PipelineError: The pruner needs a package that is missing.
        """
        _check_pruner(trial)
        task = self._effective_task(trial)
        allocation = task.suggest(trial)
        started = self._clock()
        results: dict[str, InstanceResult] = {}
        pruned = False
        try:
            with self._bar(len(self.instances), f"trial {trial.number}") as bar:
                for block in self._blocks(trial):
                    found = self._loop.run(self._run(task, allocation, block, bar))
                    for name in block:
                        results[name] = found[name]
                        trial.report(found[name].outcome, step=self._steps[name])
                    unfinished = len(results) < len(self.instances)
                    pruned = unfinished and _has_pruner(trial) and trial.should_prune()
                    if pruned:
                        break
        finally:
            evaluation = Evaluation(results, self._clock() - started)
            if results:
                self._describe(trial, task.cost(allocation), evaluation)
        self._check_failures(evaluation)
        if pruned:
            raise optuna.TrialPruned(
                f"pruned after {len(results)} of {len(self.instances)} instances, with a mean "
                f"outcome of {evaluation.mean:.3f}"
            )
        return evaluation.mean

    def evaluate(
        self,
        allocation: AllocationLike,
        instances: Sequence[Any] | None = None,
        *,
        baseline: AllocationLike | None = None,
    ) -> Evaluation:
        """Score an allocation outside any trial, for example on held-out instances.

        Args:
            allocation: ``{"stage": (model, samples)}``; it may be over the budget.
            instances: What to run it on, none of which the search has seen. Default: the
                objective's own instances.
            baseline: Another allocation to run on the same instances and to compare with.

        Raises:
            TaskError: The allocation does not fit the task.
            PipelineError: There are no instances, two of one name, or some that the search has
                seen.
            TooManyFailuresError: More than `max_failed` of the instances failed.
        """
        named = self.instances
        if instances is not None:
            named = named_instances(instances, self._instance_id)
            refuse_overlap(self.instances, named)
        evaluation = self._evaluate(allocation, named, "evaluate")
        if baseline is None:
            return evaluation
        other = self._evaluate(baseline, named, "baseline")
        return replace(evaluation, comparison=evaluation.against(other))

    def _evaluate(
        self, allocation: AllocationLike, named: Mapping[str, Any], title: str
    ) -> Evaluation:
        checked = self.task.allocation(self.task.choices(allocation))
        started = self._clock()
        with self._bar(len(named), title) as bar:
            results = self._loop.run(self._run(self.task, checked, named, bar))
        evaluation = Evaluation(results, self._clock() - started)
        self._check_failures(evaluation)
        return evaluation

    def _effective_task(self, trial: optuna.Trial) -> Task:
        """The task with the lengths that the study has measured, once it has."""
        study = getattr(trial, "study", None)
        if self._measure_after is None or not isinstance(study, Study):
            return self.task
        task = effective_task(study, self.task, fresh=True)
        return measure(study, self.task, self._measure_after) if task is self.task else task

    def _blocks(self, trial: optuna.Trial) -> Iterator[dict[str, Any]]:
        """The instances all at once, or in parts between which a pruner is asked."""
        named = list(self.instances.items())
        size = max(1, -(-len(named) // _BLOCKS)) if _has_pruner(trial) else len(named)
        for start in range(0, len(named), size):
            yield dict(named[start : start + size])

    async def _run(
        self, task: Task, allocation: Allocation, instances: Mapping[str, Any], bar: _Bar
    ) -> dict[str, InstanceResult]:
        slots = asyncio.Semaphore(self._concurrency)

        async def one(name: str, instance: Any) -> tuple[str, InstanceResult]:
            async with slots:
                result = await run_instance(
                    self.pipeline,
                    instance,
                    allocation,
                    task=task,
                    completions=self._completions,
                    endpoints=self.endpoints,
                )
            bar.add(result)
            return name, result

        return dict(await gather(one(name, item) for name, item in instances.items()))

    def _check_failures(self, evaluation: Evaluation) -> None:
        total = len(evaluation.results)
        failed = sum(r.failed and not r.unreadable for r in evaluation.results.values())
        if not failed:
            return
        causes = self._completions.failures.most_common(3)
        listed = "; ".join(f"{count} x {cause}" for cause, count in causes)
        if failed > self._max_failed * total:
            raise TooManyFailuresError(
                f"{failed} of {total} instances could not be run, more than `max_failed` "
                f"({self._max_failed:g}) allows, so their score would mean nothing. Commonest "
                f"causes so far: {listed}. What was generated is in the store."
            )
        _logger.warning(
            "%d of %d instances could not be run and count as 0. Commonest causes so far: %s",
            failed,
            total,
            listed,
        )

    def _describe(self, trial: optuna.Trial, cost: float, evaluation: Evaluation) -> None:
        facts = {
            "cost": cost,
            "spend": evaluation.spend,
            "tokens": evaluation.generated_tokens,
            "naive_tokens": evaluation.naive_tokens,
            "reused": round(evaluation.reused, 4),
            "failed": evaluation.failed,
            "malformed": evaluation.malformed,
            "seconds": round(evaluation.seconds, 3),
            "lengths": mean_lengths(evaluation.results, self.pipeline),
            **{name: round(value, 6) for name, value in evaluation.metrics.items()},
        }
        for name, value in facts.items():
            trial.set_user_attr(name, value)

    @contextmanager
    def _bar(self, total: int, title: str) -> Iterator[_Bar]:
        with tqdm(total=total, desc=title, disable=not self._progress, leave=False) as shown:
            yield _Bar(shown)


class _Bar:
    """A progress bar that shows instances, reuse and cost."""

    def __init__(self, bar: Any) -> None:
        self._bar, self._calls, self._generated, self._spend = bar, 0.0, 0.0, 0.0

    def add(self, result: InstanceResult) -> None:
        self._calls += result.total("calls")
        self._generated += result.total("generated")
        self._spend += result.total("spend")
        reused = 1 - self._generated / max(1.0, self._calls)
        self._bar.set_postfix_str(f"{reused:.0%} reused, spend {self._spend:.3g}", refresh=False)
        self._bar.update()


async def close_chats(endpoints: Endpoints) -> None:
    """Close the connections that chat models hold on the event loop that ends."""
    for endpoint in endpoints.values():
        await close_chat(endpoint.chat)


def _has_pruner(trial: optuna.Trial) -> bool:
    study = getattr(trial, "study", None)
    return study is not None and isinstance(study.pruner, WilcoxonPruner)


def _check_pruner(trial: optuna.Trial) -> None:
    # Optuna would say so only when it prunes: after money was spent.
    if _has_pruner(trial) and find_spec("scipy") is None:
        raise PipelineError(
            "`WilcoxonPruner` needs scipy, which is not installed: "
            "pip install 'optuna-agenttts[prune]', or leave the pruner out."
        )


def _check(pipeline: Pipeline, task: Task, endpoints: Endpoints) -> None:
    programs = [program.name for program in pipeline.programs]
    stages = [stage.name for stage in task.stages]
    if programs != stages:
        raise PipelineError(
            f"`pipeline` asks models in the stages {programs!r} and `task` has {stages!r}: give "
            "each stage one program, in the same order."
        )
    reserved = [name for name in pipeline.metrics if name in _RESERVED]
    if reserved:
        raise PipelineError(f"`metrics` of the pipeline has {reserved!r}: give other names.")
    models = {model.name for stage in task.stages for model in stage.models}
    if missing := sorted(models - set(endpoints)):
        raise PipelineError(
            f"`endpoints` lacks {', '.join(missing)}: say where each of the task's models is "
            "served."
        )


_RESERVED = frozenset(
    {
        "cost",
        "spend",
        "tokens",
        "naive_tokens",
        "reused",
        "failed",
        "malformed",
        "seconds",
        "lengths",
    }
)
"""User attributes that every trial has."""
