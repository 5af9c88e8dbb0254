"""Questions to the agent about search spaces without pipeline stages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna.distributions import BaseDistribution

from optuna_agenttts.agent.ask import RoundContext
from optuna_agenttts.agent.prompts import (
    GenericBrief,
    GenericRow,
    generic_schema,
    render_generic,
    shown_fates,
)
from optuna_agenttts.agent.validation import Reply, read_params
from optuna_agenttts.llm.port import Message
from optuna_agenttts.study.claims import Claim, Verdict
from optuna_agenttts.study.proposals import Proposal

_BEST, _RECENT = 12, 8
"""Trials in the history of a prompt: so many of the best and of the latest. Chosen by hand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenericEvidence:
    """Trials of a study over an arbitrary search space.

    Args:
        space: Distributions by parameter; the latest one if it changed between trials.
        conditional: Parameters that some trials do not have.
        maximize: Whether higher values are better.
        numbers: Numbers of the finished trials with a finite value.
        params: Parameters of these trials.
        values: Values of these trials.
        running: Parameters of the running trials.
        origins: Which part of the sampler proposed these trials; empty strings if not recorded.
    """

    space: Mapping[str, BaseDistribution] = field(default_factory=dict)
    conditional: tuple[str, ...] = ()
    maximize: bool = False
    numbers: tuple[int, ...] = ()
    params: tuple[Mapping[str, Any], ...] = ()
    values: tuple[float, ...] = ()
    running: tuple[Mapping[str, Any], ...] = ()
    origins: tuple[str, ...] = ()


class GenericQuestions:
    """Questions about an arbitrary search space; see `ask.Questions`.

    Args:
        evidence: The trials so far.
        description: What is optimized, in the user's words; may be empty.
        guidelines: Whether to ask for guidelines.
        wanted: Number of candidates to ask for.
        fates: What became of earlier proposals.
    """

    def __init__(
        self,
        evidence: GenericEvidence,
        *,
        description: str,
        guidelines: bool,
        wanted: int,
        fates: Sequence[Proposal] = (),
    ) -> None:
        """See the class."""
        self._evidence, self._description = evidence, description
        self._guidelines, self._wanted, self._fates = guidelines, wanted, fates

    def messages(self, context: RoundContext) -> tuple[Message, ...]:
        """Render the prompt."""
        evidence = self._evidence
        return render_generic(
            GenericBrief(
                space=evidence.space,
                conditional=evidence.conditional,
                maximize=evidence.maximize,
                description=self._description,
                guidelines=self._guidelines,
                wanted=self._wanted,
                history=_history(evidence),
                trials=len(evidence.values),
                running=evidence.running,
                earlier=context.shown_guidelines(),
                fates=shown_fates(self._fates),
            )
        )

    def schema(self) -> str:
        """Return the JSON schema of the reply, as JSON text."""
        return generic_schema(
            self._evidence.space, wanted=self._wanted, guidelines=self._guidelines
        )

    def read(self, text: str, found: Sequence[Proposal]) -> Reply:
        """Read a reply; `found` are the proposals of earlier replies to the same prompt."""
        evidence = self._evidence
        queue = [fate.params for fate in self._fates if fate.outcome == "queued" and fate.params]
        found_before = [proposal.params for proposal in found if proposal.params]
        taken = [*evidence.params, *evidence.running, *queue, *found_before]
        return read_params(text, evidence.space, evidence.conditional, taken)

    def check(self, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
        """Return no verdicts: no claims are requested and no model is fitted to check them."""
        return ()


def _history(evidence: GenericEvidence) -> tuple[GenericRow, ...]:
    """Select the best trials and the latest."""
    sign = -1.0 if evidence.maximize else 1.0
    order = sorted(range(len(evidence.values)), key=lambda i: sign * evidence.values[i])
    why = dict.fromkeys(order[:_BEST], "best")
    for row in range(len(order))[-_RECENT:]:
        why.setdefault(row, "recent")
    return tuple(
        GenericRow(
            evidence.numbers[row],
            evidence.params[row],
            evidence.values[row],
            why[row],
            evidence.origins[row] if evidence.origins else "",
        )
        for row in sorted(why)
        if math.isfinite(evidence.values[row])
    )
