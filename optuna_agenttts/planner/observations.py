"""Observed rates to condition on: similar trials merged."""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.evidence import Bools, Floats, Ints

_MAX_OBSERVATIONS = 64
"""Observations to condition on. If there are more, similar ones are merged and some are left out,
which bounds the time of an ask: it was .16 s with 200 observations. Chosen by hand."""
_MERGE_STEPS = (0.0, 0.1, 0.2, 0.4)
"""Widths of the bins within which observations are merged, in ln(samples). They are tried in turn;
0 merges equal allocations only. Chosen by hand."""


def merge_trials(
    models: Ints,
    samples: Ints,
    rates: Floats,
    shares: Floats,
    eligible: Bools | None = None,
    blocks: Ints | None = None,
) -> tuple[Ints, Ints, Floats, Floats, Ints]:
    """Average the rates of equal allocations, and of similar ones if there are many.

    Only trials of the same instances are averaged. Confirmed allocations are told apart, however
    many there are.

    Args:
        models: Positions of models, shape (trials, stages).
        samples: Numbers of samples, shape (trials, stages).
        rates: Observed rates, shape (trials,).
        shares: Fraction of the instances that each rate averages over, shape (trials,).
        eligible: Whether each trial can be the incumbent, shape (trials,). Groups of trials that
            can are the last to be left out. Default: all can.
        blocks: Block of fresh instances of each trial, shape (trials,); 0 for trials of the
            search. Default: all are.

    Returns:
        Models, samples and mean rates of the groups; the number of full trials that each
        represents; and the group of each trial, -1 for trials that are left out.
    """
    x = np.log(samples)
    blocks = np.zeros(len(rates), dtype=np.int64) if blocks is None else blocks
    for step in _MERGE_STEPS:
        bins = samples
        if step > 0:
            bins = np.where(blocks[:, None] > 0, samples, np.round(x / step).astype(np.int64))
        # Rows are numbered column by column, which takes a tenth of the time of sorting rows.
        group = np.zeros(len(rates), dtype=np.int64)
        for column in (*models.T, *bins.T, blocks):
            code = group * (column.max(initial=0) + 1) + column
            _, first, group = np.unique(code, return_index=True, return_inverse=True)
        fresh = blocks[first] > 0
        if (~fresh).sum() <= _MAX_OBSERVATIONS:
            break
    counts: Floats = np.bincount(group, weights=shares, minlength=len(first)).astype(np.float64)
    means = np.bincount(group, weights=shares * rates, minlength=len(first)) / counts
    kept = _subsample(means, eligible_groups(group, len(first), eligible), fresh)
    position = np.full(len(first), -1)
    position[kept] = np.arange(len(kept))
    first = first[kept]
    return models[first], samples[first], means[kept], counts[kept], position[group]


def eligible_groups(group: Ints, count: int, eligible: Bools | None) -> Bools:
    """Return which groups consist of trials that can be the incumbent.

    Args:
        group: Group of each trial, -1 for none.
        count: Number of groups.
        eligible: Whether each trial can be the incumbent. Default: all.
    """
    found = np.ones(count, dtype=np.bool_)
    if eligible is not None:
        found[group[~eligible & (group >= 0)]] = False
    return found


def _subsample(means: Floats, eligible: Bools, fresh: Bools) -> Ints:
    """Return the positions of at most `_MAX_OBSERVATIONS` groups of the search, and all others.

    Half are the best and half are evenly spread over the ranks of the others: the best alone
    would make all allocations look good.
    """
    search = np.flatnonzero(~fresh)
    if len(search) <= _MAX_OBSERVATIONS:
        return np.arange(len(means))
    order = search[np.lexsort((-means[search], ~eligible[search]))]
    kept = first_and_spread(order, _MAX_OBSERVATIONS)
    return np.sort(np.concatenate([np.flatnonzero(fresh), kept]))


def first_and_spread(order: Ints, size: int) -> Ints:
    """Return `size` positions: half are the first, half are evenly spread over the others."""
    first, others = order[: size // 2], order[size // 2 :]
    spread = np.linspace(0, len(others) - 1, size - len(first)).astype(np.int64)
    return np.concatenate([first, others[spread]])
