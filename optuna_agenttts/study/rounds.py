"""The archive of rounds: what the agent concluded and proposed, kept with the study.

A round is written once, whole, under a key of its own, so that workers share it and nothing
grows with the number of trials. `guidelines` reads all of them, with any sampler or none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.study.claims import Claim, Verdict

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Proposed:
    """A candidate of a round: parameters for one trial, and the agent's reason."""

    params: Mapping[str, Any]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One round of the agent.

    Args:
        number: The round's number; it serves trials from ``number * SIZE`` on.
        guidelines: What the agent concluded, one sentence each.
        candidates: What it proposed and could be used, best first.
        model: Who planned: model and server, without secrets.
        requests: How many requests it took, failed ones included.
        prompt_tokens: Tokens of the prompts.
        completion_tokens: Tokens that were generated.
        cost: What those tokens cost in the task's unit; None if the cost model cannot say.
        seconds: How long it took.
        trials: How many finished trials it rests on.
        problems: What was wrong with replies, and how often.
        failures: Which calls failed, and how often.
        error: Why there is nothing to use; empty if there is.
        claims: What the agent concluded of each stage, in names and numbers.
        verdicts: What the fit to the same trials says of these claims.
    """

    number: int
    guidelines: tuple[str, ...] = ()
    candidates: tuple[Proposed, ...] = ()
    model: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    trials: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    claims: tuple[Claim, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Round:
        """Undo `dataclasses.asdict`. What other versions add to a round is passed over.

        Raises:
            TypeError: The values describe no round that this version could use.
        """
        known = {part.name for part in fields(cls)}
        return cls(
            **{
                **{name: value for name, value in values.items() if name in known},
                "candidates": tuple(Proposed(**item) for item in values.get("candidates", ())),
                "guidelines": tuple(values.get("guidelines", ())),
                "claims": _readable(Claim.from_dict, values.get("claims")),
                "verdicts": _readable(Verdict.from_dict, values.get("verdicts")),
            }
        )


def _readable(read: Callable[[Any], _T], items: Any) -> tuple[_T, ...]:
    """What can be read of a list; the rest of its round is usable without the others."""
    found = []
    for item in items if isinstance(items, (list, tuple)) else ():
        with suppress(TypeError):
            found.append(read(item))
    return tuple(found)


def guidelines(study: Study) -> tuple[Round, ...]:
    """The rounds that an agent planned for a study, in order: guidelines, candidates, tokens.

    Reads the study's storage alone: any sampler, or none, may be attached.

    Args:
        study: A study.

    Returns:
        The rounds; none if no agent planned.
    """
    return read_rounds(study._storage.get_study_system_attrs(study._study_id))


def read_rounds(attributes: Mapping[str, Any]) -> tuple[Round, ...]:
    """The rounds among a study's system attributes, in order."""
    numbers = sorted(
        int(rest)
        for key in attributes
        if key.startswith(storage.ROUND) and (rest := key[len(storage.ROUND) :]).isdigit()
    )
    rounds = (read_round(attributes, number) for number in numbers)
    return tuple(found for found in rounds if found is not None)


def read_round(attributes: Mapping[str, Any], number: int) -> Round | None:
    """One round among a study's system attributes, or None."""
    values = storage.read_study_value(attributes, f"{storage.ROUND}{number}")
    try:
        return None if values is None else Round.from_dict(values)
    except TypeError:
        # Written by another version: as good as none.
        return None


def write_round(study: Study, planned: Round) -> None:
    """Keep a round with its study."""
    key = f"{storage.ROUND}{planned.number}"
    storage.write_study_value(study._storage, study._study_id, key, asdict(planned))


def claimed_at(attributes: Mapping[str, Any], number: int) -> float | None:
    """When a round was last claimed, in seconds since 1970; None if it was not."""
    record = attributes.get(f"{storage.CLAIM}{number}")
    at = record.get("at") if isinstance(record, Mapping) else None
    return float(at) if isinstance(at, (int, float)) else None
