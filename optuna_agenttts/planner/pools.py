"""Pools of allocations with their kernels, for the ranges of a study and of a trial."""

from __future__ import annotations

import copy
from collections import OrderedDict

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Constraint, Evidence, Floats, Ints
from optuna_agenttts.planner.kernels import SEED, Points, Surrogate
from optuna_agenttts.planner.pool import build_pool
from optuna_agenttts.task.equivalence import Equivalence
from optuna_agenttts.task.ranges import Ranges
from optuna_agenttts.task.task import Task

_POOL_SIZE = 3000
"""Approximate number of allocations in the pool. Chosen by hand."""
_CACHED_KERNELS = 256
"""Observed allocations whose kernels with the pool are cached: some 12 MB. Chosen by hand."""
_CACHED_POOLS = 4
"""Cached pools of a study whose ranges change: some 30 MB each. Chosen by hand."""
_TRIAL_POOL_SIZE = 600
"""Approximate size of the pool of a trial that has values already. Chosen by hand."""
_MIN_ROWS = 50
"""Minimum number of allocations of the study's pool that match a trial's values; with fewer, the
trial gets a separate pool. Chosen by hand."""


class Pool:
    """Allocations that are compared at each ask, for one choice of ranges.

    Args:
        surrogate: The surrogate.
        task: The task.
        ranges: Ranges of the study. Default: those of the task.
        rng: Random number generator for thinning the pool.
        size: Approximate number of allocations.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        task: Task,
        ranges: Ranges | None,
        rng: np.random.Generator,
        size: int,
    ) -> None:
        """See the class."""
        table = task.feasible if ranges is None else ranges.table(task.feasible)
        if table.fits(table.complete({})):
            models, samples = build_pool(table, rng, size)
        else:
            # Nothing fits, since values were enqueued or ranges begin above the budget.
            cheapest = np.array([table.complete({})], dtype=np.int64)
            models, samples = cheapest[..., 0], cheapest[..., 1]
        if ranges is not None:
            models, samples = ranges.decode(models, samples)
        equivalence = Equivalence.of(task.stages)
        models, samples = equivalence.distinct(models, samples, task.feasible, ranges)
        self.points = surrogate.points(models, samples)
        self.keys = self.points.choices
        self._surrogate = surrogate
        self._cache: dict[Choices, list[Floats]] = {}
        self.thinned = len(models) >= size // 2

    def kernels(self, observed: Points) -> list[Floats]:
        """Return the residual kernels with observed allocations for each of `LENGTH_SCALES`.

        They are cached, and of shape (pool, observed).
        """
        keys = observed.choices
        # The agent's rounds are planned on another thread, which may empty the cache meanwhile.
        cache = self._cache
        missing = [i for i, key in enumerate(keys) if key not in cache]
        if missing:
            if len(cache) > _CACHED_KERNELS:
                self._cache = cache = {}
                missing = list(range(len(keys)))
            others = observed.take(np.array(missing))
            kernels = self._surrogate.residual_kernels(self.points, others)
            for column, i in enumerate(missing):
                cache[keys[i]] = [kernel[:, column].copy() for kernel in kernels]
        columns = [cache[key] for key in keys]
        return [np.stack(parts).T for parts in zip(*columns)]


class Pools:
    """Pools of a task, one for each choice of ranges of a study.

    Args:
        surrogate: The surrogate.
        task: The task.
        rng: Random number generator for thinning the pool of the task itself.
    """

    def __init__(self, surrogate: Surrogate, task: Task, rng: np.random.Generator) -> None:
        """See the class."""
        self._surrogate, self._task, self._rng = surrogate, task, copy.deepcopy(rng)
        self._pools: OrderedDict[Ranges | None, Pool] = OrderedDict()

    def of(self, ranges: Ranges | None) -> Pool:
        """Return the pool of a study's ranges; None for those of the task."""
        # Taken out and put back as the latest, so that no other thread can evict it in between.
        pool = self._pools.pop(ranges, None) or self._build(ranges, _POOL_SIZE)
        self._pools[ranges] = pool
        if len(self._pools) > _CACHED_POOLS:
            self._pools.popitem(last=False)
        return pool

    def rows(self, evidence: Evidence, constraint: Constraint) -> tuple[Pool, Ints]:
        """Return a pool, and positions in it that the trial can take and that are untried.

        If all were tried, those that failed are tried again without waiting, as often as they may
        be; then the only option left is to repeat one of the others.

        Args:
            evidence: The evidence.
            constraint: Allocations that the trial can still take.
        """
        pool, ranges = self.of(evidence.ranges), constraint.ranges
        inside = np.ones(len(pool.keys), dtype=np.bool_)
        if ranges is not None:
            inside = ranges.mask(pool.points.models, pool.points.samples)
        fresh = np.array([key not in evidence.visited for key in pool.keys]) & inside
        if ranges is not None and fresh.sum() < (_MIN_ROWS if pool.thinned else 1):
            pool = self._build(ranges, _TRIAL_POOL_SIZE)
            fresh = np.array([key not in evidence.visited for key in pool.keys])
            inside = np.ones(len(pool.keys), dtype=np.bool_)
        for left_out in (evidence.tried | evidence.failed, evidence.failed, ()):
            if fresh.any():
                break
            fresh = np.array([key not in left_out for key in pool.keys]) & inside
        return pool, np.flatnonzero(fresh)

    def _build(self, ranges: Ranges | None, size: int) -> Pool:
        # The pool of the task is the same, whenever it is built.
        rng = np.random.default_rng(SEED) if ranges else copy.deepcopy(self._rng)
        return Pool(self._surrogate, self._task, ranges, rng, size)
