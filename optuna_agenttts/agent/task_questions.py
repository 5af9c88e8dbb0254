"""Questions to the agent about a pipeline task: prompt, reply schema, and reader of replies."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts.agent.ask import latest_guidelines
from optuna_agenttts.agent.facts import Facts, fit_facts
from optuna_agenttts.agent.pace import ROUND_SIZE
from optuna_agenttts.agent.prompts import (
    TABLES,
    PromptData,
    claim_fields,
    plan_schema,
    render_plan,
    shown_fates,
)
from optuna_agenttts.agent.validation import Reply, read_plan
from optuna_agenttts.agent.verdicts import check_claims
from optuna_agenttts.llm.port import Message
from optuna_agenttts.planner.evidence import Choices, Evidence
from optuna_agenttts.planner.numerical import NumericalPlanner, has_differing_repeats
from optuna_agenttts.study.claims import Claim, Verdict, contradictions
from optuna_agenttts.study.diagnostics import TrialDiagnostics
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.support.forking import unlocked_cached_property
from optuna_agenttts.task.task import Task

_TABLE_OF_ASPECT = {"models": "models", "samples": "gains"}
"""Table of computed evidence that shows the figures behind an aspect of a claim."""


class TaskQuestions:
    """Subject of a round of a pipeline task; see `ask.Subject`.

    Args:
        planner: Numerical planner that fits the computed evidence.
        evidence: The trials so far.
        insights: Numbers of the paper's insights to state.
        guidelines: Whether to ask for guidelines.
        wanted: Number of candidates to ask for.
        tables: Names of the tables of computed evidence to show.
        fates: The earlier proposals, with what became of them.
        rounds: The earlier rounds.
        spent: Description of the spending so far; may be empty.
        experience: Prompt lines that describe earlier studies.
        kept: Number of proposals that fill the round.
        start: Number of the first trial that the round can be for.
        span: Number of trials that the round covers.
        left: Number of trials that the search has left; None if it is not known.
        diagnostics: What the stages of the trials did.
        why: Why the agent is asked; empty if it is asked for every round.
    """

    def __init__(
        self,
        planner: NumericalPlanner,
        evidence: Evidence,
        *,
        insights: tuple[int, ...],
        guidelines: bool,
        wanted: int,
        tables: tuple[str, ...] = TABLES,
        fates: Sequence[Proposal] = (),
        rounds: Sequence[Round] = (),
        spent: str = "",
        experience: tuple[str, ...] = (),
        kept: int = ROUND_SIZE,
        start: int = 0,
        span: int = ROUND_SIZE,
        left: int | None = None,
        diagnostics: Sequence[TrialDiagnostics] = (),
        why: str = "",
    ) -> None:
        """See the class."""
        self.task: Task | None = evidence.task
        self.trials = len(evidence.scores)
        self.kept, self.start, self.span, self.stride, self.why = kept, start, span, 1, why
        self._rounds, self._spent, self._experience = rounds, spent, experience
        self._planner, self._evidence = planner, evidence
        self._insights, self._guidelines, self._wanted = insights, guidelines, wanted
        self._tables, self._fates, self._left = tables, shown_fates(fates), left
        self._diagnostics = tuple(diagnostics)
        self.checked = "stages" in tables and any(
            stage.check for trial in diagnostics for stage in trial.stages.values()
        )
        self._claim_fields = claim_fields(insights, guidelines=guidelines)

    @unlocked_cached_property
    def _facts(self) -> Facts:
        """Facts shown in the prompt and compared with claims; fitted once."""
        return fit_facts(self._planner, self._evidence)

    def messages(self) -> tuple[Message, ...]:
        """Render the prompt."""
        return render_plan(self.data())

    def schema(self) -> str:
        """Return the JSON schema of the reply, as JSON text."""
        return plan_schema(
            self._evidence.task,
            wanted=self._wanted,
            guidelines=self._guidelines,
            insights=self._insights,
            repeats=has_differing_repeats(self._evidence),
        )

    def read(self, text: str, found: Sequence[Proposal]) -> Reply:
        """Read a reply; `found` are the proposals of earlier replies to the same prompt."""
        evidence, task = self._evidence, self._evidence.task
        queued = [fate for fate in self._fates if fate.outcome == "queued"]
        refused = [fate for fate in self._fates if fate.outcome == "refused"]
        taken = evidence.visited | self._choices([*queued, *found])
        return read_plan(
            text,
            task,
            taken,
            self._claim_fields,
            self._choices(refused) - taken,
            dict(zip(evidence.numbers, evidence.choices)),
            random=has_differing_repeats(evidence),
        )

    def _choices(self, proposals: Sequence[Proposal]) -> set[Choices]:
        """Return the allocations of proposals."""
        read = (self._evidence.task.read(each.params or {}) for each in proposals)
        return {choices for choices in read if choices is not None}

    def check(self, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
        """Compare claims with the facts."""
        return check_claims(claims, self._facts, self._evidence.task) if claims else ()

    def data(self) -> PromptData:
        """Collect the data of the prompt."""
        claims = next((each.claims for each in reversed(self._rounds) if each.claims), ())
        claims = claims if self._claim_fields else ()
        return PromptData(
            evidence=self._evidence,
            facts=self._facts,
            insights=self._insights,
            tables=self._tables,
            guidelines=self._guidelines,
            wanted=self._wanted,
            fates=self._fates,
            earlier=latest_guidelines(self._rounds),
            # Checked against the current facts: later trials may have refuted an open claim.
            # Sentences must not reveal the figures of a table that is not shown.
            contradicted=tuple(
                verdict.text
                for verdict in contradictions(self.check(claims))
                if _TABLE_OF_ASPECT[verdict.aspect] in self._tables
                and (verdict.aspect != "samples" or 2 in self._insights)
            ),
            spent=self._spent,
            left=self._left,
            experience=self._experience,
            diagnostics=self._diagnostics,
            checked=self.checked,
            floor=self._planner.floor,
        )
