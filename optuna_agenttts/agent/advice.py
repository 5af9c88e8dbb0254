"""Choice between the agent's proposals and the numerical planner's.

An agent with prior knowledge should be able to overrule the posterior, and a bad agent should cost
little. A proposal is therefore checked when its trial starts: it is tried if its knowledge
gradient is at least a given share of the largest one. The share depends on how often the agent's
earlier trials scored more than the posterior expected of them: an agent that knows no more than
the posterior surprises it in half of them, also if it proposes what is known to be good.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.agent.pace import STRIDE
from optuna_agenttts.planner.evidence import Candidate, Choices, Constraint, Evidence
from optuna_agenttts.planner.feasibility import known_feasibility
from optuna_agenttts.planner.fronts import added_area
from optuna_agenttts.planner.numerical import NumericalPlanner, has_differing_repeats
from optuna_agenttts.study.fates import promise_text
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.task.equivalence import Equivalence
from optuna_agenttts.task.task import Task

# Chosen by hand.
_BASE_SHARE = 0.5
"""Required share of the largest knowledge gradient, in [0, 1], before the agent has results."""
_CHECKED_SHARE = 0.25
"""The same for an agent that saw how often stages passed their checks: the posterior does not see
them."""
_MAX_SHARE = 0.9
"""Upper bound of the required share."""


def required_share(evidence: Evidence, *, checked: bool = False) -> float:
    """Return the required share of the largest knowledge gradient for the agent's next proposal.

    It is 0.5, or 0.25 if the agent saw checks of stages, divided by the odds that a proposal of
    the agent does well, that is, violates no constraint and scores at least what the posterior
    expected. Where that is not recorded, as in the first trial, it is the median of the numerical
    planner's trials after the opening, or of all trials of other origins if there are none. With
    two objectives, trials are compared with that median, by the area that they alone add to the
    front, or by how far they are behind it.

    Args:
        evidence: The trials so far, with their origins.
        checked: Whether the agent saw how often stages passed their checks.

    Returns:
        The share, in (0, 0.9].
    """
    record = _record(evidence)
    base = _CHECKED_SHARE if checked else _BASE_SHARE
    if record is None:
        return base
    good, trials = record
    # Add one good and one bad pseudo-observation (Laplace smoothing).
    odds = (good + 1) / (trials - good + 1)
    return float(min(_MAX_SHARE, base / odds))


def _may_open(evidence: Evidence) -> bool:
    """Return whether the agent may have a trial of the opening.

    It may have one for two of the planner's, and one more than those that did well, so that a bad
    agent delays the opening by a single trial.
    """
    record, mine = _record(evidence), evidence.origins.count("agent")
    others = len(evidence.origins) - mine
    return mine < min(1 + (record[0] if record else 0), others // 2)


def _record(evidence: Evidence) -> tuple[int, int] | None:
    """Return how many of the agent's trials did well, and their number; None without any.

    None also without trials to compare them with.
    """
    known = known_feasibility(evidence)
    values = added_area(evidence) if evidence.frontier else evidence.scores
    scores = [
        s if not known or known.get(choices, True) else -math.inf
        for s, choices in zip(values, evidence.choices)
    ]
    agent_scores = [s for s, origin in zip(scores, evidence.origins) if origin == "agent"]
    other_scores = [
        s for s, origin in zip(scores, evidence.origins) if origin in ("numerical", "fallback")
    ] or [
        s for s, origin in zip(scores, evidence.origins) if origin not in ("agent", "confirmation")
    ]
    if not agent_scores or not other_scores:
        return None
    median = float(np.median(other_scores))
    expected = np.full(len(scores), np.nan)
    if not evidence.frontier:
        expected[: len(evidence.expected)] = evidence.expected
    least = np.where(np.isfinite(expected), expected, median)
    good = sum(
        score >= threshold and score > -math.inf
        for score, threshold, origin in zip(scores, least, evidence.origins)
        if origin == "agent"
    )
    return int(good), len(agent_scores)


def advised_candidate(
    planner: NumericalPlanner,
    evidence: Evidence,
    constraint: Constraint,
    planned: Round,
    position: int,
) -> Candidate:
    """Return the agent's candidate for a trial if it is worth trying, else the planner's.

    Args:
        planner: The numerical planner.
        evidence: The trials so far.
        constraint: Allocations that the trial can take.
        planned: The trial's round.
        position: Position of the trial's candidate in the round.

    Returns:
        The candidate. Its origin is ``"fallback"`` if the round failed or is late.
    """
    if planned.error:
        default = planner.propose(evidence, constraint)
        reason = f"{default.reason} (fallback: {planned.error})"
        return replace(default, origin="fallback", reason=reason)
    if position >= len(planned.candidates):
        return planner.propose(evidence, constraint)
    proposed: dict[str, Any] = {"round": planned.number, "position": position}
    candidate = planned.candidates[position]
    choices = _agent_choices(planner.task, evidence, candidate.params or {})
    ranges, opening = constraint.ranges or evidence.ranges, planner.in_opening(evidence)
    if choices is None or (ranges is not None and not ranges.allow(choices)):
        proposed["outcome"] = "range"
    elif choices in evidence.visited and not (
        candidate.again and choices not in evidence.pending and has_differing_repeats(evidence)
    ):
        proposed["outcome"] = "taken"
    elif opening and not _may_open(evidence):
        proposed["outcome"] = "opening"
    if choices is None or "outcome" in proposed:
        return replace(planner.propose(evidence, constraint), proposed=proposed)
    compared = planner.compare(evidence, [choices], constraint)
    default, worth = compared.proposal, compared.worth
    if worth[0] >= required_share(evidence, checked=planned.checked):
        if math.isfinite(expected := float(compared.expected[0])):
            proposed["expected"] = evidence.sign * expected
        reason = candidate.reason or "proposed without a reason"
        return Candidate(choices, "agent", reason, {**proposed, "outcome": "tried"})
    if evidence.concurrent:
        default = planner.propose(evidence, constraint)
    return replace(
        default,
        reason=f"{default.reason}; the agent's candidate is expected to help "
        f"{promise_text(worth[0])}",
        proposed={**proposed, "outcome": "refused", "worth": round(float(worth[0]), 4)},
    )


def _agent_choices(task: Task, evidence: Evidence, params: Mapping[str, Any]) -> Choices | None:
    """Return the agent's candidate, or what must equal it and is cheaper; None if none fits."""
    choices = task.read(params)
    if choices is None:
        return None
    declared = Equivalence.of(task.stages)
    cheapest = declared.cheapest(choices, declared.pattern(choices), task.feasible)
    if evidence.ranges is None or evidence.ranges.allow(cheapest):
        choices = cheapest
    return choices if task.feasible.fits(choices) else None


def generic_candidate_index(
    trials: Sequence[FrozenTrial], position: int, *, maximize: bool
) -> int | None:
    """Return the index of a trial's candidate in its round.

    Every second trial is the agent's and the others are the independent sampler's. Without a
    posterior to check proposals, this bounds the cost of a bad agent. If the median of the agent's
    trials is worse than that of the others (at least four of each), the agent keeps only the first
    trial of each round.

    Args:
        trials: The study's trials.
        position: The trial's number, counted from the first trial of the round.
        maximize: Whether higher values are better.

    Returns:
        The index, or None if the trial is the independent sampler's.
    """
    if position % STRIDE:
        return None
    values: dict[bool, list[float]] = {True: [], False: []}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.values is not None:
            proposed = trial.user_attrs.get(storage.ORIGIN) == "agent"
            values[proposed].append(trial.values[0] if maximize else -trial.values[0])
    # Four trials of each: chosen by hand.
    worse = min(len(values[True]), len(values[False])) >= 4 and (
        np.median(values[True]) < np.median(values[False])
    )
    return None if worse and position > 0 else position // STRIDE


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Return whether a distribution contains a value."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False
