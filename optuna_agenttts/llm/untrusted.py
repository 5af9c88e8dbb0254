"""Text, JSON and numbers from outside: replies of models, pages of servers, files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts.support.numbers import is_finite

_MAX_REPLY = 60_000
"""Characters of a reply that are searched for JSON: about ten times a normal reply."""
_MAX_BRACKETS = 1000
"""Opening brackets of a reply that is repaired: json-repair takes three seconds for 50,000."""
_MAX_REPAIRED = 16_000
"""Characters of a reply that is repaired; the others are cut. Chosen by hand: about three times a
normal reply, which json-repair reads in less than .1 s."""
_MAX_COUNT = 10**9
"""Bound of counts of tokens and requests; far above any, chosen by hand."""
CHARACTERS_PER_TOKEN = 4.0
"""Characters per token of English prose in the tokenizers of Llama 3 and Qwen 2.5, rounded."""


def estimated_tokens(text: str) -> float:
    """Return the estimated number of tokens of a text."""
    return len(text) / CHARACTERS_PER_TOKEN


def as_mapping(value: object) -> Mapping[str, Any]:
    """Return a mapping unchanged, and an empty one for anything else."""
    return value if isinstance(value, Mapping) else {}


def as_number(value: object, least: float | None = None) -> float | None:
    """Return a finite number that is positive, or at least `least`; None for anything else."""
    if not is_finite(value):
        return None
    return float(value) if (value > 0 if least is None else value >= least) else None


def as_count(value: object) -> int | None:
    """Return a whole number from 1 to 10**9; None for anything else."""
    number = as_number(value) or 0.5
    return int(number) if number.is_integer() and number < _MAX_COUNT else None


def decode_json(text: str | bytes) -> Any:
    """Return decoded JSON; None if the text is not JSON."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def json_in_reply(text: str, key: str, *, lists: bool = False) -> Any:
    """Return the JSON object in a model's reply, repaired if necessary; None if there is none.

    Args:
        text: The reply. Thoughts and prose around the object are skipped.
        key: Key of the object: of several objects, the last one with this key is returned.
        lists: Whether a list may be returned, too.
    """
    text = split_thoughts(text)[0][:_MAX_REPLY].strip()
    # The outermost value opens first.
    brackets = ("{}", "[]") if lists else ("{}",)
    spans = sorted((text.find(pair[0]), text.rfind(pair[1]) + 1) for pair in brackets)
    spans = [(start, end) for start, end in spans if start >= 0]
    pieces = (text, *(text[start:end] for start, end in spans))
    values = next(filter(None, map(decode_json, pieces)), None)
    if values is None:
        if not spans or text.count("{") + text.count("[") > _MAX_BRACKETS:
            return None
        import json_repair

        try:
            values = json_repair.loads(text[spans[0][0] :][:_MAX_REPAIRED])
        # json-repair does not document its exceptions for arbitrary text.
        except Exception:
            return None
    if isinstance(values, list):
        objects = [value for value in values if isinstance(value, Mapping) and key in value]
        values = objects[-1] if objects else values
    return values if isinstance(values, (Mapping, list) if lists else Mapping) else None
