"""How the samples of a stage become its one result.

An aggregation is any callable from the parsed samples, in order of their index and never empty,
to a result. Malformed samples are left out before.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

Aggregation = Callable[[Sequence[Any]], Any]


def majority_vote(samples: Sequence[Hashable]) -> Hashable:
    """The most frequent sample; of equals, the one that came first."""
    return Counter(samples).most_common(1)[0][0]


def normalized_vote(normalize: Callable[[Any], Hashable]) -> Aggregation:
    """A majority vote over what `normalize` makes of the samples.

    The first sample that voted for the winner is the result.
    """

    def vote(samples: Sequence[Any]) -> Any:
        ballots = [normalize(sample) for sample in samples]
        return samples[ballots.index(majority_vote(ballots))]

    return vote


def id_vote(threshold: float) -> Aggregation:
    """A vote over ids: those that at least a share of the samples name.

    Args:
        threshold: The share, above 0 and up to 1. Every id needs one sample at least, so that a
            tiny threshold is the union of all samples.

    Returns:
        An aggregation of collections of ids into a sorted tuple of ids.

    Raises:
        ValueError: The threshold is out of range.
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"`threshold` is {threshold!r}: give a share above 0 and up to 1.")

    def vote(samples: Sequence[Iterable[Any]]) -> tuple[Any, ...]:
        counts = Counter(name for sample in samples for name in set(sample))
        # A hair below, so that a half of four samples is two of them whatever the rounding.
        needed = max(1, math.ceil(threshold * len(samples) - 1e-9))
        return tuple(sorted(name for name, count in counts.items() if count >= needed))

    return vote


def union(samples: Sequence[Iterable[Any]]) -> tuple[Any, ...]:
    """Every id that any sample names, sorted."""
    return tuple(sorted({name for sample in samples for name in sample}))


def best_of(score: Callable[[Any], float]) -> Aggregation:
    """The sample that a scorer likes best; of equals, the first."""

    def choose(samples: Sequence[Any]) -> Any:
        return max(samples, key=score)

    return choose


def medoid(similarity: Callable[[Any, Any], float]) -> Aggregation:
    """The sample that is most like all the others: a vote for what has no equal, such as prose.

    Args:
        similarity: How alike two samples are; the larger, the more.

    Returns:
        An aggregation; of equals, the first sample wins.
    """

    def choose(samples: Sequence[Any]) -> Any:
        if len(samples) < 3:
            return samples[0]
        likeness = [0.0] * len(samples)
        for i, one in enumerate(samples):
            for j in range(i):
                alike = similarity(one, samples[j])
                likeness[i] += alike
                likeness[j] += alike
        return samples[max(range(len(samples)), key=lambda i: (likeness[i], -i))]

    return choose
