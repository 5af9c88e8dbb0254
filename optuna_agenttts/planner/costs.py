"""Costs of allocations in searches for good scores at every cost.

The task computes its own costs. Where trials measured something else, such as a latency or a
price, costs are predicted from what they measured, with noise that is lognormal:

    log measured = log(e^o + sum over stages of (c_1 + (c_n - c_1) e^r) n^p e^(u + m)) + noise

c_n is the task's cost of n samples of a stage. Weights, normal a priori, are u, the unit; o, the
overhead of a run; r of a stage, as the first sample pays for the prompt; p of a stage, as samples
that run at once take less than n times as long; and m of a stage's model. Their most probable
values are found by Gauss-Newton steps, for several levels of noise, and averaged by the marginal
likelihood in Laplace's approximation (C. M. Bishop (2006), Pattern Recognition and Machine
Learning, Eq. 4.137). Repeated trials of an allocation count as so many measurements.

From 20 random allocations of simulated landscapes ("docs/benchmarks.md"), the logarithm of costs
was predicted with a mean absolute error of .11 (factors of models, noise of .3), .06 (overheads,
.1), .07 (samples that run at once, .1) and .03 (square roots of samples), instead of .17, .09, .20
and .11 by the Gaussian process of a constraint's values, and .26, .14, .56 and .38 by the task's
costs.
"""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.evidence import Evidence, Floats, Ints
from optuna_agenttts.planner.kernels import Points

_SAME = 1e-6
"""Relative difference up to which measured costs are the task's, or times a constant."""
_UNIT_SD, _OVERHEAD_SD, _REST_SD, _POWER_SD, _MODEL_SD = 1.0, 2.0, 1.0, 0.3, 0.7
"""Prior standard deviations of the weights. The unit's is beside the median ratio. Chosen by
hand."""
_OVERHEAD = -2.0
"""Prior mean of the overhead: a logarithm, relative to the cost of the cheapest allocation. Chosen
by hand."""
_NOISE_SDS = (0.3, 0.1, 0.03, 0.01)
"""Standard deviations of the noise to average over, largest first: the fit to each starts from
that to the one before. Chosen by hand."""
_FARTHEST = 10.0
"""Farthest logarithm of a ratio from the median one: what is farther is a mistake, and sums of
exponentials would overflow. Chosen by hand."""
_LEAST_REST = 1e-12
"""Least share of a cost that further samples have, since its logarithm is taken."""
_STEPS = 3
"""Gauss-Newton steps for each level of noise. Ten times as many predict no better."""


class Costs:
    """Costs of allocations: the task's, or predictions from measured ones.

    Args:
        evidence: The evidence, with the measured costs if there are any.
    """

    def __init__(self, evidence: Evidence) -> None:
        """See the class."""
        feasible = evidence.task.feasible
        self._tables = [np.stack(list(rows)) for rows in feasible.costs]
        self._overhead = 0.0
        self.unit: float | None = None
        """Unit of measured costs that differ from the task's, in units of the task; else None."""
        measured = np.array(evidence.measured, dtype=np.float64)
        # Pending trials, and those of earlier studies, have measured nothing.
        rows = np.flatnonzero(measured > 0)
        models, samples = evidence.models[rows], evidence.samples[rows]
        # Free stages take time, too.
        positive = [table[table > 0].min(initial=feasible.limit) for table in self._tables]
        tables = [np.maximum(table, least) for table, least in zip(self._tables, positive)]
        parts = self._parts(tables, models, samples)
        logs = np.log(measured[rows] / sum(parts)) if len(rows) else np.zeros(1)
        if np.abs(logs).max() > _SAME:
            # In units of the task: only relative costs matter.
            self.unit = float(np.exp(np.median(logs)))
        if np.ptp(logs) > _SAME:
            self._fit(tables, models, samples, np.log(measured[rows]))

    def __call__(self, points: Points) -> Floats:
        """Return the costs of allocations, shape (allocations,)."""
        costs: Floats = self._parts(self._tables, points.models, points.samples).sum(axis=0)
        return costs + self._overhead

    @staticmethod
    def _parts(tables: list[Floats], models: Ints, samples: Ints) -> Floats:
        """Return the cost of each stage of allocations, shape (stages, allocations)."""
        return np.stack([table[models[:, s], samples[:, s] - 1] for s, table in enumerate(tables)])

    def _fit(self, tables: list[Floats], models: Ints, samples: Ints, logs: Floats) -> None:
        """Fit the weights and set tables and overhead.

        Args:
            tables: Costs of the stages by the task, above 0.
            models: Models of the measured allocations.
            samples: Their numbers of samples.
            logs: Logarithms of what was measured.
        """
        stages, parts = len(tables), np.log(self._parts(tables, models, samples))
        first = np.log(self._parts(tables, models, np.ones_like(samples)))
        rest = parts + np.log(np.maximum(1 - np.exp(first - parts), _LEAST_REST))
        ratios = logs - np.logaddexp.reduce(parts, axis=0)
        logs = logs - ratios + np.clip(ratios - np.median(ratios), -_FARTHEST, _FARTHEST)
        overhead = np.log(sum(table.min() for table in tables)) + _OVERHEAD
        # Rows: first samples of the stages, the rest of them, the overhead. Weights: u, o, p and
        # r of the stages, m of their models.
        base = np.concatenate([first, rest, np.full((1, len(logs)), overhead)])
        ends = np.cumsum([2 + 2 * stages, *map(len, tables)])
        design = np.zeros((2 * stages + 1, len(logs), ends[-1]))
        design[:-1, :, 0] = 1.0
        design[-1, :, 1] = 1.0
        for s in range(stages):
            design[[s, stages + s], :, 2 + s] = np.log(samples[:, s])
            design[stages + s, :, 2 + stages + s] = 1.0
            for part in (s, stages + s):
                design[part, np.arange(len(logs)), ends[s] + models[:, s]] = 1.0
        sds = np.repeat(
            [_UNIT_SD, _OVERHEAD_SD, _POWER_SD, _REST_SD, _MODEL_SD],
            [1, 1, stages, stages, ends[-1] - ends[0]],
        )
        weights, fitted, evidence = np.zeros(ends[-1]), [], []
        for noise in _NOISE_SDS:
            for _ in range(_STEPS):
                terms = base + design @ weights
                total = np.logaddexp.reduce(terms)
                slopes = np.einsum("sn,snd->nd", np.exp(terms - total), design)
                gaps = logs - total
                precision = slopes.T @ slopes / noise**2 + np.diag(sds**-2.0)
                pull = slopes.T @ (gaps + slopes @ weights) / noise**2
                before, weights = weights, np.linalg.solve(precision, pull)
            misfit = gaps @ gaps / noise**2 + ((before / sds) ** 2).sum()
            volume = len(logs) * np.log(noise) + 0.5 * np.linalg.slogdet(precision)[1]
            evidence.append(-0.5 * misfit - volume)
            fitted.append(weights)
        shares = np.exp(evidence - np.max(evidence))
        mean = shares @ np.stack(fitted) / shares.sum()
        self._overhead = float(np.exp(overhead + mean[1]))
        self._tables = [
            (table[:, :1] + (table - table[:, :1]) * np.exp(mean[2 + stages + s]))
            * np.arange(1, table.shape[1] + 1) ** mean[2 + s]
            * np.exp(mean[0] + mean[ends[s] : ends[s + 1], None])
            for s, table in enumerate(tables)
        ]
