"""The weighted mixture of Gaussian distributions: moments, quantiles and factors."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from posterior_cases import TASKS, draw_allocations, draw_evidence
from study_cases import one_stage, small, study_of

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.planner import mixture
from optuna_agenttts.planner.cholesky import factor
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.kernels import surrogate_of
from optuna_agenttts.planner.mixture import Moments
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.posterior import Posterior


@st.composite
def moments(draw):
    """Draw a mixture of one to four components for three quantities."""
    count = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    sds = 10.0 ** rng.uniform(-4, 0, size=(count, 3))
    return Moments(rng.dirichlet(np.ones(count)), rng.normal(0, 0.5, size=(count, 3)), sds)


def draws_of(found, count=40_000):
    """Draw from a mixture, shape (draws, quantities)."""
    rng = np.random.default_rng(0)
    which = rng.choice(len(found.weights), count, p=found.weights)
    return found.means[which] + found.sds[which] * rng.normal(size=(count, 3))


@given(moments(), st.floats(0.001, 0.999))
def test_quantiles_have_their_probability(found, probability):
    """The distribution function of the mixture is the probability there."""
    z = (found.quantile(probability) - found.means) / found.sds
    reached = found.weights @ mixture.normal_cdf(z)
    np.testing.assert_allclose(reached, probability, atol=1e-6)


@given(moments(), st.lists(st.floats(0.001, 0.999), min_size=2, max_size=6).map(sorted))
def test_quantiles_increase_with_the_probability(found, probabilities):
    """A mixture has no quantile that is below one of a smaller probability."""
    quantiles = np.array([found.quantile(probability) for probability in probabilities])
    assert (np.diff(quantiles, axis=0) >= -1e-9).all()
    low, high = found.bounds()
    assert (low < high).all()


@pytest.mark.parametrize("seed", range(5))
def test_moments_agree_with_draws(seed):
    """Mean, standard deviation, quantiles and positive parts are those of a sample."""
    rng = np.random.default_rng(seed)
    found = Moments(
        rng.dirichlet(np.ones(3)), rng.normal(0, 0.5, (3, 3)), rng.uniform(0.01, 0.4, (3, 3))
    )
    drawn = draws_of(found)
    error = 5 * drawn.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(found.mean() - drawn.mean(axis=0)) < error).all()
    np.testing.assert_allclose(found.sd(), drawn.std(axis=0), rtol=0.03)
    assert (np.abs(found.positive_part() - np.maximum(drawn, 0).mean(axis=0)) < error).all()
    for probability, quantile in zip((0.05, 0.95), found.bounds()):
        below = (drawn < quantile).mean(axis=0)
        np.testing.assert_allclose(below, probability, atol=0.006)


@given(moments())
def test_positive_parts_are_above_the_mean_and_zero(found):
    """E max(0, x) is at least max(0, E x), and E max(0, x) - E max(0, -x) is E x."""
    positive = found.positive_part()
    negative = replace(found, means=-found.means).positive_part()
    assert (positive >= np.maximum(found.mean(), 0) - 1e-12).all()
    np.testing.assert_allclose(positive - negative, found.mean(), atol=1e-12)


@st.composite
def covariances(draw):
    """Draw a covariance whose rank may be less than its size."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    size, rank = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    root = 10.0 ** draw(st.integers(-6, 3)) * rng.normal(size=(size, rank))
    return root @ root.T


@given(covariances(), st.floats(0, 1e-9))
def test_singular_covariances_are_repaired(covariance, negative):
    """Also those that rounding makes slightly indefinite; what is factored is close to them."""
    size = np.diagonal(covariance).mean()
    indefinite = covariance - negative * size * np.eye(len(covariance))
    found = factor(indefinite)
    assert np.isfinite(found).all()
    assert (np.triu(found, 1) == 0).all()
    np.testing.assert_allclose(found @ found.T, covariance, atol=1e-6 * size)


def test_covariances_that_need_no_repair_are_left_alone():
    """In a stack, only the one that cannot be factored is changed."""
    rng = np.random.default_rng(0)
    good = np.stack([a @ a.T + np.eye(4) for a in rng.normal(size=(3, 4, 4))])
    stack = np.concatenate([good[:2], np.ones((1, 4, 4)), good[2:]])
    found = factor(stack)
    np.testing.assert_array_equal(found[[0, 1, 3]], np.linalg.cholesky(good))
    np.testing.assert_allclose(found[2] @ found[2].T, 1.0, atol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_covariances_that_are_not_finite_are_an_error(value):
    """No jitter hides them."""
    broken = np.eye(3)
    broken[0, 1] = broken[1, 0] = value
    for covariance in (broken, np.stack([np.eye(3), broken]), np.diag([1.0, value])):
        with pytest.raises(np.linalg.LinAlgError):
            factor(covariance)
    with pytest.raises(np.linalg.LinAlgError):
        factor(-np.eye(3))


@pytest.mark.parametrize("noisy", [False, True])
def test_nearly_equal_allocations_never_break_an_ask(noisy):
    """Up to 10,000 samples: neighbours differ by 1e-4 in ln(samples), and have equal scores."""
    task = one_stage(max_samples=10_000, budget=20_000)
    rng = np.random.default_rng(0)
    study = study_of(
        task,
        [(small(9_000 + n), 0.5 + noisy * 0.01 * rng.normal()) for n in range(60)]
        + [(small(1), 0.4)],
    )
    study.sampler = AgentTTSSampler(task, seed=0)
    for _ in range(3):
        assert task.fits(task.suggest(study.ask()))


@pytest.mark.parametrize("shared", [1e-12, 0.5])
def test_repeats_with_equal_outcomes_never_break_an_ask(shared):
    """Errors of neighbours that are correlated by nearly 1 can still be factored."""
    task = one_stage(max_samples=10_000, budget=20_000)
    count = 40
    table = np.tile(np.random.default_rng(0).normal(0.5, 0.1, 30), (count, 1))
    table += shared * np.arange(count)[:, None] / count
    numbers = np.arange(9_000, 9_000 + count)
    evidence = replace(
        Evidence.empty(task),
        models=np.zeros((count, 1), dtype=np.int64),
        samples=numbers[:, None],
        scores=table.mean(axis=1),
        shares=np.ones(count),
        outcomes=tuple(dict(enumerate(row)) for row in table.tolist()),
    )
    for power in (0.5, 1.0):
        view = Posterior(surrogate_of(task)[0], evidence, power=power)
        assert np.isfinite(view.incumbents.moments().mean()).all()
    assert NumericalPlanner(task).propose(evidence).choices


def posterior_of(stages, kind):
    """Condition on drawn evidence, and return views of new allocations, too."""
    surrogate = surrogate_of(TASKS[stages])[0]
    posterior = Posterior(surrogate, draw_evidence(TASKS[stages], kind))
    points = surrogate.points(*draw_allocations(TASKS[stages], np.random.default_rng(1), 60))
    return posterior, posterior.at(points)


@pytest.mark.parametrize("stages", TASKS)
@pytest.mark.parametrize("kind", ["scores", "outcomes", "mixed"])
def test_nearly_all_of_the_posterior_is_averaged(stages, kind, monkeypatch):
    """The components kept have 95 % of the weight, and one less would not have."""
    posterior, view = posterior_of(stages, kind)
    monkeypatch.setattr(mixture, "_KEPT_WEIGHT", 1 - 1e-9)
    whole, all_of_it = posterior_of(stages, kind)
    weights = np.sort(whole.mixture.weights)[::-1]
    kept = len(posterior.mixture.weights)
    assert posterior.mixture.weights.sum() == pytest.approx(1)
    assert weights[:kept].sum() >= 0.95 > weights[: kept - 1].sum()
    # What is left out moves means by a fraction of their standard deviation.
    gap = np.abs(view.mean() - all_of_it.mean())
    assert (gap < 0.2 * all_of_it.moments().sd()).all()


@pytest.mark.parametrize("stages", [1, 2])
def test_joint_draws_have_the_moments_of_the_mixture(stages):
    """Means and covariances of many draws are those of `total`, within their errors."""
    task, rng = TASKS[stages], np.random.default_rng(0)
    surrogate = surrogate_of(task)[0]
    posterior = Posterior(surrogate, draw_evidence(task, "outcomes", trials=6))
    view = posterior.at(surrogate.points(*draw_allocations(task, rng, 8)))
    drawn = view.draw(rng, 20_000)
    mean, covariance = view.total()
    assert drawn.shape == (20_000, 8)
    sds = np.sqrt(np.diag(covariance))
    assert (np.abs(drawn.mean(axis=0) - mean) < 0.05 * sds).all()
    assert np.abs((np.cov(drawn.T) - covariance) / np.outer(sds, sds)).max() < 0.05
