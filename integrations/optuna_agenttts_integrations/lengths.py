"""Token lengths that trials report, and the task that uses them."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from statistics import median
from typing import Any

import optuna
from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts import BudgetError, Task, storage
from optuna_agenttts.study.choice_lengths import Report, choice_lengths, has_own_lengths
from optuna_agenttts.study.measured import log_lengths, set_effective_task, with_lengths
from optuna_agenttts.support.efforts import is_off
from optuna_agenttts.support.logs import is_first
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.thinking import Thinking
from optuna_agenttts_integrations.pipeline.evaluation import Evaluation, InstanceResult, StageUsage
from optuna_agenttts_integrations.pipeline.stages import Pipeline, StageProgram

_logger = logging.getLogger(__name__)

_TOLERANCE = 0.1
"""Relative difference up to which declared lengths are kept: tokenizers of different models differ
by more than 10 % on the same text."""

_LOOKS = 6
"""Times that lengths of choices are measured, after 3, 6, ... 96 trials by default: ranges of
samples move with each. Chosen by hand."""


def mean_lengths(
    results: Mapping[str, InstanceResult], pipeline: Pipeline, thinking: Collection[str] = ()
) -> dict[str, list[float]]:
    """Compute the mean prompt and sample length of each stage.

    Instances that skipped a stage count as zero, so that the stage's cost is the expected cost per
    instance. Failed instances are left out.

    Args:
        results: Results by instance ID.
        pipeline: The pipeline that was run.
        thinking: Names of stages whose thoughts are also measured.

    Returns:
        ``[prompt, sample]`` in tokens, by stage name, and for stages that think ``[prompt, sample,
        thoughts of a sample]``; empty if all instances failed.
    """
    finished = [result for result in results.values() if not result.failed]
    lengths: dict[str, list[float]] = {}
    for program in pipeline.programs if finished else ():
        usage = [result.stages.get(program.name, StageUsage()) for result in finished]
        measured = [[used.prompt_length, used.sample_length] for used in usage]
        if program.name in thinking:
            measured = [[*m, used.thought_length] for m, used in zip(measured, usage)]
        lengths[program.name] = [round(sum(each) / len(usage), 2) for each in zip(*measured)]
    return lengths


def thinking_of_stages(task: Task, allocation: Allocation) -> dict[str, Thinking]:
    """Return the thinking efforts of an allocation by stage, of stages whose model has one."""
    efforts = {(s.name, m.name): m.thinking for s in task.stages for m in s.models}
    chosen = {stage: efforts.get((stage, model)) for stage, (model, _) in allocation.items()}
    return {stage: thinking for stage, thinking in chosen.items() if thinking is not None}


def drawn_by_rules(programs: Iterable[StageProgram], evaluation: Evaluation) -> dict[str, float]:
    """Return the mean number of samples drawn of each stage that ran and may stop early."""
    means = evaluation.drawn
    return {
        program.name: round(means[program.name][0], 4)
        for program in programs
        if program.stops_early and program.name in means
    }


def ended_in_thoughts(evaluation: Evaluation, stage: str) -> list[int]:
    """Return how many replies of a stage ended inside their thoughts, and how many it has."""
    usage = [result.stages.get(stage, StageUsage()) for result in evaluation.results.values()]
    return [sum(used.ended_in_thoughts for used in usage), sum(used.calls for used in usage)]


def thought_attributes(
    trial: optuna.Trial,
    evaluation: Evaluation,
    allocation: Allocation,
    thinking: Mapping[str, Thinking],
) -> dict[str, Any]:
    """Return a trial's attributes about thoughts, and log replies that have nothing else.

    Args:
        trial: The trial.
        evaluation: Its evaluation.
        allocation: Model and number of samples of each stage.
        thinking: Thinking efforts by stage, of stages whose model has one.

    Returns:
        ``thought_tokens``, and as ``thoughts`` a line for each stage with replies that ended
        inside their thoughts, as one text; empty if no model thinks.
    """
    lines = []
    for name, (model, _) in allocation.items():
        ended, replies = ended_in_thoughts(evaluation, name)
        if ended:
            share = max(1, round(100 * ended / replies))
            whose = f"the replies of {model!r}" if name in thinking else f"{model}'s replies"
            remedy = "raise `max_tokens` or lower thinking"
            if name in thinking and is_off(thinking[name].effort):
                remedy = "the server did not switch thinking off, see `objective.check()`"
            lines.append(
                f"{share} % of {whose} in stage {name!r} ended inside their thoughts: {remedy}"
            )
            study = storage.study_of(trial)
            if study is None or is_first(study, f"thoughts:{name}:{model}"):
                see = "`efforts`" if name in thinking else "`Model.extra`"
                _logger.warning("Trial %d: %s (see %s).", trial.number, lines[-1], see)
    tokens = evaluation.thought_tokens
    return (
        {"thought_tokens": tokens, **({"thoughts": "\n".join(lines)} if lines else {})}
        if tokens
        else {}
    )


def apply_measured_lengths(
    study: Study, declared: Task, after: int, before: Task | None = None
) -> Task:
    """Replace declared token lengths by measured ones once enough trials are complete.

    The new task then becomes the study's effective task. Only the first `after` trials to complete
    count, so that workers that look at different times measure the same. Lengths of choices, such
    as thinking efforts, are measured again after 2, 4, 8, ... times as many trials.

    Args:
        study: The study.
        declared: The task as the user declared it.
        after: Number of complete trials to wait for.
        before: The effective task so far. Default: the declared one.

    Returns:
        The task with measured lengths; `declared` if there are too few trials, if its lengths are
        accurate within 10 %, or if no allocation would fit the budget.
    """
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    trials.sort(key=lambda t: (t.datetime_complete or datetime.max, t.number))
    found = ((t.params, storage.read_trial_fact(t, storage.LENGTHS)) for t in trials)
    reported = [(params, lengths) for params, lengths in found if isinstance(lengths, dict)]
    looks = _LOOKS if any(map(has_own_lengths, declared.stages)) else 1
    measured, used = declared, 0
    # Each look depends on the trials before it alone, so that all workers measure the same.
    for count in (after * 2**look for look in range(looks)):
        if len(reported) < count:
            break
        lengths, choices = _lengths(declared, reported[:count])
        if _are_close(measured, lengths, choices):
            continue
        try:
            measured, used = with_lengths(declared, lengths, choices), count
        except BudgetError as error:
            if is_first(study, "lengths over budget"):
                _logger.warning(
                    "Study %r keeps the declared token lengths, because no allocation would fit "
                    "the budget with the measured ones: %s",
                    study.study_name,
                    error,
                )
    if measured == declared:
        return declared
    if measured != before:
        set_effective_task(study, measured)
        log_lengths(study, before or declared, measured, f"in its first {used} trials")
    return measured


def _lengths(
    declared: Task, reported: Sequence[tuple[Mapping[str, Any], Mapping[str, Sequence[float]]]]
) -> tuple[dict[str, tuple[float, float]], dict[str, dict[str, float]]]:
    """Return lengths of stages, and of their choices, from parameters and lengths of trials."""
    lengths, choices = {}, {}
    for stage in declared.stages:
        reports = [
            Report(params.get(stage.model_parameter), *values[stage.name])
            for params, values in reported
            if stage.name in values
        ]
        if not reports:
            continue
        # The median, because the first trials include models that a search soon drops.
        prompt = median(report.prompt for report in reports)
        sample = median(report.sample for report in reports)
        if has_own_lengths(stage):
            sample, own = choice_lengths(stage, reports)
            choices[stage.name] = {name: _three_digits(value) for name, value in own.items()}
        lengths[stage.name] = (_three_digits(prompt), _three_digits(sample))
    return lengths, choices


def _are_close(
    task: Task, lengths: Mapping[str, Sequence[float]], choices: Mapping[str, Mapping[str, float]]
) -> bool:
    """Return whether a task's lengths are accurate within the tolerance."""
    pairs: list[tuple[float, float]] = []
    for stage in task.stages:
        expected = stage.prompt_tokens, stage.generation_tokens
        pairs += zip(lengths.get(stage.name, expected), expected)
        own = choices.get(stage.name, {})
        pairs += [(own[m.name], stage.sample_tokens(m)) for m in stage.models if m.name in own]
    return all(abs(measured - expected) <= _TOLERANCE * expected for measured, expected in pairs)


def _three_digits(value: float) -> float:
    """Round to three digits, so that concurrent workers measure the same."""
    return float(f"{value:.3g}")
