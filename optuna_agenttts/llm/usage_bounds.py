"""Token counts that cannot be true: named once for each server, and bounded instead of billed."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna_agenttts.llm.port import ChatRequest, Usage
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.support.plain import one_line

_logger = logging.getLogger(__name__)

_UNSEEN = 131_072
"""Tokens of a call that are in no text: thoughts that a server withholds and leaves out of
`max_tokens`, or its own part of the prompt. The longest output that providers allow."""
_TEMPLATE_TOKENS = 32
"""Tokens that a chat template adds to a prompt; Llama 3.1's, with its dates, is the longest of the
common ones."""
_MAX_WARNED = 1000
"""Counts to remember as warned of; chosen by hand, far above the number of servers of a search."""
_warned: set[tuple[str, str]] = set()


def warn_of_counts(where: str, odd: Mapping[str, Any], used: str) -> None:
    """Warn of counts that cannot be true, once for each server and count.

    Args:
        where: Model and server.
        odd: The counts by name.
        used: What is used instead.
    """
    new = {name: value for name, value in odd.items() if (where, name) not in _warned}
    if not new or len(_warned) >= _MAX_WARNED:
        return
    _warned.update((where, name) for name in new)
    shown = ", ".join(f"`{name}` {one_line(repr(value), 40)}" for name, value in new.items())
    _logger.warning(
        "%s reports %s, which cannot be a number of tokens of this call: %s. Check the server, as "
        "its other counts, from which the spend is computed, may be wrong, too.",
        where,
        shown,
        used,
    )


def longest_prompt(request: ChatRequest) -> int:
    """Return the most tokens that a request's prompt can have.

    A token of any tokenizer has at least one byte.
    """
    return sum(_bytes(message.content) for message in request.messages) + _TEMPLATE_TOKENS


def bounded_usage(usage: Usage, request: ChatRequest, text: str, where: str) -> Usage:
    """Return the usage of a call with counts that can be true; warn of the others.

    A count that exceeds what the texts allow by more than a server may add or withhold is replaced
    by that bound.

    Args:
        usage: Tokens that a chat model reports; users' own models may report anything.
        request: The request.
        text: Thoughts and text of the reply.
        where: Model and server, for the warning.
    """
    prompt = longest_prompt(request)
    reply = max(request.max_tokens, _bytes(text))
    bounds = {
        "prompt_tokens": prompt,
        "completion_tokens": reply,
        "thought_tokens": reply,
        "cached_tokens": prompt,
    }
    changes: dict[str, Any] = {}
    for name, most in bounds.items():
        value = getattr(usage, name)
        if type(value) is int and 0 <= value <= most + _UNSEEN:
            continue
        tokens = _whole(value)
        if tokens is None or tokens > most + _UNSEEN:
            main = name in ("prompt_tokens", "completion_tokens")
            changes[name] = most if main else 0
        else:
            # Such as an integer of numpy.
            changes[name] = tokens
    odd = {n: getattr(usage, n) for n in changes if _whole(getattr(usage, n)) != changes[n]}
    if odd:
        used = ", ".join(f"{changes[name]:,}" for name in odd)
        warn_of_counts(where, odd, f"{used} will be used, the most that the texts allow")
    return replace(usage, **changes) if changes else usage


def _whole(value: object) -> int | None:
    """Return a whole number of 0 or more; None for anything else, also for a bool."""
    return int(value) if is_finite(value) and value >= 0 and value == int(value) else None


def _bytes(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))
