"""Values from a model's reply: read and bounded, mended where what was meant is plain."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import json_repair

from optuna_agenttts.llm.secrets import one_line

_MAX_REPLY = 60_000
"""Characters of a reply that are read: some ten times what an honest one needs."""
_BRACKETS = 1000
"""Opening brackets in a reply that is mended: 50,000 of them take json-repair three seconds."""
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_INTEGER = re.compile(r"[+-]?\d{1,9}(?:\.0+)?")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that cannot be used.

    Args:
        kind: What it is in fixed words, to be counted: ``"no JSON"``, ``"unknown model"``.
        text: What it is in this case, to be sent back.
    """

    kind: str
    text: str


def read_object(text: str) -> tuple[Mapping[str, Any], Problem | None]:
    """The JSON object in a text, or why there is none."""
    text = _THOUGHTS.sub(
        "", text[-_MAX_REPLY:] if "</think>" in text else text[:_MAX_REPLY]
    ).strip()
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
            if text.count("{") + text.count("[") > _BRACKETS:
                return {}, Problem("no JSON", "the reply is no JSON, and too deep to be mended")
            try:
                values = json_repair.loads(text[start:])
            # A library that reads arbitrary text may fail in any way.
            except Exception as error:
                return {}, Problem("no JSON", f"the reply is no JSON ({type(error).__name__})")
    if isinstance(values, list):
        # Several objects: the answer is the last that looks like one.
        objects = [v for v in values if isinstance(v, Mapping) and "candidates" in v]
        values = objects[-1] if objects else None
    if not isinstance(values, Mapping):
        return {}, Problem("no JSON", "the reply is no JSON object")
    return values, None


def abbreviate(value: Any) -> str:
    """A value as it is named in a problem."""
    try:
        return one_line(json.dumps(value, ensure_ascii=False, default=str), 80)
    except (ValueError, RecursionError):
        return "a value that cannot be shown"


def match_model(name: Any, names: Sequence[str]) -> int | None:
    """The position of a name among the models of a stage; None if none or several are meant."""
    if not isinstance(name, str):
        return None
    if name in names:
        return names.index(name)
    plain = name.strip().casefold()
    alike = [i for i, known in enumerate(names) if known.casefold() == plain]
    # Models leave out the organization: "Llama-3B" for "meta/Llama-3B".
    alike = alike or [
        i for i, known in enumerate(names) if known.casefold().rpartition("/")[2] == plain
    ]
    return alike[0] if len(alike) == 1 else None


def read_integer(value: Any) -> int | None:
    """An integer, also one that is written ``4.0`` or ``"4"``."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value if abs(value) < 10**9 else None
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str) and _INTEGER.fullmatch(value.strip()):
        return int(float(value))
    return None


def read_float(value: Any) -> float | None:
    """A finite number, also one that is written as text."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value) if isinstance(value, (int, float, str)) else math.nan
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
