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
    """What the agent says of a stage.

    Args:
        stage: The stage's name.
        models: Names of the models one of which is its best, the most likely first.
        samples: From how many to how many samples the first of them saturates; None if the agent
            does not say.
    """

    stage: str
    models: tuple[str, ...]
    samples: tuple[int, int] | None = None

    @classmethod
    def from_dict(cls, values: Any) -> Claim:
        """Undo `dataclasses.asdict`.

        Raises:
            TypeError: The values describe no claim of this version.
        """
        if not isinstance(values, Mapping):
            raise TypeError("a claim is an object")
        parts: list[Any] = [values.get(name) for name in ("stage", "models", "samples")]
        stage, models, samples = parts
        if not isinstance(stage, str) or not _are(models, str):
            raise TypeError("a claim names a stage and models")
        if samples is not None and not (_are(samples, int) and len(samples) == 2):
            raise TypeError("a claim has the fewest and the most samples")
        return cls(stage, tuple(models), None if samples is None else (samples[0], samples[1]))


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is kind for value in values)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the fit says of a claim.

    Args:
        stage: The stage's name.
        aspect: Of which part of the claim: ``"models"`` or ``"samples"``.
        outcome: ``"agrees"``, ``"contradicts"`` or ``"open"``.
        text: Claim and fit in a sentence, with figures in the study's own units.
    """

    stage: str
    aspect: Aspect
    outcome: Outcome
    text: str

    @classmethod
    def from_dict(cls, values: Any) -> Verdict:
        """Undo `dataclasses.asdict`.

        Raises:
            TypeError: The values describe no verdict of this version.
        """
        if not isinstance(values, Mapping):
            raise TypeError("a verdict is an object")
        parts: list[Any] = [values.get(name) for name in ("stage", "aspect", "outcome", "text")]
        stage, aspect, outcome, text = parts
        if not isinstance(stage, str) or not isinstance(text, str):
            raise TypeError("a verdict has a stage and a text")
        if aspect not in get_args(Aspect) or outcome not in get_args(Outcome):
            raise TypeError("a verdict has an aspect and an outcome")
        return cls(stage, aspect, outcome, text)


def contradictions(verdicts: Sequence[Verdict]) -> tuple[Verdict, ...]:
    """Those that the fit contradicts."""
    return tuple(verdict for verdict in verdicts if verdict.outcome == "contradicts")


def summary(verdicts: Sequence[Verdict]) -> str:
    """How many claims the fit bears out, in a sentence; empty without verdicts."""
    if not verdicts:
        return ""
    count = Counter(verdict.outcome for verdict in verdicts)
    return (
        f"Of {len(verdicts)} claim{'s' if len(verdicts) > 1 else ''} the fit agrees with "
        f"{count['agrees']}, contradicts {count['contradicts']} and leaves {count['open']} open."
    )
