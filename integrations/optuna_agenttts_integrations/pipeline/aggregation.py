"""Aggregation of a stage's samples into its result.

An aggregation is any callable that takes the parsed samples, at least one and in order of their
index, and returns a result. Malformed replies are removed beforehand. Aggregations are partial
functions rather than closures, so that they can be pickled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial
from typing import Any

Aggregation = Callable[[Sequence[Any]], Any]


def majority_vote(samples: Sequence[Hashable]) -> Hashable:
    """Return the most frequent sample; the earliest one wins ties.

    Args:
        samples: The parsed samples of a stage, in order; at least one.
    """
    return Counter(samples).most_common(1)[0][0]


def normalized_vote(normalize: Callable[[Any], Hashable]) -> Aggregation:
    """Build a majority vote over normalized samples.

    Args:
        normalize: Function that maps a sample to the value to vote on.

    Returns:
        An aggregation that returns the first sample with the winning value.
    """
    return partial(_vote_normalized, normalize)


def _vote_normalized(normalize: Callable[[Any], Hashable], samples: Sequence[Any]) -> Any:
    ballots = [normalize(sample) for sample in samples]
    return samples[ballots.index(majority_vote(ballots))]


def id_vote(threshold: float) -> Aggregation:
    """Build a vote that keeps the IDs contained in at least a fraction of the samples.

    Args:
        threshold: The fraction, above 0 and at most 1. Every ID needs at least one sample, so
            that a tiny threshold gives the union.

    Returns:
        An aggregation of collections of IDs into a sorted tuple of IDs.

    Raises:
        ValueError: The threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` must be above 0 and at most 1, got {threshold!r}.")
    return partial(_vote_on_ids, threshold)


def _vote_on_ids(threshold: float, samples: Sequence[Iterable[Any]]) -> tuple[Any, ...]:
    counts = Counter(name for sample in samples for name in set(sample))
    # The tolerance keeps rounding errors from raising the count, as in 25 * .28 = 7 + 9e-16.
    needed = max(1, math.ceil(threshold * len(samples) - 1e-9))
    return tuple(sorted(name for name, count in counts.items() if count >= needed))


def union(samples: Sequence[Iterable[Any]]) -> tuple[Any, ...]:
    """Return the sorted union of the IDs in all samples.

    Args:
        samples: The parsed samples of a stage: collections of IDs.
    """
    return tuple(sorted({name for sample in samples for name in sample}))


def best_of(score: Callable[[Any], float]) -> Aggregation:
    """Build an aggregation that returns the sample of highest score; the first wins ties.

    Args:
        score: Function from a sample to its score; higher is better.
    """
    return partial(_choose_best, score)


def _choose_best(score: Callable[[Any], float], samples: Sequence[Any]) -> Any:
    return max(samples, key=score)


def medoid(similarity: Callable[[Any, Any], float]) -> Aggregation:
    """Build an aggregation that returns the sample most similar to all the others.

    This is a vote for samples that are rarely equal, such as prose.

    Args:
        similarity: Symmetric similarity of two samples; larger is more similar.

    Returns:
        An aggregation; the first sample wins ties.
    """
    return partial(_choose_medoid, similarity)


def _choose_medoid(similarity: Callable[[Any, Any], float], samples: Sequence[Any]) -> Any:
    if len(samples) < 3:
        # Two samples are equally similar to each other.
        return samples[0]
    totals = [0.0] * len(samples)
    for i, sample in enumerate(samples):
        for j in range(i):
            value = similarity(sample, samples[j])
            totals[i] += value
            totals[j] += value
    return samples[totals.index(max(totals))]


_FIRST_OF_TWO = (majority_vote, _vote_normalized, _choose_medoid)
_VOTES = (majority_vote, _vote_normalized, _vote_on_ids, union)
"""Aggregations that take no time, and whose results depend on the samples alone."""


def changes_after_half(aggregate: object, samples: Sequence[Any], result: Any) -> bool | None:
    """Return whether the first half of the samples has another result than all of them.

    Args:
        aggregate: The aggregation.
        samples: All samples, in order.
        result: Their result.

    Returns:
        None if there is one sample, or the aggregation is not a vote or union of this module:
        those of users, and fusions, may cost time or calls.
    """
    if len(samples) < 2 or not any(_function_of(aggregate) is known for known in _VOTES):
        return None
    half: Any = aggregate(samples[: (len(samples) + 1) // 2])  # type: ignore[operator]
    return bool(half != result)


def equal_counts(aggregate: object) -> tuple[tuple[int, ...], ...]:
    """Return the groups of numbers of samples that an aggregation maps to the same result.

    The samples are the first ones of one sequence. Of two, votes return the first.

    Args:
        aggregate: The aggregation.
    """
    function = _function_of(aggregate)
    return ((1, 2),) if any(function is known for known in _FIRST_OF_TWO) else ()


def _function_of(aggregate: object) -> object:
    """Return the function of this module that an aggregation is, without its arguments."""
    while isinstance(aggregate, partial):
        aggregate = aggregate.func
    return aggregate
