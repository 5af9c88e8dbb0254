"""Scale of scores: what counts as a rate of 0 and of 1, and which scores are outliers.

The prior is about rates: levels lie between 0 and 1, and differences of some hundredths matter.
Scores of a metric whose range is known become rates by that range. Other scores, of any unit, are
scaled by those observed, so that a search does not depend on the unit: scores ``a x + b`` have the
same rates for all a > 0 and all b.
"""

from __future__ import annotations

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
"""Scores that lie below all others by more than this multiple of the spread of the others are
outliers. Chosen by hand: penalties are farther away than that, and bad allocations rarely are."""
_GAP_ABOVE = 1e3
"""The same for scores above all others, which are what a search is for."""
_MAX_OUTLIERS = 0.25
"""Maximum fraction of outliers: more of them are no exceptions. Chosen by hand."""
_MIN_OTHERS = 5
"""Minimum number of other scores. Chosen by hand: the spread of fewer is too uncertain."""


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


def find_outliers(scores: Floats, scale: Scale | None) -> Bools:
    """Return which scores are outliers, such as penalties for runs that went wrong.

    Args:
        scores: Scores, higher being better, shape (trials,).
        scale: Scale of a metric of known range. Scores outside of it are outliers. If it is None,
            a few scores that lie far from all others are.

    Returns:
        Whether each score is an outlier, or is not finite.
    """
    outliers = ~np.isfinite(scores)
    if scale is not None:
        slack = _TOLERANCE * scale.span
        outliers |= ~((scores >= scale.low - slack) & (scores <= scale.low + scale.span + slack))
        return outliers
    # In halves, whose differences cannot overflow.
    halves = 0.5 * scores
    ordered = np.sort(halves[~outliers])
    if len(ordered):
        below = _count_outliers(ordered, _GAP)
        above = _count_outliers(-ordered[::-1], _GAP_ABOVE)
        outliers |= (halves < ordered[below]) | (halves > ordered[len(ordered) - 1 - above])
    return outliers


def _count_outliers(ordered: Floats, gap: float) -> int:
    """Return how many of the first scores, in ascending order, are outliers."""
    count = len(ordered)
    most = min(int(_MAX_OUTLIERS * count), count - _MIN_OTHERS)
    # Not the last score, which may be an outlier on the other side.
    last = ordered[count - 1 - max(most, 0)]
    for first in range(most, 0, -1):
        spread = last - ordered[first]
        # Scores that are all equal have no spread to compare with.
        if spread > 0 and (ordered[first] - ordered[first - 1]) / gap > spread:
            return first
    return 0


def are_binary(outcomes: Iterable[float]) -> bool:
    """Return whether all outcomes are 0 or 1."""
    return set(outcomes) <= {0.0, 1.0}
