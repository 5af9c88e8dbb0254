"""How samples become one result."""

import pytest

from optuna_agenttts_integrations import best_of, id_vote, majority_vote, normalized_vote, union


@pytest.mark.parametrize(
    ("samples", "winner"), [(["a"], "a"), (["a", "b", "b"], "b"), (["b", "a", "a", "b"], "b")]
)
def test_majority_wins_and_the_first_breaks_ties(samples, winner):
    """The most frequent sample; of equals the first."""
    assert majority_vote(samples) == winner


def test_normalized_votes_count_together():
    """Samples that normalize alike vote together; the first of them is the result."""
    assert normalized_vote(str.lower)(["No", "Yes", "yes"]) == "Yes"


@pytest.mark.parametrize(
    ("threshold", "ids"), [(1e-9, (1, 2, 3)), (0.5, (1, 2)), (0.75, (1,)), (1.0, (1,))]
)
def test_ids_need_their_share_of_the_samples(threshold, ids):
    """An id is chosen if enough samples name it, once each."""
    assert id_vote(threshold)([(1, 2, 2), (1, 2), (1, 3), (1,)]) == ids


@pytest.mark.parametrize("threshold", [0, -1, 1.01])
def test_thresholds_are_shares(threshold):
    """A threshold that is no share is refused."""
    with pytest.raises(ValueError, match="threshold"):
        id_vote(threshold)


def test_union_is_the_lowest_threshold():
    """Union takes what any sample names."""
    samples = [(3, 1), (2,), ()]
    assert union(samples) == id_vote(1e-9)(samples) == (1, 2, 3)


def test_best_of_takes_the_first_of_the_best():
    """The best sample by a scorer; of equals the first."""
    assert best_of(len)(["a", "bcd", "efg"]) == "bcd"
