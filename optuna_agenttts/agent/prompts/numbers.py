"""Figures of prompts, rounded for reading."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Evidence

_SMALLEST = 5e-4
"""Differences below this share of the scale of scores are shown as 0. Chosen by hand: a tenth of
what trials can tell."""
_DIGITS = 3
"""Digits after that of the scale of scores. Chosen by hand."""
_MAX_DECIMALS = 9
"""Decimals beyond which the exponential format is shorter."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Formats scores and their differences.

    Args:
        unit: Scale of the scores, above 0: a difference of 1 is as large as they get.
    """

    unit: float

    @classmethod
    def of(cls, evidence: Evidence) -> Figures:
        """Return the format for the scores of some trials."""
        largest = float(np.abs(evidence.scores).max(initial=0.0))
        return cls(evidence.scale.span or largest or 1.0)

    def value(self, value: float) -> str:
        """Format a score or a difference to a thousandth of the scale, without final zeros."""
        if abs(value) < _SMALLEST * self.unit:
            return "0.0"
        text = self._rounded(value, _DIGITS - _exponent(self.unit))
        whole, point, decimals = text.partition(".")
        return text if "e" in text or not point else f"{whole}.{decimals.rstrip('0') or 0}"

    def plus_minus(self, value: float, error: float | None) -> str:
        """Format a number and its standard error, rounded to the error's first digits."""
        if error is None or not math.isfinite(error) or error < _SMALLEST * self.unit:
            return self.value(value)
        exponent = _exponent(error)
        # Two digits where the first is 1 or 2: rounding .014 to .01 would change it by a third.
        decimals = -exponent + (error < 3 * 10.0**exponent)
        decimals = min(decimals, _DIGITS - _exponent(self.unit))
        return f"{self._rounded(value, decimals)} ± {self._rounded(error, decimals)}"

    def _rounded(self, value: float, decimals: int) -> str:
        """Round to a number of decimals, which may be negative."""
        if decimals > _MAX_DECIMALS or abs(value) >= 1e9:
            return f"{value:.3g}"
        rounded = round(value, decimals)
        return f"{rounded + 0.0:.{max(decimals, 1 if rounded == 0 else 0)}f}"


def _exponent(value: float) -> int:
    """Return the power of ten of a number's first digit."""
    return math.floor(math.log10(value) + 1e-9)
