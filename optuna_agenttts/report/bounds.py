"""The cheapest allocation whose score reaches a bound."""

from __future__ import annotations

import math

import numpy as np

from optuna_agenttts.exceptions import NoEvidenceError, TaskError
from optuna_agenttts.planner.evidence import Floats
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.text import sentence
from optuna_agenttts.support.numbers import is_finite

SURE = 0.9
"""Probability with which an allocation's score is to reach a bound."""


def checked_bound(
    found: Candidates, at_least: float | None, at_most: float | None
) -> float | None:
    """Return the score to reach, or None; see `recommend` for arguments and errors."""
    ours, other = ("at_least", "at_most") if found.evidence.sign > 0 else ("at_most", "at_least")
    given = {"at_least": at_least, "at_most": at_most}
    if given[other] is not None:
        what = "maximizes" if found.evidence.sign > 0 else "minimizes"
        raise TaskError(
            f"recommend: `{other}` was given, and the study {what}: use `{ours}`, the score to "
            "reach."
        )
    if (bound := given[ours]) is not None:
        if not is_finite(bound):
            raise TaskError(f"recommend: `{ours}` must be finite, got {bound!r}.")
        if (limits := found.task.metric_range) and not limits[0] <= bound <= limits[1]:
            raise TaskError(
                f"recommend: `{ours}` must be within the metric's range, {limits[0]:g} to "
                f"{limits[1]:g}, got {bound:g}."
            )
    return bound


def cheapest_reaching(
    found: Candidates, values: Floats, bound: float, score_sd: float | None
) -> tuple[int, float]:
    """Return the cheapest candidate that reaches a bound with enough probability, and that one.

    Raises:
        NoEvidenceError: There is none, or probabilities are unknown.
    """
    known = found.probabilities(values, bound, score_sd)
    probabilities = [p or 0.0 for p in known]
    for position in np.argsort(found.costs, kind="stable").tolist():
        if probabilities[position] >= SURE:
            return position, probabilities[position]
    best = int(np.argmax(probabilities))
    text = f"No tried allocation reaches {bound:g} with a probability of {SURE:.0%}"
    if not any(probabilities):
        if (
            score_sd is None
            and known.count(None) == len(known)
            and not any(found.outcomes.values())
        ):
            raise NoEvidenceError(
                f"Whether a tried allocation reaches {bound:g} with a probability of {SURE:.0%} "
                "is unknown: trials reported no outcomes of single instances. Call "
                "`report_outcomes(trial, outcomes)` in the objective, or pass `score_sd=`."
            )
        closest = values[int(np.argmax(found.evidence.sign * values))]
        raise NoEvidenceError(
            f"{text}: all expected scores are far from it, the closest is {closest:.3g}. Run more "
            "trials, or ask for less."
        )
    # Rounded down, so that it is not shown as the one that is missing.
    largest = math.floor(1000 * probabilities[best]) / 1000
    raise NoEvidenceError(
        f"{text}: the largest one is {largest:.1%}, of "
        f"{sentence(found.task.allocation(found.keys[best]))}, with an expected score of "
        f"{values[best]:.3g}. Run more trials or instances, or ask for less."
    )
