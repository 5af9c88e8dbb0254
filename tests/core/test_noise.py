"""Noise estimated from outcomes, and its effect on posterior and recommendation."""

from dataclasses import replace

import numpy as np
import optuna
import pytest
from core_support import wiki_task
from hypothesis import given, settings
from hypothesis import strategies as st

from optuna_agenttts import recommend
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.kernels import surrogate_of
from optuna_agenttts.planner.noise import Outcomes
from optuna_agenttts.planner.posterior import Posterior

TASK = wiki_task()
RNG = np.random.default_rng
SURROGATE = surrogate_of(TASK)[0]


def evidence(table, samples=None):
    """Return trials of one combination of models with these outcomes; NaN where missing."""
    count = len(table)
    outcomes = tuple({i: float(v) for i, v in enumerate(row) if not np.isnan(v)} for row in table)
    numbers = np.arange(1, count + 1) if samples is None else np.array(samples)
    return replace(
        Evidence.empty(TASK),
        models=np.zeros((count, 2), dtype=np.int64),
        samples=np.column_stack([numbers, np.ones(count, dtype=np.int64)]),
        scores=np.array([np.mean(list(row.values())) for row in outcomes]),
        shares=np.array([len(row) / table.shape[1] for row in outcomes]),
        outcomes=outcomes,
    )


def covariance(table, similarity=None):
    """Return the noise covariance of trials that are a group each."""
    count = len(table)
    found = Outcomes.from_evidence(evidence(table), np.arange(count), count)
    return found.fit(np.eye(count) if similarity is None else similarity).covariance


def drawn(trials, instances, shared, rng):
    """Draw outcomes 0 or 1 of trials that share the difficulty of the instances."""
    common = rng.normal(size=instances)
    own = rng.normal(size=(trials, instances))
    latent = np.sqrt(shared) * common + np.sqrt(1 - shared) * own
    return (latent > 0).astype(float)


def test_variances_are_those_of_means():
    """Means of independent outcomes have the variance p (1 - p) / n."""
    found = covariance(drawn(12, 200, 0.0, RNG(0)))
    assert np.diag(found).mean() == pytest.approx(0.25 / 200, rel=0.1)
    assert np.abs(found[np.triu_indices(12, 1)]).mean() < 0.15 * 0.25 / 200


@pytest.mark.parametrize("shared", [0.2, 0.5, 0.8])
def test_shared_correlation_is_recovered(shared):
    """The correlation of two trials' means is that of their outcomes."""
    found = covariance(drawn(12, 400, shared, RNG(1)))
    correlations = found[np.triu_indices(12, 1)] / found[0, 0]
    # Signs of normal variables with correlation r have the correlation 2 / pi arcsin(r).
    assert correlations.mean() == pytest.approx(2 / np.pi * np.arcsin(shared), abs=0.1)


@pytest.mark.parametrize("shared", [0.2, 0.8])
def test_outcomes_of_a_fresh_instance_vary_as_those_seen(shared):
    """Two allocations' outcomes of one fresh instance correlate as on those of the search."""
    table = drawn(12, 400, shared, RNG(1))
    count = len(table)
    noise = Outcomes.from_evidence(evidence(table), np.arange(count), count).fit(np.eye(count))
    found = noise.of_fresh_instance(np.eye(3))
    assert np.diag(found) == pytest.approx(0.25, rel=0.05)
    assert found[0, 1] / found[0, 0] == pytest.approx(2 / np.pi * np.arcsin(shared), abs=0.1)


def test_covariances_are_positive_semidefinite():
    """Covariances of random outcomes, many of them missing, have no negative eigenvalue."""
    rng = RNG(2)
    for _ in range(50):
        trials, instances = int(rng.integers(1, 20)), int(rng.integers(2, 40))
        table = drawn(trials, instances, rng.uniform(), rng)
        gone = rng.random(table.shape) < 0.5 * rng.random()
        gone[:, :2] = False
        table[gone] = np.nan
        gaps = np.abs(np.subtract.outer(np.arange(trials), np.arange(trials)))
        found = covariance(table, np.exp(-gaps / 5))
        assert np.allclose(found, found.T)
        assert np.linalg.eigvalsh(found).min() > -1e-12


def test_equal_outcomes_do_not_look_certain():
    """Fifty successes out of fifty have a variance above zero."""
    table = drawn(4, 50, 0.3, RNG(3))
    table[0] = 1.0
    found = covariance(table)
    assert 0 < found[0, 0] < found[1, 1]


def test_unusable_outcomes_are_ignored():
    """Outcomes must have the score as their mean, and squares that do not overflow."""
    table = drawn(3, 30, 0.3, RNG(4))
    observed = evidence(table)
    silent = Outcomes.from_evidence(replace(observed, outcomes=()), np.arange(3), 3).fit(np.eye(3))
    assert not silent.covariance.any()
    other = replace(observed, scores=observed.scores + 0.2)
    assert not Outcomes.from_evidence(other, np.arange(3), 3).fit(np.eye(3)).has_outcomes.any()
    huge = replace(observed, outcomes=({0: 1e300, 1: 1e300},) * 3, scores=np.full(3, 1e300))
    assert not Outcomes.from_evidence(huge, np.arange(3), 3).fit(np.eye(3)).has_outcomes.any()


def test_a_partial_trial_on_easy_instances_is_corrected():
    """Outcomes of the other trials reduce its overestimation by two fifths at least."""
    rng = RNG(5)
    hard = np.sort(rng.normal(size=60))
    latent = 0.9 * hard + 0.45 * rng.normal(size=(9, 60))
    table = (latent > 0).astype(float)
    # All nine are as good as each other; the last one saw the easier half only.
    table[8, :30] = np.nan
    observed = evidence(table, samples=[1, 2, 3, 4, 6, 8, 12, 16, 24])
    surrogate = surrogate_of(TASK)[0]

    def expected(seen):
        points = surrogate.points(seen.models[8:], seen.samples[8:])
        return float(Posterior(surrogate, seen).at(points).mean()[0])

    others = float(observed.scores[:8].mean())
    assert observed.scores[8] > others + 0.15
    assert expected(observed) - others < 0.6 * (expected(replace(observed, outcomes=())) - others)


def stopped(seed, seen=15, instances=60):
    """Return nine equally good trials, the last one stopped, and its score if it had not been."""
    rng = RNG(seed)
    latent = 0.9 * rng.normal(size=instances) + 0.44 * rng.normal(size=(9, instances))
    table = (latent > 0).astype(float)
    whole = table[8].mean()
    table[8, seen:] = np.nan
    return table, whole


def test_corrected_means_predict_the_full_score():
    """The corrected mean of a stopped trial is closer to its full score than the plain mean."""
    plain, corrected = [], []
    for seed in range(40):
        table, whole = stopped(seed)
        noise = Outcomes.from_evidence(evidence(table), np.arange(9), 9).fit(np.eye(9))
        mean = np.nanmean(table[8])
        plain.append(mean - whole)
        corrected.append(mean + noise.corrections[8] - whole)
        assert np.abs(noise.corrections[:8]).max() < 1e-12
    assert np.std(corrected) < 0.8 * np.std(plain)
    assert abs(np.mean(corrected)) < 0.03


def test_a_stopped_trial_has_more_noise_than_a_full_one():
    """It has less than its own outcomes alone would give it."""
    table, _ = stopped(0)
    noise = Outcomes.from_evidence(evidence(table), np.arange(9), 9).fit(np.eye(9))
    whole, partial = noise.covariance[0, 0], noise.covariance[8, 8]
    assert whole * 1.2 < partial < 0.9 * noise.sigma[8] ** 2 / 15


def test_stopping_trials_by_their_outcomes_biases_nothing():
    """Among equally good trials, those stopped after a bad start are not rated worse."""
    gaps, plain = [], []
    for seed in range(30):
        rng = RNG(100 + seed)
        latent = 0.7 * rng.normal(size=50) + 0.7 * rng.normal(size=(12, 50))
        table = (latent > 0).astype(float)
        for row in range(3, 12):
            if table[row, :12].mean() < np.median(table[:row, :12].mean(axis=1)):
                table[row, 12:] = np.nan
        observed = evidence(table, samples=[1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64])
        surrogate = surrogate_of(TASK)[0]
        posterior = Posterior(surrogate, observed)
        order = np.argsort(posterior.observed.samples[:, 0])
        expected = posterior.at(posterior.observed).mean()[order]
        halted = np.isnan(table).any(axis=1)
        if halted.any():
            gaps.append(expected[halted].mean() - expected[~halted].mean())
            plain.append(observed.scores[halted].mean() - observed.scores[~halted].mean())
    assert np.mean(plain) < -0.08
    assert abs(np.mean(gaps)) < 0.25 * abs(np.mean(plain))


def posterior_of(table, samples, shown):
    """Return the posterior's mean and standard deviation for some numbers of samples."""
    posterior = Posterior(SURROGATE, evidence(table, samples), power=1.0)
    shown = np.column_stack([shown, np.ones(len(shown), dtype=np.int64)])
    moments = posterior.at(SURROGATE.points(np.zeros_like(shown), shown)).moments()
    return moments.mean(), moments.sd()


def test_repeats_with_new_samples_reduce_the_noise():
    """Repeats whose outcomes of 0 and 1 differ are averages; identical ones add nothing."""
    rng = RNG(6)
    table = drawn(8, 60, 0.1, rng)
    once = posterior_of(table, range(1, 9), [8])[1][0]
    # The difficulty of an instance makes up little of its outcome, so repeats are nearly fresh.
    fresh = posterior_of(
        np.concatenate([table, drawn(6, 60, 0.1, rng)]), [*range(1, 9)] + [8] * 6, [8]
    )
    same = posterior_of(np.concatenate([table] + [table[7:]] * 6), [*range(1, 9)] + [8] * 6, [8])
    assert fresh[1][0] < 0.85 * once
    assert same[1][0] == pytest.approx(once, rel=0.02)


@pytest.mark.parametrize("seen", [2, 10, 59])
def test_a_stopped_repeat_does_not_move_the_mean(seen):
    """If it reuses samples, it has the outcomes of the complete trial where it got to."""
    table = drawn(8, 60, 0.4, RNG(7))
    table[7] = np.sort(table[7])  # the first instances are the hard ones
    halted = table[7:].copy()
    halted[:, seen:] = np.nan
    observed = evidence(np.concatenate([table, halted]), [*range(1, 9), 8])
    group = np.array([*range(8), 7])
    noise = Outcomes.from_evidence(observed, group, 8).fit(np.eye(8))
    assert noise.means[7] == pytest.approx(table[7].mean())
    assert noise.corrections[7] == pytest.approx(0, abs=1e-12)
    mean, sd = posterior_of(table, range(1, 9), [8])
    again, again_sd = posterior_of(np.concatenate([table, halted]), [*range(1, 9), 8], [8])
    assert again == pytest.approx(mean, abs=2e-3)
    assert again_sd == pytest.approx(sd, rel=0.02)


@settings(max_examples=40, derandomize=True, database=None)
@given(st.integers(0, 10_000), st.integers(1, 12))
def test_a_repeat_shares_no_more_error_than_the_mean_of_its_allocation_has(seed, trials):
    """So a good repeat does not lower that mean, but for less than a hundredth."""
    rng = RNG(seed)
    table = drawn(trials, int(rng.integers(2, 60)), rng.uniform(), rng)
    table[rng.random(trials) < 0.3] = 1.0
    observed = evidence(table, rng.integers(1, 8, trials))
    posterior = Posterior(SURROGATE, observed, power=1.0)
    kernels = SURROGATE.residual_kernels(posterior.observed, posterior.observed)
    _, shared = posterior.noise.of_next_trial(kernels[1])
    assert (np.diag(shared) <= np.diag(posterior.noise.covariance) + 1e-12).all()
    view = posterior.incumbents
    scores = posterior.next_scores(view)
    assert (scores.pairwise(view) / scores.moments().sds).min() > -0.01


def search(seed, trials=25, instances=50):
    """Run a search in which the true score of every allocation is .6."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rng = RNG(seed)
    difficulty = rng.normal(size=instances)

    def objective(trial):
        TASK.suggest(trial)
        latent = 0.6 * difficulty + 0.8 * rng.normal(size=instances)
        outcomes = (latent < 0.2533).astype(float)
        for step, outcome in enumerate(outcomes.tolist()):
            trial.report(outcome, step)
        return float(outcomes.mean())

    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed)
    )
    study.optimize(objective, n_trials=trials)
    return study


def test_selection_optimism_is_corrected():
    """Among equals, the winner's value is closer to the truth than its score; intervals cover."""
    found = [(study := search(seed), recommend(study)) for seed in range(12)]
    luckiest = np.mean([study.best_value for study, _ in found])
    expected = np.mean([best.value for _, best in found])
    assert abs(expected - 0.6) < 0.5 * abs(luckiest - 0.6)
    covered = sum(best.interval[0] <= 0.6 <= best.interval[1] for _, best in found)
    assert covered >= 9


def test_recommendations_are_reproducible():
    """The bootstrap of instances has a fixed seed."""
    study = search(0)
    assert recommend(study) == recommend(study)
