"""The posterior agrees with brute-force conditioning to 1e-8; see `posterior_reference`."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from posterior_cases import KINDS, TASKS, draw_allocations, draw_evidence
from posterior_reference import (
    LENGTHS,
    chain_prior,
    condition,
    errors_of,
    grouped,
    residual,
)

from optuna_agenttts.planner import kernels
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.noise import Outcomes
from optuna_agenttts.planner.posterior import Posterior

CASES = [(stages, kind) for stages in TASKS for kind in KINDS]
ASKED = 25


@cache
def surrogate_of(stages):
    """Build a surrogate with the same draws as the reference."""
    return kernels.surrogate_of(TASKS[stages])[0]


def compared(stages, evidence):
    """Query the posterior and the reference at the same allocations.

    Returns:
        The posterior; its view of `ASKED` allocations followed by the observed ones; the
        reference's components.
    """
    surrogate = surrogate_of(stages)
    posterior = Posterior(surrogate, evidence)
    points = surrogate.points(*draw_allocations(TASKS[stages], np.random.default_rng(1), ASKED))
    view = posterior.at(points.joined(posterior.observed))
    return posterior, view, condition(evidence, view.points.models, view.points.samples)


@cache
def case(stages, kind):
    """Return what `compared` returns for drawn evidence."""
    return compared(stages, draw_evidence(TASKS[stages], kind))


def close(found, expected):
    """Assert absolute agreement to 1e-8."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8)


def mixture(components, values):
    """Average values over the components."""
    return sum(c.weight * value for c, value in zip(components, values))


def assert_moments(posterior, view, components):
    """Assert that mean and standard deviation of the mixture agree."""
    asked = len(view.points)
    means = [c.mean[:asked] for c in components]
    mean = mixture(components, means)
    variance = mixture(
        components, [np.diag(c.covariance)[:asked] + c.mean[:asked] ** 2 for c in components]
    )
    close(view.mean(), mean)
    close(view.moments().mean(), mean)
    close(view.moments().sd(), np.sqrt(variance - mean**2))


@pytest.mark.parametrize("stages", TASKS)
def test_prior_moments_are_those_of_the_draws(stages):
    """Mean and covariance of the chains are sample moments projected on the kept directions."""
    models, samples = draw_allocations(TASKS[stages], np.random.default_rng(1), ASKED)
    surrogate = surrogate_of(stages)
    points = surrogate.points(models, samples)
    for name, mean, root, own in zip(
        ("chain", "broad", "plain"), points.means, points.roots, points.variances
    ):
        expected, covariance = chain_prior(TASKS[stages], name, models, samples)
        close(mean, expected)
        close(root.T @ root, covariance)
        close(own, np.diag(covariance))


@pytest.mark.parametrize("stages", TASKS)
def test_residual_kernel_matches_its_formula(stages):
    """The kernel is half the mean and half the product over stages, for both lengths."""
    models, samples = draw_allocations(TASKS[stages], np.random.default_rng(1), ASKED)
    points = surrogate_of(stages).points(models, samples)
    for kernel, length in zip(surrogate_of(stages).residual_kernels(points, points), LENGTHS):
        close(kernel, residual(TASKS[stages], models, samples, length))


@pytest.mark.parametrize(("stages", "kind"), CASES)
def test_error_covariance_follows_from_single_outcomes(stages, kind):
    """Covariance and correction of mean outcomes match propagation through the estimators."""
    task = TASKS[stages]
    evidence = draw_evidence(task, kind)
    groups = grouped(evidence)
    group = np.zeros(len(evidence.scores), dtype=np.int64)
    for position, rows in enumerate(groups):
        group[rows] = position
    first = [rows[0] for rows in groups]
    alike = residual(task, evidence.models[first], evidence.samples[first], LENGTHS[1])
    found = Outcomes.from_evidence(evidence, group, len(groups)).fit(alike)
    expected = errors_of(evidence, groups, alike)
    scale = max(1e-300, np.abs(expected.covariance).max())
    np.testing.assert_array_equal(found.has_outcomes, expected.reported)
    close(found.covariance / scale, expected.covariance / scale)
    close(found.corrections / np.sqrt(scale), expected.shifts / np.sqrt(scale))
    variance, shared = found.of_next_trial(alike)
    expected_variance, expected_shared = expected.new_trial(alike)
    close(variance / scale, expected_variance / scale)
    close(shared / scale, expected_shared / scale)


@pytest.mark.parametrize(("stages", "kind"), CASES)
def test_mean_and_sd_are_those_of_the_mixture(stages, kind):
    """They agree at observed and new allocations, and `mean` equals that of `mean_and_sd`."""
    assert_moments(*case(stages, kind))


@pytest.mark.parametrize(("stages", "kind"), CASES)
def test_component_weights_are_posterior_probabilities(stages, kind):
    """Weights are prior weight times marginal likelihood, over the kept components."""
    _, view, components = case(stages, kind)
    close(view.mixture.weights, [c.weight for c in components])


@pytest.mark.parametrize(("stages", "kind"), CASES)
def test_difference_sd_is_that_of_the_joint_distribution(stages, kind):
    """The variance of a difference is its variance within plus between components."""
    _, view, components = case(stages, kind)
    for reference in (0, ASKED - 1, len(view.points) - 1):
        others = np.delete(np.arange(len(view.points)), reference)
        gaps = [c.mean[others] - c.mean[reference] for c in components]
        spreads = [
            np.diag(c.covariance)[others]
            + c.covariance[reference, reference]
            - 2 * c.covariance[others, reference]
            for c in components
        ]
        mean = mixture(components, gaps)
        total = mixture(components, [s + (g - mean) ** 2 for s, g in zip(spreads, gaps)])
        found = view.differences_from(reference).sd()
        close(found[others] ** 2, total)
        # Below this, rounding of the variance is larger than 1e-8 of the deviation.
        apart = total > 1e-12
        close(found[others][apart], np.sqrt(total[apart]))
        assert found[reference] < 2e-5


@pytest.mark.parametrize(("stages", "kind"), CASES)
def test_improvements_are_differences_from_the_incumbent(stages, kind):
    """Mean and standard deviation by component, with a floor of 1e-5 on the latter."""
    posterior, view, components = case(stages, kind)
    asked = len(view.points)
    rows = ASKED + posterior.incumbents.rows
    found = [int(np.argmax(component.mean[rows])) for component in components]
    leaders = rows[found]
    ahead = view.differences(posterior.incumbents, np.array(found))
    close(ahead.weights, [c.weight for c in components])
    for component, best, mean, sd in zip(components, leaders, ahead.means, ahead.sds):
        variance = np.diag(component.covariance)[:asked] + component.covariance[best, best]
        variance = variance - 2 * component.covariance[best, :asked]
        close(mean, component.mean[:asked] - component.mean[best])
        close(sd, np.sqrt(np.maximum(variance, 1e-10)))


@pytest.mark.parametrize(("stages", "kind"), CASES)
def test_a_new_score_moves_means_as_conditioning_on_it_does(stages, kind):
    """Moves match the joint covariance with the new score, including correlated noise."""
    posterior, view, components = case(stages, kind)
    asked = len(view.points)
    seen = posterior.incumbents.rows
    scores = posterior.next_scores(view)
    every = np.tile(np.arange(len(seen)), (len(components), 1))
    moves = scores.joint(posterior.incumbents, every)
    for i, component in enumerate(components):
        close(moves[i], component.next_covariance[ASKED + seen])
        close(scores.pairwise(view)[i], np.diag(component.next_covariance[:asked]))
        close(scores.moments().sds[i], np.sqrt(component.next_variance))
        close(view.moments().means[i], component.mean[:asked])


@pytest.mark.parametrize(("stages", "kind"), CASES)
def test_total_covariance_is_that_of_the_mixture(stages, kind):
    """It is the covariance within components plus that of their means."""
    _, view, components = case(stages, kind)
    asked = len(view.points)
    means = [c.mean[:asked] for c in components]
    mean, covariance = view.total()
    second = [c.covariance[:asked, :asked] + np.outer(m, m) for c, m in zip(components, means)]
    close(mean, mixture(components, means))
    close(covariance, mixture(components, second) - np.outer(mean, mean))


def test_groups_without_an_instance_in_common_share_no_error():
    """Whatever their allocations, also equal ones; on one block, errors are paired."""
    evidence = draw_evidence(TASKS[2], "confirmed")
    outcomes = [set(row) for row in evidence.outcomes]
    groups = grouped(evidence)
    group = np.repeat(-1, len(outcomes))
    for position, rows in enumerate(groups):
        group[rows] = position
    found = Outcomes.from_evidence(evidence, group, len(groups)).fit(np.ones((len(groups),) * 2))
    for g, rows in enumerate(groups):
        for h, others in enumerate(groups):
            common = outcomes[rows[0]] & outcomes[others[0]]
            assert (found.covariance[g, h] != 0) == bool(common)


@pytest.mark.parametrize("stages", TASKS)
@pytest.mark.parametrize("kind", ["scores", "outcomes"])
def test_one_trial_can_be_conditioned_on(stages, kind):
    """With one trial there are no pairs to estimate correlations from."""
    evidence = draw_evidence(TASKS[stages], kind)
    alone = replace(
        evidence,
        models=evidence.models[:1],
        samples=evidence.samples[:1],
        scores=evidence.scores[:1],
        shares=evidence.shares[:1],
        outcomes=evidence.outcomes[:1],
        blocks=(),
    )
    assert_moments(*compared(stages, alone))


def many(stages, trials):
    """Draw trials without outcomes, most of them with an allocation of their own."""
    rng = np.random.default_rng(trials)
    models, samples = draw_allocations(TASKS[stages], rng, trials)
    quality = 0.1 * np.log(samples).sum(axis=1) + 0.1 * models.sum(axis=1)
    return replace(
        Evidence.empty(TASKS[stages]),
        models=models,
        samples=samples,
        scores=np.clip(
            0.2 + quality + rng.normal(0, 0.03, trials), 0, 1 - 1e-3 * rng.random(trials)
        ),
        shares=np.where(rng.random(trials) < 0.3, rng.uniform(0.2, 1, trials), 1.0),
    )


@pytest.mark.parametrize(
    ("stages", "trials", "dropped"), [(1, 250, 0), (2, 70, 0), (2, 80, 7), (3, 400, 328)]
)
def test_near_observations_are_merged_and_some_dropped(stages, trials, dropped):
    """Above 64 allocations the posterior conditions on groups, weighted by shares."""
    evidence = many(stages, trials)
    distinct = {(*m, *s) for m, s in zip(evidence.models.tolist(), evidence.samples.tolist())}
    groups = grouped(evidence)
    assert len(groups) <= 64 < len(distinct)
    assert trials - sum(map(len, groups)) == dropped
    assert_moments(*compared(stages, evidence))


def test_parts_of_a_view_agree_with_the_whole():
    """`take` and `joined` do not change the moments of an allocation."""
    posterior, view, _ = case(2, "stopped")
    rows = np.array([3, 0, ASKED + 2])
    part = view.take(rows[:1]).joined(view.points.take(rows[1:]))
    close(part.moments().means, view.moments().means[:, rows])
    close(part.moments().sds, view.moments().sds[:, rows])
    close(part.differences_from(1).sd(), view.differences_from(0).sd()[rows])
    close(posterior.at(part.points).mean(), view.mean()[rows])
