"""Odds that the agent claims for each stage, and verdicts of the fit on them, as stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Odds
from optuna_agenttts.task.task import Task

Aspect = Literal["models", "samples"]
Outcome = Literal["agrees", "contradicts", "open"]

_EARLIER_ODDS = 0.8
"""Odds of the models, and of the range, of a claim without odds, as earlier versions stored."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Odds of the agent about one stage.

    Args:
        stage: Name of the stage.
        models: Names of the models that may be its best, the most likely first.
        samples: Range of its best number of samples; None if not stated. In rounds of earlier
            versions, the range in which the first model saturates.
        model_odds: Probability of each of `models`; others share the rest. Empty if not stated.
        sample_odds: Probability of `samples`; None if not stated.
    """

    stage: str
    models: tuple[str, ...]
    samples: tuple[int, int] | None = None
    model_odds: tuple[float, ...] = ()
    sample_odds: float | None = None

    @classmethod
    def from_dict(cls, values: Any) -> Claim:
        """Build a claim from the values of `dataclasses.asdict`.

        Args:
            values: The values by field; those of earlier versions have no odds.

        Raises:
            TypeError: The values do not describe a claim of this version.
        """
        if not isinstance(values, Mapping):
            raise TypeError("a claim must be an object")
        parts: list[Any] = [values.get(name) for name in ("stage", "models", "samples")]
        stage, models, samples = parts
        if not isinstance(stage, str) or not _are(models, str):
            raise TypeError("a claim needs a stage and models")
        if samples is not None and not (_are(samples, int) and len(samples) == 2):
            raise TypeError("`samples` of a claim must be two integers")
        odds, sample_odds = values.get("model_odds", ()), values.get("sample_odds")
        if not _are(odds, float) or len(odds) not in (0, len(models)):
            raise TypeError("`model_odds` of a claim must be a number for each model")
        if sample_odds is not None and type(sample_odds) is not float:
            raise TypeError("`sample_odds` of a claim must be a number")
        pair = None if samples is None else (samples[0], samples[1])
        return cls(stage, tuple(models), pair, tuple(odds), sample_odds)


def odds_of(claims: Sequence[Claim], task: Task) -> Odds:
    """Return claims as odds of each model and octave of samples of a task.

    Stages without a claim, and claims with models that are not the task's, have equal odds.
    """
    models = [np.ones(len(stage.models)) for stage in task.stages]
    samples = [np.ones(stage.max_samples.bit_length()) for stage in task.stages]
    stages = {stage.name: position for position, stage in enumerate(task.stages)}
    for claim in claims:
        position = stages.get(claim.stage, -1)
        names = [model.name for model in task.stages[position].models]
        if position < 0 or not set(claim.models) <= set(names):
            continue
        named = [names.index(name) for name in claim.models]
        given = claim.model_odds or [_EARLIER_ODDS / len(named)] * len(named)
        models[position] = _with_rest(named, np.array(given), len(names))
        if claim.samples is not None:
            odds = _EARLIER_ODDS if claim.sample_odds is None else claim.sample_odds
            samples[position] = _octaves(*claim.samples, odds, len(samples[position]))
    return Odds(tuple(models), tuple(samples))


def _with_rest(named: Sequence[int], odds: Floats, count: int) -> Floats:
    """Return the odds of all models, of which those that are not named share the rest."""
    rest = max(0.0, 1.0 - float(odds.sum()))
    found = np.full(count, rest / max(1, count - len(named)))
    found[list(named)] = odds
    return found


def _octaves(low: int, high: int, odds: float, count: int) -> Floats:
    """Return the odds of octaves, if those of a range are spread evenly over its logarithm."""
    # The stage of an earlier task may have had more samples.
    edges = np.minimum(np.log2([low, high + 1]), count)
    starts = np.arange(count)
    overlaps = np.minimum(starts + 1, edges[1]) - np.maximum(starts, edges[0])
    inside = np.clip(overlaps, 0.0, 1.0)
    outside = 1.0 - inside
    if not inside.any():
        return np.ones(count)
    found: Floats = odds * inside / inside.sum()
    found += (1.0 - odds) * outside / max(float(outside.sum()), 1e-9)
    return found


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is kind for value in values)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Comparison of a claim with the fit.

    Args:
        stage: Name of the stage.
        aspect: Compared part of the claim: ``"models"`` or ``"samples"``.
        outcome: ``"agrees"``, ``"contradicts"`` or ``"open"``.
        text: Claim and fit in one sentence, in units of the study's metric.
    """

    stage: str
    aspect: Aspect
    outcome: Outcome
    text: str

    @classmethod
    def from_dict(cls, values: Any) -> Verdict:
        """Build a verdict from the values of `dataclasses.asdict`.

        Args:
            values: The values by field.

        Raises:
            TypeError: The values do not describe a verdict of this version.
        """
        if not isinstance(values, Mapping):
            raise TypeError("a verdict must be an object")
        parts: list[Any] = [values.get(name) for name in ("stage", "aspect", "outcome", "text")]
        stage, aspect, outcome, text = parts
        if not isinstance(stage, str) or not isinstance(text, str):
            raise TypeError("a verdict needs a stage and a text")
        if aspect not in get_args(Aspect) or outcome not in get_args(Outcome):
            raise TypeError("a verdict needs a known aspect and outcome")
        return cls(stage, aspect, outcome, text)


def contradictions(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Return the verdicts in which the fit contradicts the claim."""
    return tuple(verdict for verdict in verdicts if verdict.outcome == "contradicts")


def summary(verdicts: Sequence[Verdict]) -> str:
    """Count the outcomes in one sentence; empty without verdicts."""
    if not verdicts:
        return ""
    count = Counter(verdict.outcome for verdict in verdicts)
    return (
        f"Of {len(verdicts)} claim{'s' if len(verdicts) > 1 else ''} the fit agrees with "
        f"{count['agrees']}, contradicts {count['contradicts']} and leaves {count['open']} open."
    )
