"""Run a pipeline on instances under an allocation."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

from optuna_agenttts.llm.loop import gather
from optuna_agenttts.support.plain import one_line, shortened
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts_integrations.exceptions import SpendLimitError
from optuna_agenttts_integrations.pipeline.evaluation import KEPT, InstanceResult, StageUsage
from optuna_agenttts_integrations.pipeline.plain_values import value_text
from optuna_agenttts_integrations.pipeline.stage_calls import (
    InstanceFailedError,
    RunContext,
    run_stages,
    taken,
)
from optuna_agenttts_integrations.pipeline.stages import (
    Pipeline,
    Score,
    StageProgram,
    State,
)

_logger = logging.getLogger(__name__)


async def run_instances(
    pipeline: Pipeline,
    instances: Mapping[str, Any],
    allocation: Allocation,
    context: RunContext,
    *,
    concurrency: int,
    on_result: Callable[[InstanceResult], None],
) -> dict[str, InstanceResult]:
    """Run a pipeline on instances concurrently and score each of them.

    Args:
        pipeline: Pipeline to run.
        instances: Instances by ID.
        allocation: Model and number of samples of each stage.
        context: What the stages call.
        concurrency: Maximum number of instances run at once.
        on_result: Function called with each result when it is ready.

    Returns:
        Results by ID, in the order of `instances`. Instances that the limit of the spend stopped
        are left out.

    Raises:
        StoreError: The store cannot be read or written.
    """
    semaphore = asyncio.Semaphore(concurrency)
    account, cost = context.account, context.task.cost(allocation)
    results: dict[str, InstanceResult] = {}

    async def run(name: str, instance: Any) -> None:
        async with semaphore, account.ledger.instance(cost, account):
            try:
                results[name] = await _run_instance(pipeline, instance, allocation, context)
            except SpendLimitError:
                return
            account.ledger.finished(cost, taken(results[name].stages))
        on_result(results[name])

    await gather(run(name, instance) for name, instance in instances.items())
    return {name: results[name] for name in instances if name in results}


async def _run_instance(
    pipeline: Pipeline, instance: Any, allocation: Allocation, context: RunContext
) -> InstanceResult:
    usage: dict[str, StageUsage] = {}
    try:
        state = await run_stages(pipeline.stages, instance, allocation, usage, context)
    except InstanceFailedError as error:
        zeros = dict.fromkeys(pipeline.metrics, 0.0)
        # The stage that ran last failed, so that nothing is known of the others.
        last = next(reversed(usage), "")
        failed = {p.name: 0.0 for p in pipeline.programs if p.name == last and p.check}
        return InstanceResult(
            0.0, True, usage, zeros, error.unreadable, failed if error.unreadable else {}
        )
    metrics = {name: await _apply(score, state) for name, score in pipeline.metrics.items()}
    outcome = await _apply(pipeline.score, state)
    checks = _checks([p for p in pipeline.programs if p.name in usage], state)
    outputs = {n: shortened(value_text(state[n]), KEPT) for n in usage if n in state.results}
    return InstanceResult(outcome, False, usage, metrics, checks=checks, outputs=outputs)


def _checks(programs: Iterable[StageProgram], state: State) -> dict[str, float]:
    """Return the share that each stage passed of its check, without those that are not known."""
    found: dict[str, float] = {}
    for program in programs:
        if program.check is None:
            continue
        try:
            share = program.check.passed(state)
            known = share is not None and math.isfinite(share)
        # A diagnostic must not fail a trial.
        except Exception as error:
            _warn_of_check(program.name, repr(error))
            continue
        if share is not None and known:
            found[program.name] = min(1.0, max(0.0, float(share)))
    return found


@lru_cache(maxsize=64)
def _warn_of_check(stage: str, error: str) -> None:
    """Log a check that raised an exception, once for each error."""
    _logger.warning(
        "The check of stage %r raised %s, so the diagnostics leave it out. Scores are not "
        "affected.",
        stage,
        one_line(error),
    )


async def _apply(score: Score, state: State) -> float:
    value = score(state)
    return float(await value if inspect.isawaitable(value) else value)
