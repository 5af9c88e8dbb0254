"""The agent: evidence to a prompt, replies to proposals, with re-asks that carry the reasons.

Nothing here knows studies, and nothing a server does raises out of `plan`: what went wrong is in
the result.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from optuna_agenttts.agent.facts import Facts, fit_facts
from optuna_agenttts.agent.prompts import (
    TABLES,
    Brief,
    ModelRow,
    PairedRow,
    Row,
    claims_asked,
    plan_schema,
    render_plan,
    render_repair,
    shown_tables,
)
from optuna_agenttts.agent.validation import Proposal, Reply, read_plan
from optuna_agenttts.agent.verdicts import check_claims
from optuna_agenttts.llm.port import ChatError, ChatModel, ChatRequest, Completion, Message
from optuna_agenttts.llm.secrets import one_line
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.study.claims import Claim, Verdict, contradictions

_REASKS = 2
_MAX_TOKENS = 4096
_TEMPERATURE = 0.7
_BEST, _RECENT = 10, 8
_TABLE_OF = {"models": "models", "samples": "saturation"}
"""Which table tells what the fit says of an aspect of a claim."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What earlier rounds leave to the next one.

    Args:
        guidelines: Guidelines by round; the first and the latest two are shown.
        reasks: How many requests may follow the first where its reply cannot be used.
        spent: What the search has spent so far, in words.
        experience: Lines on earlier studies.
        claims: The latest claims there are.
    """

    guidelines: tuple[tuple[int, tuple[str, ...]], ...] = ()
    reasks: int = _REASKS
    spent: str = ""
    experience: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()

    def shown(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """The first guidelines and the latest two."""
        known = [entry for entry in self.guidelines if entry[1]]
        return tuple(known[:1] + known[1:][-2:])


@dataclass(frozen=True, slots=True)
class Plan:
    """What came of asking."""

    guidelines: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    claims: tuple[Claim, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


class Questions(Protocol):
    """What is asked of the agent, and how its replies are read."""

    def messages(self, past: Past) -> tuple[Message, ...]:
        """The prompt."""

    def schema(self) -> str:
        """The JSON schema of the reply, as JSON text."""

    def read(self, text: str, found: Sequence[Proposal]) -> Reply:
        """Read a reply; `found` are the proposals of earlier replies to the same prompt."""

    def check(self, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
        """Compare claims with what the prompt rests on."""


async def plan(
    chat: ChatModel,
    questions: Questions,
    past: Past,
    *,
    wanted: int,
    seed: int,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Ask for a round, and again, at most twice, where too little can be used.

    Args:
        chat: Whom to ask.
        questions: What to ask.
        past: What earlier rounds leave.
        wanted: How many proposals make a round.
        seed: Of the first request; the next ones count on.
        clock: Seconds, as from `time.monotonic`.
    """
    started = clock()
    asked = messages = questions.messages(past)
    schema = questions.schema()
    guidelines: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    proposals: list[Proposal] = []
    problems: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    tokens = Counter[str]()
    requests, error = 0, ""
    for attempt in range(1 + min(past.reasks, _REASKS)):
        requests += 1
        try:
            completion, reply = await _ask(
                chat, questions, messages, schema, proposals, seed=seed + attempt
            )
        except ChatError as caught:
            failures[caught.kind] += 1
            error = one_line(str(caught))
            break
        tokens["prompt"] += completion.usage.prompt_tokens
        tokens["completion"] += completion.usage.completion_tokens
        guidelines = reply.guidelines or guidelines
        claims = reply.claims or claims
        proposals += reply.proposals
        problems.update(problem.kind for problem in reply.problems)
        if reply.unusable_claims:
            problems["unusable claim"] += reply.unusable_claims
        error = ""
        if 2 * len(proposals) >= wanted:
            break
        texts = [problem.text for problem in reply.problems]
        if not texts:
            problems["too few"] += 1
            texts = [f"{len(proposals)} candidates are too few; {wanted} are wanted"]
        if not proposals:
            error = one_line(texts[0])
        messages = render_repair(
            asked, completion.text, texts, missing=max(1, wanted - len(proposals))
        )
    return Plan(
        guidelines=guidelines,
        proposals=tuple(proposals),
        requests=requests,
        prompt_tokens=tokens["prompt"],
        completion_tokens=tokens["completion"],
        problems=dict(problems),
        failures=dict(failures),
        error="" if proposals else error or "the reply proposes nothing",
        seconds=clock() - started,
        claims=claims,
        verdicts=questions.check(claims),
    )


async def _ask(
    chat: ChatModel,
    questions: Questions,
    messages: tuple[Message, ...],
    schema: str,
    found: Sequence[Proposal],
    *,
    seed: int,
) -> tuple[Completion, Reply]:
    """Send one request and read its reply; every failure is a `ChatError`."""
    request = ChatRequest(
        model="",
        messages=messages,
        max_tokens=_MAX_TOKENS,
        temperature=_TEMPERATURE,
        schema=schema,
    )
    try:
        completion = await chat.complete(request, seed=seed)
        return completion, questions.read(completion.text, found)
    except ChatError:
        raise
    # An exception in a user-defined model must not end the search.
    except Exception as error:
        kind = type(error).__name__
        raise ChatError(f"{kind}: {error}", kind=kind) from error


class TaskQuestions:
    """What is asked about a task; see `Questions`.

    Args:
        planner: The numerical planner, for the computed evidence.
        evidence: What is known.
        insights: The insights to state.
        guidelines: Whether to ask for guidelines.
        wanted: How many candidates to ask for.
        tables: The tables of computed evidence to show.
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
    ) -> None:
        """See the class."""
        self._planner, self._evidence = planner, evidence
        self._insights, self._guidelines, self._wanted = insights, guidelines, wanted
        self._tables = tables
        self._claims = claims_asked(insights, guidelines=guidelines)

    @cached_property
    def _facts(self) -> Facts:
        """Fitted once: claims are held against what the prompt shows."""
        return fit_facts(self._planner, self._evidence)

    def messages(self, past: Past) -> tuple[Message, ...]:
        """The prompt."""
        return render_plan(self.brief(past))

    def schema(self) -> str:
        """The JSON schema of the reply."""
        return plan_schema(
            self._evidence.task,
            wanted=self._wanted,
            guidelines=self._guidelines,
            insights=self._insights,
        )

    def read(self, text: str, found: Sequence[Proposal]) -> Reply:
        """Read a reply."""
        taken = {*self._evidence.visited, *(proposal.choices for proposal in found)}
        return read_plan(text, self._evidence.task, taken, self._claims)

    def check(self, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
        """Compare claims with the fit."""
        return check_claims(claims, self._facts, self._evidence.task) if claims else ()

    def brief(self, past: Past) -> Brief:
        """Everything that the prompt says."""
        evidence, task = self._evidence, self._evidence.task
        facts = self._facts
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
            earlier=past.shown(),
            # Held against the fit of now: trials since then may have refuted what was open. A
            # table that is left out must not come back in sentences.
            contradicted=tuple(
                verdict.text
                for verdict in contradictions(self.check(past.claims if self._claims else ()))
                if _TABLE_OF[verdict.aspect] in shown
            ),
            spent=past.spent,
            experience=past.experience,
        )


def _history(evidence: Evidence) -> tuple[Row, ...]:
    """A bounded choice of trials: the best, the latest, and the best with each model."""
    why: dict[int, str] = {}
    order = np.argsort(-evidence.scores, kind="stable").tolist()
    for row in order[:_BEST]:
        why[row] = "best"
    for row in range(len(order))[-_RECENT:]:
        why.setdefault(row, "recent")
    for stage in range(len(evidence.task.stages)):
        for model in range(len(evidence.task.stages[stage].models)):
            holders = [row for row in order if evidence.models[row, stage] == model]
            for row in holders[:1]:
                why.setdefault(row, "telling")
    task = evidence.task
    rows = []
    for row in sorted(why):
        choices = list(zip(evidence.models[row].tolist(), evidence.samples[row].tolist()))
        rows.append(
            Row(
                number=evidence.numbers[row] if evidence.numbers else row,
                allocation=task.allocation(choices),
                value=float(evidence.sign * evidence.scores[row]),
                error=_standard_error(evidence, row),
                cost=task.feasible.cost(choices),
                why=why[row],
            )
        )
    return tuple(rows)


def _standard_error(evidence: Evidence, row: int) -> float | None:
    outcomes = list(evidence.outcomes[row].values()) if evidence.outcomes else []
    if len(outcomes) < 2 or not np.isfinite(outcomes).all():
        return None
    return float(np.std(outcomes, ddof=1) / np.sqrt(len(outcomes)))


def _model_rows(evidence: Evidence, facts: Facts) -> tuple[ModelRow, ...]:
    task = evidence.task
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
    )


def _paired_rows(evidence: Evidence, facts: Facts) -> tuple[PairedRow, ...]:
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
