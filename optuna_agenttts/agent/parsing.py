"""Parsing of values in a model's reply: bounded, and repaired where the meaning is unambiguous."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna_agenttts.llm.untrusted import as_number, json_in_reply
from optuna_agenttts.support.plain import one_line

_INTEGER = re.compile(r"[+-]?\d{1,9}(?:\.0+)?")


@dataclass(frozen=True, slots=True)
class Problem:
    """Problem that makes a reply, or a part of it, unusable.

    Args:
        kind: Fixed label for counting, such as ``"no JSON"`` or ``"unknown model"``.
        text: Description of this case, sent back to the model.
    """

    kind: str
    text: str


def read_object(text: str) -> tuple[Mapping[str, Any], Problem | None]:
    """Return the JSON object in a reply, or an empty one and the problem."""
    values = json_in_reply(text, "candidates")
    if values is None:
        return {}, Problem("no JSON", "the reply holds no JSON object")
    return values, None


def abbreviate(value: Any) -> str:
    """Return a value as JSON of at most 80 characters, for the text of a problem."""
    try:
        return one_line(json.dumps(value, ensure_ascii=False, default=str), 80)
    except (ValueError, RecursionError):
        return "a value that cannot be shown"


def match_model(name: Any, names: Sequence[str]) -> int | None:
    """Return the position of a model name; None if it is unknown or ambiguous."""
    if not isinstance(name, str):
        return None
    if name in names:
        return names.index(name)
    plain = name.strip().casefold()
    alike = [i for i, known in enumerate(names) if known.casefold() == plain]
    # LLMs often omit the organization: "Llama-3B" for "meta/Llama-3B".
    alike = alike or [
        i for i, known in enumerate(names) if known.casefold().rpartition("/")[2] == plain
    ]
    return alike[0] if len(alike) == 1 else None


def read_integer(value: Any) -> int | None:
    """Return an integer, also for ``4.0`` or ``"4"``; None for any other value."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        # Far above any number of samples; chosen by hand.
        return value if abs(value) < 10**9 else None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(float(value))
    return None


def read_float(value: Any) -> float | None:
    """Return a finite number, also for a string that holds one; None for any other value."""
    try:
        return as_number(float(value) if isinstance(value, str) else value, least=-math.inf)
    except ValueError:
        return None
