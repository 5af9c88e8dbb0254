"""Token lengths as trials measured them, and the task with those."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import datetime
from statistics import median
from weakref import WeakSet

from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts import BudgetError, Task
from optuna_agenttts.study.measured import set_effective_task, with_lengths
from optuna_agenttts_integrations.pipeline.evaluation import InstanceResult, StageUsage
from optuna_agenttts_integrations.pipeline.stages import Pipeline

_logger = logging.getLogger(__name__)

_told: WeakSet[Study] = WeakSet()
"""Studies whose users were told that what was measured leaves nothing within the budget."""

_NEAR = 0.1
"""Declared lengths within a tenth of the measured ones are right: models' tokenizers differ by
more than that from each other."""


def mean_lengths(
    results: Mapping[str, InstanceResult], pipeline: Pipeline
) -> dict[str, list[float]]:
    """What each stage's prompts and samples measured, in tokens, as means over all instances.

    Instances that skipped a stage count as zero, so that its cost is what it is expected to be.
    Failed ones do not count.
    """
    finished = [result for result in results.values() if not result.failed]
    found: dict[str, list[float]] = {}
    for program in pipeline.programs if finished else ():
        usage = [result.stages.get(program.name, StageUsage()) for result in finished]
        found[program.name] = [
            round(sum(used.prompt_length for used in usage) / len(usage), 2),
            round(sum(used.sample_length for used in usage) / len(usage), 2),
        ]
    return found


def measure(study: Study, declared: Task, after: int) -> Task:
    """The task with the lengths that a study's finished trials measured, once there are enough.

    From then on it is the task that the study tunes. Only the trials that finished first count,
    so that workers that look at different moments find the same.

    Args:
        study: The study.
        declared: The task as its user describes it.
        after: How many finished trials are enough.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials = [t for t in trials if isinstance(t.user_attrs.get("lengths"), dict)]
    trials.sort(key=lambda t: (t.datetime_complete or datetime.max, t.number))
    if len(trials) < after:
        return declared
    said = [t.user_attrs["lengths"] for t in trials[:after]]
    lengths: dict[str, tuple[float, float]] = {}
    for stage in declared.stages:
        pairs = [values[stage.name] for values in said if stage.name in values]
        if pairs:
            # Not the mean: the first trials show models that a search leaves soon.
            prompt, sample = (median(pair[i] for pair in pairs) for i in (0, 1))
            lengths[stage.name] = (_three_digits(prompt), _three_digits(sample))
    if all(
        abs(measured - told) <= _NEAR * told
        for stage in declared.stages
        for measured, told in zip(
            lengths.get(stage.name, (stage.prompt_tokens, stage.generation_tokens)),
            (stage.prompt_tokens, stage.generation_tokens),
        )
    ):
        return declared
    try:
        measured = with_lengths(declared, lengths)
    except BudgetError as error:
        if study not in _told:
            _told.add(study)
            _logger.warning("Declared lengths are kept: with measured ones, %s", error)
        return declared
    if measured == declared:
        return declared
    _logger.info(
        "From now on, costs follow what was measured: %s",
        "; ".join(declared.differences(measured)),
    )
    set_effective_task(study, measured)
    return measured


def _three_digits(value: float) -> float:
    """Rounded, so that workers that measure at the same moment measure the same."""
    return float(f"{value:.3g}")
