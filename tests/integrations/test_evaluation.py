"""Intervals, comparisons and totals of evaluations, against known values and simulations."""

import itertools
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pipeline_support import allocation, make_objective

from optuna_agenttts_integrations import (
    Evaluation,
    InstanceResult,
    PipelineError,
    playground,
)
from optuna_agenttts_integrations.pipeline.evaluation import Comparison, StageUsage
from optuna_agenttts_integrations.pipeline.statistics import paired_test


def evaluation(outcomes, **options):
    """Build an evaluation of instances 0, 1, ... with these outcomes."""
    results = {str(i): InstanceResult(float(v), False) for i, v in enumerate(outcomes)}
    return Evaluation(results, 1.0, **options)


def compared(gaps):
    """Compare two evaluations whose outcomes differ by these gaps."""
    return evaluation(np.asarray(gaps)).against(evaluation([0] * len(gaps)))


def exact(gaps):
    """Compute the p-value of the paired permutation test by brute force."""
    observed = abs(sum(gaps))
    sums = [
        abs(sum(sign * gap for sign, gap in zip(signs, gaps)))
        for signs in itertools.product((-1, 1), repeat=len(gaps))
    ]
    return sum(total >= observed - 1e-9 for total in sums) / len(sums)


# Intervals.


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [
        # Newcombe 1998, Statistics in Medicine 17, table I, method 3.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (8, 10, 0.4902, 0.9433),
        (20, 20, 0.8389, 1.0),
        (1, 1, 0.2065, 1.0),
        (0, 1, 0.0, 0.7935),
    ],
)
def test_proportions_have_wilsons_interval(right, count, low, high):
    """It is used if all outcomes are 0 or 1, including none and all of them 1."""
    interval = evaluation([1] * right + [0] * (count - right)).interval
    assert interval == pytest.approx((low, high), abs=6e-5)


@pytest.mark.parametrize(
    "draw",
    [
        lambda rng: rng.beta(4, 2, 60),
        lambda rng: rng.integers(0, 5, 80) / 4,
        lambda rng: (rng.random(150) < 0.7) * 1.0,
    ],
)
def test_intervals_cover_the_mean_95_times_of_100(draw):
    """Outcomes are continuous, in steps, or 0 and 1."""
    rng = np.random.default_rng(1)
    truth = np.concatenate([draw(rng) for _ in range(2000)]).mean()
    rounds = 200
    covered = 0
    for _ in range(rounds):
        low, high = evaluation(draw(rng)).interval
        covered += low <= truth <= high
    # Three standard errors of a proportion of 200 are 4.6 %; bootstrap intervals of small samples
    # are slightly narrow.
    assert 0.895 <= covered / rounds <= 0.995


@pytest.mark.parametrize("values", [[0.3], [0.3] * 9, [2.0], [-1.0] * 4])
def test_outcomes_without_spread_have_no_interval_but_themselves(values):
    """The interval of equal values has width zero."""
    assert evaluation(values).interval == pytest.approx((values[0], values[0]))


def test_intervals_contain_the_mean_and_are_reproducible():
    """The order of instances changes them only by sampling error."""
    values = np.random.default_rng(0).random(30)
    one = evaluation(values)
    low, high = one.interval
    assert low < one.mean < high
    assert one.interval == one.interval
    assert evaluation(values[::-1]).interval == pytest.approx((low, high), abs=0.01)


def test_many_instances_take_bounded_memory():
    """Resamples are drawn in blocks."""
    values = np.random.default_rng(0).random(20_000)
    tracemalloc.start()
    one = evaluation(values)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    _ = compared(values[:4000])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - before < 1e8
    assert one.mean == pytest.approx(0.5, abs=0.01)


# Comparisons.


@pytest.mark.parametrize("count", [1, 2, 3, 6, 10])
@pytest.mark.parametrize("kind", ["scale", "steps", "binary"])
def test_few_instances_are_compared_exactly(count, kind):
    """The p-value is that of all sign patterns."""
    rng = np.random.default_rng(count)
    for _ in range(5):
        gaps = {
            "scale": rng.normal(0.3, 1, count),
            "steps": rng.integers(-3, 4, count) / 10,
            "binary": rng.integers(-1, 2, count) * 1.0,
        }[kind]
        assert compared(gaps).p_value == pytest.approx(exact(gaps.tolist()))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1e6 / 3, 1e12 / 7])
def test_the_scale_of_outcomes_does_not_matter(scale):
    """Equal sums count as equal at any scale."""
    gaps = np.array([-3, 3, 2, -3, -1, 3, -2, -3]) / 10
    assert compared(gaps).p_value == 0.6875
    assert compared(gaps * scale).p_value == compared(gaps).p_value
    many = np.tile(gaps, 5)
    assert compared(many * scale).p_value == compared(many).p_value


def test_sampled_p_values_are_close_to_exact_ones():
    """Above 14 differing instances the test is sampled; the binomial gives its expectation."""
    # 15 of 20 differing instances in favour: twice the upper tail of Bin(20, 1/2).
    p_value = compared([1.0] * 15 + [-1.0] * 5 + [0.0] * 30).p_value
    assert p_value == pytest.approx(0.0414, abs=0.006)
    # 8 of 9, by the exact test.
    assert compared([1.0] * 8 + [-1.0]).p_value == pytest.approx(20 / 512)


@pytest.mark.parametrize("count", [8, pytest.param(24, marks=pytest.mark.slow)])
def test_p_values_are_uniform_where_there_is_no_difference(count):
    """Exact and sampled p-values are checked at the quartiles and in the tail."""
    rng = np.random.default_rng(count)
    rounds = 400
    found = np.array([compared(rng.normal(0, 1, count)).p_value for _ in range(rounds)])
    for level in (0.05, 0.25, 0.5, 0.75):
        error = 3.5 * (level * (1 - level) / rounds) ** 0.5
        assert abs((found <= level).mean() - level) <= error + 1 / 2 ** (count - 1)


def test_a_real_difference_is_found():
    """It is .1 with a standard deviation of .2 on 100 instances."""
    gaps = np.random.default_rng(0).normal(0.1, 0.2, 100)
    comparison = compared(gaps)
    assert comparison.p_value < 0.001
    assert comparison.interval[0] > 0
    assert comparison.difference == pytest.approx(gaps.mean())


@pytest.mark.parametrize("count", [5, 40])
def test_swapping_the_evaluations_only_changes_signs(count):
    """Difference and interval change their sign, the p-value stays."""
    rng = np.random.default_rng(count)
    one, other = (evaluation(rng.random(count)) for _ in range(2))
    there, back = one.against(other), other.against(one)
    assert back.difference == pytest.approx(-there.difference)
    assert back.interval == pytest.approx((-there.interval[1], -there.interval[0]))
    assert back.p_value == there.p_value
    assert back.instances == count


def test_the_order_of_instances_does_not_matter():
    """Instances are paired by ID."""
    rng = np.random.default_rng(0)
    one, other = (evaluation(rng.random(30)) for _ in range(2))
    turned = Evaluation(dict(reversed(one.results.items())), 1.0)
    assert turned.against(other) == one.against(other)


@pytest.mark.parametrize("values", [[0.5], [0.5] * 4, np.linspace(0, 1, 50)])
def test_no_difference_has_a_p_value_of_1(values):
    """Without a range, its interval has width zero."""
    comparison = evaluation(values).against(evaluation(values))
    assert comparison == Comparison(0.0, (0.0, 0.0), 1.0, len(values))


@pytest.mark.parametrize("options", [{}, {"metric_range": (0, 1)}, {"metric_range": (-5, 20)}])
@pytest.mark.parametrize("count", [1, 3, 20, 400])
def test_no_difference_on_some_instances_does_not_exclude_one_on_others(count, options):
    """By Wilson's interval, the more instances the less; all of it within the range."""
    values = [1, 0] * count
    comparison = evaluation(values, **options).against(evaluation(values))
    low, high = comparison.interval
    span = np.diff(options.get("metric_range", (0, 1)))[0]
    assert comparison.p_value == 1
    assert (low, high) == pytest.approx((-high, high))
    # Wilson's upper end for 0 of n is z**2 / (n + z**2).
    assert high / span == pytest.approx(1.96**2 / (2 * count + 1.96**2), abs=1e-3)


OUTCOMES = st.sampled_from([[0.0, 1.0], [0.0, 0.25, 0.5, 0.75, 1.0], np.linspace(0, 1, 1001)])


@given(st.data(), OUTCOMES, st.integers(1, 40), st.booleans())
@settings(max_examples=60)
def test_the_interval_excludes_zero_exactly_if_the_test_rejects_it(data, scale, count, declared):
    """Both lie within the range and include what was observed."""
    pairs = st.lists(st.tuples(*[st.sampled_from(list(scale))] * 2), min_size=count)
    ours, theirs = np.transpose(data.draw(pairs))
    if data.draw(st.booleans()):
        ours = np.maximum(ours, theirs)  # one-sided, which is significant more often
    options = {"metric_range": (0, 1)} if declared else {}
    found = evaluation(ours, **options).against(evaluation(theirs))
    low, high = found.interval
    assert low - 1e-12 <= found.difference <= high + 1e-12
    assert (low <= 0 <= high) == (found.p_value >= 0.05)
    if declared or np.isin([*ours, *theirs], (0, 1)).all():
        assert -1 <= low <= high <= 1


@pytest.mark.parametrize("count", [6, 15, 60])
def test_the_ends_of_the_interval_are_differences_that_the_test_barely_keeps(count):
    """One method for both: the test of `gaps - end` has the p-value .05."""
    gaps = np.random.default_rng(count).normal(0.3, 1, count)
    low, high = paired_test(gaps, None)[1]
    for inside, outside in ((low + 0.01, low - 0.1), (high - 0.01, high + 0.1)):
        assert paired_test(gaps - inside, None)[0] >= 0.05
        # The losses of few gaps have wide intervals, so the interval may reach a bit farther.
        assert paired_test(gaps - outside, None)[0] < 0.08


@pytest.mark.parametrize("rates", [(0.98, 0.92), (0.05, 0.02), (0.95, 0.9), (0.99, 0.99)])
@pytest.mark.parametrize("count", [20, 60])
def test_intervals_of_differences_cover_the_truth_near_the_edges(rates, count):
    """Few instances differ there. Bootstrap intervals covered as little as 58 %."""
    rng = np.random.default_rng(count)
    rounds, covered = 150, 0
    # Outcomes are correlated: a mean of a shared and an own draw is below a threshold.
    thresholds = np.quantile(rng.random((2, 400_000)).mean(axis=0), rates)
    for _ in range(rounds):
        draws = (rng.random((count, 1)) + rng.random((count, 2))) / 2
        ours, theirs = (draws < thresholds).T * 1.0
        low, high = evaluation(ours).against(evaluation(theirs)).interval
        covered += low <= rates[0] - rates[1] <= high
    assert covered / rounds >= 0.93


@pytest.mark.parametrize("size", [20, 100])
@pytest.mark.parametrize("p", [0.03, 0.97])
def test_intervals_of_graded_outcomes_cover_the_mean_near_the_edges(p, size):
    """Bootstrap intervals of skewed outcomes covered as little as 75 %."""
    rng = np.random.default_rng(size)
    covered = 0
    for _ in range(400):
        low, high = evaluation(rng.beta(2 * p, 2 - 2 * p, size), metric_range=(0, 1)).interval
        assert 0 <= low <= high <= 1
        covered += low <= p <= high
    # Three standard errors of 95 % are .033.
    assert 0.95 - 0.033 - 0.01 <= covered / 400 <= 0.995


def test_outcomes_outside_the_declared_range_extend_it():
    """A failed instance scores 0 on a metric from 1 to 5, too."""
    one = evaluation([0, 4, 5, 3, 5, 0, 4], metric_range=(1, 5))
    low, high = one.interval
    assert 0 <= low < one.mean < high <= 5


def test_two_thousand_instances_are_compared_in_less_than_a_second():
    """In about .15 s on one core."""
    gaps = np.random.default_rng(0).normal(0.1, 1, 2000)
    started = time.process_time()
    compared(gaps)
    assert time.process_time() - started < 2


def test_objectives_pass_on_the_range_of_the_metric():
    """It is the task's."""
    problems = playground.make_problems("search", 2)
    with playground.make_objective(problems=problems) as objective:
        smallest = {stage.name: (stage.models[0].name, 1) for stage in objective.task.stages}
        found = objective.evaluate(smallest)
    assert found.metric_range == objective.task.metric_range == (0, 1)


def test_one_instance_proves_nothing():
    """Both sign patterns are as extreme as the observed one."""
    assert compared([0.9]).p_value == 1


def test_intervals_of_differences_cover_the_truth():
    """Coverage is about 95 % on 60 instances."""
    rng = np.random.default_rng(3)
    rounds, covered = 150, 0
    for _ in range(rounds):
        low, high = compared(rng.normal(0.1, 0.3, 60)).interval
        covered += low <= 0.1 <= high
    assert 0.89 <= covered / rounds <= 0.995


def test_evaluations_of_different_instances_are_rejected():
    """Both missing and other instances are errors."""
    for other in (evaluation([1]), Evaluation({"x": InstanceResult(1.0, False)}, 1.0)):
        with pytest.raises(PipelineError, match="must have the same instances"):
            evaluation([1, 0]).against(other)


def test_text_has_interval_failures_and_comparison():
    """Evaluations print as one line."""
    one = evaluation([1] * 8 + [0] * 2)
    assert str(one) == "0.800 (0.490 to 0.943) on 10 instances"
    results = {**one.results, "9": InstanceResult(0.0, True)}
    both = Evaluation(results, 1.0, one.against(evaluation([0] * 10)))
    assert "10 instances, 1 of them failed; +0.800 (" in str(both)
    assert str(both).endswith("p = 0.0078")


# Totals.


def test_metrics_are_means_and_failures_count_as_zero():
    """An instance without a metric counts as zero, too."""
    results = {
        "a": InstanceResult(1.0, False, {}, {"f1": 0.5, "em": 1.0}),
        "b": InstanceResult(0.0, False, {}, {"f1": 0.25, "em": 0.0}),
        "c": InstanceResult(0.0, True),
        "d": InstanceResult(1.0, False, {}, {"em": 1.0}),
    }
    assert Evaluation(results, 1.0).metrics == {"f1": 0.1875, "em": 0.5}
    assert Evaluation(results, 1.0).failed == 1
    assert evaluation([1]).metrics == {}


def test_totals_are_sums_over_instances_and_stages():
    """This holds for tokens, malformed replies and spend; reuse is a fraction of calls."""
    usage = StageUsage(
        samples=4,
        calls=5,
        generated=2,
        malformed=1,
        prompt_tokens=10,
        generated_tokens=6,
        naive_tokens=15,
        spend=0.5,
    )
    results = {
        name: InstanceResult(1.0, False, {"one": usage, "two": StageUsage()}) for name in "abc"
    }
    total = Evaluation(results, 1.0)
    assert (total.malformed, total.prompt_tokens, total.generated_tokens) == (3, 30, 18)
    assert (total.naive_tokens, total.spend) == (45, 1.5)
    assert total.reused == pytest.approx(0.6)
    assert evaluation([1]).reused == 1


def test_an_objective_compares_on_held_out_instances():
    """A clearly better allocation has a small p-value."""
    objective, _ = make_objective()
    with objective:
        found = objective.evaluate(
            allocation(("large", 9), ("large", 9)),
            [{"id": f"new{i}."} for i in range(60)],
            baseline=allocation(("small", 1), ("small", 1)),
        )
    assert found.comparison.instances == 60
    assert found.comparison.p_value < 0.01
    assert found.comparison.interval[0] > 0
