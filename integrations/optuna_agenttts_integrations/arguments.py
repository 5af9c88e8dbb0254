"""Checks of the arguments of `MultiStageObjective`."""

from __future__ import annotations

from optuna_agenttts import Task
from optuna_agenttts_integrations.calls.endpoints import Endpoints
from optuna_agenttts_integrations.calls.metering import check_max_spend
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.predictor import check_stages
from optuna_agenttts_integrations.pipeline.stages import Pipeline

_TRIAL_ATTRIBUTES = frozenset(
    {
        "cost",
        "spend",
        "tokens",
        "naive_tokens",
        "thought_tokens",
        "thoughts",
        "reused",
        "failed",
        "malformed",
        "seconds",
        "lengths",
        "mean_at_step",
    }
)
"""User attributes of every trial, which a pipeline's metrics must not overwrite."""


def check_numbers(
    *, concurrency: int, max_failed: float, measure_after: int | None, max_spend: float | None
) -> None:
    """Check the ranges of numbers.

    Raises:
        PipelineError: A number is out of range.
    """
    if concurrency < 1:
        raise PipelineError(f"`concurrency` must be at least 1, got {concurrency!r}.")
    if not 0 <= max_failed <= 1:
        raise PipelineError(f"`max_failed` must be between 0 and 1, got {max_failed!r}.")
    if measure_after is not None and measure_after < 1:
        raise PipelineError(f"`measure_after` must be at least 1, or None, got {measure_after!r}.")
    check_max_spend(max_spend)


def check_names(pipeline: Pipeline, task: Task, endpoints: Endpoints) -> None:
    """Check that a pipeline, its task and its endpoints match.

    Raises:
        PipelineError: They do not match.
    """
    check_stages(pipeline, task)
    reserved = [name for name in pipeline.metrics if name in _TRIAL_ATTRIBUTES]
    if reserved:
        raise PipelineError(
            f"`metrics` of the pipeline has the reserved names {reserved!r}: rename them."
        )
    models = {model.name for stage in task.stages for model in stage.models}
    if missing := sorted(models - set(endpoints)):
        raise PipelineError(
            f"`endpoints` has no endpoint for {', '.join(missing)}: add one for each of the "
            "task's models, for example with `connect_endpoints(task, ...)`."
        )
