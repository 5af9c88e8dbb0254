"""Runs of a pipeline on inputs that need no gold, and are not scored."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol, TypeVar

from optuna_agenttts import Task
from optuna_agenttts.llm.loop import LoopThread, gather
from optuna_agenttts.study.fresh import own_id
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts_integrations.calls.completions import Completions
from optuna_agenttts_integrations.calls.endpoints import Endpoints, close_chats, with_choices
from optuna_agenttts_integrations.calls.metering import Account, Ledger, check_max_spend
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.exceptions import PipelineError, StoreError
from optuna_agenttts_integrations.pipeline.evaluation import StageUsage
from optuna_agenttts_integrations.pipeline.prediction import (
    Prediction,
    PredictionAllocation,
    Predictions,
)
from optuna_agenttts_integrations.pipeline.programs import StageProgram, State, Step
from optuna_agenttts_integrations.pipeline.progress import ProgressBar, is_shown, progress_bar
from optuna_agenttts_integrations.pipeline.stage_calls import (
    InstanceFailedError,
    RunContext,
    run_stages,
    taken,
)

_logger = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="PipelineRunner")


class Runnable(Protocol):
    """Pipeline as far as predictions use it."""

    @property
    def stages(self) -> Sequence[StageProgram | Step]:
        """Stages in order of execution."""

    @property
    def answer(self) -> Callable[[State], Any] | None:
        """Function that returns the answer from the final state, if there is one."""


class PipelineRunner(Resetting):
    """Base of `Predictor` and `MultiStageObjective`: an event loop, samples, and predictions."""

    _unpickled = ("_loop", "_completions")

    pipeline: Runnable
    task: Task
    endpoints: Endpoints
    store: CompletionStore
    _concurrency: int
    _seed: int
    _replay: bool
    _progress: bool
    _instance_id: Callable[[Any], Any] | None

    def _reset(self) -> None:
        self._loop = LoopThread(partial(close_chats, self.endpoints))
        self._completions = self._new_completions()
        # Locks of an event loop cannot be used by that of a forked process.
        on_fork(self, PipelineRunner._reset)

    def _new_completions(self) -> Completions:
        return Completions(
            store=self.store,
            seed=self._seed,
            rng=random.Random(self._seed),
            replay=self._replay,
        )

    def close(self) -> None:
        """Stop the event loop; the next use starts a new one. The store stays open."""
        self._loop.close()
        self._completions = self._new_completions()

    def __enter__(self: _Self) -> _Self:
        """Return the object, which is closed at the end of the ``with`` block."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the object."""
        self.close()

    def predict(
        self,
        inputs: Iterable[Any],
        allocation: PredictionAllocation,
        *,
        max_spend: float | None = None,
    ) -> Predictions:
        """Run the pipeline on inputs, without scoring them.

        Score, metrics and steps that serve the score alone are not run, so inputs need no gold.
        Samples are stored and reused as in a search: what it has seen costs nothing. An input that
        fails, also by an exception of the pipeline's functions, has its error as a result, and
        the others are finished.

        Args:
            inputs: The inputs, of any number, such as a list or a generator; for one input, a
                list of it. They have the form of the search's instances, as far as prompts and
                steps read it. Equal ones are paid for once.
            allocation: ``{"stage": (model, samples)}``, or an object with an `allocation`, such
                as a `Recommendation`. It may exceed the budget.
            max_spend: Hard limit on the spend of this call, in units of the task's cost model.
                Inputs that it does not cover fail. Default: no limit, of an objective its
                `max_spend`.

        Returns:
            The predictions, one for each input, in order.

        Raises:
            PipelineError: `inputs` is a single text or mapping, or a table, there is no
                allocation, an endpoint is missing, or `max_spend` is out of range.
            TaskError: The allocation does not match the task.
            StoreError: The store cannot be read or written, or lacks a sample to be replayed.
        """
        return self._loop.run(self._predict(*self._prepared(inputs, allocation, max_spend)))

    async def apredict(
        self,
        inputs: Iterable[Any],
        allocation: PredictionAllocation,
        *,
        max_spend: float | None = None,
    ) -> Predictions:
        """Run `predict` without blocking the running event loop; for arguments, see there.

        Args:
            inputs: The inputs.
            allocation: The allocation.
            max_spend: Hard limit on the spend of this call, in units of the task's cost model.
                Default: see `predict`.
        """
        prepared = self._prepared(inputs, allocation, max_spend)
        return await asyncio.wrap_future(self._loop.submit(self._predict(*prepared)))

    def _prepared(
        self, inputs: Iterable[Any], given: PredictionAllocation, max_spend: float | None
    ) -> tuple[list[Any], Allocation, Ledger]:
        """Check the arguments of `predict`."""
        check_max_spend(max_spend)
        # A table, such as a DataFrame of pandas, iterates over the names of its columns.
        single = isinstance(inputs, (str, bytes, Mapping)) or hasattr(inputs, "columns")
        if single or not isinstance(inputs, Iterable):
            raise PipelineError(
                f"`inputs` must be a list or another iterable of inputs, got one of type "
                f"{type(inputs).__name__}: pass `[input]` for a single one, and a list of the "
                "rows of a table."
            )
        found = given if isinstance(given, Mapping) else getattr(given, "allocation", None)
        if not isinstance(found, Mapping):
            raise PipelineError(
                f"`allocation` must be a mapping, or have an `allocation`, got {given!r}: read "
                "files with `load_allocation`."
            )
        allocation = self.task.allocation(self.task.choices(found))
        missing = {setting.model for setting in allocation.values()} - set(self.endpoints)
        if missing:
            raise PipelineError(
                f"`endpoints` has no endpoint for {', '.join(sorted(missing))}, which the "
                "allocation uses: add one, for example with `connect_endpoints`."
            )
        return list(inputs), allocation, self._open_ledger(max_spend)

    def _open_ledger(self, max_spend: float | None) -> Ledger:
        limit = math.inf if max_spend is None else float(max_spend)
        return Ledger(limit=limit, unit=self.task.cost_model.unit or "units of the task's cost")

    def _progress_bar(self, total: int, title: str) -> AbstractContextManager[ProgressBar]:
        unit = self.task.cost_model.unit
        return progress_bar(total, title, unit=unit, show=self._progress)

    async def _predict(
        self, inputs: Sequence[Any], allocation: Allocation, ledger: Ledger
    ) -> Predictions:
        started = time.monotonic()
        semaphore = asyncio.Semaphore(self._concurrency)
        stages = [s for s in self.pipeline.stages if not (isinstance(s, Step) and s.scoring)]
        cost = self.task.cost(allocation)
        with self._progress_bar(len(inputs), "predict") as bar:

            async def run(position: int, instance: Any) -> Prediction:
                account = Account(ledger)
                async with semaphore, ledger.instance(cost, account):
                    found = await self._predict_one(
                        stages, position, instance, allocation, account
                    )
                    ledger.finished(cost, taken(found.stages))
                bar.add(found)
                return found

            results = await gather(run(i, instance) for i, instance in enumerate(inputs))
        predictions = Predictions(
            results=tuple(results),
            allocation=allocation,
            seconds=time.monotonic() - started,
            unit=self.task.cost_model.unit,
        )
        if predictions.failed:
            _logger.warning(
                "%d of %d inputs failed and have no answer. Most common causes: %s",
                predictions.failed,
                len(predictions),
                predictions.causes(in_full=False),
            )
        return predictions

    async def _predict_one(
        self,
        stages: Sequence[StageProgram | Step],
        position: int,
        instance: Any,
        allocation: Allocation,
        account: Account,
    ) -> Prediction:
        usage: dict[str, StageUsage] = {}
        results: Mapping[str, Any] = {}
        name, answer, failure = None, None, None
        try:
            name = (self._instance_id or own_id)(instance)
            context = RunContext(self.task, self._completions, self.endpoints, account)
            state = await run_stages(stages, instance, allocation, usage, context)
            results = state.results
            last, choose = stages[-1].name, self.pipeline.answer
            answer = results[last] if choose is None else choose(state)
            if inspect.isawaitable(answer):
                answer = await answer
        except StoreError:
            raise
        except InstanceFailedError as error:
            failure = error.cause
        # A function of the pipeline may raise anything on an input unlike those of the search.
        except Exception as error:
            failure = error
        return Prediction(
            id=str(position if name is None else name),
            answer=answer,
            results=results,
            stages=usage,
            spend=account.spent,
            tokens=account.tokens,
            error=failure,
        )


class Predictor(PipelineRunner):
    """Runner of a tuned pipeline on new inputs, which keeps its connections between calls.

    It can be shared by threads, pickled and forked.

    Args:
        pipeline: Pipeline to run, with a `StageProgram` for each stage of the task.
        task: Task that was tuned; it prices the calls.
        endpoints: Endpoint of each model that is used, by name; see `connect_endpoints`.
        store: Store for completions. With that of a search, its samples are reused. Default: in
            memory.
        instance_id: Function that returns the ID of an input, or None for its position. Default:
            the attribute or key ``id``.
        concurrency: Maximum number of inputs run at once.
        seed: Seed of the samples. To reuse those of a search, that of its objective.
        replay: Whether to take all samples from the store and send no requests.
        progress: Whether to show a progress bar. Default: on a terminal
            and in a notebook.

    Raises:
        PipelineError: Stages of pipeline and task differ, or `concurrency` is below 1.
    """

    def __init__(
        self,
        pipeline: Runnable,
        *,
        task: Task,
        endpoints: Endpoints,
        store: CompletionStore | None = None,
        instance_id: Callable[[Any], Any] | None = None,
        # Chosen by hand, as in `MultiStageObjective`.
        concurrency: int = 64,
        seed: int = 0,
        replay: bool = False,
        progress: bool | None = None,
    ) -> None:
        """See the class."""
        check_stages(pipeline, task)
        if concurrency < 1:
            raise PipelineError(f"`concurrency` must be at least 1, got {concurrency!r}.")
        self.pipeline, self.task = pipeline, task
        self.endpoints = with_choices(endpoints, task)
        self.store = store if store is not None else CompletionStore()
        self._instance_id = instance_id
        self._concurrency, self._seed, self._replay = concurrency, seed, replay
        self._progress = is_shown() if progress is None else progress
        self._reset()


def check_stages(pipeline: Runnable, task: Task) -> None:
    """Check that a pipeline has the stages of a task.

    Raises:
        PipelineError: It does not.
    """
    programs = [program.name for program in pipeline.stages if isinstance(program, StageProgram)]
    stages = [stage.name for stage in task.stages]
    if programs != stages:
        raise PipelineError(
            f"`pipeline` must have one `StageProgram` for each stage of `task`, in the same "
            f"order: the task has {stages!r}, got {programs!r}."
        )
