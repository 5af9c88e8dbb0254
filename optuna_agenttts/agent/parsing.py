"""Parsing of values in a model's reply: bounded, and repaired where the meaning is unambiguous."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import json_repair

from optuna_agenttts.llm.secrets import one_line
from optuna_agenttts.llm.thoughts import split_thoughts

_MAX_REPLY = 60_000
"""Maximum number of characters of a reply to read: about ten times a normal reply."""
_MAX_BRACKETS = 1000
"""Maximum number of opening brackets in a reply to repair: json-repair takes three seconds for
50,000 of them."""
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
    text = split_thoughts(text)[0][:_MAX_REPLY].strip()
    values: Any = None
    start, end = text.find("{"), text.rfind("}")
    try:
        values = json.loads(text)
    except (ValueError, RecursionError):
        if start < 0:
            return {}, Problem("no JSON", "the reply holds no JSON object")
        try:
            values = json.loads(text[start : end + 1])
        except (ValueError, RecursionError):
            if text.count("{") + text.count("[") > _MAX_BRACKETS:
                return {}, Problem("no JSON", "the reply is no JSON, and too deep to be mended")
            try:
                values = json_repair.loads(text[start:])
            # json-repair does not document its exceptions for arbitrary text.
            except Exception as error:
                return {}, Problem("no JSON", f"the reply is no JSON ({type(error).__name__})")
    if isinstance(values, list):
        # Several objects: the last one with candidates is the answer.
        objects = [v for v in values if isinstance(v, Mapping) and "candidates" in v]
        values = objects[-1] if objects else None
    if not isinstance(values, Mapping):
        return {}, Problem("no JSON", "the reply is no JSON object")
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
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
