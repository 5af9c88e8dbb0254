"""Count sums within a limit: one value of each stage, without iterating over the combinations.

Three methods, tried in this order:

* On a lattice. If all values are multiples of one unit, as costs of models with round sizes are,
  the number of combinations of every sum is built up stage by stage. Exact.
* By halves. The stages form two halves; for each sum of one, the sums of the other that still fit
  are counted by bisection. Exact, for up to `_SORTED` times `_SEARCHED` combinations.
* On a grid. Values are rounded down, then up, to a fraction of the limit; the count is between
  both results. Approximate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Rows = Sequence[Floats]
"""The rows of one stage: values that do not fall, one row per model."""

MAX_EXACT = 10**15
"""Largest count that is exact: floats hold every integer up to 2**53, about nine times as much."""
_MAX_CELLS = 4_000_000
"""Multiples of the unit within the limit up to which a lattice is used: 32 MB per array."""
_MAX_ADDED = 300_000_000
"""Additions of array elements that the lattice may take: about a second."""
_TESTED = 500
"""Values that are tested first for a common unit. Chosen by hand."""
_SORTED, _SEARCHED = 6_000_000, 60_000_000
"""Sums of a half that are sorted, and that are searched for: about a second each."""
_GRID = 2**17 - 1
"""Cells of the approximate grid: a second for twelve stages. An error of a cell per stage changes
the count by about (stages**2 / cells), .1 % for twelve."""
_UNEVEN = 1e-4
"""Distance from a multiple of the unit, in units, that is no rounding error. Chosen by hand."""
_SHORT = 8
"""Values of a run up to which adding them one by one is faster than a cumulative sum."""


def count_sums(stages: Sequence[Rows], limit: float) -> int | float:
    """Count the combinations of one value of each stage whose sum is at most the limit.

    Args:
        stages: Rows of each stage.
        limit: The limit.

    Returns:
        An exact count as an integer, if it is at most `MAX_EXACT`; otherwise a float.
    """
    lowest = [min(float(row[0]) for row in rows) for rows in stages]
    slack = limit - sum(lowest)
    if slack < 0:
        return 0
    shifted = [
        [part for row in rows if len(part := row[: np.searchsorted(row, slack + low, "right")])]
        for rows, low in zip(stages, lowest)
    ]
    shifted = [[row - low for row in rows] for rows, low in zip(shifted, lowest)]
    if sum(max(float(row[-1]) for row in rows) for rows in shifted) <= slack:
        product = math.prod(sum(map(len, rows)) for rows in shifted)
        return product if product <= MAX_EXACT else float(product)
    # Short stages first: their sums are few, and the last stage is never added up.
    shifted.sort(key=lambda rows: sum(map(len, rows)))
    total = _count_on_lattice(shifted, slack)
    if total is None:
        total = _count_by_halves([np.concatenate(rows) for rows in shifted], slack)
    if total is None:
        return _count_on_grid([np.concatenate(rows) for rows in shifted], slack)
    return int(total) if total <= MAX_EXACT else total


def _count_on_lattice(stages: Sequence[Rows], slack: float) -> float | None:
    """Count exactly if all values are multiples of one unit; None if they are not."""
    values = np.unique(np.concatenate([row for rows in stages for row in rows]))
    # Less is a rounding error of the subtraction.
    values = values[values > 1e-12 * slack]
    # Some values suffice to see that there is no unit.
    some = values[np.linspace(0, len(values) - 1, min(len(values), _TESTED)).astype(np.int64)]
    if _unit(some, slack / _MAX_CELLS) is None:
        return None
    unit = _unit(values, slack / _MAX_CELLS)
    if unit is None:
        return None
    last = math.floor(slack / unit)
    error = 0.0
    cells = []
    for rows in stages:
        cells.append([np.rint(row / unit).astype(np.int64) for row in rows])
        error += max(float(np.abs(row - c * unit).max()) for row, c in zip(rows, cells[-1]))
    # Rounding must not move any sum across the limit.
    if not last * unit + error <= slack < (last + 1) * unit - error:
        return None
    runs = [[run for row in rows for run in _runs(row)] for rows in cells]
    added = sum(min(length, _SHORT) for parts in runs[:-1] for _, _, length, _ in parts)
    if added * (last + 1) > _MAX_ADDED:
        return None
    counts = np.zeros(last + 1)
    counts[0] = 1.0
    for parts in runs[:-1]:
        counts = _with_stage(counts, parts)
    cumulative = np.cumsum(counts)
    return float(sum(cumulative[last - row[row <= last]].sum() for row in cells[-1]))


def _unit(values: Floats, smallest: float) -> float | None:
    """Return the greatest common divisor of positive, sorted values, up to rounding errors.

    Args:
        values: The values.
        smallest: Lower bound; None is returned if the divisor is less.
    """
    unit, bound = float(values[0]), float(values[0])
    while unit >= smallest:
        some = values[: np.searchsorted(values, bound, "right")]
        multiples = np.rint(some / unit)
        rest = np.abs(some - multiples * unit)
        rest = rest[rest > _UNEVEN * unit]
        if len(rest):
            # A step of Euclid's algorithm.
            unit, bound = float(rest.min()), float(values[0])
        elif bound >= values[-1]:
            return unit
        else:
            # Fit the unit before larger multiples, which its error moves further.
            unit, bound = float(some @ multiples / (multiples @ multiples)), 4 * bound
    return None


def _runs(cells: Ints) -> Iterator[tuple[int, int, int, int]]:
    """Split a row into runs of constant steps: first cell, step, length and multiplicity."""
    distinct, counts = (part.tolist() for part in np.unique(cells, return_counts=True))
    start = 0
    for end in range(1, len(distinct) + 1):
        if end < len(distinct) and counts[end] == counts[start]:
            step = distinct[start + 1] - distinct[start]
            if distinct[end] - distinct[end - 1] == step:
                continue
        step = distinct[start + 1] - distinct[start] if end - start > 1 else 1
        yield distinct[start], step, end - start, counts[start]
        start = end


def _with_stage(counts: Floats, runs: Sequence[tuple[int, int, int, int]]) -> Floats:
    """Return the number of combinations of every sum after adding a stage."""
    size = len(counts)
    total = np.zeros(size)
    for first, step, length, weight in runs:
        if first >= size:
            continue
        if length <= _SHORT:
            for start in range(first, min(size, first + step * length), step):
                total[start:] += weight * counts[: size - start]
            continue
        padded = np.pad(counts, (0, -size % step)).reshape(-1, step)
        window = padded.cumsum(axis=0).ravel()[:size]
        if (span := step * length) < size:
            window[span:] -= window[:-span].copy()
        total[first:] += weight * window[: size - first]
    return total


def _count_by_halves(stages: Sequence[Floats], slack: float) -> float | None:
    """Count exactly by bisection; None if that takes too long."""
    halves: list[list[Floats]] = [[], []]
    sizes = [1.0, 1.0]
    for values in reversed(stages):
        smaller = int(sizes[1] < sizes[0])
        halves[smaller].append(np.sort(values))
        sizes[smaller] *= len(values)
    searched, in_order = halves if sizes[0] >= sizes[1] else halves[::-1]
    right, left = _sums(in_order, slack), _sums(searched, slack)
    if right is None:
        return None
    if left is not None:
        return float(np.searchsorted(right, slack - left, "right").sum())
    # Too many to sort: the sums with each value of one stage are searched for in turn.
    left = _sums(searched[1:], slack)
    if left is None:
        return None
    fitting = np.searchsorted(left, slack - searched[0], "right")
    if fitting.sum() > _SEARCHED:
        return None
    total = 0
    for value, number in zip(searched[0].tolist(), fitting.tolist()):
        total += int(np.searchsorted(right, slack - value - left[:number], "right").sum())
    return float(total)


def _sums(parts: Sequence[Floats], limit: float) -> Floats | None:
    """Return, sorted, all sums of one value of each part within the limit; None if too many."""
    total = np.zeros(1)
    for part in parts:
        numbers = np.searchsorted(total, limit - part, "right")
        if numbers.sum() > _SORTED:
            return None
        rows = [total[:number] + value for value, number in zip(part.tolist(), numbers.tolist())]
        # Stable, because that sort merges rows that are sorted already.
        total = np.sort(np.concatenate(rows), kind="stable")
    return total


def _count_on_grid(stages: Sequence[Floats], slack: float) -> float:
    """Return the middle of a lower and an upper bound of the count."""
    bounds = []
    for rounded in (np.ceil, np.floor):
        counts = np.zeros(_GRID + 1)
        counts[0] = 1.0
        for values in stages[:-1]:
            cells = rounded(values * (_GRID / slack)).astype(np.int64)
            stage = np.bincount(cells[cells <= _GRID], minlength=_GRID + 1)
            spectrum = np.fft.rfft(counts, 2 * _GRID + 2) * np.fft.rfft(stage, 2 * _GRID + 2)
            counts = np.maximum(np.fft.irfft(spectrum)[: _GRID + 1], 0.0)
        cells = rounded(stages[-1] * (_GRID / slack)).astype(np.int64)
        bounds.append(float(np.cumsum(counts)[_GRID - cells[cells <= _GRID]].sum()))
    return sum(bounds) / 2
