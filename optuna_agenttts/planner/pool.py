"""The allocations that a planner weighs against each other at each ask."""

from __future__ import annotations

import itertools

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Ints
from optuna_agenttts.task.feasible import FeasibleSet

_GRID = 14
"""Numbers of samples per stage in the coarse grid: a factor of about 1.4 apart up to 100."""


def build_pool(feasible: FeasibleSet, rng: np.random.Generator, size: int) -> tuple[Ints, Ints]:
    """Choose the allocations that are worth weighing.

    All of them where there are at most `size`. Otherwise an equal share for every feasible
    combination of models: samples on a geometric grid, and copies of those that spend what is
    left of the budget in one stage, since the optimum often lies on the budget's edge.

    Args:
        feasible: The allocations within the budget.
        rng: Source of randomness, for thinning.
        size: About how many allocations to choose.

    Returns:
        Positions of models and numbers of samples, both of shape (allocations, stages), without
        duplicates.
    """
    if feasible.count() <= size:
        return feasible.arrays(limit=size)
    combinations = feasible.model_combinations(limit=size // 4)
    share = max(4, size // len(combinations))
    parts = [_samples_for(feasible, combination, rng, share) for combination in combinations]
    models = np.repeat(combinations, [len(part) for part in parts], axis=0)
    return models, np.concatenate(parts)


def _samples_for(
    feasible: FeasibleSet, combination: Ints, rng: np.random.Generator, share: int
) -> Ints:
    rows: list[Floats] = [
        feasible.costs[stage][model] for stage, model in enumerate(combination.tolist())
    ]
    others = sum(float(row[0]) for row in rows)
    most = [
        feasible.max_samples(stage, model, others - float(rows[stage][0]))
        for stage, model in enumerate(combination.tolist())
    ]
    grids = [np.unique(np.geomspace(1, top, _GRID).round().astype(np.int64)) for top in most]
    if np.prod([float(len(grid)) for grid in grids]) > 40 * share:
        draws = rng.random((40 * share, len(grids)))
        samples = np.column_stack(
            [grid[(draws[:, i] * len(grid)).astype(int)] for i, grid in enumerate(grids)]
        )
    else:
        samples = np.array(list(itertools.product(*grids)), dtype=np.int64)
    costs = _costs(rows, samples)
    samples = samples[costs <= feasible.limit]
    spending = [samples]
    for stage, row in enumerate(rows):
        rest = _costs(rows, samples) - row[samples[:, stage] - 1]
        spent = samples.copy()
        spent[:, stage] = np.searchsorted(row, feasible.limit - rest, side="right")
        spending.append(spent)
    samples = np.unique(np.concatenate(spending), axis=0)
    if len(samples) > share:
        # One sample everywhere, the cheapest way to see a combination, always stays: it sorts
        # first.
        kept = 1 + rng.choice(len(samples) - 1, size=share - 1, replace=False)
        samples = samples[np.concatenate([[0], np.sort(kept)])]
    return samples


def _costs(rows: list[Floats], samples: Ints) -> Floats:
    total: Floats = np.sum([row[samples[:, i] - 1] for i, row in enumerate(rows)], axis=0)
    return total
