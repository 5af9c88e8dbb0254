"""Inspect trials and allocations from recorded outcomes and stored replies."""

from __future__ import annotations

import asyncio
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import Any

import optuna
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from optuna_agenttts import Task
from optuna_agenttts.study.fresh import instance_names, read_fresh
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts.task.allocation import Allocation, AllocationLike
from optuna_agenttts_integrations.exceptions import PipelineError, StoreError
from optuna_agenttts_integrations.inspection.functions import FunctionError
from optuna_agenttts_integrations.inspection.text import describe, number
from optuna_agenttts_integrations.inspection.tracing import Trace, Tracer
from optuna_agenttts_integrations.inspection.views import InstanceInspection, TrialInspection

Inspectable = FrozenTrial | optuna.Trial | int | AllocationLike
"""A trial, its number, or an allocation."""

_CLOSE = 1e-9
"""Relative difference up to which two outcomes are equal: rounding of floats."""

_REMEDY = "Use the store, instances, seed and endpoints of the search."

_STEP = "step:"
"""Prefix of the steps that stand for instances whose IDs are not known."""

_LISTED = 3
"""IDs listed in a message. Chosen by hand, to keep it on one line."""

_AT_ONCE = 64
"""Maximum number of instances run at once. Chosen by hand: steps may open files."""


@dataclass(frozen=True, slots=True)
class Subject:
    """Trial or allocation to inspect.

    Args:
        label: The trial or allocation, in words.
        allocation: Model and number of samples by stage; None if it is not known.
        number: Number of the trial; None for an allocation.
        outcomes: Outcomes that the trial recorded, by step.
    """

    label: str
    allocation: Allocation | None = None
    number: int | None = None
    outcomes: Mapping[int, float] = field(default_factory=dict)


def read_subject(given: Inspectable, task: Task | None, study: Study | None) -> Subject:
    """Return the trial or allocation to inspect.

    Args:
        given: A trial, its number, or an allocation.
        task: Task of the allocation. Default: only outcomes are read.
        study: Study of the trial, if only its number is given.

    Raises:
        PipelineError: The trial does not exist, or has no allocation of the task.
        TaskError: The allocation does not match the task.
    """
    if isinstance(given, Mapping):
        if task is None:
            raise PipelineError("An allocation can be inspected with its task only.")
        chosen = task.allocation(task.choices(given))
        return Subject(describe(chosen), chosen)
    trial = _frozen(given, study)
    label = f"trial {trial.number} ({trial.state.name.lower()})"
    allocation: Allocation | None = None
    if task is not None:
        choices = task.read(trial.params)
        if choices is None:
            raise PipelineError(
                f"Trial {trial.number} has no allocation of task {task.name!r}, but the "
                f"parameters {trial.params!r}: inspect it with the objective that scored it."
            )
        allocation = task.allocation(choices)
        label += f", {describe(allocation)}"
    outcomes = {s: v for s, v in sorted(outcomes_of(trial).items()) if s >= 0}
    return Subject(label, allocation, trial.number, outcomes)


def with_steps(subject: Subject, steps: Mapping[str, int], study: Study | None) -> Subject:
    """Return a subject with the outcomes of fresh instances at their steps in an objective.

    Args:
        subject: The trial or allocation.
        steps: Steps of the objective's instances, by ID.
        study: Study of the trial, which has steps of its own for fresh instances.
    """
    fresh = read_fresh(study) if study is not None else None
    if fresh is None or min(subject.outcomes, default=0) < fresh.base:
        return subject
    named = {fresh.name(step): outcome for step, outcome in subject.outcomes.items()}
    outcomes = {steps[name]: outcome for name, outcome in named.items() if name in steps}
    return replace(subject, outcomes=outcomes)


def _frozen(given: Any, study: Study | None) -> FrozenTrial:
    if isinstance(given, FrozenTrial):
        return given
    if isinstance(given, optuna.Trial):
        given, study = given.number, given.study
    try:
        wanted = operator.index(given)
    except TypeError:
        raise PipelineError(
            "`trial` must be a trial, its number, or an allocation {'stage': (model, samples)}, "
            f"got {given!r}."
        ) from None
    if study is None:
        raise PipelineError(
            f"`trial` is the number {wanted}, so `study` is needed: pass `study=study`, or "
            f"`study.trials[{wanted}]`."
        )
    trials = study.get_trials(deepcopy=False)
    if not 0 <= wanted < len(trials):
        raise PipelineError(
            f"Study {study.study_name!r} has {len(trials)} trials, from number 0 on, got {wanted}."
        )
    return trials[wanted]


async def inspect_subjects(
    tracer: Tracer,
    subjects: Sequence[Subject],
    steps: Mapping[str, int],
    instance: str | int | None,
    study: Study | None,
) -> InstanceInspection | TrialInspection:
    """Inspect a trial or allocation, and a baseline beside it if there are two.

    Args:
        tracer: The objective's pipeline, instances and store.
        subjects: The trial or allocation, and the baseline.
        steps: Steps of the instances in trials, by ID.
        instance: ID of the instance, or ``"step:3"``. Default: all of them.
        study: Study whose direction decides which outcomes are bad.

    Raises:
        PipelineError: There is no such instance.
        StoreError: Nothing is known, or the store cannot be read.
    """
    if instance is None:
        found = [await inspect_instances(tracer, subject, steps) for subject in subjects]
        direction = StudyDirection.MAXIMIZE if study is None else study.directions[0]
        return list_instances(subjects, found, direction)
    name = str(instance)
    if name not in steps:
        name = {f"{_STEP}{step}": each for each, step in steps.items()}.get(name, name)
    if name not in steps:
        close = get_close_matches(name, steps) or list(steps)[:_LISTED]
        raise PipelineError(
            f"`instance` must be the ID of one of the {len(steps)} instances, such as "
            f"{', '.join(map(repr, close))}, got {name!r}."
        )
    known = {name: steps[name]}
    one, *others = [
        (await inspect_instances(tracer, subject, known))[name] for subject in subjects
    ]
    if not any(each.known for each in (one, *others)):
        raise StoreError(
            f"Nothing is known about instance {name!r} in {one.subject}: no outcome is recorded, "
            f"and the store has no reply. {_REMEDY}"
        )
    return replace(one, baseline=others[0]) if others else one


async def inspect_instances(
    tracer: Tracer, subject: Subject, names: Mapping[str, int]
) -> dict[str, InstanceInspection]:
    """Inspect instances of a trial or allocation.

    Args:
        tracer: The objective's pipeline, instances and store.
        subject: The trial or allocation.
        names: IDs of the instances, with their steps in trials.

    Returns:
        The instances by ID, in the given order.

    Raises:
        StoreError: The store cannot be read.
    """
    limit = asyncio.Semaphore(_AT_ONCE)
    allocation = subject.allocation or Allocation()

    async def run(name: str) -> Trace:
        async with limit:
            return await tracer.run(name, allocation)

    traces = await asyncio.gather(*(run(name) for name in names))
    return {
        name: _inspection(name, subject, trace, subject.outcomes.get(names[name]))
        for name, trace in zip(names, traces)
    }


def _inspection(
    name: str, subject: Subject, trace: Trace, recorded: float | None
) -> InstanceInspection:
    stages, result = trace.stages(), trace.result
    missing = sum(stage.missing for stage in stages)
    computed = None if result is None or (result.failed and missing) else result.outcome
    notes = []
    if subject.number is not None and recorded is None:
        notes.append("the trial recorded no outcome: it failed or was stopped before")
    for stage in stages:
        if stage.missing:
            replies = sum(len(request.replies) for request in stage.requests)
            notes.append(
                f"{stage.name}: {stage.missing} of {replies} replies are not in the store: these "
                "calls failed, were not made, or were made with another store, seed or server"
            )
    if trace.error is not None:
        kind = "" if isinstance(trace.error, FunctionError) else f"{type(trace.error).__name__}: "
        notes.append(f"the run ended early: {kind}{trace.error}")
    notes += [f"the run ended early: {cause}" for cause in trace.failures]
    if recorded is not None and computed is not None and _differ(recorded, computed):
        cause = "replies are missing" if missing else "the pipeline or the data have changed since"
        notes.append(
            f"the trial recorded {number(recorded)}, and the stored replies give "
            f"{number(computed)}: {cause}"
        )
    return InstanceInspection(
        name,
        subject.label,
        subject.number,
        dict(trace.allocation),
        recorded if recorded is not None else None if missing else computed,
        recorded,
        computed,
        {} if result is None else dict(result.metrics),
        stages,
        tuple(notes),
    )


def recorded_outcomes(study: Study, trial: int, baseline: int | None = None) -> TrialInspection:
    """List the outcomes that a trial recorded, without its objective.

    The storage has steps instead of IDs: positions in the shuffled order of the instances. IDs are
    known if `MultiStageObjective` or `search` ran the trials.

    Args:
        study: The study.
        trial: Number of the trial.
        baseline: Number of a trial to compare with.

    Raises:
        PipelineError: There is no such trial.
        StoreError: A trial recorded no outcomes.
    """
    subjects = [read_subject(n, None, study) for n in (trial, baseline) if n is not None]
    name_of = instance_names(study)
    found = [
        {
            name: InstanceInspection(
                name, subject.label, subject.number, outcome=outcome, recorded=outcome
            )
            for step, outcome in subject.outcomes.items()
            for name in [name_of(step) or f"{_STEP}{step}"]
        }
        for subject in subjects
    ]
    listed = list_instances(subjects, found, study.directions[0])
    if all(not name.startswith(_STEP) for instances in found for name in instances):
        return listed
    note = (
        "Instances are numbered by their steps in the study. Pass the objective to see their IDs "
        "and replies."
    )
    return replace(listed, notes=(*listed.notes, note))


def list_instances(
    subjects: Sequence[Subject],
    found: Sequence[Mapping[str, InstanceInspection]],
    direction: StudyDirection,
) -> TrialInspection:
    """List instances, the worst outcome first; with a baseline, those whose outcomes differ.

    Args:
        subjects: The trial or allocation, and the baseline if there is one.
        found: The instances of each of them, by ID.
        direction: Whether large or small outcomes are good.

    Raises:
        StoreError: Nothing is known about one of them.
    """
    sign = -1.0 if direction == StudyDirection.MINIMIZE else 1.0
    for subject, instances in zip(subjects, found):
        if not any(each.known for each in instances.values()):
            raise StoreError(
                f"Nothing is known about {subject.label}: it recorded no outcome, and the store "
                f"has none of its replies. {_REMEDY}"
            )
    own = found[0]
    if len(found) == 1:
        listed = [each for each in own.values() if each.known]
        listed.sort(key=lambda each: _rank(each.outcome, sign))
        left = len(own) - len(listed)
        notes = [f"Nothing is known about {left} of {len(own)} instances."] if left else []
        return TrialInspection(subjects[0].label, tuple(listed), tuple(notes))
    pairs = {
        name: (one.outcome, other.outcome)
        for name, one in own.items()
        if (other := found[1].get(name)) is not None
        and one.outcome is not None
        and other.outcome is not None
    }
    differing = sorted(
        (name for name, pair in pairs.items() if _differ(*pair)),
        key=lambda name: _rank(pairs[name][0] - pairs[name][1], sign),
    )
    return TrialInspection(
        subjects[0].label,
        tuple(replace(own[name], baseline=found[1][name]) for name in differing),
        (f"Outcomes differ on {len(differing)} of {len(pairs)} instances that both have.",),
        subjects[1].label,
    )


def _differ(one: float, other: float) -> bool:
    return not (
        math.isclose(one, other, rel_tol=_CLOSE) or (math.isnan(one) and math.isnan(other))
    )


def _rank(outcome: float | None, sign: float) -> tuple[int, float]:
    """Return a key that sorts bad outcomes first, NaN before them, unknown ones last."""
    if outcome is None:
        return 2, 0.0
    return (0, 0.0) if math.isnan(outcome) else (1, sign * outcome)
