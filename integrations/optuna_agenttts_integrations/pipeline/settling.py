"""When a vote is settled: samples that are left cannot, or hardly, change its result.

All functions see the samples so far and the number of samples that are left, and nothing else, so
which samples a vote draws does not depend on what other trials or workers have drawn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache, partial
from math import ceil, exp, lgamma, prod
from typing import Any

_UNCERTAIN = 1e-12
"""Distance from 0 and 1 of the probability of what is not certain, above rounding errors."""


def further_for_winner(ballots: Sequence[Hashable], left: int, probability: float) -> int:
    """Return the fewest further samples that can settle which ballot is the most frequent.

    Args:
        ballots: The ballots so far, in order; the earliest one wins ties.
        left: Number of samples that are left.
        probability: Probability with which the winner must be that of all samples; 1 for
            certainty.

    Returns:
        0 if it is settled, at most `left`.
    """
    # `most_common` keeps the order of first appearance among equal counts.
    ranked = Counter(ballots).most_common(2) + [(None, 0)] * 2
    (winner, lead), (rival, votes) = ranked[:2]
    wins_ties = not votes or ballots.index(winner) < ballots.index(rival)

    def is_settled(more: int) -> bool:
        # It wins with x of the samples that are left if its votes exceed those of the rival.
        needed = ceil((votes + left - more - (lead + more) + (not wins_ties)) / 2)
        return _reaches(probability, lead + more, votes, left - more, needed)

    return _fewest(left, is_settled)


def further_for_ids(
    samples: Sequence[Iterable[Any]],
    left: int,
    probability: float,
    needed: Callable[[int], int],
) -> int:
    """Return the fewest further samples that can settle which IDs enough samples contain.

    Args:
        samples: The samples so far.
        left: Number of samples that are left.
        probability: See `further_for_winner`.
        needed: Function from a number of samples to the number of them that must contain an ID.

    Returns:
        0 if it is settled, at most `left`.
    """
    counts = Counter(name for sample in samples for name in set(sample))
    # An ID that no sample contains so far, as long as one more may come.
    every, seen, total = [*counts.values(), 0], len(samples), len(samples) + left

    def selected(count: int, more: int) -> float:
        missing, draws = needed(total) - count, left - more
        if probability == 1 and 0 < missing <= draws:
            # How probable it is does not matter.
            return 0.5
        return _chance(count, seen + more - count, draws, missing)

    def reached(count: int, more: int) -> bool:
        # All further samples, or none of them, contain the ID.
        chances = selected(count + more, more), 1 - selected(count, more)
        return max(chances) >= probability

    chances = (
        selected(count, 0) if seen and count >= needed(seen) else 1 - selected(count, 0)
        for count in every
    )
    if prod(chances) >= probability:
        return 0
    each = (_fewest(left, partial(reached, count)) for count in every)
    return max(min(left, 1), *each)


def _fewest(left: int, is_settled: Callable[[int], bool]) -> int:
    """Return the fewest further samples, all for the present result, that settle it."""
    return next((more for more in range(left) if is_settled(more)), left)


def _reaches(probability: float, hits: int, misses: int, draws: int, needed: int) -> bool:
    """Return whether enough of further draws are hits, with a probability."""
    return needed <= 0 or (probability < 1 and _chance(hits, misses, draws, needed) >= probability)


@lru_cache(maxsize=65536)
def _chance(hits: int, misses: int, draws: int, needed: int) -> float:
    """Return the probability of at least `needed` hits in further draws.

    Their number has a Beta-binomial distribution, with a uniform prior on the rate of hits.
    """
    if needed <= 0 or needed > draws:
        return float(needed <= 0)
    alpha, beta = hits + 1, misses + 1

    def log_beta(a: float, b: float) -> float:
        return lgamma(a) + lgamma(b) - lgamma(a + b)

    found = sum(
        exp(
            log_beta(more + alpha, draws - more + beta)
            - log_beta(alpha, beta)
            - log_beta(more + 1, draws - more + 1)
        )
        / (draws + 1)
        for more in range(needed, draws + 1)
    )
    # Rounding must not make it certain.
    return min(max(found, _UNCERTAIN), 1 - _UNCERTAIN)
