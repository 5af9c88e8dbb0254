"""Questions to the agent about a pipeline task: prompt, reply schema, and reader of replies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optuna_agenttts.agent.ask import shown_guidelines
from optuna_agenttts.agent.facts import Facts, fit_facts
from optuna_agenttts.agent.pace import ROUND_SIZE
from optuna_agenttts.agent.prompts import (
    TABLES,
    Brief,
    EffortRow,
    ModelRow,
    PairedRow,
    TrialRow,
    claim_fields,
    plan_schema,
    render_plan,
    shown_fates,
    shown_tables,
)
from optuna_agenttts.agent.validation import Reply, read_plan
from optuna_agenttts.agent.verdicts import check_claims
from optuna_agenttts.llm.port import Message
from optuna_agenttts.planner.evidence import Choices, Evidence
from optuna_agenttts.planner.feasibility import worst_violations
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.pools import choices_of
from optuna_agenttts.study.claims import Claim, Verdict, contradictions
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.support.forking import unlocked_cached_property
from optuna_agenttts.task.efforts import efforts_by_model
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.task import Task

_BEST, _RECENT = 10, 8
"""Trials in the history of a prompt: so many of the best and of the latest. Chosen by hand."""
_TABLE_OF_ASPECT = {"models": "models", "samples": "saturation"}
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
    ) -> None:
        """See the class."""
        self.task: Task | None = evidence.task
        self.trials = len(evidence.scores)
        self.kept, self.start, self.span = kept, start, span
        self._rounds, self._spent, self._experience = rounds, spent, experience
        self._planner, self._evidence = planner, evidence
        self._insights, self._guidelines, self._wanted = insights, guidelines, wanted
        self._tables, self._fates = tables, shown_fates(fates)
        self._claim_fields = claim_fields(insights, guidelines=guidelines)

    @unlocked_cached_property
    def _facts(self) -> Facts:
        """Facts shown in the prompt and compared with claims; fitted once."""
        return fit_facts(self._planner, self._evidence)

    def messages(self) -> tuple[Message, ...]:
        """Render the prompt."""
        return render_plan(self.brief())

    def schema(self) -> str:
        """Return the JSON schema of the reply, as JSON text."""
        return plan_schema(
            self._evidence.task,
            wanted=self._wanted,
            guidelines=self._guidelines,
            insights=self._insights,
        )

    def read(self, text: str, found: Sequence[Proposal]) -> Reply:
        """Read a reply; `found` are the proposals of earlier replies to the same prompt."""
        task = self._evidence.task
        queued = [fate for fate in self._fates if fate.outcome == "queued"]
        refused = [fate for fate in self._fates if fate.outcome == "refused"]
        taken = self._evidence.visited | self._choices([*queued, *found])
        return read_plan(text, task, taken, self._claim_fields, self._choices(refused) - taken)

    def _choices(self, proposals: Sequence[Proposal]) -> set[Choices]:
        """Return the allocations of proposals."""
        read = (self._evidence.task.read(each.params or {}) for each in proposals)
        return {choices for choices in read if choices is not None}

    def check(self, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
        """Compare claims with the facts."""
        return check_claims(claims, self._facts, self._evidence.task) if claims else ()

    def brief(self) -> Brief:
        """Collect the data of the prompt."""
        evidence, task, facts = self._evidence, self._evidence.task, self._facts
        claims = next((each.claims for each in reversed(self._rounds) if each.claims), ())
        claims = claims if self._claim_fields else ()
        shown = shown_tables(self._tables, self._insights)
        return Brief(
            task=task,
            maximize=evidence.sign > 0,
            insights=self._insights,
            tables=self._tables,
            guidelines=self._guidelines,
            wanted=self._wanted,
            history=_history(evidence),
            trials=len(evidence.scores),
            running=tuple(task.allocation(choices) for choices in evidence.pending),
            facts=_model_rows(evidence, facts),
            paired=_paired_rows(evidence, facts),
            efforts=_effort_rows(evidence, facts),
            earlier=shown_guidelines(self._rounds),
            # Checked against the current facts: later trials may have refuted an open claim.
            # Sentences must not reveal the figures of a table that is not shown.
            contradicted=tuple(
                verdict.text
                for verdict in contradictions(self.check(claims))
                if _TABLE_OF_ASPECT[verdict.aspect] in shown
            ),
            spent=self._spent,
            experience=self._experience,
            fates=self._fates,
        )


def _history(evidence: Evidence) -> tuple[TrialRow, ...]:
    """Select the best trials, the latest, and the best with each model of each stage.

    Thinking efforts of one model count as one, since their number would make prompts long.
    """
    why: dict[int, str] = {}
    allocations = choices_of(evidence.models, evidence.samples)
    violated = worst_violations(evidence)
    # Allocations that violate a constraint come after all others.
    violates = np.array([bool(violated.get(choices)) for choices in allocations])
    order = np.lexsort((-evidence.scores, violates)).tolist()
    for row in order[:_BEST]:
        why[row] = "best"
    for row in range(len(order))[-_RECENT:]:
        why.setdefault(row, "recent")
    for stage in range(len(evidence.task.stages)):
        for models in _groups(evidence.task.stages[stage]):
            holders = [row for row in order if evidence.models[row, stage] in models]
            for row in holders[:1]:
                why.setdefault(row, "telling")
    task = evidence.task
    rows = []
    for row in sorted(why):
        choices = allocations[row]
        rows.append(
            TrialRow(
                number=evidence.numbers[row] if evidence.numbers else row,
                allocation=task.allocation(choices),
                value=float(evidence.sign * evidence.scores[row]),
                error=_standard_error(evidence, row),
                cost=task.feasible.cost(choices),
                why=why[row],
                constraints=violated.get(choices, {}) if evidence.constraints else None,
                origin=evidence.origins[row] if evidence.origins else "",
            )
        )
    return tuple(rows)


def _groups(stage: Stage) -> list[list[int]]:
    """Return the positions of a stage's choices, those that are one model together."""
    kin = efforts_by_model(stage.models)
    return [
        [position] if model.thinking is None else kin.pop(model.thinking.model)
        for position, model in enumerate(stage.models)
        if model.thinking is None or model.thinking.model in kin
    ]


def _standard_error(evidence: Evidence, row: int) -> float | None:
    """Return the standard error of a trial's value over instances; None if unknown."""
    outcomes = list(evidence.outcomes[row].values()) if evidence.outcomes else []
    if len(outcomes) < 2 or not np.isfinite(outcomes).all():
        return None
    return float(np.std(outcomes, ddof=1) / np.sqrt(len(outcomes)))


def _model_rows(evidence: Evidence, facts: Facts) -> tuple[ModelRow, ...]:
    """Convert facts about models to rows with names, each model at its best effort."""
    task = evidence.task
    worse = {
        (fact.stage, model)
        for fact in facts.efforts
        for model, behind in zip(fact.models, fact.behind)
        if behind > 0
    }
    return tuple(
        ModelRow(
            stage=task.stages[fact.stage].name,
            model=task.stages[fact.stage].models[fact.model].name,
            trials=fact.trials,
            expected=fact.expected,
            behind=fact.behind,
            behind_sd=fact.behind_sd,
            companion=task.allocation(fact.companion),
            saturation=fact.saturation,
            saturation_range=fact.saturation_range,
            gain=fact.gain,
            gain_sd=fact.gain_sd,
        )
        for fact in facts.models
        if (fact.stage, fact.model) not in worse
    )


def _effort_rows(evidence: Evidence, facts: Facts) -> tuple[EffortRow, ...]:
    """Convert facts about efforts to rows with names."""
    stages = evidence.task.stages
    return tuple(
        EffortRow(
            stage=stages[fact.stage].name,
            model=fact.name,
            efforts=tuple(
                thinking.brief_label
                for model in fact.models
                if (thinking := stages[fact.stage].models[model].thinking) is not None
            ),
            expected=fact.expected,
            behind=fact.behind,
            behind_sd=fact.behind_sd,
        )
        for fact in facts.efforts
    )


def _paired_rows(evidence: Evidence, facts: Facts) -> tuple[PairedRow, ...]:
    """Convert paired facts to rows with names."""
    stages = evidence.task.stages
    return tuple(
        PairedRow(
            stage=stages[pair.stage].name,
            better=stages[pair.stage].models[pair.models[0]].name,
            other=stages[pair.stage].models[pair.models[1]].name,
            numbers=pair.numbers,
            difference=pair.difference,
            error=pair.error,
            instances=pair.instances,
        )
        for pair in facts.paired
    )
