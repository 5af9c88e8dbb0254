"""Token counts in replies, and other values of JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from optuna_agenttts.llm.port import ChatRequest, Usage, prompt_usage
from optuna_agenttts.llm.untrusted import as_count, as_mapping, estimated_tokens
from optuna_agenttts.llm.usage_bounds import bounded_usage, warn_of_counts

_COUNTS = ("prompt_tokens", "input_tokens", "completion_tokens", "output_tokens", "total_tokens")
"""Fields that must be numbers of tokens, if they are there."""
_MAX_DIGITS = 12
"""Digits of counts in texts that are read: more than those of any count."""


def first_mapping(values: Any) -> Mapping[str, Any]:
    """Return the first value of a list if it is a mapping, and an empty mapping otherwise."""
    return as_mapping(values[0]) if isinstance(values, list) and values else {}


def generated_tokens(counts: Mapping[str, Any]) -> int:
    """Return the generated tokens that a server counted; 0 if it counted none."""
    return counted(counts, "completion_tokens", "output_tokens")


def read_usage(
    counts: Mapping[str, Any], request: ChatRequest, text: str, reason: str = "", where: str = ""
) -> Usage:
    """Return the tokens that a server counted, thoughts included; estimates of those missing.

    Args:
        counts: Field ``usage`` of the reply, or its form at another place.
        request: The request.
        text: Thoughts and text of the reply.
        reason: Finish reason of the reply.
        where: Model and server, for the warning about counts that cannot be true.
    """
    odd = {name: counts[name] for name in _COUNTS if _is_odd(counts.get(name))}
    if odd:
        warn_of_counts(where, odd, "it is estimated from the texts")
    details = [
        as_mapping(counts.get(f"{kind}_tokens_details"))
        for kind in ("prompt", "input", "completion", "output")
    ]
    generated = generated_tokens(counts)
    total = counted(counts, "total_tokens")
    prompt = counted(counts, "prompt_tokens", "input_tokens")
    prompt = prompt or (max(0, total - generated) if generated else 0)
    thoughts = counted({**counts, **details[3], **details[2]}, "reasoning_tokens")
    # Some servers (xAI) count thoughts apart from the completion, and in the total.
    generated += thoughts if thoughts > generated else 0
    generated = max(generated, total - (prompt or prompt_usage(request).prompt_tokens))
    # At least the token that ends the reply.
    guess = request.max_tokens if reason == "length" else max(1, int(estimated_tokens(text)))
    # The second one is DeepSeek's, the third one Anthropic's.
    names = ("cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
    cached = counted({**counts, **details[1], **details[0]}, *names)
    missing = {"prompt_tokens": not prompt, "completion_tokens": bool(text) and not generated}
    usage = Usage(
        prompt or prompt_usage(request).prompt_tokens,
        generated or guess,
        thoughts,
        cached_tokens=min(prompt, cached),
        estimated=tuple(name for name, is_missing in missing.items() if is_missing),
    )
    return bounded_usage(usage, request, text, where)


def _is_odd(value: Any) -> bool:
    """Return whether a field is there, and neither 0 nor a number of tokens."""
    zero = not isinstance(value, bool) and value in (None, 0, "0", "")
    return not zero and not counted({"": value}, "")


def counted(values: Mapping[str, Any], *names: str) -> int:
    """Return the first of several counts that is there, if only as a text; 0 if there is none."""
    for name in names:
        value = values.get(name)
        if isinstance(value, str) and value.isdecimal():
            value = int(value[:_MAX_DIGITS])
        if count := as_count(value):
            return count
    return 0
