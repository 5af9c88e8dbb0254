"""Pool of allocations that a planner compares at each ask."""

from __future__ import annotations

import itertools

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Ints
from optuna_agenttts.task.feasible import FeasibleSet

_GRID = 14
"""Numbers of samples per stage in the geometric grid: a factor of 1.43 apart up to 100. Chosen by
hand."""
_COMBINATION_SHARE = 4
"""Least allocations per combination of models: with `size` allocations, at most a quarter as many
combinations are considered. Chosen by hand."""
_MAX_GRID = 40
"""If the grid has more points than this times the share of a combination, that many are drawn from
it. Bounds memory for many stages. Chosen by hand."""


def build_pool(feasible: FeasibleSet, rng: np.random.Generator, size: int) -> tuple[Ints, Ints]:
    """Choose a pool of feasible allocations.

    All of them if there are at most `size`. Otherwise every feasible combination of models gets
    an equal share: numbers of samples on a geometric grid, and copies of those that spend the
    rest of the budget in one stage, since the optimum often lies on the edge of the budget.

    Args:
        feasible: The feasible allocations.
        rng: Random number generator for thinning the grid.
        size: Approximate number of allocations to choose.

    Returns:
        Positions of models and numbers of samples, both of shape (allocations, stages), without
        duplicates.
    """
    if feasible.count() <= size:
        return feasible.arrays(limit=size)
    combinations = feasible.model_combinations(limit=size // _COMBINATION_SHARE)
    share = max(_COMBINATION_SHARE, size // len(combinations))
    parts = [_samples_for(feasible, combination, rng, share) for combination in combinations]
    models = np.repeat(combinations, [len(part) for part in parts], axis=0)
    return models, np.concatenate(parts)


def _samples_for(
    feasible: FeasibleSet, combination: Ints, rng: np.random.Generator, share: int
) -> Ints:
    """Choose at most `share` feasible numbers of samples for a combination of models."""
    rows: list[Floats] = [
        feasible.costs[stage][model] for stage, model in enumerate(combination.tolist())
    ]
    others = sum(float(row[0]) for row in rows)
    most = [
        feasible.max_samples(stage, model, others - float(rows[stage][0]))
        for stage, model in enumerate(combination.tolist())
    ]
    grids = [np.unique(np.geomspace(1, top, _GRID).round().astype(np.int64)) for top in most]
    if np.prod([float(len(grid)) for grid in grids]) > _MAX_GRID * share:
        draws = rng.random((_MAX_GRID * share, len(grids)))
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
        # The first row is one sample in each stage, the cheapest trial of a combination: keep it.
        kept = 1 + rng.choice(len(samples) - 1, size=share - 1, replace=False)
        samples = samples[np.concatenate([[0], np.sort(kept)])]
    return samples


def _costs(rows: list[Floats], samples: Ints) -> Floats:
    """Return the costs of numbers of samples; `rows` are the costs of each stage's model."""
    total: Floats = np.sum([row[samples[:, i] - 1] for i, row in enumerate(rows)], axis=0)
    return total
