"""Diagnostics of a trial by stage, for the agent that plans the search.

The score of a trial does not show which stage lost it. `diagnostics_of` counts, by stage, what a
score cannot tell; `transcripts_of` shows a few instances as texts.
`optuna_agenttts.study.diagnostics` reads both.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.study import StudyDirection

from optuna_agenttts import storage
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.support.plain import one_line, shortened
from optuna_agenttts_integrations.pipeline.evaluation import InstanceResult, StageUsage
from optuna_agenttts_integrations.pipeline.plain_values import plain, value_text
from optuna_agenttts_integrations.pipeline.stages import Pipeline

# Chosen by hand, so that a trial's attributes stay below 2,000 characters each.
_COMPARED = 64
"""Instances whose outputs are compared across trials; the first ones, which all trials have."""
_DIGITS = 4
"""Hexadecimal digits of an output's digest: one in 65,536 differences is missed."""
_SHOWN = 3
"""Instances with a transcript."""
_INPUT, _FIELD, _OUTPUT, _REPLY, _ADDRESS = 280, 110, 120, 150, " at 0x"
"""Characters of an instance, of one of its fields, of an output, and of a reply; and what the
`repr` of an object without a text has."""
_ITEMS = 8
"""Items of a sequence that are shown; of longer ones, the number."""


def diagnostics_of(
    pipeline: Pipeline, results: Mapping[str, InstanceResult]
) -> dict[str, dict[str, Any]]:
    """Return figures about each stage of a trial, ready for JSON.

    Args:
        pipeline: The pipeline.
        results: Results by instance, in the order that is the same in all trials.

    Returns:
        By stage that ran: ``replies`` and how many of them were ``malformed``, ``cut`` or
        ``refused``; ``changed``, in how many instances all samples have another result than their
        first half, and of how many that is known; ``outputs``, digests of the results. Stages with
        a check, and the last one if another has a check, have further sums over the instances:
        ``passed``, shares of the check (of the last stage: outcomes), and their number; ``own``,
        the same weighted by the shares of the checks before; ``outcomes`` weighted by the share of
        the check, the weights, and both for the rest.
    """
    programs = pipeline.programs
    checked = {p.name for p in programs if p.check is not None}
    found: dict[str, dict[str, Any]] = {}
    for position, program in enumerate(programs):
        ran = [r for r in results.values() if program.name in r.stages]
        if not ran:
            continue
        usage = [r.stages[program.name] for r in ran]
        known = [used.changed for used in usage if used.changed is not None]
        values: dict[str, Any] = {
            "replies": sum(used.calls for used in usage),
            **{
                name: sum(getattr(used, name) for used in usage)
                for name in ("malformed", "cut", "refused")
            },
            "changed": [sum(known), len(known)],
            "outputs": _digests(program.name, list(results.values())[:_COMPARED]),
        }
        before = [p.name for p in programs[:position] if p.name in checked]
        if program.check is not None:
            values["check"] = one_line(program.check.text, _FIELD)
            values |= _shares(ran, program.name, before)
        elif before and position == len(programs) - 1:
            values |= _shares(ran, None, before)
        found[program.name] = values
    return found


def _shares(
    results: Sequence[InstanceResult], stage: str | None, before: Sequence[str]
) -> dict[str, list[float]]:
    """Return the sums of a stage's check, or of the outcomes, over the instances."""
    rows = [
        (
            math.prod(r.checks.get(name, 1.0) for name in before),
            r.outcome if stage is None else r.checks[stage],
            r.outcome,
        )
        for r in results
        if (stage is None or stage in r.checks) and math.isfinite(r.outcome)
    ]

    def sums(*columns: Sequence[float]) -> list[float]:
        return [round(math.fsum(column), 4) for column in columns]

    found = {
        "passed": sums([share for _, share, _ in rows], [1.0] * len(rows)),
        "own": sums([w * share for w, share, _ in rows], [w for w, _, _ in rows]),
    }
    if stage is not None:
        found["outcomes"] = sums(
            [share * outcome for _, share, outcome in rows],
            [share for _, share, _ in rows],
            [(1 - share) * outcome for _, share, outcome in rows],
            [1 - share for _, share, _ in rows],
        )
    return found


def _digests(stage: str, results: Sequence[InstanceResult]) -> str:
    """Return a digest of each result, dashes where it is not known."""
    return "".join(_digest(result.outputs.get(stage, _ADDRESS)) for result in results)


def _digest(text: str) -> str:
    """Return a digest that ignores case and spaces; dashes for objects without a text."""
    if _ADDRESS in text:
        return "-" * _DIGITS
    words = " ".join(text.casefold().split())
    return hashlib.blake2b(words.encode(), digest_size=8).hexdigest()[:_DIGITS]


def diagnostic_facts(
    trial: optuna.Trial,
    pipeline: Pipeline,
    instances: Mapping[str, Any],
    results: Mapping[str, InstanceResult],
) -> dict[str, Any]:
    """Return what a trial records of its stages, by key of `storage`.

    Args:
        trial: The trial.
        pipeline: The pipeline.
        instances: Instances by ID.
        results: Results of some of them, by ID.

    Returns:
        Figures, and transcripts if the study's sampler has an agent that reads them.
    """
    facts: dict[str, Any] = {storage.DIAGNOSTICS: diagnostics_of(pipeline, results)}
    if wants_transcripts(trial):
        maximize = trial.study.directions[0] != StudyDirection.MINIMIZE
        texts = transcripts_of(pipeline, instances, results, maximize=maximize)
        facts[storage.TRANSCRIPTS] = texts
    return facts


def wants_transcripts(trial: optuna.Trial) -> bool:
    """Return whether the trial's study is sampled with an agent that reads transcripts."""
    sampler: Any = getattr(storage.study_of(trial), "sampler", None)
    while hasattr(sampler, "_base_sampler"):
        sampler = sampler._base_sampler
    return getattr(sampler, "reads_transcripts", False) is True


def transcripts_of(
    pipeline: Pipeline,
    instances: Mapping[str, Any],
    results: Mapping[str, InstanceResult],
    *,
    maximize: bool = True,
) -> list[dict[str, Any]]:
    """Return the worst instances of a trial as short texts without API keys, ready for JSON.

    Of equally bad instances, those come first whose failures are most frequent: an instance fails
    in the first stage that did not pass its check, or had no readable reply.

    Args:
        pipeline: The pipeline.
        instances: Instances by ID.
        results: Results of some of them, by ID.
        maximize: Whether large outcomes are good.

    Returns:
        At most three instances, each with ``input``, ``outcome`` and ``stages``: of each stage
        that ran, ``output``, ``reply``, and ``passed`` if it has a check.
    """
    names = [program.name for program in pipeline.programs]
    groups: dict[tuple[float, str], list[str]] = {}
    for name, result in results.items():
        outcome = result.outcome if maximize else -result.outcome
        bad = -math.inf if math.isnan(outcome) else outcome
        groups.setdefault((bad, _failed_in(result, names)), []).append(name)
    # Of equal outcomes, the first of each kind, the most frequent kind first, then the second.
    order = sorted(
        (outcome, rank, -len(members), name)
        for (outcome, _), members in groups.items()
        for rank, name in enumerate(members)
    )
    outcomes = {outcome for outcome, _ in groups}
    # If all are equal, none is worse than another, but all may have failed.
    best = math.inf if outcomes == {0.0} else max(outcomes, default=0.0)
    shown = [name for outcome, _, _, name in order if outcome < best]
    return [_transcript(instances[name], results[name], names) for name in shown[:_SHOWN]]


def _failed_in(result: InstanceResult, names: Sequence[str]) -> str:
    """Return the stage in which an instance failed; empty if that is not known."""
    for name in names:
        used = result.stages.get(name, StageUsage())
        unread = used.calls > 0 and used.malformed >= used.calls
        if result.checks.get(name, 1.0) < 1 or unread:
            return name
    return ""


def _transcript(instance: Any, result: InstanceResult, names: Sequence[str]) -> dict[str, Any]:
    stages: dict[str, dict[str, Any]] = {}
    for name in names:
        if (used := result.stages.get(name)) is None:
            continue
        stages[name] = {"reply": _text(used.reply, _REPLY)}
        if name in result.outputs:
            stages[name]["output"] = _text(result.outputs[name], _OUTPUT)
        if name in result.checks:
            stages[name]["passed"] = round(result.checks[name], 4)
    outcome = round(result.outcome, 4) if math.isfinite(result.outcome) else None
    return {"input": _text(_described(instance), _INPUT), "outcome": outcome, "stages": stages}


def _described(instance: Any) -> str:
    """Return the fields of an instance on one line, without private ones."""
    values = plain(instance)
    if not isinstance(values, Mapping):
        return value_text(values, _ITEMS)
    fields = {name: value for name, value in values.items() if not name.startswith("_")}
    return "; ".join(
        f"{n}: {shortened(value_text(value, _ITEMS), _FIELD)}" for n, value in fields.items()
    )


def _text(text: str, length: int) -> str:
    """Return a text on one line, without keys, shortened in the middle.

    Double quotes become single ones: in a prompt, each would be escaped.
    """
    flat = " ".join(redact(text, ()).split()).replace('"', "'")
    return shortened(flat, length)
