"""Intervals of means within the range of a metric."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts.report.intervals import bounded_interval

fractions = st.floats(0, 1)
errors = st.floats(0, 1)
sizes = st.none() | st.integers(1, 10_000)


@given(fractions, errors, sizes, st.sampled_from([0.5, 0.9, 0.95]))
def test_intervals_contain_the_mean_and_are_within_the_range(mean, sd, size, level):
    low, high = bounded_interval(mean, sd, 0, 1, size=size, level=level)
    assert 0 <= low <= mean <= high <= 1


@given(
    st.integers(0, 100),
    st.integers(0, 100),
    sizes,
    st.floats(-1e6, 1e6),
    st.floats(1e-3, 1e6),
)
def test_intervals_follow_the_unit_of_the_metric(percent, error, size, low, span):
    """A change of zero, of unit, or of direction changes the ends alike."""
    mean, sd = percent / 100, error / 200
    ends = np.array(bounded_interval(mean, sd, 0, 1, size=size))
    scaled = bounded_interval(low + span * mean, span * sd, low, low + span, size=size)
    tolerance = 1e-6 * (span + abs(low))
    if min(percent, 100 - percent) != error:  # where rounding decides what is near the edge
        assert scaled == pytest.approx(tuple(low + span * ends), abs=tolerance)
        mirrored = bounded_interval(1 - mean, sd, 0, 1, size=size)
        assert mirrored == pytest.approx((1 - ends[1], 1 - ends[0]), abs=1e-9)


@given(fractions, st.floats(0, 0.5), st.integers(1, 1000), st.integers(1, 1000))
def test_more_outcomes_make_narrower_intervals(mean, spread, one, more):
    widths = [
        np.diff(bounded_interval(mean, spread / np.sqrt(size), 0, 1, size=size))[0]
        for size in (one, one + more)
    ]
    assert widths[1] <= widths[0] + 1e-12


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_proportions_have_wilsons_interval(right, count, low, high):
    outcomes = np.arange(count) < right
    sd = outcomes.std(ddof=1) / np.sqrt(count)
    found = bounded_interval(right / count, sd, 0, 1, size=count, level=0.95)
    assert found == pytest.approx((low, high), abs=6e-5)


@given(st.floats(-1e6, 1e6), st.floats(0, 1e6), sizes)
def test_without_a_range_the_interval_is_normal(mean, sd, size):
    ends = mean - 1.6448536 * sd, mean + 1.6448536 * sd
    assert bounded_interval(mean, sd, None, None, size=size) == pytest.approx(ends, abs=0.1)


def test_far_from_the_edges_the_interval_is_normal():
    found = bounded_interval(0.83, 0.001, 0, 1)
    assert found == pytest.approx((0.83 - 1.6449e-3, 0.83 + 1.6449e-3), abs=1e-5)


@given(st.floats(0, 1e-3), st.floats(1e-4, 0.1))
def test_a_mean_closer_to_the_edge_than_its_error_has_a_useful_interval(mean, sd):
    """It is as wide as that of a mean one error from the edge, not as wide as the range."""
    assert bounded_interval(mean, sd, 0, 1)[1] <= 4 * sd + mean


@given(st.floats(0.01, 0.99), st.integers(4, 1000))
def test_equal_outcomes_do_not_prove_a_variance_of_zero(value, size):
    low, high = bounded_interval(value, 0, 0, 1, size=size)
    assert low < value < high
    assert high - low < 4 / size
    assert bounded_interval(value, 0, 0, 1) == (value, value)


# Kinds of outcomes of mean p: 0 or 1, in steps, and continuous with ever less spread.
KINDS = {
    "binary": lambda rng, p, shape: rng.binomial(1, p, shape),
    "quarters": lambda rng, p, shape: rng.binomial(4, p, shape) / 4,
    **{
        f"beta {k}": lambda rng, p, shape, k=k: rng.beta(k * p, k * (1 - p), shape)
        for k in (1, 4, 20, 100)
    },
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [20, 50, 200])
def test_intervals_cover_the_truth_near_the_edges_too(kind, size):
    """Near the edges a few points more than 90 %, since proportions are discrete."""
    rng = np.random.default_rng(size)
    for p in (0.02, 0.05, 0.1, 0.3, 0.5, 0.7, 0.9, 0.95, 0.98):
        rounds = 1500
        outcomes = KINDS[kind](rng, p, (rounds, size))
        means, sds = outcomes.mean(axis=1), outcomes.std(axis=1, ddof=1) / np.sqrt(size)
        ends = [
            bounded_interval(mean, sd, 0, 1, size=size)
            for mean, sd in zip(means.tolist(), sds.tolist())
        ]
        covered = np.mean([low <= p <= high for low, high in ends])
        # Three standard errors of a simulated coverage are .023.
        assert 0.85 - 0.023 <= covered <= 0.98, (p, covered)
