"""The objective: runs a pipeline on instances, and is what `Study.optimize` gets."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import optuna
from optuna.pruners import WilcoxonPruner
from tqdm import tqdm

from optuna_agenttts import Task
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.task import Allocation, AllocationLike
from optuna_agenttts_integrations.completions import Completions
from optuna_agenttts_integrations.endpoints import Endpoints
from optuna_agenttts_integrations.evaluation import Evaluation, InstanceResult
from optuna_agenttts_integrations.exceptions import PipelineError, TooManyFailuresError
from optuna_agenttts_integrations.pipeline import Pipeline, State
from optuna_agenttts_integrations.store import CompletionStore

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
        pipeline: What to run; its stages must be the task's.
        instances: What to run it on.
        task: What is tuned.
        endpoints: Where each of the task's models is served.
        store: Where completions are kept. Default: in memory.
        instance_id: Names an instance; names must be unique. Default: its attribute or key
            ``id``, or else its position.
        concurrency: How many instances may be under way at once; each endpoint bounds its
            requests besides.
        seed: Of the samples and of the order of instances.
        max_failed: The largest share of instances that may fail, 0 to 1, before the trial fails.
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
        instance_id: Callable[[Any], str] | None = None,
        concurrency: int = 64,
        seed: int = 0,
        max_failed: float = 0.1,
        progress: bool | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        _check(pipeline, task, endpoints)
        if concurrency < 1:
            raise PipelineError(f"`concurrency` is {concurrency!r}: give 1 or more.")
        if not 0 <= max_failed <= 1:
            raise PipelineError(f"`max_failed` is {max_failed!r}: give a share from 0 to 1.")
        self.pipeline, self.task, self.endpoints = pipeline, task, endpoints
        self.store = store if store is not None else CompletionStore()
        self._instance_id = instance_id
        self._concurrency, self._seed, self._max_failed = concurrency, seed, max_failed
        self._progress = sys.stderr.isatty() if progress is None else progress
        self._clock = clock
        named = list(self._named(instances).items())
        random.Random(seed).shuffle(named)
        self.instances = dict(named)
        self._steps = {name: step for step, name in enumerate(self.instances)}
        self._loop = LoopThread(partial(_close_chats, self.endpoints))
        self._completions = self._new_completions()

    def _new_completions(self) -> Completions:
        return Completions(store=self.store, seed=self._seed, rng=random.Random(self._seed))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the loop behind; another process starts its own."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_loop", "_completions")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        self.__dict__.update(state)
        self._loop = LoopThread(partial(_close_chats, self.endpoints))
        self._completions = self._new_completions()

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

    def __call__(self, trial: optuna.Trial) -> float:
        """Score the allocation that a trial suggests.

        Writes onto the trial, as user attributes: ``cost`` (of the allocation, per instance),
        ``spend`` (cost of what was really generated, over all instances), ``tokens``
        (generated), ``naive_tokens`` (without reuse), ``reused`` (share of samples), ``failed``
        (instances), ``malformed`` (replies) and ``seconds``.

        Raises:
            optuna.TrialPruned: The allocation is over the budget, or the pruner says so.
            TooManyFailuresError: More than `max_failed` of the instances failed.
        """
        allocation = self.task.suggest(trial)
        started = self._clock()
        results: dict[str, InstanceResult] = {}
        pruned = False
        try:
            with self._bar(len(self.instances), f"trial {trial.number}") as bar:
                for block in self._blocks(trial):
                    found = self._loop.run(self._run(allocation, block, bar))
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
                self._describe(trial, allocation, evaluation)
        self._check_failures(evaluation)
        if pruned:
            raise optuna.TrialPruned(
                f"pruned after {len(results)} of {len(self.instances)} instances, with a mean "
                f"outcome of {evaluation.mean:.3f}"
            )
        return evaluation.mean

    def evaluate(
        self, allocation: AllocationLike, instances: Sequence[Any] | None = None
    ) -> Evaluation:
        """Score an allocation outside any trial, for example on held-out instances.

        Args:
            allocation: ``{"stage": (model, samples)}``; it may be over the budget.
            instances: What to run it on. Default: the objective's own instances.

        Raises:
            TaskError: The allocation does not fit the task.
            PipelineError: There are no instances, or two of one name.
            TooManyFailuresError: More than `max_failed` of the instances failed.
        """
        checked = self.task.allocation(self.task.choices(allocation))
        named = self.instances if instances is None else self._named(instances)
        started = self._clock()
        with self._bar(len(named), "evaluate") as bar:
            results = self._loop.run(self._run(checked, named, bar))
        evaluation = Evaluation(results, self._clock() - started)
        self._check_failures(evaluation)
        return evaluation

    def _named(self, instances: Sequence[Any]) -> dict[str, Any]:
        if len(instances) == 0:
            raise PipelineError("`instances` is empty: give one instance or more.")
        named: dict[str, Any] = {}
        for position, instance in enumerate(instances):
            own = (self._instance_id or _own_id)(instance)
            name = str(position if own is None else own)
            if name in named:
                raise PipelineError(
                    f"`instances` has two named {name!r}: name each once, or give `instance_id`."
                )
            named[name] = instance
        return named

    def _blocks(self, trial: optuna.Trial) -> Iterator[dict[str, Any]]:
        """The instances all at once, or in parts between which a pruner is asked."""
        named = list(self.instances.items())
        size = max(1, -(-len(named) // _BLOCKS)) if _has_pruner(trial) else len(named)
        for start in range(0, len(named), size):
            yield dict(named[start : start + size])

    async def _run(
        self, allocation: Allocation, instances: Mapping[str, Any], bar: _Bar
    ) -> dict[str, InstanceResult]:
        slots = asyncio.Semaphore(self._concurrency)

        async def one(name: str, instance: Any) -> tuple[str, InstanceResult]:
            async with slots:
                result = await self._instance(allocation, instance)
            bar.add(result)
            return name, result

        tasks = [asyncio.ensure_future(one(name, item)) for name, item in instances.items()]
        try:
            return dict(await asyncio.gather(*tasks))
        finally:
            # Where one instance raised, or the trial was interrupted, the others must stop.
            for task in tasks:
                task.cancel()

    async def _instance(self, allocation: Allocation, instance: Any) -> InstanceResult:
        state = State(instance)
        failed, spend = False, 0.0
        malformed = samples = generated = prompt = written = naive = 0
        for program in self.pipeline.stages:
            model, count = allocation[program.name]
            drawn = await self._completions.sample(
                program.request(model, state), self.endpoints[model], count
            )
            samples += count
            generated += drawn.generated
            prompt += drawn.prompt_tokens
            written += drawn.generated_tokens
            naive += drawn.naive_tokens
            spend += self._stage_cost(program.name, model, count) * drawn.generated / count
            if not drawn.completions:
                failed = True
                break
            result, unread = program.result([c.text for c in drawn.completions], state)
            malformed += unread
            state = state.after(program.name, result)
        outcome = 0.0 if failed else float(self.pipeline.score(state))
        return InstanceResult(
            outcome, failed, malformed, samples, generated, prompt, written, naive, spend
        )

    def _stage_cost(self, stage: str, model: str, samples: int) -> float:
        names = [s.name for s in self.task.stages]
        index = names.index(stage)
        models = [m.name for m in self.task.stages[index].models]
        return float(self.task.feasible.costs[index][models.index(model)][samples - 1])

    def _check_failures(self, evaluation: Evaluation) -> None:
        failed, total = evaluation.failed, len(evaluation.results)
        if not failed:
            return
        causes = self._completions.failures.most_common(3)
        listed = "; ".join(f"{count} x {cause}" for cause, count in causes)
        if failed > self._max_failed * total:
            raise TooManyFailuresError(
                f"{failed} of {total} instances failed, more than `max_failed` "
                f"({self._max_failed:g}) allows, so their score would mean nothing. Commonest "
                f"causes so far: {listed}. What was generated is in the store."
            )
        _logger.warning(
            "%d of %d instances failed and count as 0. Commonest causes so far: %s",
            failed,
            total,
            listed,
        )

    def _describe(
        self, trial: optuna.Trial, allocation: Allocation, evaluation: Evaluation
    ) -> None:
        facts = {
            "cost": self.task.cost(allocation),
            "spend": evaluation.spend,
            "tokens": evaluation.generated_tokens,
            "naive_tokens": evaluation.naive_tokens,
            "reused": round(evaluation.reused, 4),
            "failed": evaluation.failed,
            "malformed": evaluation.malformed,
            "seconds": round(evaluation.seconds, 3),
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
        self._bar, self._samples, self._generated, self._spend = bar, 0, 0, 0.0

    def add(self, result: InstanceResult) -> None:
        self._samples += result.samples
        self._generated += result.generated
        self._spend += result.spend
        reused = 1 - self._generated / max(1, self._samples)
        self._bar.set_postfix_str(f"{reused:.0%} reused, spend {self._spend:.3g}", refresh=False)
        self._bar.update()


async def _close_chats(endpoints: Endpoints) -> None:
    """Close the connections that chat models hold on the event loop that ends."""
    for endpoint in endpoints.values():
        close = getattr(endpoint.chat, "aclose", None)
        if close is not None:
            await close()


def _has_pruner(trial: optuna.Trial) -> bool:
    study = getattr(trial, "study", None)
    return study is not None and isinstance(study.pruner, WilcoxonPruner)


def _own_id(instance: Any) -> Any:
    if isinstance(instance, Mapping):
        return instance.get("id")
    return getattr(instance, "id", None)


def _check(pipeline: Pipeline, task: Task, endpoints: Endpoints) -> None:
    programs = [program.name for program in pipeline.stages]
    stages = [stage.name for stage in task.stages]
    if programs != stages:
        raise PipelineError(
            f"`pipeline` runs the stages {programs!r} and `task` has {stages!r}: give each stage "
            "one program, in the same order."
        )
    models = {model.name for stage in task.stages for model in stage.models}
    if missing := sorted(models - set(endpoints)):
        raise PipelineError(
            f"`endpoints` lacks {', '.join(missing)}: say where each of the task's models is "
            "served."
        )
