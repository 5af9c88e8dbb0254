"""Bias of the winner's mean, and intervals near the edges of the range."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from study_cases import draw_outcomes, one_stage, small, study_with_outcomes

from optuna_agenttts import recommend
from optuna_agenttts.planner.kernels import surrogate_of
from optuna_agenttts.report.bias import estimate_bias
from optuna_agenttts.study.archive import Archive

TASK = one_stage(metric_range=(0, 1))
NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 32, 40, 48, 56, 64)


def study(seed, rates, instances=50, task=TASK):
    """Return a study of allocations with some true rates."""
    table = draw_outcomes(np.random.default_rng(seed), rates, instances, 0.6)
    return study_with_outcomes(task, list(zip(map(small, NUMBERS), table)))


@pytest.mark.parametrize("rate", [0.15, 0.5, 0.85])
def test_the_winners_value_is_not_its_luck(rate):
    """If all allocations are equal, it is closer to the truth than the score of the best trial."""
    values, luckiest = [], []
    for seed in range(10):
        simulated = study(seed, np.full(len(NUMBERS), rate))
        values.append(recommend(simulated, TASK).value - rate)
        luckiest.append(simulated.best_value - rate)
    assert np.mean(luckiest) > 0.03
    assert abs(np.mean(values)) < 0.5 * np.mean(luckiest)


@settings(max_examples=20, derandomize=True, database=None)
@given(
    st.lists(st.sampled_from([0.0, 0.02, 0.5, 1.0]), min_size=1, max_size=8),
    st.integers(1, 60),
    st.sampled_from(["maximize", "minimize"]),
    st.booleans(),
)
def test_values_and_intervals_are_within_the_range(rates, instances, direction, declared):
    """Also if all outcomes are 1 or all are 0; the interval holds the value."""
    table = np.arange(instances) < np.round(np.array(rates)[:, None] * instances)
    task = TASK if declared else one_stage()
    simulated = study_with_outcomes(task, list(zip(map(small, NUMBERS), table)), direction)
    found = recommend(simulated, task)
    for one in (found, *found.ties, *found.undecided):
        assert 0 <= one.value <= 1
    if instances > 1:
        low, high = found.interval
        assert 0 <= low <= found.value <= high <= 1
        assert low < high


@pytest.mark.parametrize("edge", [0.0, 1.0])
def test_equal_outcomes_leave_room_for_other_ones(edge):
    """Twenty right answers out of twenty may be an accuracy of .9, but hardly of .6."""
    table = np.full((6, 20), edge)
    found = recommend(study_with_outcomes(TASK, list(zip(map(small, NUMBERS), table))), TASK)
    low, high = (abs(end - edge) for end in found.interval)
    assert min(low, high) < 0.02
    assert 0.05 < max(low, high) < 0.35
    assert found.allocation == small(1)


@pytest.mark.slow
@pytest.mark.parametrize("center", [0.03, 0.1, 0.9, 0.97])
def test_intervals_cover_the_truth_near_the_edges(center):
    """The share of simulated studies is near 90 %."""
    covered, errors = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        spread = 0.5 * min(center, 1 - center)
        rates = np.sort(center + spread * rng.uniform(-1, 1, len(NUMBERS)))
        found = recommend(study(seed, rates), TASK)
        truth = rates[NUMBERS.index(found.allocation["answer"].samples)]
        low, high = found.interval
        covered.append(low <= truth <= high)
        errors.append(found.value - truth)
    # Two standard errors of a proportion of 60 are .08.
    assert np.mean(covered) >= 0.85 - 0.08
    assert abs(np.mean(errors)) < 0.03


def biased(simulated, task=TASK):
    """Return the estimated bias."""
    evidence = Archive(task, maximize=True).read(simulated.trials)
    surrogate = surrogate_of(task)[0]
    return estimate_bias(surrogate, evidence, surrogate.points(evidence.models, evidence.samples))


def test_too_few_outcomes_have_no_estimate():
    """It takes ten instances, and two complete trials."""
    assert biased(study(0, np.full(5, 0.5), instances=9)) == 0
    assert biased(study(0, np.full(1, 0.5))) == 0
    assert biased(study(0, np.full(5, 0.5), instances=10)) != 0


def test_the_estimate_is_reproducible():
    """Folds of the instances are drawn with a fixed seed."""
    simulated = study(0, np.full(9, 0.4))
    assert biased(simulated) == biased(simulated)
