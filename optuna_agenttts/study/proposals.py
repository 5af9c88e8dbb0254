"""Proposals of the agent, from the reply to what became of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from optuna.trial import FrozenTrial

from optuna_agenttts import storage

Outcome = Literal["tried", "queued", "refused", "taken", "range", "missed", "dropped"]


@dataclass(frozen=True, slots=True)
class Proposal:
    """Proposal of the agent for one trial; compared without what became of it.

    Args:
        params: Parameters of the trial, by name; None if they could not be read.
        reason: The agent's reason; may be empty.
        asked: Parameters in the reply, if samples were reduced to fit the budget; else None.
        kind: Label of the problem for which it was not kept, such as ``"duplicate"``, ``"over
            budget"`` or ``"spare"``; empty if it was kept.
        again: Whether it repeats a tried allocation on purpose.
        text: Description of the problem, or of what became of the proposal.
        round: Number of the round that proposed it; -1 before `fates` fills it in, as it does the
            following.
        outcome: ``"tried"``, ``"queued"`` for a trial to come, ``"refused"`` by the weighing,
            ``"taken"``, ``"range"`` or ``"missed"`` for trials that took another allocation, or
            ``"dropped"`` when the reply was read.
        trial: Number of the trial that it was for; None if it was not kept.
    """

    params: Mapping[str, Any] | None
    reason: str = ""
    asked: Mapping[str, Any] | None = None
    kind: str = ""
    again: bool = False
    text: str = field(default="", compare=False)
    round: int = field(default=-1, compare=False)
    outcome: Outcome | None = field(default=None, compare=False)
    trial: int | None = field(default=None, compare=False)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Proposal:
        """Build a proposal from the values of `to_dict`; unknown fields are ignored.

        Args:
            values: The values by field.

        Raises:
            TypeError: There are no parameters.
        """
        known = {part.name for part in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are stored, as far as they are set."""
        stored = {"params": self.params, "reason": self.reason}
        more = {"asked": self.asked, "kind": self.kind, "text": self.text, "again": self.again}
        return {**stored, **{name: value for name, value in more.items() if value}}


def expected_of(trial: FrozenTrial) -> float:
    """Return the value that the fit expected of the agent's allocation for a trial, or NaN."""
    record = trial.system_attrs.get(storage.PROPOSED)
    expected = record.get("expected") if isinstance(record, Mapping) else None
    return float(expected) if isinstance(expected, (int, float)) else math.nan
