"""Confidence intervals of means of bounded quantities."""

from __future__ import annotations

import math
from statistics import NormalDist

_NEAR_EDGE = 2.0
"""Means within this many standard deviations of an edge are taken as proportions. Chosen by the
coverage of simulated outcomes, see `tests/core/test_intervals.py`."""


def bounded_interval(
    mean: float,
    sd: float,
    low: float | None,
    high: float | None,
    *,
    size: int | None = None,
    level: float = 0.9,
) -> tuple[float, float]:
    """Return the central interval of a mean within the range of its metric.

    The score test is inverted, as for a proportion (Wilson 1927, Journal of the American
    Statistical Association 22, pp. 209-212): the interval holds the true means that the observed
    one does not reject, with the standard deviation that it would have if they were true. Far
    from the edges of the range it is ``mean +- z * sd``; near an edge it is asymmetric. With p
    the mean as a fraction of the range and `sd` in the same unit, the mean is as precise as a
    proportion of ``p (1 - p) / sd**2`` outcomes.

    Args:
        mean: Observed mean or expected value. Outside the range, the nearest edge is used.
        sd: Standard deviation of its error, not of single outcomes.
        low: Smallest possible value, or None.
        high: Largest possible value, or None. Without both, the interval is ``mean +- z * sd``.
        size: Number of outcomes that `sd` was estimated from, if known. The mean is then as
            precise as `size` outcomes of 0 and 1, which have the largest variance (Bhatia &
            Davis 2000), or more. It is exactly as precise within two `sd` of an edge, where
            outcomes are so skewed that `sd` says little, and as ``size**2`` of them where all
            outcomes are equal, since one more may differ.
        level: Confidence level, between 0 and 1.

    Returns:
        The ends, which include the mean and are within the range.
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    if low is None or high is None:
        return mean - z * sd, mean + z * sd
    span = high - low
    mean = min(max(mean, low), high)
    p = (mean - low) / span
    count = _equivalent_size(p, min(sd / span, 0.5), size)
    if math.isinf(count):
        return mean, mean
    center = (p + z * z / (2 * count)) / (1 + z * z / count)
    half = math.sqrt(p * (1 - p) / count + z * z / (4 * count**2)) / (1 + z * z / count) * z
    # Rounding must not move the ends past the mean or the range.
    return (
        max(low, min(low + span * (center - half), mean)),
        min(high, max(low + span * (center + half), mean)),
    )


def probability_above(
    bound: float,
    mean: float,
    sd: float,
    low: float | None,
    high: float | None,
    *,
    size: int | None = None,
) -> float:
    """Return the probability that the true mean is at least a bound.

    One minus the level at which the lower end of the one-sided interval reaches the bound; see
    `bounded_interval` for the other arguments.

    Args:
        bound: The bound.
        mean: See `bounded_interval`.
        sd: See `bounded_interval`.
        low: See `bounded_interval`.
        high: See `bounded_interval`.
        size: See `bounded_interval`.
    """
    normal = NormalDist()
    if low is None or high is None:
        return normal.cdf((mean - bound) / sd)
    if bound <= low or bound > high:
        return float(bound <= low)
    span = high - low
    p, wanted = (min(max(mean, low), high) - low) / span, (bound - low) / span
    count = _equivalent_size(p, min(sd / span, 0.5), size)
    variance = wanted * (1 - wanted) / count
    if variance == 0:
        return float(p >= wanted)
    return normal.cdf((p - wanted) / math.sqrt(variance))


def _equivalent_size(p: float, sd: float, size: int | None) -> float:
    """Return the number of outcomes of 0 and 1 that are as precise; see `bounded_interval`."""
    if size is not None:
        if size <= 3 or min(p, 1 - p) <= _NEAR_EDGE * sd:
            return size
        # The variance of Student's distribution: `sd` is an estimate, too.
        sd *= math.sqrt((size - 1) / (size - 3))
    # The variance is not below that of a mean one `sd` from the edge: otherwise the interval of
    # a mean closer to the edge than its error would be as wide as the range.
    count = max(p * (1 - p), sd * (1 - sd)) / sd**2 if sd > 1e-9 else math.inf  # up to rounding
    if size is None:
        return count
    return max(count, size) if math.isfinite(count) else size**2
