"""Words of thinking efforts, and the tokens of thoughts that they stand for."""

from __future__ import annotations

from types import MappingProxyType

Effort = str | int
"""Thinking effort: a word such as ``"low"``, or the largest number of tokens of the thoughts."""

EXPECTED_TOKENS = MappingProxyType(
    {
        "off": 0,
        "none": 0,
        "minimal": 128,
        "low": 512,
        "medium": 2048,
        "on": 2048,
        "high": 8192,
        "xhigh": 16384,
        "max": 16384,
    }
)
"""Expected tokens of the thoughts of one sample, by effort, until they are measured. Chosen by
hand, from the lengths that open models write on questions of mathematics and code."""

BUDGET_RATIO = 2
"""Tokens that thoughts may take, as a multiple of the expected ones: of a budget, half is expected
to be used, and `max_tokens` ends thoughts that are longer. Chosen by hand: more would exceed the
context of many models at high effort."""


def is_off(effort: Effort | None) -> bool:
    """Return whether an effort means no thoughts."""
    return effort in ("off", "none", 0)
