"""Rounds of the agent: its guidelines, claims and candidates, stored with the study.

A round is written once, under its own key, and shared by all workers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import timezone
from typing import Any, TypeVar

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.study.claims import Claim, Verdict
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.support import html
from optuna_agenttts.support.plain import amount_text

_T = TypeVar("_T")

_EARLIER_SIZE, _EARLIER_LEAD = 6, 3
"""Trials of each round in earlier versions, which did not store them, and how many trials before
its first one it was planned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """Result of planning one round, as stored with the study.

    Args:
        number: Number of the round.
        first: Number of the trial that the first candidate is for. Default: six times the number
            of the round, as in rounds of earlier versions.
        end: Number of the first trial after the round. Default: `first` plus six.
        next_at: Number of the trial whose worker plans the next round. Default: `end` minus three.
        stride: Trials from one candidate to the next.
        why: Why the agent was asked, or was not, with ``llm_when="auto"``.
        asked: Whether the agent was asked; without, there are no candidates.
        guidelines: Conclusions of the agent, one sentence each.
        candidates: Usable candidates, in the agent's order.
        dropped: Proposals that were not kept.
        model: Model and server that planned, without secrets.
        requests: Number of requests, including failed ones.
        prompt_tokens: Tokens of the prompts of all requests, also of those without a reply.
        completion_tokens: Generated tokens, as far as they are known.
        cost: Cost of these tokens in the task's unit; None if the cost model cannot price them.
        seconds: Duration in seconds.
        trials: Number of finished trials that the agent saw.
        checked: Whether the agent saw how often stages passed their checks, which the posterior
            does not see.
        problems: Number of problems in replies, by kind.
        failures: Number of failed requests, by kind.
        error: Reason why the round has no candidates, or an empty string.
        claims: Conclusions about stages, as names and numbers.
        verdicts: Comparison of these claims with the fit to the same trials.
    """

    number: int
    first: int = -1
    end: int = -1
    next_at: int = -1
    stride: int = 1
    why: str = ""
    asked: bool = True
    guidelines: tuple[str, ...] = ()
    candidates: tuple[Proposal, ...] = ()
    dropped: tuple[Proposal, ...] = ()
    model: str = ""
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float | None = None
    seconds: float = 0.0
    trials: int = 0
    checked: bool = False
    problems: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    claims: tuple[Claim, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    def __post_init__(self) -> None:
        """Fill in the trials."""
        first = self.first if self.first >= 0 else _EARLIER_SIZE * self.number
        end = self.end if self.end >= 0 else first + _EARLIER_SIZE
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "end", end)
        if self.next_at < 0:
            object.__setattr__(self, "next_at", end - _EARLIER_LEAD)

    @property
    def problems_text(self) -> str:
        """Problems and failed requests, as text with the number of each kind."""
        counts = Counter(self.problems) + Counter(self.failures)
        return ", ".join(f"{kind} ({count})" for kind, count in sorted(counts.items()))

    def _repr_html_(self) -> str:
        """Show guidelines, candidates, verdicts and tokens in a notebook."""
        about = {
            "model": self.model,
            "based on": f"{self.trials} finished trials",
            "tokens": f"{self.prompt_tokens:,} of prompts, {self.completion_tokens:,} generated",
            "cost": None
            if self.cost is None
            else amount_text(self.cost, "in the unit of the task"),
            "requests": f"{self.requests}, in {self.seconds:,.1f} s",
            "problems": _counts(self.problems),
            "failed requests": _counts(self.failures),
            "no candidates": self.error,
            "asked since" if self.asked else "not asked since": self.why,
        }
        params = [each.params or {} for each in self.candidates]
        names = list(dict.fromkeys(name for each in params for name in each))
        rows = [
            [*map(own.get, names), each.reason, each.text]
            for own, each in zip(params, self.candidates)
        ]
        parts = [html.heading(f"Round {self.number}"), html.bullets(self.guidelines)]
        if rows:
            parts.append(
                html.table([*names, "reason", "became"], rows, caption="Candidates, best first")
            )
        verdicts = [f"{verdict.outcome}: {verdict.text}" for verdict in self.verdicts]
        if verdicts:
            parts += [html.paragraph("Claims, compared with the fit:"), html.bullets(verdicts)]
        return html.join([*parts, html.facts(about)])

    def to_dict(self) -> dict[str, Any]:
        """Return the round as JSON-ready values, for `from_dict`."""
        return {
            **asdict(self),
            "candidates": [each.to_dict() for each in self.candidates],
            "dropped": [each.to_dict() for each in self.dropped],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Round:
        """Build a round from the values of `to_dict`; unknown fields are ignored.

        Args:
            values: The values by field.

        Raises:
            TypeError: The values do not describe a round of this version.
        """
        known = {part.name for part in fields(cls)}
        return cls(
            **{
                **{name: value for name, value in values.items() if name in known},
                "candidates": tuple(map(Proposal.from_dict, values.get("candidates", ()))),
                "dropped": tuple(map(Proposal.from_dict, values.get("dropped", ()))),
                "guidelines": tuple(values.get("guidelines", ())),
                "claims": _readable(Claim.from_dict, values.get("claims")),
                "verdicts": _readable(Verdict.from_dict, values.get("verdicts")),
            }
        )


def _counts(counts: Mapping[str, int]) -> str:
    """Return counts by kind as text."""
    return ", ".join(f"{count} x {kind}" for kind, count in counts.items())


def _readable(read: Callable[[Any], _T], items: Any) -> tuple[_T, ...]:
    """Read the items of a list and skip the unreadable ones."""
    found = []
    for item in items if isinstance(items, (list, tuple)) else ():
        with suppress(TypeError):
            found.append(read(item))
    return tuple(found)


def read_rounds(attributes: Mapping[str, Any]) -> tuple[Round, ...]:
    """Read all rounds from a study's system attributes, in order of number."""
    numbers = storage.numbers_after(attributes, storage.ROUND)
    rounds = (read_round(attributes, number) for number in numbers)
    return tuple(found for found in rounds if found is not None)


def read_round(attributes: Mapping[str, Any], number: int) -> Round | None:
    """Read one round from a study's system attributes, or None."""
    values = storage.read_study_value(attributes, f"{storage.ROUND}{number}")
    try:
        return None if values is None else Round.from_dict(values)
    except TypeError:
        # Written by another version.
        return None


def write_round(study: Study, planned: Round) -> None:
    """Write a round to its study."""
    key = f"{storage.ROUND}{planned.number}"
    storage.write_study_value(study._storage, study._study_id, key, planned.to_dict())


def claimed_at(attributes: Mapping[str, Any], number: int) -> float | None:
    """Return the Unix time at which a round was last claimed, or None."""
    record = attributes.get(f"{storage.CLAIM}{number}")
    at = record.get("at") if isinstance(record, Mapping) else None
    return float(at) if isinstance(at, (int, float)) else None


def seconds_running(trial: FrozenTrial, now: float) -> float:
    """Return how long a trial has been running; infinity if it is not, or its start is unknown."""
    if trial.state != TrialState.RUNNING or trial.datetime_start is None:
        return float("inf")
    # Naive start times are local in Optuna's in-memory storage and, since version 5, UTC in other
    # storages. The interpretation closer to the current time is the right one.
    start = trial.datetime_start
    readings = (start.timestamp(), start.replace(tzinfo=timezone.utc).timestamp())
    return min(abs(now - reading) for reading in readings)
