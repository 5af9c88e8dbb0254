"""Sizes of models, as their names state them."""

from __future__ import annotations

import re

_UNITS = {"b": 1e9, "t": 1e12, "m": 1e6}
"""Parameters; a name with several units states tokens, too: "Qwen2.5-14B-Instruct-1M"."""
_LARGEST_DENSE = 405e9
"""Parameters of Llama-3.1-405B. Larger numbers are totals of mixtures of experts."""

_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?) ?([btm])(?![a-z])")
_ACTIVE = re.compile(r"(?<![a-z0-9.])[ae](\d+(?:\.\d+)?)([bm])(?![a-z])")
"""Active or effective parameters: "Qwen3-30B-A3B", "granite-3.0-1b-a400m", "gemma-3n-E2B"."""
_MIXTURE = re.compile(r"\d+x\d|moe|mixtral|gpt-oss|qwen3(?:-\w+)?[:-](?:30|80|235|480)b")
"""Mixtures of experts whose names state at most the total."""
_POINTS = (
    (re.compile(r"(?<![\w.])(\d+)_(\d)(?=[bt])"), r"\1.\2"),  # "stablelm-2-1_6b"
    (re.compile(r"(?<=[a-z]_)([01])_(\d)(?=b)"), r"\1.\2"),  # "qwen_0_5b", not "llama_2_7b"
    (re.compile(r"(?<![\w.])(\d+)b(\d)(?![\da-z])"), r"\1.\2b"),  # "bloom-7b1"
    (re.compile(r"(?<![\w.])(\d+)p(\d)(?=b)"), r"\1.\2"),  # "qwen3-0p6b" at Fireworks
)
"""Other signs in place of the decimal point."""
_AMBIGUOUS = re.compile(r"\d_\d_\d[bt]")
"""Version 3.1 and 8B, or version 3 and 1.8B: "llama_3_1_8b"."""


def size_in_name(name: str) -> float | None:
    """Read a model's number of parameters, per token, from its name.

    Args:
        name: Name of the model: 7e9 for "Qwen2.5-7B", 3e9 for "Qwen3-30B-A3B".

    Returns:
        The size. None if the name states none ("gpt-4o"), or not the active parameters of a
        mixture of experts ("Mixtral-8x7B").
    """
    for part in reversed(name.casefold().split("/")):
        active = _ACTIVE.findall(part)
        if active:
            return float(active[-1][0]) * _UNITS[active[-1][1]]
        if _MIXTURE.search(part) or _AMBIGUOUS.search(part):
            return None
        for pattern, replacement in _POINTS:
            part = pattern.sub(replacement, part)
        found = {unit: float(number) * _UNITS[unit] for number, unit in _SIZE.findall(part)}
        size = next((found[unit] for unit in _UNITS if found.get(unit)), None)
        if size is not None:
            return size if size <= _LARGEST_DENSE else None
    return None
