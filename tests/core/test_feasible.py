"""The allocations that fit a budget."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts.task import counting
from optuna_agenttts.task.counting import count_sums
from optuna_agenttts.task.feasible import FeasibleSet

quick = settings(max_examples=60, derandomize=True, database=None)


@st.composite
def spaces(draw, most_stages=3, most_models=3, most_samples=5):
    """Draw a small table of non-decreasing costs and a budget that fits the cheapest."""
    step = st.integers(0, 5)
    costs = []
    for _ in range(draw(st.integers(1, most_stages))):
        width = draw(st.integers(1, most_samples))
        models = draw(st.integers(1, most_models))
        costs.append(
            [
                np.cumsum(draw(st.lists(step, min_size=width, max_size=width))).astype(float)
                for _ in range(models)
            ]
        )
    cheapest = sum(min(row[0] for row in rows) for rows in costs)
    dearest = sum(max(row[-1] for row in rows) for rows in costs)
    return FeasibleSet(costs, float(draw(st.integers(int(cheapest), int(dearest)))))


def every(feasible):
    """All allocations, feasible or not."""
    stages = [
        [(model, samples + 1) for model, row in enumerate(rows) for samples in range(len(row))]
        for rows in feasible.costs
    ]
    return list(itertools.product(*stages))


def within(feasible):
    """List the feasible allocations by brute force."""
    return [choices for choices in every(feasible) if feasible.cost(choices) <= feasible.budget]


def rows_of(feasible):
    models, samples = feasible.arrays()
    return [tuple(zip(m, s)) for m, s in zip(models.tolist(), samples.tolist())]


@quick
@given(spaces())
def test_count_is_the_brute_force_count(feasible):
    """Counting by halves finds what counting one by one does."""
    assert feasible.count() == len(within(feasible))


@quick
@given(spaces(most_stages=5, most_samples=4), st.sampled_from([1.0, 0.1, 64 / 3e9, 7.3]))
def test_count_does_not_depend_on_the_unit(feasible, unit):
    """Costs in another unit, whose multiples are rounded, give the same count."""
    costs = [[row * unit for row in rows] for rows in feasible.costs]
    # Between two sums, so that rounding cannot move one across the budget.
    assert count_sums(costs, (feasible.budget + 0.5) * unit) == feasible.count()


@quick
@given(spaces(), st.integers(0, 40))
def test_arrays_up_to_a_limit_hold_all_or_are_none(feasible, limit):
    """More allocations than the limit give None, others all of them."""
    found = feasible.arrays(limit)
    assert (found is None) == (len(within(feasible)) > limit)
    if found is not None:
        assert [a.tolist() for a in found] == [a.tolist() for a in feasible.arrays()]


@quick
@given(spaces())
def test_pairs_are_the_models_of_feasible_allocations(feasible):
    """A pair of stage and model is in some feasible allocation."""
    used = {(stage, model) for row in within(feasible) for stage, (model, _) in enumerate(row)}
    assert set(feasible.pairs()) == used


@pytest.mark.parametrize("budget", [12, 13, 40, 60])
def test_count_of_a_lattice_is_a_binomial_coefficient(budget):
    """Twelve stages whose cost is their number of samples: compositions of the budget."""
    costs = [[np.arange(1.0, 101.0)] for _ in range(12)]
    count = FeasibleSet(costs, float(budget)).count()
    assert (count, type(count)) == (math.comb(budget, 12), int)


@pytest.mark.parametrize(("width", "kind"), [(10, int), (11, float)])
def test_count_is_an_integer_up_to_a_quadrillion(width, kind):
    """Without a budget that binds, the count is a product: 1e15 is exact, more is a float."""
    count = FeasibleSet([[np.arange(1.0, width + 1)] for _ in range(15)], 1e9).count()
    assert (type(count), count) == (kind, pytest.approx(width**15, rel=1e-12))


@pytest.mark.parametrize("unit", [1.0, 0.1, 1 / 3, 50 / 3 / 64])
def test_costs_of_round_sizes_are_counted_on_a_lattice(unit):
    """Multiples of an uneven unit are recognized, also if it is none of the costs."""
    steps = [
        np.arange(6.0, 606.0, 6),
        np.arange(15.0, 1015.0, 10),
        np.arange(1010.0, 11000.0, 100),
    ]
    shifted = [[(row - 6) * unit for row in steps] for _ in range(4)]
    count = counting._count_on_lattice(shifted, 2000.5 * unit)
    assert count == counting._count_by_halves([np.concatenate(r) for r in shifted], 2000.5 * unit)


@pytest.mark.parametrize("seed", range(3))
def test_methods_of_counting_agree(seed):
    """The approximation is within .1 % of bisection, for random costs of six stages."""
    rng = np.random.default_rng(seed)
    stages = [np.concatenate([[0.0], np.sort(rng.random(40))]) for _ in range(6)]
    exact = counting._count_by_halves(stages, 2.0)
    assert counting._count_on_grid(stages, 2.0) == pytest.approx(exact, rel=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        # Few sums are sorted, so most are searched for.
        patch.setattr(counting, "_SORTED", 41**3 - 1)
        assert counting._count_by_halves(stages, 2.0) == exact


def test_a_projection_among_too_many_combinations_replaces_as_few_models_as_possible():
    """Seven of eight stages fit with their largest models, 5**8 combinations."""
    costs = [[np.array([1.0 + model + 0.1 * stage]) for model in range(5)] for stage in range(8)]
    largest = [(4, 1)] * 8
    feasible = FeasibleSet(costs, FeasibleSet(costs, 0).cost(largest) - 1.5)
    projected = feasible.project(largest)
    assert feasible.fits(projected)
    assert sorted(model for model, _ in projected) == [2, *[4] * 7]


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("seed", range(4))
def test_count_for_any_number_of_stages(stages, seed):
    """Stages beyond the fourth are counted too."""
    rng = np.random.default_rng((stages, seed))
    costs = [[np.cumsum(rng.random(3)) for _ in range(rng.integers(1, 3))] for _ in range(stages)]
    totals = [sum(FeasibleSet(costs, 0).cost(c) for c in [choices]) for choices in
              every(FeasibleSet(costs, 0))]  # fmt: skip
    feasible = FeasibleSet(costs, float(np.quantile(totals, 0.3 + 0.15 * seed)))
    assert feasible.count() == len(within(feasible))


@quick
@given(spaces())
def test_walk_yields_exactly_what_fits_in_order(feasible):
    """Walking yields the feasible allocations in order of stages, models and samples."""
    assert list(feasible) == within(feasible)


@quick
@given(spaces())
def test_arrays_hold_exactly_what_fits(feasible):
    """The arrays hold every feasible allocation once and nothing else."""
    assert sorted(rows_of(feasible)) == sorted(within(feasible))


@quick
@given(spaces())
def test_costs_of_many_are_the_costs_of_each(feasible):
    """Pricing at once agrees with pricing one at a time."""
    expected = [feasible.cost(choices) for choices in rows_of(feasible)]
    assert feasible.costs_of(*feasible.arrays()) == pytest.approx(expected)


@quick
@given(spaces(), st.data())
def test_projection_leaves_feasible_ones_alone(feasible, data):
    """What fits is returned as it is."""
    choices = data.draw(st.sampled_from(within(feasible)))
    assert feasible.project(choices) == list(choices)


@quick
@given(spaces(), st.data())
def test_projection_always_fits(feasible, data):
    """Whatever is projected fits afterwards."""
    choices = data.draw(st.sampled_from(every(feasible)))
    assert feasible.fits(feasible.project(choices))


@quick
@given(spaces(), st.data())
def test_projection_keeps_models_that_fit_with_one_sample(feasible, data):
    """Only samples are reduced where that is enough."""
    choices = data.draw(st.sampled_from(every(feasible)))
    models = [model for model, _ in choices]
    projected = [model for model, _ in feasible.project(choices)]
    assert projected == models or not feasible.fits([(model, 1) for model in models])


@quick
@given(spaces(), st.data())
def test_projection_never_adds_samples(feasible, data):
    """No stage gets more samples than were asked for."""
    choices = data.draw(st.sampled_from(every(feasible)))
    for (_, ours), (_, wanted) in zip(feasible.project(choices), choices):
        assert ours <= wanted


@quick
@given(spaces(), st.data())
def test_projection_replaces_as_few_models_as_possible(feasible, data):
    """No feasible combination of models differs in fewer stages."""
    choices = data.draw(st.sampled_from(every(feasible)))

    def changed(other):
        return sum(ours[0] != theirs[0] for ours, theirs in zip(other, choices))

    assert changed(feasible.project(choices)) == min(map(changed, within(feasible)))


@quick
@given(spaces(), st.data())
def test_projection_leaves_no_sample_out_that_would_fit(feasible, data):
    """Of what was asked for, no single sample more fits in any stage."""
    choices = data.draw(st.sampled_from(every(feasible)))
    projected = feasible.project(choices)
    for stage, ((model, samples), (_, wanted)) in enumerate(zip(projected, choices)):
        if samples < wanted:
            more = [*projected]
            more[stage] = (model, samples + 1)
            assert not feasible.fits(more)


@quick
@given(spaces())
def test_model_combinations_are_those_that_fit_with_one_sample_in_order_of_cost(feasible):
    """Every combination that fits, once, cheapest first."""
    combinations = [tuple(row) for row in feasible.model_combinations().tolist()]
    expected = {tuple(model for model, _ in choices) for choices in within(feasible)}
    costs = [feasible.cost([(model, 1) for model in row]) for row in combinations]
    assert (set(combinations), len(combinations), costs) == (
        expected, len(expected), sorted(costs),
    )  # fmt: skip


def test_model_combinations_keep_the_cheapest_of_too_many():
    """A limit leaves the cheapest."""
    costs = [[np.array([c]) for c in (3.0, 1.0, 2.0)] for _ in range(2)]
    kept = FeasibleSet(costs, 100.0).model_combinations(limit=3).tolist()
    assert [sum((3, 1, 2)[m] for m in row) for row in kept] == [2, 3, 3]


@quick
@given(spaces(), st.data())
def test_completion_is_the_cheapest(feasible, data):
    """No allocation that contains the partial one costs less."""
    full = data.draw(st.sampled_from(every(feasible)))
    kept = data.draw(st.sets(st.sampled_from(range(len(full)))))
    partial = {stage: full[stage] for stage in kept}
    completions = [c for c in every(feasible) if all(c[s] == v for s, v in partial.items())]
    completed = feasible.complete(partial)
    assert all(completed[s] == v for s, v in partial.items())
    assert feasible.cost(completed) == min(map(feasible.cost, completions))


@quick
@given(spaces(), st.data())
def test_max_samples_is_the_most_that_fit(feasible, data):
    """One more does not fit, and the number itself does."""
    stage = data.draw(st.sampled_from(range(len(feasible.costs))))
    model = data.draw(st.sampled_from(range(len(feasible.costs[stage]))))
    other = float(data.draw(st.integers(0, 30)))
    row = feasible.costs[stage][model]
    fits = [n + 1 for n, cost in enumerate(row) if cost + other <= feasible.budget]
    assert feasible.max_samples(stage, model, other) == max(fits, default=0)


def software_task(max_samples=1000):
    """ChatDev's stages: coding, reviewing, testing."""
    models = [Model("3B", parameters=3e9), Model("70B", parameters=70e9)]
    return Task(
        name="software",
        stages=[
            Stage(
                name,
                models=models,
                prompt_tokens=1024,
                generation_tokens=generation,
                max_samples=max_samples,
            )
            for name, generation in (("code", 1024), ("review", 512), ("test", 256))
        ],
    )


def test_three_stages_of_software_development_count():
    """The space of three stages with up to 1000 samples is counted, not walked."""
    assert software_task().count_allocations() == 1_715_779


def test_allocations_are_walked_lazily():
    """The first of millions are there at once, and fit."""
    task = software_task()
    assert all(task.fits(a) for a in itertools.islice(task.allocations(), 100))


def test_rounding_does_not_lose_what_spends_the_budget_exactly():
    """Ten times a tenth is a budget of one."""
    feasible = FeasibleSet([[np.array([0.1])] for _ in range(10)], 1.0)
    short = FeasibleSet([[np.array([0.1])] for _ in range(3)], 0.3)
    assert (feasible.count(), short.count(), len(list(short))) == (1, 1, 1)
