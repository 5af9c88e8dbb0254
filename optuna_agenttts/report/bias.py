"""Bias of the winner's posterior mean, by cross-validation over instances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from optuna_agenttts.planner.evidence import Evidence, Ints, choices_of
from optuna_agenttts.planner.kernels import Points, Surrogate
from optuna_agenttts.planner.posterior import Posterior

_FOLDS, _REPEATS = 5, 4
"""Folds of the instances, and times that they are drawn. Each of the 20 fits takes some 10 ms."""
_LEAST_INSTANCES = 10
"""Minimum number of instances, two in each fold. Chosen by hand."""
_FEWEST = 5
"""Minimum number of allocations to average the gap of the better quarter over. Chosen by hand."""


def estimate_bias(surrogate: Surrogate, evidence: Evidence, points: Points) -> float:
    """Return what posterior means of good allocations lack to the truth, in rates.

    The posterior is conditioned on some of the instances, and its means are compared with the
    outcomes on the others. The gap holds both biases of the winner's mean: it is too high because
    the luckiest allocation wins (selection optimism, the winner's curse), and too low because good
    scores are shrunk towards the others. The winner's own gap is unbiased but noisy, that of the
    better quarter of the allocations leaves out some of the optimism; the mean of both had the
    smallest error near the edges of the range, and the same as a bootstrap elsewhere.

    Args:
        surrogate: The prior.
        evidence: The evidence.
        points: The allocations that the winner is chosen from.

    Returns:
        The bias to add to the mean; 0 without enough outcomes.
    """
    rows, steps = _complete_rows(evidence)
    places = {key: place for place, key in enumerate(points.choices)}
    keys = choices_of(evidence.models[rows], evidence.samples[rows])
    rows = rows[[key in places for key in keys]]
    if len(steps) < _LEAST_INSTANCES or len(rows) < 2:
        return 0.0
    place = np.array([places[key] for key in keys if key in places])
    table = evidence.scale.rates(
        evidence.sign * np.array([[evidence.outcomes[row][s] for s in steps] for row in rows])
    )
    rng, gaps = np.random.default_rng(0), []
    for _ in range(_REPEATS):
        order = rng.permutation(len(steps))
        for fold in range(_FOLDS):
            held_out = order[fold::_FOLDS]
            train = np.setdiff1d(order, held_out)
            fitted = Posterior(surrogate, _on_instances(evidence, rows, steps, train))
            means = fitted.at(points).mean()[place]
            best = np.argsort(-means, kind="stable")
            found = (table[:, held_out].mean(axis=1) - means)[best]
            gaps.append(0.5 * (found[0] + found[: max(_FEWEST, len(rows) // 4)].mean()))
    return float(np.mean(gaps))


def _complete_rows(evidence: Evidence) -> tuple[Ints, list[int]]:
    """Return the trials that saw all instances, and the steps of the instances."""
    most = max(evidence.outcomes, key=len, default={})
    steps = sorted(most)
    found = [r for r, outcomes in enumerate(evidence.outcomes) if outcomes.keys() == most.keys()]
    return np.array(found if steps else [], dtype=np.int64), steps


def _on_instances(evidence: Evidence, rows: Ints, steps: list[int], kept: Ints) -> Evidence:
    """Return evidence in which some trials saw only some of the instances."""
    scores, outcomes = evidence.scores.copy(), list(evidence.outcomes)
    names = [steps[position] for position in kept.tolist()]
    for row in rows.tolist():
        outcomes[row] = {name: evidence.outcomes[row][name] for name in names}
        scores[row] = evidence.sign * np.mean(list(outcomes[row].values()))
    return replace(evidence, scores=scores, outcomes=tuple(outcomes))
