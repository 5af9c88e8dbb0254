"""Intervals of mean outcomes and of paired differences, and the test of a difference.

Test and interval of a difference come from one set of subsets of the instances. Under random
signs of the differences (Fisher 1935), a sum of n differences d - t is at least the observed one
if and only if the mean of d over the instances whose signs change is at most t. So the one-sided
p-value of a difference t is the fraction of subsets whose mean is at most t, and the interval of
all t that the test does not reject lies between two quantiles of the means of subsets (Hartigan
1969, Journal of the American Statistical Association 64, pp. 1303-1317).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.report.intervals import bounded_interval

_LEVEL = 0.95
"""Confidence level of intervals: the customary one."""

_SUBSETS = 10_000
"""Subsets drawn: a p-value of .05 has a standard error of .002."""

_BLOCK = 2_000_000
"""Numbers drawn at once, to bound memory (16 MB as float64). Chosen by hand."""

_EXACT = 14
"""Maximum number of differing instances for the exact test; 2**14 = 16,384 subsets are about as
many as `_SUBSETS`."""

Floats = NDArray[np.float64]
Interval = tuple[float, float]


def outcome_range(
    outcomes: Sequence[float], declared: tuple[float, float] | None
) -> tuple[float, float] | None:
    """Return the range of a metric: the declared one, or [0, 1] if every outcome is 0 or 1.

    Outcomes outside the declared range, such as the 0 of a failed instance, extend it.
    """
    if declared is not None:
        return min(declared[0], *outcomes), max(declared[1], *outcomes)
    return (0.0, 1.0) if np.isin(outcomes, (0.0, 1.0)).all() else None


def mean_interval(values: Floats, limits: tuple[float, float] | None) -> Interval:
    """Return the 95 % interval of a mean over the population of instances.

    Args:
        values: Outcomes, shape (instances,).
        limits: Range of the metric, or None.
    """
    size = len(values)
    low, high = limits or (None, None)
    error = float(values.std(ddof=1)) / math.sqrt(size) if size > 1 else 0.0
    return bounded_interval(float(values.mean()), error, low, high, size=size, level=_LEVEL)


def paired_test(gaps: Floats, limits: tuple[float, float] | None) -> tuple[float, Interval]:
    """Test whether paired differences have mean zero, and return the means that are not rejected.

    Where few instances differ, more would differ in another draw, which signs do not show. The
    interval then extends as far as that of `_gains_and_losses`, but never over zero if the test
    rejects zero.

    Args:
        gaps: Differences, shape (instances,).
        limits: Range of the metric, or None.

    Returns:
        The two-sided p-value, and the 95 % interval, which contains zero if and only if the
        p-value is at least .05. Its ends are infinite if the instances are too few to reject
        anything and the range is unknown.
    """
    if not np.isfinite(gaps).all():
        return math.nan, (math.nan, math.nan)
    reach = limits[1] - limits[0] if limits else math.inf
    p_value, low, high = (_sign_flips if gaps.any() else _no_gap)(gaps)
    wide_low, wide_high = _gains_and_losses(gaps, reach)
    if p_value >= 1 - _LEVEL or high < 0:
        low = min(low, wide_low)
    if p_value >= 1 - _LEVEL or low > 0:
        high = max(high, wide_high)
    return p_value, (max(low, -reach), min(high, reach))


def _no_gap(gaps: Floats) -> tuple[float, float, float]:
    return 1.0, 0.0, 0.0


def _sign_flips(gaps: Floats) -> tuple[float, float, float]:
    """Return the p-value of random signs, and the ends of the interval; see the module."""
    differing = gaps[gaps != 0]
    rng = np.random.default_rng(0)
    if len(differing) <= _EXACT:
        subsets = np.arange(2 ** len(differing))[:, None] >> np.arange(len(differing)) & 1
        totals = subsets @ np.column_stack([differing, np.ones(len(differing))])
        # Repeated, so that instances without a difference can be in each subset or not.
        totals = np.tile(totals, (-(-_SUBSETS // len(totals)), 1))
    else:
        columns = np.column_stack([differing, np.ones(len(differing))])
        rows = max(1, _BLOCK // len(differing))
        drawn = np.concatenate(
            [
                rng.integers(0, 2, (min(rows, left), len(differing)), dtype=np.int8) @ columns
                for left in range(_SUBSETS // 2, 0, -rows)
            ]
        )
        # With each subset its complement, so that both tails are equally precise. The empty set,
        # which changes no sign, counts as drawn (Davison & Hinkley 1997, section 4.2).
        totals = np.concatenate([drawn, columns.sum(axis=0) - drawn, np.zeros((1, 2))])
    sums, sizes = totals.T
    # Sums that differ from zero only by rounding are zero.
    sums = np.where(np.abs(sums) <= 1e-12 * np.abs(differing).sum(), 0.0, sums)
    sizes = sizes + rng.binomial(len(gaps) - len(differing), 0.5, len(sizes))
    # The empty set has no mean. It counts in both tails.
    empty = sizes == 0
    means = sums / np.where(empty, 1, sizes)
    lowest, highest = np.where(empty, -math.inf, means), np.where(empty, math.inf, means)
    tail = min(np.mean(lowest <= 0), np.mean(highest >= 0))
    cut = math.ceil((1 - _LEVEL) / 2 * len(means) - 1e-9)
    lowest.partition(cut - 1)
    highest.partition(len(means) - cut)
    return min(1.0, 2 * float(tail)), float(lowest[cut - 1]), float(highest[-cut])


def _gains_and_losses(gaps: Floats, reach: float) -> Interval:
    """Return the interval of the mean gain minus the mean loss, each with its own interval.

    They are combined as by Newcombe (1998, Statistics in Medicine 17, pp. 2635-2650) and Zou &
    Donner (2008, Statistics in Medicine 27, pp. 1693-1702). A gap that was not seen is taken to
    be at most as large as the largest one seen, or as the range if there is none.
    """
    largest = float(np.abs(gaps).max()) or reach
    if math.isinf(largest):
        return 0.0, 0.0
    gain, loss = np.maximum(gaps, 0.0), np.maximum(-gaps, 0.0)
    (gain_low, gain_high), (loss_low, loss_high) = (
        mean_interval(part, (0.0, largest)) for part in (gain, loss)
    )
    up, down = float(gain.mean()), float(loss.mean())
    return (
        up - down - math.hypot(up - gain_low, loss_high - down),
        up - down + math.hypot(gain_high - up, down - loss_low),
    )
