"""Planning of one round: prompt, reply, and repair requests that name the problems.

Errors of the chat model and unusable replies never raise out of `plan_round`; they are recorded in
the round.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
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
from optuna_agenttts.task.task import Task

# Chosen by hand.
_MAX_REPAIRS = 2
"""Maximum number of repair requests per round."""
_MAX_TOKENS = 4096
"""Maximum number of tokens per reply."""
_NOTHING, _ALL_REPEATED = "the reply proposes nothing", "it was tried, or refused before"
"""Errors of rounds without candidates for which no repair is requested."""
_TEMPERATURE = 0.7
"""Sampling temperature of the requests."""
_NO_ANSWER = Problem(
    "ended in thoughts",
    "the reply ended in its thoughts: lower thinking, for example by "
    "`llm_facts=Model(..., extra={'reasoning_effort': 'low'})`",
)


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


class Subject(Protocol):
    """Subject of a round: a task or another search space, and the trials so far.

    Args:
        task: The task; None for other search spaces.
        trials: Number of finished trials that the prompt is based on.
        checked: Whether the prompt shows how often stages passed their checks.
        kept: Number of proposals that fill the round; the first ones are kept.
        start: Number of the first trial that the round can be for.
        span: Number of trials that the round covers.
        stride: Trials from one candidate to the next.
        why: Why the agent is asked; empty if it is asked for every round.
    """

    task: Task | None
    trials: int
    checked: bool
    kept: int
    start: int
    span: int
    stride: int
    why: str

    def messages(self) -> tuple[Message, ...]:
        """Render the prompt."""

    def schema(self) -> str:
        """Return the JSON schema of the reply, as JSON text."""

    def read(self, text: str, found: Sequence[Proposal]) -> Reply:
        """Read a reply; `found` are the proposals of earlier replies to the same prompt."""

    def check(self, claims: Sequence[Claim]) -> tuple[Verdict, ...]:
        """Compare claims with the evidence behind the prompt."""


MakeSubject = Callable[[int, Sequence[Round]], "Subject | Round | None"]
"""Builds a subject from the current trials, given the first trial that the round can be for and
the earlier rounds; returns None while there are too few trials, or if too few are left, and the
round itself if the agent is not to be asked."""


def latest_guidelines(rounds: Sequence[Round]) -> tuple[tuple[int, tuple[str, ...]], ...]:
    """Return number and guidelines of the latest round that has some."""
    known = [(planned.number, planned.guidelines) for planned in rounds if planned.guidelines]
    return tuple(known[-1:])


async def plan_round(
    chat: ChatModel,
    subject: Subject,
    number: int,
    *,
    max_repairs: int = _MAX_REPAIRS,
    extra: Mapping[str, Any] | None = None,
    tokens: Tokens | None = None,
) -> Round:
    """Request a round, and repair it at most twice if too little of it is usable.

    Args:
        chat: The chat model.
        subject: Prompt and reader of the replies.
        number: Number of the round.
        max_repairs: Maximum number of repair requests, capped at 2.
        extra: Further fields of each request.
        tokens: Receives the tokens of all requests, also if the round is cancelled.

    Returns:
        The round, with the failures, but without its trials, model and cost.
    """
    started = time.monotonic()
    tokens = Tokens() if tokens is None else tokens
    prompt = messages = subject.messages()
    schema = subject.schema()
    guidelines: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    proposals: list[Proposal] = []
    dropped: list[Proposal] = []
    problems: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    requests, error, answered = 0, "", False
    for attempt in range(1 + min(max_repairs, _MAX_REPAIRS)):
        requests += 1
        # Seeds of successive rounds differ by 100, so their requests never share one.
        seed = 1 + 100 * number + attempt
        try:
            completion, reply = await _ask(
                chat, subject, messages, schema, proposals, seed, tokens, extra
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
        texts = [problem.text for problem in reply.problems]
        enough = 2 * len(proposals) >= subject.kept
        # Few candidates are an answer: the numerical planner has the other trials.
        if enough or not texts or _is_silent(problems, opening=subject.trials == 0):
            answered = not texts and not dropped
            break
        if not proposals:
            error = one_line(texts[0])
        missing = max(1, subject.kept - len(proposals))
        messages = render_repair(prompt, completion.text, texts, missing=missing)
    return Round(
        number=number,
        guidelines=guidelines,
        candidates=tuple(proposals[: subject.kept]),
        dropped=(*dropped, *map(_spare, proposals[subject.kept :])),
        requests=requests,
        prompt_tokens=tokens.prompt,
        completion_tokens=tokens.completion,
        problems=dict(problems),
        failures=dict(failures),
        error="" if proposals or answered else error or (_ALL_REPEATED if dropped else _NOTHING),
        seconds=time.monotonic() - started,
        trials=subject.trials,
        checked=subject.checked,
        claims=claims,
        verdicts=subject.check(claims),
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
    subject: Subject,
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
        return completion, subject.read(completion.text, found)
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
