"""Draws of feasible allocations, and ascent from one of them."""

import itertools

import numpy as np

UNIFORM = 3000
"""How many allocations of a pool are drawn uniformly; they come first."""


def draw_uniform(feasible, rng, count):
    """Draw feasible allocations uniformly, with repetition: models and samples by stage.

    For each choice of the first stages, those of the others that fit are counted by bisection.
    """
    middle = max(1, (len(feasible.costs) + 1) // 2)
    left = _options(feasible.costs[:middle])
    right = _options(feasible.costs[middle:])
    order = np.argsort(right[2], kind="stable")
    most = np.searchsorted(right[2][order], feasible.limit - left[2], side="right")
    ends = np.cumsum(most)
    drawn = rng.integers(ends[-1], size=count)
    head = np.searchsorted(ends, drawn, side="right")
    tail = order[drawn - (ends[head] - most[head])]
    return (
        np.column_stack([left[0][head], right[0][tail]]),
        np.column_stack([left[1][head], right[1][tail]]),
    )


def draw_pool(task):
    """Feasible allocations to judge by, the same each time: uniform ones, then geometric ones."""
    rng = np.random.default_rng(0)
    models, samples = draw_uniform(task.feasible, rng, UNIFORM)
    combinations = task.feasible.model_combinations()
    chosen = combinations[rng.integers(len(combinations), size=20_000)]
    geometric = np.exp(rng.uniform(0, np.log(100.999), chosen.shape)).astype(np.int64)
    geometric[rng.random(chosen.shape) < 0.25] = 1
    fits = task.feasible.costs_of(chosen, geometric) <= task.feasible.limit
    return (
        np.concatenate([models, chosen[fits][:5000]]),
        np.concatenate([samples, geometric[fits][:5000]]),
    )


def _options(costs):
    """All models, samples and summed costs of some stages."""
    models = np.zeros((1, 0), dtype=np.int64)
    samples, total = models.copy(), np.zeros(1)
    for rows in costs:
        model = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
        number = np.concatenate([np.arange(1, len(row) + 1) for row in rows])
        heads = np.repeat(np.arange(len(total)), len(model))
        tails = np.tile(np.arange(len(model)), len(total))
        models = np.column_stack([models[heads], model[tails]])
        samples = np.column_stack([samples[heads], number[tails]])
        total = total[heads] + np.concatenate(list(rows))[tails]
    return models, samples, total


def ascend(landscape, models, samples):
    """Return the true score after steepest ascent by changes of one or two stages."""
    feasible = landscape.task.feasible
    best = float(landscape.truth(models, samples))
    while True:
        tried_models, tried_samples = _moves(feasible, models, samples)
        truth = landscape.truth(tried_models, tried_samples)
        at = int(np.argmax(truth))
        if truth[at] <= best + 1e-9:
            return best
        best, models, samples = float(truth[at]), tried_models[at], tried_samples[at]


def _moves(feasible, models, samples):
    """All changes of one stage, and many of two: geometric samples, or the last few near."""
    parts = []
    for pair in itertools.combinations(range(len(models)), 2):
        options = []
        for stage in pair:
            here = int(samples[stage])
            near = np.arange(max(1, here - 6), here + 7)
            grid = np.unique(np.geomspace(1, 100, 24).round().astype(np.int64))
            numbers = np.union1d(grid, near[near <= len(feasible.costs[stage][0])])
            options.append(list(itertools.product(range(len(feasible.costs[stage])), numbers)))
        both = np.array(list(itertools.product(*options)))
        moved = np.repeat(np.stack([models, samples], axis=-1)[None], len(both), axis=0)
        moved[:, list(pair)] = both
        parts.append(moved)
    for stage, rows in enumerate(feasible.costs):
        single = np.array([(m, n + 1) for m, row in enumerate(rows) for n in range(len(row))])
        moved = np.repeat(np.stack([models, samples], axis=-1)[None], len(single), axis=0)
        moved[:, stage] = single
        parts.append(moved)
    moved = np.concatenate(parts)
    fits = feasible.costs_of(moved[..., 0], moved[..., 1]) <= feasible.limit
    return moved[fits, :, 0], moved[fits, :, 1]
