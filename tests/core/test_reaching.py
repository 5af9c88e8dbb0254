"""`recommend(at_least=...)`: the cheapest tried allocation that reaches a score."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_cases import draw_outcomes, one_stage, small, study_of, study_with_outcomes

from optuna_agenttts import NoEvidenceError, TaskError, recommend
from optuna_agenttts.report.intervals import bounded_interval, probability_above

TASK = one_stage(metric_range=(0, 1))
RATES = {1: 0.2, 4: 0.5, 16: 0.75, 64: 0.8}
TABLE = draw_outcomes(np.random.default_rng(0), list(RATES.values()), 200)


def study(direction="maximize"):
    """Return a study of the table, or of its complement to minimize."""
    table = TABLE if direction == "maximize" else 1 - TABLE
    return study_with_outcomes(TASK, list(zip(map(small, RATES), table)), direction)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_cheapest_allocation_that_reaches_the_score_is_recommended(direction):
    """Those that cost less reach it with less than 90 %; its interval and value are its own."""
    name = "at_least" if direction == "maximize" else "at_most"
    for score, samples in ((0.1, 1), (0.4, 4), (0.65, 16)):
        bound = score if direction == "maximize" else 1 - score
        result = recommend(study(direction), TASK, **{name: bound})
        assert result.allocation == small(samples)
        assert result.cost == pytest.approx(TASK.cost(small(samples)))
        assert result.bound == bound
        assert result.probability >= 0.9
        assert result.ties == result.undecided == ()
        low, high = result.interval
        assert low <= result.value <= high
        # 90 % on one side is within the central 90 % interval's 95 %.
        assert (low > bound - 0.05) if direction == "maximize" else (high < bound + 0.05)
        assert f"reaches {bound:.3g} with a probability of" in str(result)


def test_score_that_none_reaches_names_the_largest_probability():
    """The error has the allocation that is the closest, and what to do."""
    message = r"reaches 0.9 with a probability of 90%: the largest one is .*, of answer: (64|16)"
    with pytest.raises(NoEvidenceError, match=message):
        recommend(study(), TASK, at_least=0.9)
    with pytest.raises(
        NoEvidenceError, match="all expected scores are far from it, the closest is 0"
    ):
        recommend(study(), one_stage(), at_least=1.5)
    silent = study_of(TASK, [(small(samples), rate) for samples, rate in RATES.items()])
    with pytest.raises(NoEvidenceError, match="is unknown: trials reported no outcomes of single"):
        recommend(silent, TASK, at_least=0.9)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_bound_of_the_other_direction_is_refused(direction):
    """A score to reach is a lower bound of studies that maximize, an upper one of others."""
    ours, other = ("at_least", "at_most")[:: 1 if direction == "maximize" else -1]
    with pytest.raises(TaskError, match=f"`{other}` was given, and the study .*: use `{ours}`"):
        recommend(study(direction), TASK, **{other: 0.5})
    for value in (math.nan, math.inf, "high", True):
        with pytest.raises(TaskError, match=f"`{ours}` must be finite"):
            recommend(study(direction), TASK, **{ours: value})
    # 60 instead of .6 is a mistake of the unit.
    with pytest.raises(TaskError, match=f"`{ours}` must be within the metric's range, 0 to 1"):
        recommend(study(direction), TASK, **{ours: 60})


def test_scores_alone_reach_nothing_unless_their_error_is_given():
    """With `score_sd`, the probability is that of a normal distribution."""
    plain = study_of(one_stage(), [(small(n), 0.1 * i) for i, n in enumerate(RATES, 2)])
    with pytest.raises(
        NoEvidenceError, match=r"no outcomes of single instances.* pass `score_sd=`"
    ):
        recommend(plain, one_stage(), at_least=0.3)
    result = recommend(plain, one_stage(), at_least=0.2, score_sd=0.05)
    expected = NormalDist(result.value, 0.05)
    assert result.probability == pytest.approx(1 - expected.cdf(0.2))


def test_share_that_reaches_the_score_is_as_promised():
    """Over studies of lucky and unlucky allocations, nine in ten reach what was asked for."""
    reached, rates = [], np.linspace(0.3, 0.7, 9)
    numbers = (1, 2, 4, 8, 12, 16, 24, 32, 64)
    for seed in range(25):
        table = draw_outcomes(np.random.default_rng(seed), rates, 60)
        made = study_with_outcomes(TASK, list(zip(map(small, numbers), table)))
        try:
            found = recommend(made, TASK, at_least=0.5).allocation["answer"].samples
        except NoEvidenceError:
            continue
        reached.append(rates[numbers.index(found)] >= 0.5)
    assert len(reached) >= 15
    assert np.mean(reached) >= 0.85


@settings(max_examples=200, derandomize=True, database=None)
@given(
    st.floats(0.02, 0.98),
    st.floats(0.005, 0.3),
    st.sampled_from([None, 10, 50, 500]),
    st.floats(0.05, 0.95),
    st.booleans(),
)
def test_probability_is_that_of_the_interval(mean, sd, size, level, bounded):
    """At the lower end of a central interval, it is (1 + level) / 2."""
    ends = (0.0, 1.0) if bounded else (None, None)
    low, high = bounded_interval(mean, sd, *ends, size=size, level=level)
    above = probability_above(low, mean, sd, *ends, size=size)
    assert above == pytest.approx((1 + level) / 2, abs=1e-6)
    assert probability_above(high, mean, sd, *ends, size=size) == pytest.approx(
        (1 - level) / 2, abs=1e-6
    )


@pytest.mark.parametrize("mean", [0.0, 0.5, 1.0])
def test_ends_of_the_range_are_certain(mean):
    """A score is at least the smallest possible one, and not above the largest."""
    assert probability_above(0.0, mean, 0.1, 0.0, 1.0, size=50) == 1
    assert probability_above(1.1, mean, 0.1, 0.0, 1.0, size=50) == 0
    assert probability_above(1.0, mean, 0.1, 0.0, 1.0, size=50) == (mean == 1)
