"""Brute-force reference of the posterior: dense covariances and plain Gaussian conditioning.

Written from the mathematics for `test_posterior_reference.py`: no factorization is reused and
nothing is updated incrementally. Modelling choices that do not follow from the mathematics (kept
directions, merged groups, tempered noise, kept components) are marked "Choice" and use the same
constants as the code.

Notation: y are the observed scores as rates, f the rates of the queried allocations, E the
covariance of the errors of y. Under each component y and f are jointly normal, and components are
weighted by prior weight times marginal likelihood::

    y ~ N(m_y, K_yy + E),  f ~ N(m_f, K_ff),  cov(f, y) = K_fy
    f | y ~ N(m_f + K_fy (K_yy + E)^-1 (y - m_y), K_ff - K_fy (K_yy + E)^-1 K_yf)
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.planner.prior import draw_curves

POWER, JITTER, KEPT, MOST_GROUPS, DIRECTIONS = 0.5, 1e-6, 0.95, 64, 24
LENGTHS, NOISES = (0.8, 2.0), (0.02, 0.035, 0.06, 0.12)
PRIOR_COMPONENTS = {
    "chain": (0.4, (0.03, 0.08)),
    "broad": (0.4, (0.03, 0.08)),
    "plain": (0.2, (0.12, 0.25)),
}
"""Prior weight and residual amplitudes of each prior component."""


def decades(task):
    """Return model sizes by stage, in decades relative to the stage's largest."""
    found = []
    for stage in task.stages:
        sizes = np.array([model.parameters for model in stage.models])
        found.append(np.log10(sizes / sizes.max()))
    return found


def curve_rates(task, curves, models, samples):
    """Return rates under each draw, shape (draws, allocations)."""
    columns = []
    for chosen, numbers in zip(models.tolist(), samples.tolist()):
        quality = np.zeros(len(curves.level))
        for i, (model, number, sizes) in enumerate(zip(chosen, numbers, decades(task))):
            x, d = np.log(number), sizes[model]
            peak = np.maximum(curves.peak[:, i] - curves.advance[:, i] * quality, 0)
            wide = 1 - curves.widening[:, i] * d
            quality = (
                curves.slope[:, i] * d
                + curves.effects[i][:, model]
                + curves.gain[:, i] * wide * np.minimum(x, peak)
                - curves.decline[:, i] * wide * np.maximum(x - peak, 0)
                + curves.influence[:, i] * quality
            )
        columns.append(1 / (1 + np.exp(-curves.level - quality)))
    return np.stack(columns, axis=1)


@cache
def draw_chains(task):
    """Draw both chains; return them and the projectors onto their kept directions."""
    rng = np.random.default_rng(0)
    curves = {"chain": draw_curves(task, rng), "broad": draw_curves(task, rng, broad=True)}
    pool = build_pool(task.feasible, rng, 400)
    projectors = {}
    for name, chain in curves.items():
        rates = curve_rates(task, chain, *pool)
        left, values, _ = np.linalg.svd(rates - rates.mean(axis=0), full_matrices=False)
        # Choice: keep the leading left singular vectors over a pool of allocations.
        left = left[:, :DIRECTIONS][:, values[:DIRECTIONS] ** 2 > 1e-9 * values[0] ** 2]
        projectors[name] = left @ left.T
    return curves, projectors


def chain_prior(task, name, models, samples):
    """Return the prior mean and covariance of a prior component, without its residual."""
    if name == "plain":
        return np.full(len(models), 0.5), np.full((len(models), len(models)), 0.09)
    curves, projectors = draw_chains(task)
    rates = curve_rates(task, curves[name], models, samples)
    gaps = rates - rates.mean(axis=0)
    return rates.mean(axis=0), gaps.T @ projectors[name] @ gaps / (len(rates) - 1)


def residual(task, models, samples, length):
    """Return the residual kernel: half the mean and half the product over stages."""
    kernels = []
    for i, sizes in enumerate(decades(task)):
        apart = np.abs(sizes[models[:, i]][:, None] - sizes[models[:, i]])
        same = models[:, i][:, None] == models[:, i]
        x = np.log(samples[:, i])
        r = np.sqrt(5) * np.abs(x[:, None] - x) / length
        matern = (1 + r + r**2 / 3) * np.exp(-r)
        kernels.append(np.where(same, 1.0, 0.7 * np.exp(-apart)) * matern)
    return 0.5 * np.mean(kernels, axis=0) + 0.5 * np.prod(kernels, axis=0)


def grouped(evidence):
    """Group the trials of equal allocations that saw the same block of instances.

    Choice: above 64 groups, nearby allocations share a group; then some groups are dropped.

    Returns:
        Positions of the trials of each group. The first trial's allocation represents the group.
    """
    blocks = [*evidence.blocks, *[0] * len(evidence.scores)]
    for step in (None, 0.1, 0.2, 0.4):
        groups = {}
        for row, (model, number) in enumerate(zip(evidence.models, evidence.samples)):
            place = number if step is None else np.round(np.log(number) / step)
            groups.setdefault((*model.tolist(), *place.tolist(), blocks[row]), []).append(row)
        if len(groups) <= MOST_GROUPS:
            break
    groups = list(groups.values())
    if len(groups) > MOST_GROUPS:
        # Choice: keep the best 32 groups, and 32 of the others evenly spaced by rank.
        shares, scores = evidence.shares, evidence.scores
        groups.sort(key=lambda rows: -np.average(scores[rows], weights=shares[rows]))
        half = MOST_GROUPS // 2
        rest = groups[half:]
        groups = groups[:half] + [
            rest[int(i * (len(rest) - 1) / (MOST_GROUPS - half - 1))]
            for i in range(MOST_GROUPS - half)
        ]
    return groups


@dataclass
class Errors:
    """Errors of the groups' mean outcomes, in rates.

    Args:
        reported: Which groups have at least two outcomes.
        means: Mean outcomes of the groups, NaN for groups with a trial without outcomes.
        covariance: Covariance of the errors of the corrected means.
        shifts: Corrections that are added to the means.
        new_trial: Function of the kernel between new allocations and groups, shape (allocations,
            groups). Returns the error variance of a new complete trial, and the covariances of
            its error with the groups' errors, shape (allocations, groups).
    """

    reported: np.ndarray
    means: np.ndarray
    covariance: np.ndarray
    shifts: np.ndarray
    new_trial: Callable


def errors_of(evidence, groups, similarity):
    """Propagate the covariance of all single outcomes through the groups' estimators.

    Instances are independent, and groups of fresh instances are not corrected.
    """
    count = len(groups)
    steps = sorted({step for outcomes in evidence.outcomes for step in outcomes})
    table, repeated = np.full((count, len(steps)), np.nan), np.zeros(count, dtype=bool)
    low, span = scale_of(evidence)
    for g, rows in enumerate(groups):
        for column, step in enumerate(steps):
            values = [evidence.outcomes[r][step] for r in rows if step in evidence.outcomes[r]]
            values = [(evidence.sign * value - low) / span for value in values]
            table[g, column] = np.mean(values) if values else np.nan
            repeated[g] |= len(values) > 1
    means = np.full(count, np.nan)
    for g, rows in enumerate(groups):
        if len(evidence.outcomes) and all(evidence.outcomes[r] for r in rows):
            means[g] = np.nanmean(table[g])
    seen = ~np.isnan(table)
    reported = seen.sum(axis=1) >= 2
    if not reported.any():
        nothing = np.zeros(count)
        square = np.zeros((count, count))
        return Errors(reported, means, square, nothing, lambda k: (0.0, 0.0 * k))
    informed = np.flatnonzero(reported)
    mean, sd, size = np.zeros((3, count))
    for g in informed:
        mean[g], size[g] = table[g, seen[g]].mean(), seen[g].sum()
    found = variances(
        table[informed], mean[informed], size[informed], repeated[informed], evidence.scale.bounded
    )
    for g, variance in zip(informed, found):
        sd[g] = np.sqrt(variance)
    common, near = outcome_correlations(table, mean, sd, similarity)
    correlation = common + near * similarity
    np.fill_diagonal(correlation, 1.0)
    blocks = [*evidence.blocks, *[0] * len(evidence.scores)]
    search = [g for g in informed if not blocks[groups[g][0]]]
    known = seen[search].any(axis=0)
    whole = [g for g in search if seen[g].sum() == known.sum()]
    # The error of a corrected mean is a weighted sum of deviations of single outcomes.
    weight = np.zeros((count, count, len(steps)))
    shifts = np.zeros(count)
    for g in informed:
        weight[g, g, seen[g]] = 1 / size[g]
        if g not in search:
            continue
        slope = np.linalg.solve(
            correlation[np.ix_(whole, whole)] * np.outer(sd[whole], sd[whole]),
            correlation[whole, g] * sd[whole] * sd[g],
        )
        for w, b in zip(whole, slope):
            # Control variate: the mean of w on the instances of g, minus its mean on all.
            weight[g, w] -= b * (seen[g] / size[g] - known / known.sum())
            shifts[g] -= b * (table[w, seen[g]].mean() - mean[w])
    joint = correlation * np.outer(sd, sd)
    covariance = np.einsum("gai,ab,hbi->gh", weight, joint, weight)

    def new_trial(kernel):
        if not len(search):
            return 0.0, 0.0 * kernel
        typical = np.median(sd[informed])
        # Choice: no more than a group's own variance.
        with_groups = np.minimum((common + near * kernel) * typical * sd, sd**2)
        shared = np.einsum("na,gai->ng", with_groups, weight[:, :, known]) / known.sum()
        return typical**2 / known.sum(), shared

    return Errors(reported, means, covariance, shifts, new_trial)


def variances(table, means, sizes, repeated, bounded):
    """Return the variance of one outcome by group. Choice: smoothed, so that none is zero."""
    plain = np.nanvar(table, axis=1, ddof=1)
    binomial = means * (1 - means)
    inside = (binomial > 0.05) & ~repeated
    if not bounded or not inside.any():
        return np.maximum(plain, 0.25 * np.median(plain))
    laplace = (means * sizes + 1) / (sizes + 2)
    smooth = np.median(plain[inside] / binomial[inside]) * laplace * (1 - laplace)
    # Choice: means of several outcomes have their own variance, within bounds.
    return np.where(repeated, np.minimum(np.maximum(plain, 0.25 * smooth), smooth), smooth)


def outcome_correlations(table, mean, sd, similarity):
    """Fit correlation = common + near * similarity over all pairs of groups."""
    rows, targets = [], []
    for g in range(len(table)):
        for h in range(g):
            both = ~np.isnan(table[g]) & ~np.isnan(table[h])
            if sd[g] > 0 and sd[h] > 0 and both.sum() >= 2:
                products = (table[g, both] - mean[g]) * (table[h, both] - mean[h])
                targets.append(products.sum() / (both.sum() - 1) / (sd[g] * sd[h]))
                rows.append([1.0, similarity[g, h]])
    # Choice: ridge towards (.4, .3), worth ten pairs of similarity .3.
    design, prior = np.reshape(rows, (-1, 2)), np.array([0.4, 0.3])
    ridge = 10 * np.array([[1.0, 0.3], [0.3, 0.3]])
    fitted = np.linalg.solve(
        design.T @ design + ridge, design.T @ np.reshape(targets, -1) + ridge @ prior
    )
    common, near = np.clip(fitted, 0, 0.95)
    return common, min(near, 0.95 - common)


@dataclass
class Component:
    """One component, conditioned on the scores.

    Args:
        name: Structure, residual amplitude, residual length and noise.
        weight: Posterior probability among the kept components.
        mean: Posterior mean of the queried allocations, followed by the observed ones.
        covariance: Posterior covariance, likewise.
        next_variance: Predictive variance of the score of a trial of each queried allocation.
        next_covariance: Posterior covariance of each rate with that score, shape (queried and
            observed, queried).
    """

    name: tuple
    weight: float
    mean: np.ndarray
    covariance: np.ndarray
    next_variance: np.ndarray
    next_covariance: np.ndarray


def scale_of(evidence):
    """Return offset and divisor that turn scores into rates."""
    if evidence.scale.bounded:
        return (0.0, 1.0) if evidence.sign > 0 else (-1.0, 1.0)
    low, high = evidence.scores.min(), evidence.scores.max()
    return low - (high - low) / 3, (high - low) / 0.6


def condition(evidence, models, samples, *, kept=KEPT):
    """Condition on the evidence and query some allocations.

    Returns:
        The kept components, the most probable first.
    """
    task, groups = evidence.task, grouped(evidence)
    asked, first = len(models), [rows[0] for rows in groups]
    models = np.concatenate([models, evidence.models[first]])
    samples = np.concatenate([samples, evidence.samples[first]])
    old, new = np.arange(asked, len(models)), np.arange(asked)
    kernels = [residual(task, models, samples, length) for length in LENGTHS]
    errors = errors_of(evidence, groups, kernels[1][np.ix_(old, old)])
    low, span = scale_of(evidence)
    counts = np.array([evidence.shares[rows].sum() for rows in groups])
    rates = np.array(
        [np.average(evidence.scores[rows], weights=evidence.shares[rows]) for rows in groups]
    )
    # Choice: every instance counts once, however many trials of a group saw it.
    y = np.where(np.isnan(errors.means), (rates - low) / span, errors.means) + errors.shifts
    next_variance, next_shared = errors.new_trial(kernels[1][np.ix_(new, old)])
    noises = NOISES[:1] if errors.reported.all() else NOISES
    found, logs = [], []
    for prior_name, (weight, amplitudes) in PRIOR_COMPONENTS.items():
        prior_mean, chain = chain_prior(task, prior_name, models, samples)
        for amplitude in amplitudes:
            for length, kernel in zip(LENGTHS, kernels):
                prior = chain + amplitude**2 * kernel
                for noise in noises:
                    # Choice: the covariance of reported errors is doubled (tempered likelihood).
                    error = errors.covariance / POWER
                    error += np.diag(np.where(errors.reported, JITTER, noise**2 / counts))
                    own = next_variance / POWER or noise**2
                    # Joint covariances of y with all rates and with the next scores.
                    k_yy = prior[np.ix_(old, old)] + error
                    k_fy = prior[:, old]
                    k_ny = prior[np.ix_(new, old)] + next_shared / POWER
                    gap = y - prior_mean[old]
                    solved = np.linalg.solve(k_yy, np.column_stack([gap, k_fy.T, k_ny.T]))
                    by_rate, by_next = solved[:, 1 : 1 + len(models)], solved[:, 1 + len(models) :]
                    log = -0.5 * (
                        gap @ solved[:, 0]
                        + np.linalg.slogdet(k_yy)[1]
                        + len(y) * np.log(2 * np.pi)
                    )
                    choices = len(amplitudes) * len(kernels) * len(noises)
                    logs.append(log + np.log(weight / choices))
                    found.append(
                        Component(
                            name=(prior_name, amplitude, length, noise),
                            weight=np.nan,
                            mean=prior_mean + k_fy @ solved[:, 0],
                            covariance=prior - k_fy @ by_rate,
                            next_variance=np.diag(prior)[new] + own - (k_ny * by_next.T).sum(1),
                            next_covariance=prior[:, new] - k_fy @ by_next,
                        )
                    )
    # Choice: keep the most probable components, with this weight at least.
    weights = np.exp(np.array(logs) - max(logs))
    best = np.argsort(-weights, kind="stable")
    enough = np.cumsum(weights[best]) >= kept * weights.sum()
    best = best[: 1 + np.argmax(enough)] if kept < 1 else best
    weights = weights[best]
    for i, share in zip(best, weights / weights.sum()):
        found[i].weight = share
    return [found[i] for i in best]
