"""Ties by non-inferiority: cheaper allocations that lose less than a margin."""

from dataclasses import replace

import numpy as np
import pytest
from core_support import LARGE
from hypothesis import given, settings
from hypothesis import strategies as st
from study_cases import draw_outcomes, one_stage, small, study_of, study_with_outcomes

from optuna_agenttts import recommend
from optuna_agenttts.report.ties import MIN_SHARED, Contender, Paired, compare

TASK = one_stage(metric_range=(0, 1))
NUMBERS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
few = settings(max_examples=15, derandomize=True, database=None)


def study(seed, instances, *, spread=0.04, numbers=NUMBERS, task=TASK):
    """Return a study of the small model, and the true rate of each number of samples."""
    rng = np.random.default_rng(seed)
    rates = np.clip(rng.uniform(0.1, 0.9) + spread * rng.normal(size=len(numbers)), 0.01, 0.99)
    # As in most pipelines, more samples are no worse.
    rates = np.sort(rates) if seed % 2 else rates
    table = draw_outcomes(rng, rates, instances, shared=rng.uniform(0.2, 0.9))
    truth = dict(zip(numbers, rates.tolist()))
    return study_with_outcomes(task, list(zip(map(small, numbers), table))), truth


def losses(found, truth, others):
    """Return what some allocations truly lose to the recommended one."""
    best = truth[found.allocation["answer"].samples]
    return [best - truth[other.allocation["answer"].samples] for other in others]


@pytest.mark.slow
def test_ties_lose_less_than_the_margin():
    """Of all ties named on simulated studies, at least 95 % do; also of the cheapest ones."""
    every, cheapest = [], []
    for seed in range(120):
        simulated, truth = study(seed, (50, 100, 200, 400)[seed % 4])
        found = recommend(simulated, TASK)
        lost = losses(found, truth, found.ties)
        every += lost
        cheapest += lost[:1]
    assert len(cheapest) > 30
    for lost in (every, cheapest):
        assert np.mean(np.array(lost) < found.margin) >= 0.95


@pytest.mark.slow
def test_an_interval_of_the_loss_covers_the_truth():
    """The bound of a tie's or an undecided allocation's loss holds in 95 % of the cases."""
    covered = []
    for seed in range(100):
        simulated, truth = study(seed, 100, numbers=NUMBERS[::3])
        found = recommend(simulated, TASK)
        others = (*found.ties, *found.undecided)
        lost = losses(found, truth, others)
        covered += [loss <= other.loss for loss, other in zip(lost, others)]
    assert len(covered) > 50
    assert np.mean(covered) >= 0.93


def contender(outcomes, cost, *, bounds=(-1e-9, 1.0), samples=None):
    """Return an allocation that only its outcomes tell about."""
    allocation = TASK.allocation([(0, samples or int(cost))])
    steps = dict(enumerate(np.asarray(outcomes).tolist()))
    return Contender(allocation, float(np.mean(outcomes)), cost, bounds, steps)


def draw_pair(rng, best, other, instances, shared):
    """Draw contenders of two true rates, the other one cheaper."""
    dear, cheap = draw_outcomes(rng, [best, other], instances, shared)
    return [contender(dear, 9.0), contender(cheap, 1.0)]


@pytest.mark.parametrize(("shared", "most"), [(0.0, 0.06), (0.6, 0.08), (0.95, 0.11)])
def test_losing_just_the_margin_is_rarely_called_a_tie(shared, most):
    """By paired outcomes alone, in one case of twenty; in one of ten if nearly all are equal."""
    rng = np.random.default_rng(0)
    for instances in (50, 200):
        for best, margin in ((0.6, 0.05), (0.6, 0.1), (0.9, 0.1)):
            named = [
                compare(draw_pair(rng, best, best - margin, instances, shared), 0, margin, 1)[0]
                for _ in range(400)
            ]
            # Two standard errors of a proportion of 400 are .03.
            assert np.mean([bool(ties) for ties in named]) <= most + 0.03, (best, margin)


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_stated_number_of_instances_suffices(shared):
    """With so many, an equally good allocation is a tie with a probability of 80 %."""
    rng, named = np.random.default_rng(0), []
    for _ in range(150):
        _, undecided = compare(draw_pair(rng, 0.6, 0.6, 50, shared), 0, 0.05, 1)
        for other in undecided:
            more = draw_pair(rng, 0.6, 0.6, other.instances, shared)
            named.append(bool(compare(more, 0, 0.05, 1)[0]))
    assert len(named) > 100
    assert 0.7 <= np.mean(named) <= 0.9


@pytest.mark.slow
def test_the_stated_number_of_instances_suffices_for_a_recommendation():
    """The posterior's bound does not keep more than a third of equal allocations from it."""
    named = []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        pair = [small(4), small(32)]
        table = draw_outcomes(rng, [0.6, 0.6], 60, 0.7)
        undecided = recommend(study_with_outcomes(TASK, list(zip(pair, table))), TASK).undecided
        for other in undecided:
            table = draw_outcomes(rng, [0.6, 0.6], other.instances, 0.7)
            found = recommend(study_with_outcomes(TASK, list(zip(pair, table))), TASK)
            named.append(found.allocation == small(4) or bool(found.ties))
    assert len(named) > 5
    assert np.mean(named) > 0.66


outcome_lists = st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=25, max_size=60)


@few
@given(st.lists(outcome_lists, min_size=2, max_size=6), st.floats(1e-3, 1), st.floats(1, 100))
def test_larger_margins_name_more_ties(tables, margin, factor):
    """Ties stay ties, with the same bound of their loss, which is below the margin."""
    everyone = [contender(row, cost) for cost, row in enumerate(tables, 1)]
    best = len(everyone) - 1
    ties, undecided = compare(everyone, best, margin, 1)
    more, less = compare(everyone, best, factor * margin, 1)
    assert all(tie in more for tie in ties)
    assert all(other.allocation in [one.allocation for one in undecided] for other in less)
    for tie in (*ties, *more):
        assert tie.loss < factor * margin
        assert tie.shared >= max(MIN_SHARED, len(everyone[best].outcomes))
    for other in undecided:
        assert other.loss >= margin or other.shared < len(everyone[best].outcomes)
    costs = [tie.cost for tie in ties]
    assert costs == sorted(costs)
    assert all(tie.cost < everyone[best].cost for tie in (*ties, *undecided))


def test_clearly_worse_allocations_are_neither_tied_nor_undecided():
    """Neither are those that the posterior knows to be worse."""
    rng = np.random.default_rng(0)
    pair = draw_pair(rng, 0.8, 0.4, 200, 0.5)
    assert compare(pair, 0, 0.05, 1) == ((), ())
    equal = draw_pair(rng, 0.6, 0.6, 200, 0.5)
    worse = replace(equal[1], bounds=(-0.3, -0.1))
    assert compare([equal[0], worse], 0, 0.05, 1) == ((), ())


def test_the_larger_of_both_bounds_counts():
    """A posterior that is less certain than the outcomes keeps an allocation from being a tie."""
    row = np.tile([0.0, 1.0, 1.0], 200)
    for low, expected in ((-0.001, 1), (-0.04, 1), (-0.06, 0)):
        pair = [contender(row, 9.0), contender(row, 1.0, bounds=(low, 0.5))]
        ties, undecided = compare(pair, 0, 0.05, 1)
        assert (len(ties), len(undecided)) == (expected, 1 - expected)
        assert (*ties, *undecided)[0].loss >= -low


@given(outcome_lists, st.integers(1, 24))
def test_no_tie_rests_on_fewer_instances_than_the_winner(row, seen):
    """Equal outcomes on some of the winner's instances leave it undecided."""
    for cut in (row[:seen], row[:-1]):
        pair = [contender(row, 9.0), contender(cut, 1.0)]
        ties, undecided = compare(pair, 0, 2.0, 1)
        assert ties == ()
        assert [other.shared for other in undecided] == [len(cut)]
    few_shared = [contender(row[:19], 9.0), contender(row[:19], 1.0)]
    assert compare(few_shared, 0, 2.0, 1)[0] == ()


def test_paired_bounds_are_those_of_the_mean_difference():
    """Two instances are added, on which the difference is half of the range either way."""
    found = Paired.of({0: 1.0, 1: 0.5, 2: 0.0, 7: 9.0}, {0: 0.0, 1: 0.5, 2: 1.0, 8: 9.0}, 1.0)
    gaps = np.array([1.0, 0.0, -1.0, 0.5, -0.5])
    half = 1.6449 * gaps.std(ddof=1) / np.sqrt(5)
    assert found.shared == 3
    assert (found.lower, found.upper) == pytest.approx((-half, half), abs=1e-4)


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_of_identical_outcomes_the_cheapest_wins(direction):
    """If several allocations have the outcomes of the best one, the cheapest is recommended."""
    rng = np.random.default_rng(0)
    for _ in range(5):
        good = draw_outcomes(rng, [0.8 if direction == "maximize" else 0.2], 40)[0]
        bad = 1 - good
        numbers = rng.permutation([3, 6, 12, 24, 48])
        alike = set(numbers[:3].tolist())
        evidence = [(small(n), good if n in alike else bad) for n in numbers.tolist()]
        evidence.append(({"answer": (LARGE, 4)}, good))
        found = recommend(study_with_outcomes(TASK, evidence, direction), TASK)
        assert found.allocation == small(min(alike))
        assert found.ties == ()


def test_stopped_trials_are_no_ties_and_not_undecided():
    """Nor are they recommended, even if all that they saw was right."""
    table = draw_outcomes(np.random.default_rng(0), np.full(5, 0.7), 300, 0.8)
    table[1, :250] = 1.0
    evidence = list(zip(map(small, (2, 4, 8, 16, 32)), table))
    simulated = study_with_outcomes(TASK, evidence, seen={1: 250, 3: 299})
    found = recommend(simulated, TASK, margin=1.0)
    named = [found.allocation, *(other.allocation for other in (*found.ties, *found.undecided))]
    assert small(4) not in named
    assert small(16) not in named
    assert len(found.ties) == len([n for n in (2, 8, 32) if small(n) in named]) - 1


def test_trials_of_fewer_instances_than_the_winner_are_no_ties():
    """A complete trial of an earlier, smaller set of instances may at best be undecided."""
    table = draw_outcomes(np.random.default_rng(3), [0.7, 0.7, 0.7], 200, 0.9)
    evidence = [(small(2), table[0][:60]), (small(8), table[1]), (small(32), table[2])]
    found = recommend(study_with_outcomes(TASK, evidence), TASK, margin=1.0)
    assert small(2) not in [tie.allocation for tie in found.ties]


def test_scores_alone_have_no_ties():
    """Equal scores prove nothing; with a declared standard deviation neither."""
    scores = [(small(n), 0.5) for n in (8, 9, 10, 11) for _ in range(3)]
    for options in ({}, {"score_sd": 1e-3}, {"margin": 0.9}):
        found = recommend(study_of(TASK, scores), TASK, **options)
        assert found.ties == found.undecided == ()
        assert found.cheapest == found.allocation


def test_ties_of_a_recommendation_are_cheaper_and_within_the_budget():
    """They are sorted by cost, priced by the task, and fit the budget; `cheapest` is the first."""
    simulated, _ = study(1, 400, spread=0.005)
    found = recommend(simulated, TASK, margin=0.2)
    costs = [tie.cost for tie in found.ties]
    assert len(costs) >= 2
    assert costs == sorted(costs)
    assert all(cost < found.cost for cost in costs)
    assert all(TASK.fits(tie.allocation) for tie in found.ties)
    assert found.cheapest == found.ties[0].allocation
    poorer = one_stage(metric_range=(0, 1), budget=20)
    found = recommend(simulated, poorer, margin=0.2)
    assert all(poorer.fits(one.allocation) for one in (found, *found.ties, *found.undecided))


def test_default_margin_is_a_twentieth_of_the_range():
    """Or of the spread of the observed scores, if the range is unknown."""
    simulated, _ = study(0, 50)
    for metric_range, width in (((0, 1), 1), ((-1, 3), 4), (None, 1)):
        found = recommend(simulated, one_stage(metric_range=metric_range))
        assert found.margin == pytest.approx(0.05 * width)
    assert recommend(simulated, TASK, margin=0.02).margin == 0.02
    scores = [(small(n), 10.0 * n) for n in (1, 2, 5)]
    assert recommend(study_of(TASK, scores), one_stage()).margin == pytest.approx(0.05 * 40)


def test_text_lists_ties_and_undecided_allocations():
    """At most three of each are listed, and the others counted."""
    simulated, _ = study(1, 400, spread=0.005)
    found = recommend(simulated, TASK, margin=0.2)
    lines = str(found).splitlines()
    assert lines[0] == f"score (higher is better), cost in {TASK.cost_model.unit} per instance"
    assert lines[1].split() == ["score", "90", "%", "interval", "cost", "answer"]
    assert lines[2].startswith("recommended  ")
    assert lines[2].endswith(f"{found.cost:.4g}  {found.allocation['answer'].samples} x small-3B")
    listed = [line for line in lines if line.startswith("as good for less  ")]
    assert len(listed) == min(3, len(found.ties))
    assert f"{len(found.ties) - 3} more are as good for less." in lines
    assert any(line.endswith("it loses less than 0.20.") for line in lines)
    found = recommend(simulated, TASK, margin=1e-4)
    lines = str(found).splitlines()
    assert sum(line.startswith("undecided  ") for line in lines) == min(3, len(found.undecided))
    assert f"about {found.undecided[0].instances} instances would show it (400 so far)" in str(
        found
    )
