"""Claims of the agent about stages, and verdicts of the fit on them, as kept with a round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

Aspect = Literal["models", "samples"]
Outcome = Literal["agrees", "contradicts", "open"]


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim of the agent about one stage.

    Args:
        stage: Name of the stage.
        models: Names of the models that may be its best, the most likely first.
        samples: Range of samples in which the first of them saturates; None if not stated.
    """

    stage: str
    models: tuple[str, ...]
    samples: tuple[int, int] | None = None

    @classmethod
    def from_dict(cls, values: Any) -> Claim:
        """Build a claim from the values of `dataclasses.asdict`.

        Args:
            values: The values by field.

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
        return cls(stage, tuple(models), None if samples is None else (samples[0], samples[1]))


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
