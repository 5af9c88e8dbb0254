"""Checks that a server takes the thinking efforts of a search, and does not ignore them.

Most servers ignore fields that they do not know. A search would compare a model with itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optuna_agenttts.llm.checks import EFFORT_FIELDS, FindingCollector, remedy_for
from optuna_agenttts.llm.findings import Finding, Level
from optuna_agenttts.llm.huggingface import HuggingFaceChat
from optuna_agenttts.llm.port import (
    ChatError,
    ChatModel,
    ChatRequest,
    Completion,
    without_retries,
)
from optuna_agenttts.llm.probes import SEED, Failure, Outcome, Prober, short_request
from optuna_agenttts.llm.secrets import key_for
from optuna_agenttts.support.efforts import Effort, is_off

_QUESTIONS = (
    "How many whole numbers from 1 to 400 are divisible by neither 3 nor 7 and have digits whose "
    "sum is even? Reply with the number only.",
    "Five friends sit in a row. Ann is not at an end, Ben is right of Tom, Dan is next to Eva, "
    "and Eva is left of Ann. In how many orders can they sit? Reply with the number only.",
)
"""Questions about which models think longer if they are asked to."""
_MAX_TOKENS = 2048
"""Tokens of replies, which may end in thoughts: only their number is read. Chosen by hand."""
_ROOM = 40_000
"""Tokens of replies of servers that want more of them than of thoughts: above all budgets of
words."""
_CUT = 0.9
"""Fraction of all tokens of replies from which thoughts count as cut. Chosen by hand."""
_RATIO = 1.1
"""Ratio of the thoughts at two efforts up to which they count as equally long. Chosen by hand."""
_BUDGET_RATIO, _BUDGET_SLACK = 1.25, 32
"""Thoughts may exceed a budget by so much, as some are estimated from their letters, and some
servers let a sentence end. Chosen by hand."""

_SWITCH = (
    "Name fields that switch it off, for example `efforts(model, off={'chat_template_kwargs': "
    "{'enable_thinking': False}})`, or leave `off` out for this model."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffortCase:
    """A model at a thinking effort, which `examine_efforts` checks.

    Args:
        subject: Name of the choice in findings.
        effort: The effort.
        thinking: The effort, if requests carry it in the form that the server reads.
        extra: Further fields of each request, as JSON text.
    """

    subject: str
    effort: Effort
    thinking: Effort | None = None
    extra: str | None = None


async def examine_efforts(
    chat: ChatModel,
    *,
    model: str,
    cases: Sequence[EffortCase],
    longest: ChatRequest | None = None,
) -> tuple[Finding, ...]:
    """Check the thinking efforts of a model: ask the same question at each of them.

    There must be no thoughts at ``"off"``, and more at the largest effort than at the least one;
    if not, a second question is asked.

    Args:
        chat: The chat model.
        model: Name of the model on its server.
        cases: The efforts, from the least to the most.
        longest: A request of the search, for models that know their own prompts only.

    Returns:
        At least one finding for each effort.
    """
    prober = Prober(chat=without_retries(chat), model=model)
    collectors = {case.subject: FindingCollector(case.subject) for case in cases}
    if isinstance(prober.chat, HuggingFaceChat):
        try:
            secret = key_for(prober.chat.base_url, prober.chat._api_key)
        except ChatError:
            # `examine` reports it.
            return ()
        for collector in collectors.values():
            collector.secret = secret
    question = short_request(_QUESTIONS[0], _MAX_TOKENS)
    outcomes = [(case, await _ask(prober, question, case)) for case in cases]
    second = short_request(_QUESTIONS[1], _MAX_TOKENS)
    refused = all(isinstance(found, Failure) and found.refused for _, found in outcomes)
    if refused and longest is not None:
        # Models of a few words, and simulated ones, know their own prompts only.
        question = second = replace(longest, schema=None)
        outcomes = [(case, await _ask(prober, question, case)) for case in cases]
    tokens = {c: found.thought_tokens for c, found in outcomes if isinstance(found, Completion)}
    for case, found in outcomes:
        _check_effort(collectors[case.subject], case, found)
    thinking = [case for case in tokens if not is_off(case.effort)]
    if thinking and not any(tokens[case] for case in thinking):
        _report_none(collectors[thinking[-1].subject])
    elif len(thinking) > 1:
        await _compare(collectors, prober, second, thinking[0], thinking[-1], tokens)
    return tuple(finding for each in collectors.values() for finding in each.findings)


async def _ask(
    prober: Prober, question: ChatRequest, case: EffortCase, seed: int = SEED
) -> Outcome:
    """Send a question at an effort."""
    prober.extra, prober.thinking = case.extra, case.thinking
    found = await prober.send(question, seed=seed)
    if isinstance(found, Failure) and found.needs_tokens:
        found = await prober.send(replace(question, max_tokens=_ROOM), seed=seed)
    return found


def _check_effort(findings: FindingCollector, case: EffortCase, outcome: Outcome) -> None:
    """Check the outcome of a question at one effort."""
    if isinstance(outcome, Failure):
        findings.add(
            "thinking",
            "error" if outcome.refused else "warning",
            f"a question at effort {case.effort!r} fails: {outcome.message}",
            remedy_for(outcome, case.effort),
        )
        return
    tokens = outcome.thought_tokens
    message = f"{tokens} tokens of thoughts on a question at effort {case.effort!r}"
    level: Level = "ok"
    remedy = EFFORT_FIELDS
    if is_off(case.effort) and tokens:
        level, remedy = "warning", _SWITCH
        message += ": the model always thinks, or the server ignores that this is switched off"
    elif isinstance(case.effort, int) and tokens > _BUDGET_RATIO * case.effort + _BUDGET_SLACK:
        level = "warning"
        message += ": the server ignores the budget, or takes it for a word such as 'high'"
    findings.add("thinking", level, message, "" if level == "ok" else remedy)


def _report_none(findings: FindingCollector) -> None:
    """Report that no effort leads to thoughts."""
    findings.add(
        "thinking",
        "warning",
        "there are no thoughts at any effort: the model does not think, the server ignores the "
        "efforts, or it neither sends nor counts thoughts",
        EFFORT_FIELDS,
    )


async def _compare(
    collectors: Mapping[str, FindingCollector],
    prober: Prober,
    question: ChatRequest,
    least: EffortCase,
    most: EffortCase,
    tokens: Mapping[EffortCase, int],
) -> None:
    """Check that thoughts are longer at the largest effort, by a second question if in doubt."""
    few, many = tokens[least], tokens[most]
    if many > _RATIO * few:
        return
    added = [await _ask(prober, question, case, SEED + 1) for case in (least, most)]
    if any(isinstance(found, Failure) for found in added):
        return
    more = [found.thought_tokens for found in added if isinstance(found, Completion)]
    few, many = few + more[0], many + more[1]
    if many > _RATIO * few:
        return
    message = (
        f"{few} tokens of thoughts on two questions at effort {least.effort!r}, and {many} at "
        f"{most.effort!r}"
    )
    if min(few, many) >= _CUT * len(added) * question.max_tokens:
        collectors[most.subject].add("thinking", "ok", f"not compared: {message}, all of the room")
        return
    message += (
        ": the server ignores efforts, or both allow more thoughts than the questions need, so a "
        "search may compare equal choices"
    )
    remedy = f"{EFFORT_FIELDS} As a budget, give fewer tokens than the model uses."
    collectors[most.subject].add("thinking", "warning", message, remedy)
