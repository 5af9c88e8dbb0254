"""Chain prior, prior components and the opening."""

import numpy as np
import pytest
from core_support import wiki_task

from optuna_agenttts import Model, Stage, Task
from optuna_agenttts.planner.kernels import make_components
from optuna_agenttts.planner.opening import untried_models, with_most_untried
from optuna_agenttts.planner.prior import draw_curves

TASK = wiki_task()
POOL = TASK.feasible.arrays()


def curves(task=TASK, **options):
    """Draw curves from a fixed seed."""
    return draw_curves(task, np.random.default_rng(0), **options)


def alone(sizes):
    """Return a task of one stage with models of the given sizes."""
    models = [Model(f"m{i}", parameters=size) for i, size in enumerate(sizes)]
    return Task(
        name="one",
        stages=[Stage("only", models=models, prompt_tokens=10, generation_tokens=10)],
        budget=1e9,
    )


@pytest.mark.parametrize("broad", [False, True])
def test_rates_do_not_depend_on_the_chunk(broad):
    """An allocation has the same rates alone as among others, at the edges of chunks too."""
    models, samples = (array[:150] for array in POOL)
    drawn = curves(draws=20, broad=broad)
    together = drawn.rates(models, samples)
    assert together.shape == (20, 150)
    for row in (0, 63, 64, 127, 128, 149):
        own = drawn.rates(models[[row]], samples[[row]])
        np.testing.assert_allclose(own[:, 0], together[:, row], rtol=1e-12)


def test_models_of_one_size_have_equal_means_but_may_differ():
    """Insight 1 gives models effects besides their size; without it equal sizes are equal."""
    task = alone([7e9, 7e9])
    models, samples = np.array([[0], [1]]), np.array([[5], [5]])
    first, second = curves(task, draws=4000).rates(models, samples).T
    assert np.abs(first - second).min() > 0
    assert first.mean() == pytest.approx(second.mean(), abs=0.01)
    first, second = curves(task, insights=(2, 3)).rates(models, samples).T
    np.testing.assert_array_equal(first, second)


def test_few_directions_hold_the_prior_covariance_of_curves():
    """The truncated covariance is within a thousandth of that of the draws."""
    models, samples = (array[::7] for array in POOL)
    for component in make_components(TASK, np.random.default_rng(0), (1, 2, 3)):
        if component.curves is None:
            continue
        mean, root = component.mean_and_root(models, samples)
        rates = component.curves.rates(models, samples)
        np.testing.assert_allclose(mean, rates.mean(axis=0))
        lost = np.abs(root.T @ root - np.cov(rates.T)).max()
        assert lost < 1e-3 * np.cov(rates.T).max()


def test_a_task_of_one_allocation_has_a_prior():
    """Curves with a single direction of variance have finite moments."""
    models = [Model("m", parameters=1e9)]
    stage = Stage("only", models=models, prompt_tokens=1, generation_tokens=1, max_samples=1)
    task = Task(name="one", stages=[stage], budget=1e9)
    components = make_components(task, np.random.default_rng(0), (1, 2, 3))
    for component in components:
        mean, root = component.mean_and_root(*task.feasible.arrays())
        assert np.isfinite(mean).all()
        assert np.isfinite(root).all()


def test_the_opening_uses_the_most_untried_models_at_each_step():
    """The allocations are those that brute force finds, until all models have been tried."""
    stages = [
        Stage(
            f"s{i}",
            models=[Model(f"{i}-{j}", parameters=1e9 * 2**j) for j in range(count)],
            prompt_tokens=10,
            generation_tokens=10,
            max_samples=3,
        )
        for i, count in enumerate((3, 2))
    ]
    task = Task(name="small", stages=stages, budget=1e9)
    models, samples = task.feasible.arrays()
    tried = []
    while True:
        untried = untried_models(task, tried)
        counts = [sum((s, m) in untried for s, m in enumerate(row)) for row in models.tolist()]
        found = with_most_untried(models, untried)
        most = max(counts)
        assert found.tolist() == [i for i, count in enumerate(counts) if most and count == most]
        if not len(found):
            break
        row = found[-1]
        tried.append(tuple(zip(models[row].tolist(), samples[row].tolist())))
    assert len(tried) == 3
