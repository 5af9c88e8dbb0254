"""Checks of what replies contain: lengths of prompts, thoughts, seeds, names and special tokens.

None of these problems raises an error: a search ends with a wrong result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

from optuna_agenttts.llm.checks import FindingCollector, remedy_for
from optuna_agenttts.llm.findings import Level
from optuna_agenttts.llm.port import ChatRequest, Completion
from optuna_agenttts.llm.probes import TEMPERATURE, Failure, Outcome, count_chars
from optuna_agenttts.support.plain import one_line

_MIN_CONTEXT = 64
"""Tokens that every context has room for: a constant count below it is not that of a cut prompt.
Chosen by hand."""
_COUNT_JITTER = 2
"""Tokens by which counts of prompts that are cut at the same length may differ."""
_DENSITIES = 2.5
"""Ratio of characters per token, between a prompt and words from all over it, above which the
prompt was cut. Chosen by hand, far above the ratio of such words."""
_MAX_SHOWN = 40
"""Characters of a reply or name in a message; chosen by hand."""

_LONGER_CONTEXT = (
    "Start the server with a longer context (Ollama: OLLAMA_CONTEXT_LENGTH or `num_ctx`; "
    "llama.cpp: --ctx-size), or shorten the prompt."
)
_LESS_THINKING = (
    "Raise `max_tokens`, or lower thinking, for example by `Model(extra={'reasoning_effort': "
    "'low'})` or `Model(extra={'chat_template_kwargs': {'enable_thinking': False}})`."
)

_SPECIAL_TOKEN = re.compile(
    r"<\|[a-zA-Z][\w ]{0,40}\|>|<｜[^｜\n]{1,40}｜>|<(?:start|end)_of_\w+>|\[/?INST\]"
    r"|(?:</?s>|<(?:eos|bos|pad|unk)>)\s*\Z"
)
"""Special tokens of chat templates. Some of them at the end of a text have been cut already."""
_SIZE = re.compile(r"(?<![\w.])\d+(?:\.\d+)?[bm](?![a-z])")
_FAMILY = re.compile(r"[a-z]{3,}")
_GENERIC = {"accounts", "models", "model", "instruct", "chat", "base", "latest", "preview"}
_VARIANTS = {"nano", "mini", "tiny", "small", "medium", "large", "haiku", "sonnet", "opus", "lite"}
"""Words of names that say nothing about a model's family, and those that tell its variant."""


def check_growth(
    findings: FindingCollector,
    before: tuple[ChatRequest, Completion],
    after: tuple[ChatRequest, Outcome],
    *,
    longest: bool,
) -> None:
    """Check that the server's count grows with the prompt.

    Args:
        findings: Receives the finding.
        before: A request and its completion.
        after: The same request with a longer prompt, and its outcome.
        longest: Whether the request is the longest one of the search.
    """
    check, outcome = "whole prompt", after[1]
    if isinstance(outcome, Failure):
        if outcome.refused:
            message = f"a longer prompt is refused instead of cut: {outcome.message}"
            findings.add(check, "ok", message)
        else:
            findings.add(check, "warning", f"not tested: {outcome.message}", remedy_for(outcome))
        return
    chars = count_chars(before[0]), count_chars(after[0])
    counts = before[1].usage.prompt_tokens, outcome.usage.prompt_tokens
    added, growth = chars[1] - chars[0], counts[1] - counts[0]
    if "prompt_tokens" in outcome.usage.estimated:
        findings.add(
            "usage",
            "warning",
            "replies have no token counts (`usage`), so a search estimates costs, spend and "
            "`max_spend` from characters, and prompts that the server cuts cannot be noticed",
            "Use a server or proxy that reports `usage`, or check costs elsewhere.",
        )
        return
    if abs(growth) <= _COUNT_JITTER and counts[0] < _MIN_CONTEXT:
        findings.add(
            "usage",
            "warning",
            f"the server counts {counts[0]} tokens for prompts of any length, so costs and "
            "`max_spend` of a search are wrong, and prompts that it cuts cannot be noticed",
            "Use a server or proxy that reports the real `usage`, or check costs elsewhere.",
        )
        return
    effect = "; a search would score replies to prompts that are not complete"
    level: Level = "error" if longest else "warning"
    if abs(growth) <= _COUNT_JITTER:
        message = (
            f"the server cuts prompts without an error: it counts {counts[0]} tokens, and "
            f"{counts[1]} for a prompt that is {added} characters longer"
        )
    elif growth < 0:
        level = "warning"
        message = (
            f"the server counts {counts[0]} tokens, but {counts[1]} for a prompt that is {added} "
            "characters longer: it cuts prompts, or leaves out cached tokens"
        )
    elif growth * chars[0] > _DENSITIES * added * counts[0] and counts[0] >= _MIN_CONTEXT:
        message = (
            f"the server cuts prompts without an error: it counts {counts[0]} tokens for "
            f"{chars[0]} characters, but {growth} for {added} more"
        )
    else:
        message = f"a longer prompt counts more tokens, {counts[1]} instead of {counts[0]}"
        findings.add(check, "ok", f"{message}: it is not cut")
        return
    findings.add(check, level, message + effect, _LONGER_CONTEXT)


def grows(before: Completion, after: Outcome) -> bool:
    """Return whether the count of a longer prompt is larger."""
    if isinstance(after, Failure):
        return False
    return after.usage.prompt_tokens > before.usage.prompt_tokens + _COUNT_JITTER


def check_system(findings: FindingCollector, outcome: Outcome, *, needed: bool) -> None:
    """Report that system messages are ignored, or that requests with them fail.

    Args:
        findings: Receives the finding.
        outcome: Outcome of a request with a longer system message, or with any.
        needed: Whether the search sends system messages.
    """
    if isinstance(outcome, Failure):
        message = (
            "requests with a system message fail, and succeed without it: the chat template "
            f"refuses the role ({outcome.message}); in a search, such calls fail"
        )
    else:
        effect = (
            "the model would not see the instructions in them" if needed else "they have no effect"
        )
        message = (
            "the chat template ignores system messages: with a longer one, the prompt still has "
            f"{outcome.usage.prompt_tokens} tokens; in a search, {effect}"
        )
    findings.add(
        "system role",
        "error" if needed else "warning",
        message,
        "Pass `request_parameters={'system': None}`, which puts them at the beginning of the "
        "first user message, or use another chat template.",
    )


def check_thoughts(
    findings: FindingCollector, request: ChatRequest, outcome: Outcome, *, longest: bool
) -> None:
    """Check the outcome of a request with its whole `max_tokens`.

    Args:
        findings: Receives the finding.
        request: The request.
        outcome: Its outcome.
        longest: Whether it is the longest one of the search, with its `max_tokens`.
    """
    check, name = ("full length", "the longest request") if longest else ("thoughts", "a request")
    message = f"{name} with `max_tokens` {request.max_tokens}"
    if isinstance(outcome, Failure):
        level: Level = "warning" if outcome.kind == "HTTP 429" else "error"
        message += ", which was answered with 1, fails, as calls of a search would: "
        findings.add(check, level, message + outcome.message, remedy_for(outcome))
        return
    tokens, thoughts = outcome.usage.completion_tokens, outcome.thought_tokens
    if outcome.ended_in_thoughts:
        message += (
            f" gets {tokens} tokens of thoughts and no answer (finish reason "
            f"{one_line(outcome.finish_reason, _MAX_SHOWN)!r}), which a search scores as wrong"
        )
        findings.add(check, "warning", message, _LESS_THINKING)
    elif not outcome.text.strip():
        message += (
            f" gets no text (finish reason {one_line(outcome.finish_reason, _MAX_SHOWN)!r}), "
            "which a search scores as wrong"
        )
        remedy = "Check the prompt, and the filters or tools of the server."
        findings.add(check, "warning", message, remedy)
    else:
        message += f" is answered with {tokens} token{'s' if tokens != 1 else ''}"
        message += f", {thoughts} of them thoughts" if thoughts else ""
        message += ", which is the limit" if outcome.finish_reason == "length" else ""
        findings.add(check, "ok", message)


def written(completion: Completion) -> str:
    """Return all that a model has written, thoughts included."""
    return f"{completion.thoughts}\n{completion.text}".strip()


def check_seeds(findings: FindingCollector, first: Outcome, second: Outcome) -> None:
    """Check that two requests with the same seed gave the same reply."""
    for outcome in (first, second):
        if isinstance(outcome, Failure):
            # Thoughts, which are not shown, need more tokens than the check allows.
            level: Level = "ok" if outcome.needs_tokens else "warning"
            remedy = "" if level == "ok" else remedy_for(outcome)
            findings.add("seeds", level, f"not tested: {outcome.message}", remedy)
            return
    assert isinstance(first, Completion)
    assert isinstance(second, Completion)
    if not written(first) and not written(second):
        findings.add("seeds", "ok", "not tested: short replies are thoughts that are not shown")
    elif written(first) == written(second):
        findings.add("seeds", "ok", "the same seed gives the same reply twice")
    else:
        findings.add(
            "seeds",
            "warning",
            "the same seed gives two different replies, so a search cannot be repeated exactly",
            "Keep the store: the samples that it holds are reused as they are.",
        )


def report_identical(findings: FindingCollector, reply: str) -> None:
    """Report that seeds make no difference."""
    findings.add(
        "samples",
        "warning",
        f"different seeds give the same reply {one_line(reply, _MAX_SHOWN)!r} at temperature "
        f"{TEMPERATURE}, so in a search further samples cost money and change nothing",
        "Turn off caches of replies in front of the model, and check that the server applies "
        "`temperature` and `seed`.",
    )


def check_texts(findings: FindingCollector, completions: Sequence[Completion]) -> None:
    """Check that replies have their tokens counted, and no special tokens in them."""
    estimated = [each.usage.estimated for each in completions]
    if any("completion_tokens" in each and "prompt_tokens" not in each for each in estimated):
        findings.add(
            "usage",
            "warning",
            "replies have no count of generated tokens, so a search estimates costs, spend and "
            "`max_spend` from characters",
            "Use a server or proxy that reports `usage`, or check costs elsewhere.",
        )
    found = [match[0] for each in completions if (match := _SPECIAL_TOKEN.search(each.text))]
    if found:
        findings.add(
            "special tokens",
            "warning",
            f"replies contain {found[0].strip()!r}, a token of the chat template, so in a search "
            "correct answers may be compared as wrong ones",
            "Add it to the stage's `stop`, or correct the server's chat template and end token.",
        )


def is_other_model(asked: str, name: str, *, listed: bool) -> bool:
    """Return whether the name in a reply contradicts the one that was asked for.

    Providers add folders, dates and quantizations to names, so only another size, family or
    variant is a contradiction; of a name that the server lists, which may be an alias, only
    another size.

    Args:
        asked: Name in the request.
        name: Name in the reply.
        listed: Whether the server lists the first one.
    """
    texts = asked.lower(), name.lower()
    if _disjoint(*({*_SIZE.findall(text)} for text in texts)):
        return True
    first, second = ({*_FAMILY.findall(text)} - _GENERIC for text in texts)
    if listed or not first or not second:
        return False
    return _disjoint(first - _VARIANTS, second - _VARIANTS) or bool((first ^ second) & _VARIANTS)


def report_other_model(findings: FindingCollector, asked: str, name: str) -> None:
    """Report that another model answers than the one that was asked for."""
    findings.add(
        "model",
        "error",
        f"requests for {asked!r} are answered by {name!r}, so a search would give the scores of "
        "one model to another",
        "Name a model that the server serves, or pass the URL of a server of this one.",
    )


def _disjoint(first: AbstractSet[str], second: AbstractSet[str]) -> bool:
    return bool(first and second and not first & second)
