"""Scale of scores: what counts as a rate of 0 and of 1, and which scores are outliers.

The prior is about rates: levels lie between 0 and 1, and differences of some hundredths matter.
Scores of a metric whose range is known become rates by that range. Other scores, of any unit, are
scaled by those observed, so that a search does not depend on the unit: scores ``a x + b`` have the
same rates for all a > 0 and all b.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

_MARGIN = 1 / 3
"""Room for better and for worse scores than those observed, as a share of their spread: they span
the rates .2 to .8. Chosen by hand."""
_TOLERANCE = 1e-9
"""Rounding errors of scores outside of the range, as a share of the range."""
_GAP = 3.0
"""A score, with all that equal it, is an outlier if it lies below all others by more than this
multiple of the spread of the others. Chosen by hand: penalties are constants and farther away than
that. The scores of several bad allocations differ, and a planner has to learn from them."""
_GAP_BELOW = 100.0
"""The same for several scores that differ, and for more than `_MAX_OUTLIERS`. Chosen by hand."""
_GAP_ABOVE = 1e3
"""The same for scores above all others, which are what a search is for."""
_MAX_OUTLIERS = 0.25
"""Maximum fraction of outliers: more of them are no exceptions, unless they are very far away.
Chosen by hand."""
_MIN_OTHERS = 8
"""Minimum number of other scores. Chosen by hand: the spread of fewer is too uncertain."""
_FAR = 1e4
"""Gap, as a multiple of the spread of the others, from which two others do. Chosen by hand."""
LARGEST = 1e100
"""Larger scores are outliers wherever the range is unknown: no metric has them, and differences of
the largest numbers overflow."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Linear map between scores, higher being better, and rates: ``rate = (score - low) / span``.

    Args:
        low: The score whose rate is 0.
        span: The difference of the scores whose rates are 1 and 0, 0 or more. It is 0 if the
            range of the metric is unknown and all scores are equal: then they tell nothing, and
            all have a rate of .5.
        bounded: Whether scores cannot lie outside of `low` and ``low + span``.
    """

    low: float = 0.0
    span: float = 1.0
    bounded: bool = True

    @classmethod
    def of(cls, scores: Floats) -> Scale:
        """Return the scale of a metric of unknown range, from scores without outliers."""
        if len(scores) == 0:
            return cls(0.0, 0.0, bounded=False)
        low, high = float(scores.min()), float(scores.max())
        spread = high - low
        return cls(
            low - _MARGIN * spread if spread else low, spread * (1 + 2 * _MARGIN), bounded=False
        )

    @property
    def informative(self) -> bool:
        """True if scores can be told apart."""
        return self.span > 0

    @property
    def limits(self) -> tuple[float, float]:
        """Rates of the smallest and the largest possible, or observed, score."""
        share = 0.0 if self.bounded else _MARGIN / (1 + 2 * _MARGIN)
        return share, 1.0 - share

    @property
    def extent(self) -> float:
        """Width of the metric's range, or the spread of the observed scores if it is unknown."""
        return self.span if self.bounded else self.span / (1 + 2 * _MARGIN)

    def rates(self, scores: Floats) -> Floats:
        """Convert scores to rates."""
        if not self.informative:
            return np.full_like(scores, 0.5)
        return (scores - self.low) / self.span

    def scores(self, rates: Floats) -> Floats:
        """Convert rates to scores."""
        return rates * self.span + self.low


UNIT_SCALE = Scale()
"""Scale of scores that are rates."""


def known_scale(
    metric_range: tuple[float, float] | None, sign: float, *, binary: bool
) -> Scale | None:
    """Return the scale of a metric of known range, or None.

    Args:
        metric_range: Declared smallest and largest value of the metric.
        sign: 1 if scores are the metric's values, -1 if they are negated.
        binary: Whether there are outcomes, and all are 0 or 1.
    """
    if metric_range is None and not binary:
        return None
    low, high = sorted(sign * end for end in metric_range or (0.0, 1.0))
    return Scale(low, high - low)


def find_outliers(scores: Floats, scale: Scale | None, sign: float = 1.0) -> Bools:
    """Return which scores are outliers, such as penalties for runs that went wrong.

    Args:
        scores: Scores, higher being better, shape (trials,).
        scale: Scale of a metric of known range. Scores outside of it are outliers. If it is None,
            a few scores that lie far from all others are, scores above 1e100, and values of -1
            where no other value is negative: the common mark of a run that failed.
        sign: 1 if scores are the metric's values, -1 if they are negated.

    Returns:
        Whether each score is an outlier, or is not finite.
    """
    outliers = ~np.isfinite(scores)
    if scale is not None:
        slack = _TOLERANCE * scale.span
        outliers |= ~((scores >= scale.low - slack) & (scores <= scale.low + scale.span + slack))
        return outliers
    outliers |= np.abs(scores) > LARGEST
    marks = sign * scores == -1
    others = sign * scores[~outliers & ~marks]
    if len(others) > max(1, marks.sum()) and others.min() >= 0:
        outliers |= marks
    ordered = np.sort(scores[~outliers])
    if len(ordered):
        below = _count_outliers(ordered, _GAP, _GAP_BELOW)
        above = _count_outliers(-ordered[::-1], _GAP_ABOVE, math.inf)
        outliers |= (scores < ordered[below]) | (scores > ordered[len(ordered) - 1 - above])
    return outliers


def _count_outliers(ordered: Floats, gap: float, wide_gap: float) -> int:
    """Return how many of the first scores, in ascending order, are outliers.

    Args:
        ordered: The scores.
        gap: Gap, as a multiple of the spread of the others, below which a few equal scores are
            outliers.
        wide_gap: The same for scores that differ, and for up to half of the scores.
    """
    size = len(ordered)
    few = min(int(_MAX_OUTLIERS * size), size - _MIN_OTHERS)
    most = (size - 1) // 2
    count = 0
    # Not the last scores, which may be outliers on the other side.
    last = ordered[size - 1 - max(few, 0)]
    for first in range(1, most + 1):
        # Scores that are all equal have no spread to compare with.
        spread = max(last - ordered[first], 0.0)
        distance = ordered[first] - ordered[first - 1]
        alike = first <= few and ordered[count] == ordered[first - 1]
        enough = gap if alike else wide_gap
        if size - first < _MIN_OTHERS:
            enough = max(enough, _FAR)
        if spread > 0 and distance > enough * spread:
            count = first
    return count


def are_binary(outcomes: Iterable[float]) -> bool:
    """Return whether all outcomes are 0 or 1."""
    return set(outcomes) <= {0.0, 1.0}
