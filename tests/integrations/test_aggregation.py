"""Aggregation of samples."""

import pytest

from optuna_agenttts_integrations import best_of, id_vote, majority_vote, normalized_vote, union


@pytest.mark.parametrize(
    ("samples", "winner"), [(["a"], "a"), (["a", "b", "b"], "b"), (["b", "a", "a", "b"], "b")]
)
def test_majority_wins_and_the_first_breaks_ties(samples, winner):
    """The most frequent sample wins; the first one breaks ties."""
    assert majority_vote(samples) == winner


def test_normalized_votes_count_together():
    """Samples with equal normal forms vote together; the first of them is the result."""
    assert normalized_vote(str.lower)(["No", "Yes", "yes"]) == "Yes"


@pytest.mark.parametrize(
    ("threshold", "ids"), [(1e-9, (1, 2, 3)), (0.5, (1, 2)), (0.75, (1,)), (1.0, (1,))]
)
def test_ids_need_a_fraction_of_the_samples(threshold, ids):
    """An ID is chosen if enough samples contain it; repeats in a sample do not count."""
    assert id_vote(threshold)([(1, 2, 2), (1, 2), (1, 3), (1,)]) == ids


@pytest.mark.parametrize("threshold", [0, -1, 1.01])
def test_thresholds_are_fractions(threshold):
    """A threshold outside of (0, 1] is rejected."""
    with pytest.raises(ValueError, match="threshold"):
        id_vote(threshold)


def test_union_is_the_lowest_threshold():
    """The union has the IDs of all samples."""
    samples = [(3, 1), (2,), ()]
    assert union(samples) == id_vote(1e-9)(samples) == (1, 2, 3)


def test_best_of_takes_the_first_of_the_best():
    """The sample of highest score wins; the first one breaks ties."""
    assert best_of(len)(["a", "bcd", "efg"]) == "bcd"
