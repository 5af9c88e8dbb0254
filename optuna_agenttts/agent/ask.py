"""Planning of one round: prompt, reply, and repair requests that name the problems.

This module does not depend on Optuna studies. Errors of the chat model and unusable replies never
raise out of `plan_round`; they are recorded in its result.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from optuna_agenttts.agent.parsing import Problem
from optuna_agenttts.agent.prompts import render_repair
from optuna_agenttts.agent.validation import Reply
from optuna_agenttts.llm.port import (
    ChatError,
    ChatModel,
    ChatRequest,
    Completion,
    Message,
    Usage,
    prompt_usage,
    repeated_call,
)
from optuna_agenttts.study.claims import Claim, Verdict
from optuna_agenttts.study.proposals import Proposal
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.support.plain import one_line

# Chosen by hand.
_MAX_REPAIRS = 2
"""Maximum number of repair requests per round."""
_MAX_TOKENS = 4096
"""Maximum number of tokens per reply."""
_TEMPERATURE = 0.7
"""Sampling temperature of the requests."""
_NO_ANSWER = Problem(
    "ended in thoughts",
    "the reply ended in its thoughts: lower thinking, for example by "
    "`llm_facts=Model(..., extra={'reasoning_effort': 'low'})`",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundContext:
    """Context of a round besides its trials.

    Args:
        guidelines: Guidelines of earlier rounds, as pairs of round number and lines.
        max_repairs: Maximum number of repair requests, capped at 2.
        spent: Description of the spending so far, for the prompt; may be empty.
        experience: Prompt lines that describe earlier studies.
        claims: Claims of the latest round that has some.
        extra: Further fields of each request.
        opening: Whether there is no score yet.
    """

    guidelines: tuple[tuple[int, tuple[str, ...]], ...] = ()
    max_repairs: int = _MAX_REPAIRS
    spent: str = ""
    experience: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    extra: Mapping[str, Any] | None = None
    opening: bool = False

    def shown_guidelines(self) -> tuple[tuple[int, tuple[str, ...]], ...]:
        """Return the first guidelines and the latest two, as the paper does."""
        known = [entry for entry in self.guidelines if entry[1]]
        return tuple(known[:1] + known[1:][-2:])


@dataclass(frozen=True, slots=True)
class Plan:
    """Result of planning a round.

    Args:
        guidelines: Guidelines of the latest reply that has some.
        proposals: Usable proposals of all replies, in order.
        dropped: The other proposals of all replies.
        requests: Number of requests sent.
        prompt_tokens: Prompt tokens of all requests.
        completion_tokens: Generated tokens of all replies.
        problems: Number of problems in the replies, by kind.
        failures: Number of failed requests, by kind.
        error: Reason why there are no proposals; empty if there are some.
        seconds: Duration.
        claims: Claims of the latest reply that has some.
        verdicts: Comparison of these claims with the evidence.
    """

    guidelines: tuple[str, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    dropped: tuple[Proposal, ...] = ()
    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    problems: Mapping[str, int] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0
    claims: tuple[Claim, ...] = ()
    verdicts: tuple[Verdict, ...] = ()


@dataclass(slots=True)
class Tokens:
    """Tokens of a round's requests, counted as far as they are known.

    Of a request without a reply, the prompt is known.

    Args:
        prompt: Prompt tokens of all requests, also of failed and repeated ones.
        completion: Generated tokens of all replies.
        cached: Prompt tokens that the server had cached.
    """

    prompt: int = 0
    completion: int = 0
    cached: int = 0

    def add(self, usage: Usage | None) -> None:
        """Count the tokens of a call."""
        if usage is not None:
            self.prompt += usage.prompt_tokens
            self.completion += usage.completion_tokens
            self.cached += usage.cached_tokens


class Questions(Protocol):
    """Prompt of a round and reader of the replies to it."""

    def messages(self, context: RoundContext) -> tuple[Message, ...]:
        """Render the prompt."""

    def schema(self) -> str:
        """Return the JSON schema of the reply, as JSON text."""

    def read(self, text: str, found: Sequence[Proposal]) -> Reply:
        """Read a reply; `found` are the proposals of earlier replies to the same prompt."""

    def check(self, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
        """Compare claims with the evidence behind the prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything needed to plan one round.

    Args:
        questions: Prompt, schema and reader of the replies.
        trials: Number of finished trials that the prompt is based on.
        wanted: Number of proposals that fill a round; the first ones are kept.
        start: Number of the first trial that the round can be for.
        span: Number of trials that the round covers.
        price: Cost of prompt, completion and cached tokens in the task's cost unit; None if
            unknown.
        spent: Describes the spending of the search, given the earlier rounds, for the prompt.
        experience: Prompt lines that describe earlier studies.
    """

    questions: Questions
    trials: int
    wanted: int
    start: int
    span: int
    price: Callable[[int, int, int], float | None]
    spent: Callable[[Sequence[Round]], str]
    experience: tuple[str, ...] = ()


MakeJob = Callable[[int, Sequence[Round]], "Job | None"]
"""Builds a job from the current trials, given the first trial that the round can be for and the
earlier rounds; returns None while there are too few trials, or if too few are left."""


async def plan_round(
    chat: ChatModel,
    questions: Questions,
    context: RoundContext,
    *,
    wanted: int,
    seed: int,
    tokens: Tokens | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Plan:
    """Request a round, and repair it at most twice while fewer than half of it is usable.

    Args:
        chat: The chat model.
        questions: The prompt and the reader of the replies.
        context: Context of the round.
        wanted: Number of proposals that fill the round.
        seed: Seed of the first request; each further one adds 1.
        tokens: Receives the tokens of all requests, also if the round is cancelled.
        clock: Returns monotonic time in seconds.

    Returns:
        The plan; failures are recorded in it.
    """
    started = clock()
    tokens = Tokens() if tokens is None else tokens
    prompt = messages = questions.messages(context)
    schema = questions.schema()
    guidelines: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    proposals: list[Proposal] = []
    dropped: list[Proposal] = []
    problems: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    requests, error = 0, ""
    for attempt in range(1 + min(context.max_repairs, _MAX_REPAIRS)):
        requests += 1
        try:
            completion, reply = await _ask(
                chat, questions, messages, schema, proposals, seed + attempt, tokens, context.extra
            )
        except ChatError as caught:
            failures[caught.kind] += 1
            error = one_line(str(caught))
            break
        guidelines = reply.guidelines or guidelines
        claims = reply.claims or claims
        proposals += reply.proposals
        dropped += reply.dropped
        problems.update(problem.kind for problem in reply.problems)
        if reply.unusable_claims:
            problems["unusable claim"] += reply.unusable_claims
        error = ""
        if 2 * len(proposals) >= wanted or _is_silent(problems, opening=context.opening):
            break
        texts = [problem.text for problem in reply.problems]
        if not texts:
            problems["too few"] += 1
            texts = [f"{len(proposals)} candidates are too few; {wanted} are wanted"]
        if not proposals:
            error = one_line(texts[0])
        messages = render_repair(
            prompt, completion.text, texts, missing=max(1, wanted - len(proposals))
        )
    return Plan(
        guidelines=guidelines,
        proposals=tuple(proposals[:wanted]),
        dropped=(*dropped, *map(_spare, proposals[wanted:])),
        requests=requests,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        problems=dict(problems),
        failures=dict(failures),
        error="" if proposals else error or "the reply proposes nothing",
        seconds=clock() - started,
        claims=claims,
        verdicts=questions.check(claims),
    )


def _is_silent(problems: Mapping[str, int], *, opening: bool) -> bool:
    """Return whether too few proposals need no repair request.

    Before there is a score, an agent may have nothing to propose; and one that insists on what was
    refused has been told so by the prompt.
    """
    kinds = set(problems)
    return (opening and kinds == {"no candidates"}) or (
        "refused" in kinds and kinds <= {"refused", "duplicate"}
    )


def _spare(proposal: Proposal) -> Proposal:
    """Return a usable proposal of which there are too many, as not kept."""
    return replace(proposal, kind="spare", text="more than were needed")


async def _ask(
    chat: ChatModel,
    questions: Questions,
    messages: tuple[Message, ...],
    schema: str,
    found: Sequence[Proposal],
    seed: int,
    tokens: Tokens,
    extra: Mapping[str, Any] | None,
) -> tuple[Completion, Reply]:
    """Send one request and read its reply; every failure is a `ChatError`."""
    request = ChatRequest(
        model="",
        messages=messages,
        max_tokens=_MAX_TOKENS,
        temperature=_TEMPERATURE,
        schema=schema,
        extra=json.dumps(dict(extra)) if extra else None,
    )
    counting = repeated_call.set(lambda error: tokens.add(error.usage))
    try:
        completion = await chat.complete(request, seed=seed)
        tokens.add(completion.usage)
        if completion.ended_in_thoughts:
            return completion, Reply(problems=(_NO_ANSWER,))
        return completion, questions.read(completion.text, found)
    except ChatError as error:
        tokens.add(error.usage)
        raise
    except asyncio.CancelledError:
        tokens.add(prompt_usage(request))
        raise
    # An exception in a user-defined model must not end the search.
    except Exception as error:
        kind = type(error).__name__
        raise ChatError(f"{kind}: {error}", kind=kind) from error
    finally:
        repeated_call.reset(counting)
