"""Allocations for which an ask computes more than posterior means."""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.acquisition import Acquisition
from optuna_agenttts.planner.evidence import Evidence, Ints
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.mixture import View
from optuna_agenttts.planner.observations import first_and_spread
from optuna_agenttts.planner.posterior import Posterior
from optuna_agenttts.task.ranges import Ranges

_MAX_ENTRIES = 240_000
"""Allocations times observations times components for which one ask computes the full posterior:
some milliseconds. Chosen by hand."""
_MIN_SHORTLIST = 200
"""Allocations for which one ask always computes the full posterior. Chosen by hand."""
_REPEATED = 8
"""Observed allocations, best posterior means first, that may be measured again. Chosen by hand."""


def shortlist(view: View, positions: Ints, search: Acquisition) -> View:
    """Return a shortlist that bounds the work of an ask.

    Half of it are the allocations of largest posterior mean, or closest to the front or above it,
    half are evenly spread over the ranks of the others.
    """
    entries = len(view.mixture.observed) * len(view.mixture.components)
    size = max(_MIN_SHORTLIST, _MAX_ENTRIES // entries)
    if len(positions) <= size:
        return view.take(positions)
    ranks = search.shortfall(view.points, view.mean())
    order = np.argsort(ranks[positions], kind="stable")
    return view.take(positions[first_and_spread(order, size)])


def best_observed(
    posterior: Posterior, evidence: Evidence, ranges: Ranges, search: Acquisition
) -> Points:
    """Return the best observed allocations within ranges and budget, except pending ones."""
    incumbents = posterior.incumbents
    ranks = search.shortfall(incumbents.points, incumbents.mean())
    order = np.argsort(ranks, kind="stable")[:_REPEATED]
    top = incumbents.points.take(order)
    keys = top.choices
    # Earlier trials may be over the budget, which may have been larger.
    fits = evidence.task.feasible.fits
    keep = [
        i
        for i, key in enumerate(keys)
        if key not in evidence.pending and ranges.allow(key) and fits(key)
    ]
    return top.take(np.array(keep, dtype=np.int64))
