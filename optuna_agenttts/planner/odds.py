"""Odds of the agent over models and samples, and their weight in the acquisition.

An agent can say more than which allocations to try: how likely each model of a stage is to be its
best, and within which numbers of samples the best one lies. The acquisition is multiplied by
these odds to a power (C. Hvarfner, D. Stoll, A. Souza, M. Lindauer, F. Hutter and L. Nardi (2022),
piBO: Augmenting acquisition functions with user beliefs for Bayesian optimization, ICLR, Eq. 6).
Posteriors do not depend on odds: the agent has read the same trials, which would count twice.

In piBO, the power is a constant divided by the number of trials. Here it is also fitted, for each
stage and aspect (models, or octaves of samples): it is the probability that the odds hold instead
of equal ones, by their Bayes factor given the posterior of all trials. Odds that the trials
contradict lose their weight, and those that stay right keep it. The product of all odds is
bounded, so that no trial takes an allocation whose acquisition is far below the largest one.

Notation, for the K models, or octaves of samples, of a stage that can be the best:

    symbol   shape   meaning
    p        (K,)    odds of the agent, mixed with equal ones
    q        (K,)    posterior probabilities of being the best
    R        scalar  Bayes factor of the odds against equal ones: K * q @ p
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Ints, Odds
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.task.task import Task

_EQUAL_SHARE = 0.1
"""Share of equal odds in the odds of an agent, so that nothing has none. Chosen by hand."""
_PRIOR_LOGIT = -2.0
"""Logit of the probability that odds hold before any evidence: .12. On development landscapes,
odds that are always wrong cost .6 of 7.1 trials to regret .10 (standard error .5), and those of an
agent that knows the landscape saved 2.3 (.8); with -1, they cost 1.0 (.5) and saved 2.6 (.8)."""
_SHARPNESS = 6.0
"""Exponent of Bayes factors, since those of a few trials are close to 1. With 3 instead (and -1
above), odds that are wrong cost 1.3 (.5) trials and right ones saved 2.8 (.8)."""
_ROUNDS = 3
"""Latest rounds whose Bayes factors count. Chosen by hand."""
_FULL_TRIALS = 12
"""Trials up to which odds have their full power, which falls as one over their number then."""
_MIN_WEIGHT = 0.5
"""Smallest weight, as a share of the largest: odds decide between allocations whose acquisition
differs by less than a factor of two. Without this bound, odds that are always wrong doubled the
trials to regret .10."""
_LEADERS = 4
"""Allocations of largest posterior mean that represent a model or octave. Chosen by hand."""
_DRAWS = 400
"""Draws of the rates of these allocations. Chosen by hand."""


def octaves(samples: Ints) -> Ints:
    """Return the octaves of numbers of samples: 0 for 1, 1 for 2 to 3, 2 for 4 to 7, ..."""
    found: Ints = np.frexp(samples)[1].astype(np.int64) - 1
    return found


def fitted_odds(posterior: Posterior, points: Points, task: Task) -> Odds:
    """Return the posterior probabilities of models and octaves of samples.

    Args:
        posterior: The posterior.
        points: Allocations that can be the best. The ones with the largest mean among those with
            a model, or with an octave of samples, represent it.
        task: The task.
    """
    ranked = points.take(np.argsort(-posterior.at(points).mean(), kind="stable"))
    sizes = [len(stage.models) for stage in task.stages]
    sizes += [stage.max_samples.bit_length() for stage in task.stages]
    leaders = [
        [np.flatnonzero(labels == cell)[:_LEADERS] for cell in range(size)]
        for labels, size in zip(_labels(ranked), sizes)
    ]
    used = np.unique(np.concatenate([rows for cells in leaders for rows in cells]))
    rates = posterior.at(ranked.take(used)).draw(np.random.default_rng(0), _DRAWS)
    found = []
    for cells in leaders:
        largest = np.full((len(rates), len(cells)), -np.inf)
        for cell, rows in enumerate(cells):
            if len(rows):
                largest[:, cell] = rates[:, np.searchsorted(used, rows)].max(axis=1)
        # One further draw for each that is possible (Laplace smoothing).
        possible = np.isfinite(largest).all(axis=0)
        counts = possible + np.bincount(largest.argmax(axis=1), minlength=len(cells))
        found.append(counts / counts.sum())
    return Odds(tuple(found[: len(task.stages)]), tuple(found[len(task.stages) :]))


def bayes_factor(odds: Floats, fitted: Floats) -> float:
    """Return the Bayes factor of odds against equal ones, given the posterior.

    Args:
        odds: Odds of models or octaves, at least 0.
        fitted: Their posterior probabilities, 0 for those that cannot be the best.
    """
    return float(fitted @ _relative(odds, fitted))


def weighing(rounds: Sequence[Odds], fitted: Odds, trials: int) -> Callable[[Points], Floats]:
    """Return a function from allocations to the weights of their acquisition.

    Args:
        rounds: Odds of the agent's rounds, at least one, latest last.
        fitted: The posterior probabilities.
        trials: Number of trials so far.
    """
    posterior, full = fitted.cells(), min(1.0, _FULL_TRIALS / max(1, trials))
    logits = np.full(len(posterior), _PRIOR_LOGIT)
    for odds in rounds[-_ROUNDS:]:
        logits += _SHARPNESS * np.log(list(map(bayes_factor, odds.cells(), posterior)))
    powers = full / (1.0 + np.exp(-logits))
    tables = [
        power * np.log(_relative(odds, known))
        for power, odds, known in zip(powers.tolist(), rounds[-1].cells(), posterior)
    ]

    def weights(points: Points) -> Floats:
        logs = np.sum([table[row] for table, row in zip(tables, _labels(points))], axis=0)
        found: Floats = np.exp(np.maximum(logs - logs.max(), np.log(_MIN_WEIGHT)))
        return found

    return weights


def _labels(points: Points) -> list[Ints]:
    """Return the model of each stage, then the octave of its samples, for some allocations."""
    return [*points.models.T, *octaves(points.samples).T]


def _relative(odds: Floats, fitted: Floats) -> Floats:
    """Return odds mixed with equal ones, relative to these; 1 for what cannot be the best."""
    possible = fitted > 0
    given = np.where(possible, odds, 0.0)
    count, total = np.count_nonzero(possible), float(given.sum())
    relative = count * given / total if total > 0 else np.ones(len(odds))
    mixed: Floats = np.where(possible, (1 - _EQUAL_SHARE) * relative + _EQUAL_SHARE, 1.0)
    return mixed
