"""Run a pipeline on instances under an allocation."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from optuna_agenttts import Task
from optuna_agenttts.llm.loop import gather
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts_integrations.calls.completions import Completions
from optuna_agenttts_integrations.calls.endpoints import Endpoints
from optuna_agenttts_integrations.calls.metering import Account
from optuna_agenttts_integrations.exceptions import SpendLimitError
from optuna_agenttts_integrations.pipeline.evaluation import InstanceResult, StageUsage
from optuna_agenttts_integrations.pipeline.stage_calls import InstanceFailedError, run_stages
from optuna_agenttts_integrations.pipeline.stages import Pipeline, Score, State


async def run_instances(
    pipeline: Pipeline,
    instances: Mapping[str, Any],
    allocation: Allocation,
    *,
    task: Task,
    completions: Completions,
    endpoints: Endpoints,
    account: Account,
    concurrency: int,
    on_result: Callable[[InstanceResult], None],
) -> dict[str, InstanceResult]:
    """Run a pipeline on instances concurrently and score each of them.

    Args:
        pipeline: Pipeline to run.
        instances: Instances by ID.
        allocation: Model and number of samples of each stage.
        task: Task that prices the calls.
        completions: Source of samples.
        endpoints: Endpoint of each model, by name.
        account: Account of the calls' spend.
        concurrency: Maximum number of instances run at once.
        on_result: Function called with each result when it is ready.

    Returns:
        Results by ID, in the order of `instances`. Instances that the limit of the spend stopped
        are left out.

    Raises:
        StoreError: The store cannot be read or written.
    """
    semaphore = asyncio.Semaphore(concurrency)

    results: dict[str, InstanceResult] = {}

    async def run(name: str, instance: Any) -> None:
        async with semaphore:
            try:
                results[name] = await _run_instance(
                    pipeline,
                    instance,
                    allocation,
                    task=task,
                    completions=completions,
                    endpoints=endpoints,
                    account=account,
                )
            except SpendLimitError:
                return
        on_result(results[name])

    await gather(run(name, instance) for name, instance in instances.items())
    return {name: results[name] for name in instances if name in results}


async def _run_instance(
    pipeline: Pipeline,
    instance: Any,
    allocation: Allocation,
    *,
    task: Task,
    completions: Completions,
    endpoints: Endpoints,
    account: Account,
) -> InstanceResult:
    usage: dict[str, StageUsage] = {}
    try:
        state = await run_stages(
            pipeline.stages,
            instance,
            allocation,
            usage,
            task=task,
            completions=completions,
            endpoints=endpoints,
            account=account,
        )
    except InstanceFailedError as error:
        zeros = dict.fromkeys(pipeline.metrics, 0.0)
        return InstanceResult(0.0, True, usage, zeros, error.unreadable)
    metrics = {name: await _apply(score, state) for name, score in pipeline.metrics.items()}
    return InstanceResult(await _apply(pipeline.score, state), False, usage, metrics)


async def _apply(score: Score, state: State) -> float:
    value = score(state)
    return float(await value if inspect.isawaitable(value) else value)
