"""Diagnostics of trials by stage, as objectives record them: figures, and transcripts.

Objectives write them as system attributes of trials (`storage.DIAGNOSTICS` and
`storage.TRANSCRIPTS`); those of `optuna_agenttts_integrations` do. Values of other forms are left
out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.task import Task

_DIGITS = 4
"""Characters of the digest of an output."""
_UNKNOWN = "-" * _DIGITS
_COMPARED = 40
"""Latest trials whose outputs are compared with one another; chosen by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDiagnostics:
    """What one stage of a trial did.

    Args:
        model: Position of its model.
        samples: Its number of samples.
        replies: Number of replies.
        malformed: Number of those that could not be parsed.
        cut: Number of those that ended at their maximum length.
        refused: Number of those that were refused.
        changed: Number of instances in which all samples have another result than their first
            half.
        halved: Number of instances in which that is known.
        check: What passes the stage's check; empty without one.
        passed: Sum of the shares of the check over instances; of a last stage without a check,
            of the outcomes.
        instances: Number of these instances.
        own: Sum of the shares, each weighted by the shares of the checks of earlier stages: what
            the stage does with what it can work with.
        weight: Sum of these weights.
        outcomes: Sum of the outcomes weighted by the share of the check, the weights, and both
            for the rest of the check; empty without a check.
        outputs: Digest of the result of each instance, in an order that all trials share.
    """

    model: int
    samples: int
    replies: float = 0
    malformed: float = 0
    cut: float = 0
    refused: float = 0
    changed: float = 0
    halved: float = 0
    check: str = ""
    passed: float = 0
    instances: float = 0
    own: float = 0
    weight: float = 0
    outcomes: tuple[float, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscribedStage:
    """Stage of a transcript: name, joined output, a reply, and the share of the check passed."""

    name: str
    output: str | None = None
    reply: str = ""
    passed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transcript:
    """Instance of a trial as texts; they come from data and models, and are not trusted."""

    input: str
    outcome: float | None
    stages: tuple[TranscribedStage, ...]


@dataclass(frozen=True, slots=True)
class TrialDiagnostics:
    """What a trial's stages did.

    Args:
        number: Number of the trial.
        value: Its value; None if it was stopped.
        stages: Figures by position of the stage, of stages that ran.
        transcripts: The trial's worst instances.
    """

    number: int
    value: float | None
    stages: Mapping[int, StageDiagnostics] = field(default_factory=dict)
    transcripts: tuple[Transcript, ...] = ()


def read_diagnostics(
    task: Task, trials: Sequence[FrozenTrial], *, transcripts: bool = True
) -> list[TrialDiagnostics]:
    """Read what the stages of a search's trials did.

    Args:
        task: The task.
        trials: Trials of a study; those without diagnostics, and those that confirm an allocation
            on fresh instances, are left out.
        transcripts: Whether to read transcripts.
    """
    found = []
    for trial in trials:
        written = storage.read_trial_fact(trial, storage.DIAGNOSTICS)
        choices = task.read(trial.params)
        if (
            isinstance(written, Mapping)
            and choices is not None
            and trial.state.is_finished()
            and not storage.confirmation_block(trial)
        ):
            stages = {
                position: read
                for position, (stage, chosen) in enumerate(zip(task.stages, choices))
                if (read := _stage(written.get(stage.name), *chosen)) is not None
            }
            value = trial.values[0] if trial.values else None
            texts = storage.read_trial_fact(trial, storage.TRANSCRIPTS) if transcripts else ()
            found.append(
                TrialDiagnostics(trial.number, value, stages, tuple(_transcripts(task, texts)))
            )
    return found


def _stage(written: Any, model: int, samples: int) -> StageDiagnostics | None:
    if not isinstance(written, Mapping):
        return None
    names = ("replies", "malformed", "cut", "refused")
    counts = {name: _numbers([written.get(name)], 1)[0] for name in names}
    (changed, halved), (passed, instances), (own, weight) = (
        _numbers(written.get(name), 2) for name in ("changed", "passed", "own")
    )
    outputs = str(written.get("outputs", ""))
    check, outcomes = str(written.get("check", "")), _numbers(written.get("outcomes"), 4)
    return StageDiagnostics(
        model=model,
        samples=samples,
        **counts,
        changed=changed,
        halved=halved,
        check=check,
        passed=passed,
        instances=instances,
        own=own,
        weight=weight,
        outcomes=tuple(outcomes) if check else (),
        outputs=tuple(outputs[i : i + _DIGITS] for i in range(0, len(outputs), _DIGITS)),
    )


def _numbers(written: Any, count: int) -> list[float]:
    """Return finite numbers; zeros if there are others."""
    values = written if isinstance(written, Sequence) and len(written) == count else ()
    numbers = [float(v) for v in values if is_finite(v)]
    return numbers if len(numbers) == count else [0.0] * count


def _transcripts(task: Task, written: Any) -> Iterator[Transcript]:
    for entry in written if isinstance(written, Sequence) else ():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("stages"), Mapping):
            continue
        stages = []
        for stage in task.stages:
            texts = entry["stages"].get(stage.name)
            if not isinstance(texts, Mapping):
                continue
            output, passed = texts.get("output"), texts.get("passed")
            stages.append(
                TranscribedStage(
                    name=stage.name,
                    output=None if output is None else str(output),
                    reply=str(texts.get("reply", "")),
                    passed=_number(passed),
                )
            )
        yield Transcript(
            input=str(entry.get("input", "")),
            outcome=_number(entry.get("outcome")),
            stages=tuple(stages),
        )


def _number(value: Any) -> float | None:
    return float(value) if is_finite(value) else None


@dataclass(frozen=True, slots=True)
class OutputChanges:
    """How often a stage has another output for an equal input, between pairs of trials.

    Args:
        models: Share with other models, 0 to 1; None without such pairs.
        samples: Share with the same model and other numbers of samples; None without such pairs.
    """

    models: float | None = None
    samples: float | None = None


def output_changes(diagnostics: Sequence[TrialDiagnostics], stages: int) -> list[OutputChanges]:
    """Compare the outputs of trials, for each stage.

    Inputs of a stage are equal if all earlier stages have equal outputs for the instance.

    Args:
        diagnostics: The trials; the latest 40 are compared.
        stages: Number of stages of the task.
    """
    counts = [{True: [0, 0], False: [0, 0]} for _ in range(stages)]
    for one, other in combinations(diagnostics[-_COMPARED:], 2):
        equal: list[bool] | None = None
        for position in range(stages):
            ours, theirs = one.stages.get(position), other.stages.get(position)
            if ours is None or theirs is None:
                break
            pairs = list(zip(ours.outputs, theirs.outputs))
            known = [_UNKNOWN not in pair for pair in pairs]
            inputs = known if equal is None else [e and k for e, k in zip(equal, known)]
            differ = sum(e and a != b for e, (a, b) in zip(inputs, pairs))
            other_model = ours.model != theirs.model
            if other_model or ours.samples != theirs.samples:
                counts[position][other_model][0] += differ
                counts[position][other_model][1] += sum(inputs)
            equal = [e and a == b for e, (a, b) in zip(inputs, pairs)]
    return [
        OutputChanges(
            models=_share(*by_model[True]),
            samples=_share(*by_model[False]),
        )
        for by_model in counts
    ]


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None
