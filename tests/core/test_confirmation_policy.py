"""Allocations to confirm, their fresh instances, and the end of a search."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optuna_agenttts.confirmation import policy
from optuna_agenttts.confirmation.policy import Belief, Limits


def belief(means, sds, correlation=0.0, noise=0.4, shared=0.5):
    """Return a belief with equal correlations, and outcomes that share some of their noise."""
    count = len(means)
    same = np.eye(count)
    covariance = np.outer(sds, sds) * (correlation + (1 - correlation) * same)
    noises = noise**2 * (shared + (1 - shared) * same)
    return Belief(np.array(means, dtype=float), covariance, noises)


def evaluations(left, count, *, fresh=10_000, prices=None):
    """Return a limit on evaluations."""
    return Limits(np.array([float(left)]), np.ones((1, count)), fresh, prices)


def random_belief(seed, count=8):
    """Return a belief with arbitrary covariances."""
    rng = np.random.default_rng(seed)
    roots = rng.normal(size=(2, count, count))
    covariance = 0.0004 * roots[0] @ roots[0].T + 1e-5 * np.eye(count)
    noise = 0.02 * roots[1] @ roots[1].T + 0.02 * np.eye(count)
    return Belief(rng.normal(0.5, 0.03, count), covariance, noise)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.integers(1, 500))
def test_a_block_changes_the_belief_as_bayes_theorem_says(seed, size, instances):
    """Precisions add up (information form of the update)."""
    before = random_belief(seed)
    positions = np.random.default_rng(seed).permutation(8)[:size]
    after = before.after(before.change(positions, instances))
    pick = np.eye(8)[positions]
    noise = before.noise[np.ix_(positions, positions)] / instances
    precision = np.linalg.inv(before.covariance) + pick.T @ np.linalg.solve(noise, pick)
    np.testing.assert_allclose(after.covariance, np.linalg.inv(precision), atol=1e-9)
    np.testing.assert_array_equal(after.means, before.means)


def test_two_blocks_are_as_good_as_one_of_both():
    before = random_belief(0)
    positions = np.array([1, 4, 6])
    first = before.after(before.change(positions, 30))
    second = first.after(first.change(positions, 70))
    whole = before.after(before.change(positions, 100))
    np.testing.assert_allclose(second.covariance, whole.covariance, atol=1e-12)


def test_chances_are_those_of_the_joint_distribution():
    """The probability is known for two normal variables; a third cannot win."""
    found = policy.chances(belief([0.52, 0.5, 0.1], [0.02, 0.02, 0.001]))
    assert found.sum() == pytest.approx(1)
    # Phi(.02 / (.02 sqrt(2))), within three standard errors of 512 draws.
    assert found[0] == pytest.approx(0.760, abs=0.057)
    assert found[2] == 0


def test_the_gain_is_that_of_the_larger_of_two_normal_variables():
    """If all is known afterwards and means are equal: sd of the difference / sqrt(2 pi)."""
    found = policy.contenders(belief([0.5, 0.5], [0.02, 0.02]), evaluations(2e9, 2, fresh=10**9))
    assert found.gain == pytest.approx(0.02 * np.sqrt(2) / np.sqrt(2 * np.pi), rel=0.1)


def test_those_that_may_win_are_contenders():
    means, sds = [0.5, 0.5, 0.5, 0.3, 0.3, 0.3], [0.03, 0.03, 0.03, 0.005, 0.005, 0.005]
    found = policy.contenders(belief(means, sds), evaluations(1000, 6))
    assert sorted(found.positions) == [0, 1, 2]
    assert found.instances == 333


def test_allocations_that_are_the_same_are_not_told_apart():
    """Their rates are uncertain, but not which is better."""
    one = belief([0.5, 0.5], [0.05, 0.05], correlation=1 - 1e-9)
    assert policy.next_block(one, evaluations(1000, 2)) is None


def test_a_choice_that_is_clear_is_decided():
    assert policy.next_block(belief([0.6, 0.3], [0.02, 0.02]), evaluations(1000, 2)) is None


@pytest.mark.parametrize("looks", [0, 1, 4])
def test_the_last_look_takes_what_is_left(looks):
    block = policy.next_block(belief([0.5, 0.5], [0.05, 0.05]), evaluations(1001, 2), looks)
    assert (block and block.instances) == (500 // looks if looks else None)


@given(st.integers(0, 2**32 - 1), st.floats(1, 5000))
def test_more_evaluations_are_never_worth_less(seed, left):
    """Up to the error of the draws."""
    one = random_belief(seed)
    few = policy.contenders(one, evaluations(left, 8))
    many = policy.contenders(one, evaluations(2 * left, 8))
    assert 0 <= few.gain <= many.gain + 1e-3


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.floats(1, 3000), min_size=1, max_size=2),
    st.integers(0, 1000),
)
def test_looks_stay_within_all_limits(seed, left, fresh):
    """Also together, with two limits and few fresh instances."""
    rng, one = np.random.default_rng(seed), random_belief(seed)
    costs = np.exp(rng.normal(size=(len(left), 8)))
    rest, used, looks = np.array(left), 0, policy.LOOKS
    while True:
        limits = Limits(rest, costs, fresh - used, costs[0])
        block = policy.next_block(one, limits, looks)
        if block is None:
            break
        assert block.instances >= 1
        assert len(set(block.positions)) == len(block.positions) >= 2
        rest = rest - block.instances * costs[:, block.positions].sum(axis=1)
        used, looks = used + block.instances, looks - 1
        one = one.after(one.change(block.positions, block.instances))
        assert (rest >= -1e-6 * np.array(left)).all()
        assert used <= fresh
    assert looks >= 0


def test_units_of_costs_do_not_matter():
    one = random_belief(3)
    costs = np.exp(np.random.default_rng(3).normal(size=(1, 8)))
    found = [
        policy.next_block(
            one, Limits(unit * np.array([500.0]), unit * costs, 400, unit * costs[0])
        )
        for unit in (1.0, 1e9)
    ]
    np.testing.assert_array_equal(found[0].positions, found[1].positions)
    assert found[0].instances == found[1].instances


@pytest.mark.parametrize(
    ("mean", "price", "taken"), [(0.49, 0.5, True), (0.49, 0.9, False), (0.3, 0.5, False)]
)
def test_a_cheaper_one_that_may_be_as_good_is_taken_along(mean, price, taken):
    """Although it cannot be the best."""
    one = belief([0.5, 0.5, mean], [0.03, 0.03, 1e-4])
    prices = np.array([1.0, 1.0, price])
    block = policy.next_block(one, evaluations(1000, 3, prices=prices))
    assert (2 in block.positions) == taken
    assert 2 not in policy.next_block(one, evaluations(1000, 3)).positions


def test_a_trial_is_worth_it_as_long_as_it_may_find_something_better():
    tried = ([0.5, 0.45], [0.02, 0.02])
    good = belief([*tried[0], 0.52], [*tried[1], 0.06])
    bad = belief([*tried[0], 0.4], [*tried[1], 0.01])
    assert policy.worth_another_trial(good, evaluations(1000, 3), 50)
    assert not policy.worth_another_trial(bad, evaluations(1000, 3), 50)


def test_a_trial_that_leaves_nothing_to_confirm_with_is_not_worth_it():
    """If the choice among the tried ones is open, and none if it exceeds what is left."""
    one = belief([0.5, 0.5, 0.5], [0.05, 0.05, 0.05])
    assert not policy.worth_another_trial(one, evaluations(49, 3), 50)


def test_a_trial_costs_nothing_that_is_missed_where_fresh_instances_are_few():
    """Trials get the evaluations that fresh instances cannot use."""
    one = belief([0.5, 0.5, 0.49], [0.05, 0.05, 0.05])
    assert policy.worth_another_trial(one, evaluations(100_000, 3, fresh=100), 50)
