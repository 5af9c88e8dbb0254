"""Rounds of the agent over search spaces without pipeline stages."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts.agent.ask import latest_guidelines
from optuna_agenttts.agent.pace import ROUND_SIZE, STRIDE
from optuna_agenttts.agent.prompts import generic_schema, render_generic, shown_fates
from optuna_agenttts.agent.space_evidence import SpaceEvidence
from optuna_agenttts.agent.validation import Reply, read_params
from optuna_agenttts.llm.port import Message
from optuna_agenttts.study.claims import Claim, Verdict
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.task.task import Task


class SpaceSubject:
    """Subject of a round over an arbitrary search space; see `ask.Subject`.

    Args:
        evidence: The trials so far.
        description: What is optimized, in the user's words; may be empty.
        guidelines: Whether to ask for guidelines.
        wanted: Number of candidates to ask for.
        fates: The earlier proposals, with what became of them.
        rounds: The earlier rounds.
        kept: Number of proposals that fill the round.
        start: Number of the first trial that the round can be for.
    """

    def __init__(
        self,
        evidence: SpaceEvidence,
        *,
        description: str,
        guidelines: bool,
        wanted: int,
        fates: Sequence[Proposal] = (),
        rounds: Sequence[Round] = (),
        kept: int = ROUND_SIZE,
        start: int = 0,
    ) -> None:
        """See the class."""
        self._evidence, self._description = evidence, description
        self._guidelines, self._wanted = guidelines, wanted
        self._fates, self._rounds = fates, rounds
        self.task: Task | None = None
        self.trials, self.checked = len(evidence.values), False
        self.kept, self.start, self.span, self.stride = kept, start, ROUND_SIZE, STRIDE
        self.why = ""

    def messages(self) -> tuple[Message, ...]:
        """Render the prompt."""
        return render_generic(
            self._evidence,
            description=self._description,
            guidelines=self._guidelines,
            wanted=self._wanted,
            earlier=latest_guidelines(self._rounds),
            fates=shown_fates(self._fates),
        )

    def schema(self) -> str:
        """Return the JSON schema of the reply, as JSON text."""
        return generic_schema(
            self._evidence.space, wanted=self._wanted, guidelines=self._guidelines
        )

    def read(self, text: str, found: Sequence[Proposal]) -> Reply:
        """Read a reply; `found` are the proposals of earlier replies to the same prompt."""
        evidence = self._evidence
        queue = [fate for fate in self._fates if fate.outcome == "queued"]
        proposed = [each.params for each in (*queue, *found) if each.params]
        taken = [*evidence.params, *evidence.running, *proposed]
        return read_params(text, evidence.space, evidence.conditional, taken)

    def check(self, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
        """Return no verdicts: no claims are requested and no model is fitted to check them."""
        return ()
