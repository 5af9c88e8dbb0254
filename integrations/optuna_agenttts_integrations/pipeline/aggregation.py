"""Aggregation of a stage's samples into its result.

An aggregation is any callable that takes the parsed samples, at least one and in order of their
index, and returns a result. Malformed replies are removed beforehand. Aggregations are partial
functions rather than closures, so that they can be pickled.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Any, Protocol

from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts_integrations.pipeline.settling import further_for_ids, further_for_winner

Aggregation = Callable[[Sequence[Any]], Any]


class Vote(Protocol):
    """Aggregation whose result can be settled before all samples are drawn."""

    def __call__(self, samples: Sequence[Any]) -> Any:
        """Return the result of the samples."""

    def further(self, samples: Sequence[Any], left: int, probability: float) -> int:
        """Return the fewest further samples that can settle the result, 0 if it is settled.

        Args:
            samples: The samples so far, in order.
            left: Number of samples that are left.
            probability: Probability with which the result must be that of all samples.
        """


def majority_vote(samples: Sequence[Hashable]) -> Hashable:
    """Return the most frequent sample; the earliest one wins ties.

    Args:
        samples: The parsed samples of a stage, in order; at least one.
    """
    return Counter(samples).most_common(1)[0][0]


@dataclass(frozen=True, slots=True)
class _Vote:
    """Vote over normalized samples; see `normalized_vote`."""

    normalize: Callable[[Any], Hashable]

    def __call__(self, samples: Sequence[Any]) -> Any:
        ballots = [self.normalize(sample) for sample in samples]
        return samples[ballots.index(majority_vote(ballots))]

    def further(self, samples: Sequence[Any], left: int, probability: float) -> int:
        return further_for_winner([self.normalize(s) for s in samples], left, probability)


def normalized_vote(normalize: Callable[[Any], Hashable]) -> Vote:
    """Build a majority vote over normalized samples.

    Args:
        normalize: Function that maps a sample to the value to vote on.

    Returns:
        An aggregation that returns the first sample with the winning value.
    """
    return _Vote(normalize)


@dataclass(frozen=True, slots=True)
class _IdVote:
    """Vote on each ID; see `id_vote`."""

    threshold: float

    def __call__(self, samples: Sequence[Iterable[Any]]) -> tuple[Any, ...]:
        counts = Counter(name for sample in samples for name in set(sample))
        needed = self._needed(len(samples))
        return tuple(sorted(name for name, count in counts.items() if count >= needed))

    def further(self, samples: Sequence[Iterable[Any]], left: int, probability: float) -> int:
        return further_for_ids(samples, left, probability, self._needed)

    def _needed(self, samples: int) -> int:
        # The tolerance keeps rounding errors from raising the count, as in 25 * .28 = 7 + 9e-16.
        return max(1, math.ceil(self.threshold * samples - 1e-9))


def id_vote(threshold: float) -> Vote:
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
    return _IdVote(threshold)


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


_FIRST_OF_TWO = (majority_vote, _Vote, _choose_medoid)
_VOTES = (majority_vote, _Vote, _IdVote, union)
"""Aggregations that take no time, and whose results depend on the samples alone."""


def changes_after_half(
    aggregate: object, samples: Sequence[Any], result: Any, left: int = 0
) -> bool | None:
    """Return whether the first half of the samples has another result than all of them.

    Args:
        aggregate: The aggregation.
        samples: The samples, in order.
        result: Their result.
        left: Number of samples that were allowed and not drawn, since the others were enough.

    Returns:
        None if there is one sample, or the aggregation is not a vote or union of this module:
        those of users, and fusions, may cost time or calls.
    """
    most = len(samples) + left
    if most < 2 or not any(_function_of(aggregate) is known for known in _VOTES):
        return None
    half: Any = aggregate(samples[: (most + 1) // 2])  # type: ignore[operator]
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
    return type(aggregate) if isinstance(aggregate, (_Vote, _IdVote)) else aggregate


Enough = Callable[[Aggregation, Sequence[Any], int], int]
"""Rule that returns how many further samples to draw before it is asked again, and 0 if there are
enough. It is given the aggregation, the parsed samples so far, in order and without malformed
ones, and the number of samples that are left."""


def is_count(value: object) -> bool:
    """Return whether what a rule returned is a number of samples, and not a truth value."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def settled(probability: float = 1.0) -> Enough:
    """Build a rule that ends votes whose result is settled.

    With probability 1, a vote ends when the samples that are left cannot change its result, which
    is then that of all samples. Below 1, it ends when they change it with a probability of at most
    1 - `probability`, if the winner and its closest rival share them as they share the samples so
    far: a Beta-binomial distribution with a uniform prior, as in Adaptive-Consistency (Aggarwal et
    al., EMNLP 2023), but over the samples that are left.

    Args:
        probability: The probability, above 0.5 and at most 1.

    Returns:
        A rule for `StageProgram.enough`. Of aggregations that are not votes of this package, it
        draws all samples.

    Raises:
        ValueError: The probability is out of range.
    """
    if not (is_finite(probability) and 0.5 < probability <= 1):
        raise ValueError(f"`probability` must be above 0.5 and at most 1, got {probability!r}.")
    return _Settled(float(probability))


@dataclass(frozen=True, slots=True)
class _Settled:
    """Rule that ends votes; see `settled`."""

    probability: float

    def __call__(self, aggregate: Aggregation, samples: Sequence[Any], left: int) -> int:
        if aggregate is majority_vote:
            return further_for_winner(samples, left, self.probability)
        further = getattr(aggregate, "further", None)
        return left if further is None else int(further(samples, left, self.probability))
