"""Pool of allocations that a planner compares at each ask."""

from __future__ import annotations

import itertools
from functools import lru_cache

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
_MAX_GRID_STAGES = 6
"""Maximum number of stages for a grid: with more, almost no point of it is feasible."""
_EVENNESS = 0.5
"""Concentration of the Dirichlet distribution by which stages share a budget: below 1, some
stages get most of it. Chosen by hand."""


def build_pool(feasible: FeasibleSet, rng: np.random.Generator, size: int) -> tuple[Ints, Ints]:
    """Choose a pool of feasible allocations.

    All of them if there are at most `size`. Otherwise every feasible combination of models gets
    an equal share: numbers of samples on a geometric grid, and copies of those that spend the
    rest of the budget in one stage, since the optimum often lies on the edge of the budget. Of
    too many combinations, some are drawn (`_drawn_combinations`).

    Args:
        feasible: The feasible allocations.
        rng: Random number generator for thinning the grid.
        size: Approximate number of allocations to choose.

    Returns:
        Positions of models and numbers of samples, both of shape (allocations, stages), without
        duplicates.
    """
    if (found := feasible.arrays(size)) is not None:
        return found
    limit = size // _COMBINATION_SHARE
    combinations = feasible.model_combinations(limit)
    if len(combinations) == limit:
        combinations = _drawn_combinations(feasible, rng, limit)
    share = max(_COMBINATION_SHARE, size // len(combinations))
    parts = [_samples_for(feasible, combination, rng, share) for combination in combinations]
    models = np.repeat(combinations, [len(part) for part in parts], axis=0)
    return models, np.concatenate(parts)


def _drawn_combinations(feasible: FeasibleSet, rng: np.random.Generator, size: int) -> Ints:
    """Draw about `size` feasible combinations of models that include every feasible model.

    Combinations are drawn, then made feasible stage by stage, in random order: a model too
    expensive for the budget that earlier stages leave is replaced by the most expensive one that
    fits. Half of the draws are uniform; the others range from the cheapest model in every stage to
    the most expensive one. For each missing model, a combination is added that starts with its
    stage.
    """
    stages = len(feasible.costs)
    firsts = [np.array([float(row[0]) for row in rows]) for rows in feasible.costs]
    ranked = [np.argsort(first, kind="stable") for first in firsts]
    sizes = np.array([len(first) for first in firsts])
    levels = np.linspace(0, 1, size - size // 2)[:, None]
    draws = np.concatenate(
        [rng.integers(sizes, size=(size // 2, stages)), rng.binomial(sizes - 1, levels)]
    )
    orders = rng.permuted(np.tile(np.arange(stages), (size, 1)), axis=1)
    drawn = _make_feasible(feasible, firsts, ranked, draws, orders)
    missing = [(s, m) for s, m in feasible.pairs() if not (drawn[:, s] == m).any()]
    draws = rng.integers(sizes, size=(len(missing), stages))
    orders = rng.permuted(np.tile(np.arange(stages), (len(missing), 1)), axis=1)
    for row, (stage, model) in enumerate(missing):
        draws[row, stage] = np.flatnonzero(ranked[stage] == model)[0]
        other = np.flatnonzero(orders[row] == stage)[0]
        orders[row, [0, other]] = orders[row, [other, 0]]
    added = _make_feasible(feasible, firsts, ranked, draws, orders)
    return np.unique(np.concatenate([drawn, added]), axis=0)


def _make_feasible(
    feasible: FeasibleSet, firsts: list[Floats], ranked: list[Ints], draws: Ints, orders: Ints
) -> Ints:
    """Return combinations of models as close to the drawn ones as the budget allows.

    Args:
        feasible: The feasible allocations.
        firsts: Costs of one sample of each stage's models.
        ranked: Positions of each stage's models, cheapest first.
        draws: Drawn positions in `ranked`, shape (combinations, stages).
        orders: Order in which stages get their models, shape (combinations, stages).
    """
    models = np.empty_like(draws)
    spent = np.full(len(draws), feasible.cheapest_cost)
    for stages in orders.T:
        for stage in range(len(firsts)):
            rows = np.flatnonzero(stages == stage)
            costs = firsts[stage][ranked[stage]]
            room = feasible.limit - spent[rows] + costs[0]
            most = np.searchsorted(costs, room, side="right") - 1
            rank = np.maximum(np.minimum(draws[rows, stage], most), 0)
            models[rows, stage] = ranked[stage][rank]
            spent[rows] += costs[rank] - costs[0]
    return models


def _samples_for(
    feasible: FeasibleSet, combination: Ints, rng: np.random.Generator, share: int
) -> Ints:
    """Choose at most `share` feasible numbers of samples for a combination of models."""
    rows: list[Floats] = [
        feasible.costs[stage][model] for stage, model in enumerate(combination.tolist())
    ]
    if len(rows) > _MAX_GRID_STAGES:
        return _shared_budget(feasible.limit, rows, rng, share)
    others = sum(float(row[0]) for row in rows)
    most = [
        feasible.max_samples(stage, model, others - float(rows[stage][0]))
        for stage, model in enumerate(combination.tolist())
    ]
    grids = [_grid(top) for top in most]
    if np.prod([float(len(grid)) for grid in grids]) > _MAX_GRID * share:
        draws = rng.random((_MAX_GRID * share, len(grids)))
        samples = np.column_stack(
            [grid[(draws[:, i] * len(grid)).astype(int)] for i, grid in enumerate(grids)]
        )
        # Few of them are feasible with many stages or expensive models.
        if (_costs(rows, samples) <= feasible.limit).sum() < share:
            return _shared_budget(feasible.limit, rows, rng, share)
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


def _shared_budget(limit: float, rows: list[Floats], rng: np.random.Generator, size: int) -> Ints:
    """Draw numbers of samples that divide the budget randomly between the stages.

    The first row has one sample in each stage; later rows spend an increasing fraction of the
    rest.
    """
    firsts = np.array([float(row[0]) for row in rows])
    levels = (limit - firsts.sum()) * np.linspace(0, 1, size)
    shares = rng.dirichlet(np.full(len(rows), _EVENNESS), size) * levels[:, None]
    samples = np.ones((size, len(rows)), dtype=np.int64)
    for stage, row in enumerate(rows):
        samples[:, stage] = np.searchsorted(row, row[0] + shares[:, stage], side="right")
    samples = np.maximum(samples, 1)
    # Budget left by rounding down goes to the most expensive stages first.
    left = firsts.sum() + levels - _costs(rows, samples)
    for stage in np.argsort(-firsts, kind="stable"):
        row = rows[stage]
        spent = row[samples[:, stage] - 1]
        most = np.searchsorted(row, spent + left, side="right")
        samples[:, stage] = np.maximum(samples[:, stage], most)
        left -= row[samples[:, stage] - 1] - spent
    samples = samples[_costs(rows, samples) <= limit]
    return np.unique(samples, axis=0)


@lru_cache(maxsize=4096)
def _grid(most: int) -> Ints:
    """Return the geometric grid of the numbers of samples from 1 to `most`."""
    grid: Ints = np.unique(np.geomspace(1, most, _GRID).round().astype(np.int64))
    return grid


def _costs(rows: list[Floats], samples: Ints) -> Floats:
    """Return the costs of numbers of samples; `rows` are the costs of each stage's model."""
    total: Floats = np.sum([row[samples[:, i] - 1] for i, row in enumerate(rows)], axis=0)
    return total
