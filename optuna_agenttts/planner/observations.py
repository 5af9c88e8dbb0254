"""Observed rates to condition on: scores on a common scale, near trials merged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Ints

_CAP = 64
"""The most observations to condition on; of more, near ones are merged and some left out (see
`merge_trials` and `_kept`)."""


@dataclass(frozen=True, slots=True)
class Scale:
    """How scores become rates between 0 and 1, and back: ``rate = (score - low) / span``."""

    low: float = 0.0
    span: float = 1.0

    @classmethod
    def of(cls, scores: Floats) -> Scale:
        """Scores that can be rates stay as they are; others are spread over the middle.

        A score that is minimised arrives with its sign turned: a rate of errors then lies
        between -1 and 0, and becomes a rate of successes.
        """
        if len(scores) == 0:
            return cls()
        low, high = float(scores.min()), float(scores.max())
        if low >= 0 and high <= 1:
            return cls()
        if low >= -1 and high <= 0:
            return cls(low=-1.0)
        spread = (high - low) or abs(high) or 1.0
        # The scores seen so far take the range from .2 to .8: what comes may be better or worse.
        return cls(low=low - spread / 3, span=spread / 0.6)

    def rates(self, scores: Floats) -> Floats:
        """Scores as rates."""
        return (scores - self.low) / self.span

    def scores(self, rates: Floats) -> Floats:
        """Rates as scores."""
        return rates * self.span + self.low


def merge_trials(
    models: Ints, samples: Ints, rates: Floats, shares: Floats
) -> tuple[Ints, Ints, Floats, Floats, Ints]:
    """Average the rates of equal allocations, and of near ones where there are many.

    Returns:
        Models, samples and mean rates of the groups; how many full trials each stands for; and of
        each trial its group, -1 where that was left out.
    """
    x = np.log(samples)
    for step in (0.0, 0.1, 0.2, 0.4):
        bins = samples if step == 0 else np.round(x / step).astype(np.int64)
        # Rows are numbered one column at a time: sorting them whole takes ten times as long.
        group = np.zeros(len(rates), dtype=np.int64)
        for column in (*models.T, *bins.T):
            code = group * (column.max(initial=0) + 1) + column
            _, first, group = np.unique(code, return_index=True, return_inverse=True)
        if len(first) <= _CAP:
            break
    counts: Floats = np.bincount(group, weights=shares, minlength=len(first)).astype(np.float64)
    means = np.bincount(group, weights=shares * rates, minlength=len(first)) / counts
    kept = _kept(means)
    position = np.full(len(first), -1)
    position[kept] = np.arange(len(kept))
    first = first[kept]
    return models[first], samples[first], means[kept], counts[kept], position[group]


def _kept(means: Floats) -> Ints:
    """Which groups to condition on: all, or half the best and half evenly spread by rank.

    The best alone would make everything look good.
    """
    if len(means) <= _CAP:
        return np.arange(len(means))
    order = np.argsort(-means, kind="stable")
    rest = order[_CAP // 2 :]
    spread = rest[np.linspace(0, len(rest) - 1, _CAP - _CAP // 2).astype(np.int64)]
    return np.sort(np.concatenate([order[: _CAP // 2], spread]))
