"""Token lengths measured by trials, and the task that uses them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from statistics import median
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts import BudgetError, Task, storage
from optuna_agenttts.study.measured import log_lengths, set_effective_task, with_lengths
from optuna_agenttts.support.logs import is_first
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts_integrations.pipeline.evaluation import Evaluation, InstanceResult, StageUsage
from optuna_agenttts_integrations.pipeline.stages import Pipeline

_logger = logging.getLogger(__name__)

_TOLERANCE = 0.1
"""Relative difference up to which declared lengths are kept: tokenizers of different models differ
by more than 10 % on the same text."""


def mean_lengths(
    results: Mapping[str, InstanceResult], pipeline: Pipeline
) -> dict[str, list[float]]:
    """Compute the mean prompt and sample length of each stage.

    Instances that skipped a stage count as zero, so that the stage's cost is the expected cost per
    instance. Failed instances are left out.

    Args:
        results: Results by instance ID.
        pipeline: The pipeline that was run.

    Returns:
        ``[prompt, sample]`` in tokens, by stage name; empty if all instances failed.
    """
    finished = [result for result in results.values() if not result.failed]
    lengths: dict[str, list[float]] = {}
    for program in pipeline.programs if finished else ():
        usage = [result.stages.get(program.name, StageUsage()) for result in finished]
        lengths[program.name] = [
            round(sum(used.prompt_length for used in usage) / len(usage), 2),
            round(sum(used.sample_length for used in usage) / len(usage), 2),
        ]
    return lengths


def thought_attributes(
    trial: optuna.Trial, evaluation: Evaluation, allocation: Allocation
) -> dict[str, Any]:
    """Return a trial's attributes about thoughts, and log replies that have nothing else.

    Args:
        trial: The trial.
        evaluation: Its evaluation.
        allocation: Model and number of samples of each stage.

    Returns:
        ``thought_tokens``, and as ``thoughts`` a line for each stage with replies that ended
        inside their thoughts, as one text; empty if no model thinks.
    """
    lines = []
    for name, (model, _) in allocation.items():
        usage = [result.stages.get(name, StageUsage()) for result in evaluation.results.values()]
        ended = sum(used.ended_in_thoughts for used in usage)
        if ended:
            share = max(1, round(100 * ended / sum(used.calls for used in usage)))
            lines.append(
                f"{share} % of {model}'s replies in stage {name!r} ended inside their thoughts: "
                "raise `max_tokens` or lower thinking"
            )
            study = getattr(trial, "study", None)
            if not isinstance(study, Study) or is_first(study, f"thoughts:{name}:{model}"):
                _logger.warning("Trial %d: %s (see `Model.extra`).", trial.number, lines[-1])
    tokens = evaluation.thought_tokens
    return (
        {"thought_tokens": tokens, **({"thoughts": "\n".join(lines)} if lines else {})}
        if tokens
        else {}
    )


def apply_measured_lengths(study: Study, declared: Task, after: int) -> Task:
    """Replace declared token lengths by measured ones once enough trials are complete.

    The new task then becomes the study's effective task. Only the first `after` trials to complete
    count, so that workers that look at different times measure the same.

    Args:
        study: The study.
        declared: The task as the user declared it.
        after: Number of complete trials to wait for.

    Returns:
        The task with measured lengths; `declared` if there are too few trials, if its lengths are
        accurate within 10 %, or if no allocation would fit the budget.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials.sort(key=lambda t: (t.datetime_complete or datetime.max, t.number))
    found = (storage.read_trial_fact(trial, storage.LENGTHS) for trial in trials)
    reported = [lengths for lengths in found if isinstance(lengths, dict)][:after]
    if len(reported) < after:
        return declared
    lengths: dict[str, tuple[float, float]] = {}
    for stage in declared.stages:
        pairs = [values[stage.name] for values in reported if stage.name in values]
        if pairs:
            # The median, because the first trials include models that a search soon drops.
            prompt, sample = (median(pair[i] for pair in pairs) for i in (0, 1))
            lengths[stage.name] = (_three_digits(prompt), _three_digits(sample))
    if all(
        abs(measured - expected) <= _TOLERANCE * expected
        for stage in declared.stages
        for measured, expected in zip(
            lengths.get(stage.name, (stage.prompt_tokens, stage.generation_tokens)),
            (stage.prompt_tokens, stage.generation_tokens),
        )
    ):
        return declared
    try:
        measured = with_lengths(declared, lengths)
    except BudgetError as error:
        if is_first(study, "lengths over budget"):
            _logger.warning(
                "Study %r keeps the declared token lengths, because no allocation would fit the "
                "budget with the measured ones: %s",
                study.study_name,
                error,
            )
        return declared
    if measured == declared:
        return declared
    set_effective_task(study, measured)
    log_lengths(study, declared, measured, f"in its first {after} trials")
    return measured


def _three_digits(value: float) -> float:
    """Round to three digits, so that concurrent workers measure the same."""
    return float(f"{value:.3g}")
