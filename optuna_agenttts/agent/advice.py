"""Choice between the agent's proposals and the numerical planner's.

An agent with prior knowledge should be able to overrule the posterior, and a bad agent should cost
little. A proposal is therefore checked when its trial starts: it is tried if its expected
improvement is at least a given share of the largest one. The share depends on how well the agent's
earlier proposals did compared with the numerical planner's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.agent.any_space import GenericEvidence, GenericQuestions
from optuna_agenttts.agent.ask import Job
from optuna_agenttts.agent.pace import FIRST_SPAN, ROUND_SIZE, SPARE
from optuna_agenttts.agent.prompts import TABLES
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.planner.evidence import Candidate, Choices, Constraint, Evidence
from optuna_agenttts.planner.feasibility import known_feasibility
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.pools import choices_of
from optuna_agenttts.study.fates import fates, promise_text
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.study.spending import price_of, spend_of
from optuna_agenttts.task.equivalence import Equivalence
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.task import Task

# Chosen by hand.
_BASE_SHARE = 0.1
"""Required share of the largest expected improvement, in [0, 1], before the agent has results."""
_MAX_SHARE = 0.9
"""Upper bound of the required share."""
STRIDE = 2
"""Trials from one candidate of a round to the next in search spaces without stages."""


def required_share(evidence: Evidence) -> float:
    """Return the required share of the largest expected improvement for the agent's next proposal.

    It is 0.1 divided by the odds that a proposal of the agent does well, that is, violates no
    constraint and scores at least the median of the numerical planner's trials after the opening,
    or of all trials of other origins if there are none.

    Args:
        evidence: The trials so far, with their origins.

    Returns:
        The share, in (0, 0.9].
    """
    record = _record(evidence)
    if record is None:
        return _BASE_SHARE
    good, trials = record
    # Add one good and one bad pseudo-observation (Laplace smoothing).
    odds = (good + 1) / (trials - good + 1)
    return float(min(_MAX_SHARE, _BASE_SHARE / odds))


def _may_open(evidence: Evidence) -> bool:
    """Return whether the agent may have a trial of the opening.

    Before any trial of both, it may have one; then one more than twice those that did well, so
    that a bad agent delays the opening by a single trial.
    """
    record, mine = _record(evidence), evidence.origins.count("agent")
    return mine < 1 + 2 * (record[0] if record else 0)


def _record(evidence: Evidence) -> tuple[int, int] | None:
    """Return how many of the agent's trials did well, and their number; None without any.

    None also without trials to compare them with.
    """
    known = known_feasibility(evidence)
    scores = [
        s if not known or known.get(choices, True) else -math.inf
        for s, choices in zip(evidence.scores, choices_of(evidence.models, evidence.samples))
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
    good = sum(score >= median and score > -math.inf for score in agent_scores)
    return good, len(agent_scores)


def advised_candidate(
    planner: NumericalPlanner,
    evidence: Evidence,
    constraint: Constraint,
    planned: Round | None,
    position: int,
) -> Candidate:
    """Return the agent's candidate for a trial if it is worth trying, else the planner's.

    Args:
        planner: The numerical planner.
        evidence: The trials so far.
        constraint: Allocations that the trial can take.
        planned: The trial's round; None if it was not ready in time.
        position: Position of the trial's candidate in the round.

    Returns:
        The candidate. Its origin is ``"fallback"`` if the round is missing or failed.
    """
    if planned is None or planned.error:
        default = planner.propose(evidence, constraint)
        why = "the agent's round did not come in time" if planned is None else planned.error
        return replace(default, origin="fallback", reason=f"{default.reason} (fallback: {why})")
    if position >= len(planned.candidates):
        return planner.propose(evidence, constraint)
    proposed: dict[str, Any] = {"round": planned.number, "position": position}
    choices = _agent_choices(planner.task, evidence, planned.candidates[position].params or {})
    ranges = constraint.ranges or evidence.ranges
    if choices is None or (ranges is not None and not ranges.allow(choices)):
        proposed["outcome"] = "range"
    elif choices in evidence.visited:
        proposed["outcome"] = "taken"
    elif planner.in_opening(evidence) and not _may_open(evidence):
        proposed["outcome"] = "opening"
    if choices is None or "outcome" in proposed:
        return replace(planner.propose(evidence, constraint), proposed=proposed)
    default, worth, _ = planner.compare(evidence, [choices], constraint)
    if worth[0] >= required_share(evidence):
        reason = planned.candidates[position].reason or "proposed without a reason"
        return Candidate(choices, "agent", reason, {**proposed, "outcome": "tried"})
    if evidence.concurrent:
        default = planner.propose(evidence, constraint)
    weak = promise_text(worth[0])
    return replace(
        default,
        reason=f"{default.reason}; what the agent proposed promises {weak}",
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


def task_job(
    planner: NumericalPlanner,
    evidence: Evidence,
    trials: Sequence[FrozenTrial],
    *,
    agent: str | Model,
    insights: tuple[int, ...],
    guidelines: bool,
    tables: tuple[str, ...] = TABLES,
    experience: tuple[str, ...] = (),
    limit: float | None = None,
    rounds: Sequence[Round] = (),
    start: int = 0,
    n_trials: int | None = None,
) -> Job | None:
    """Build the job that plans a round of a task.

    Args:
        planner: The numerical planner of the task.
        evidence: The trials so far.
        trials: The same trials as Optuna holds them, for the spending.
        agent: Label of the planning model, or its facts, for its price.
        insights: Numbers of the paper's insights to state.
        guidelines: Whether to ask for guidelines.
        tables: Names of the tables of computed evidence to show.
        experience: Prompt lines that describe earlier studies.
        limit: Spending limit of the search in the task's cost unit; None without one.
        rounds: The earlier rounds.
        start: Number of the first trial that the round can be for.
        n_trials: Number of trials that the study will have; None if it is not known.

    Returns:
        The job, or None if the search ends before the round, or later rounds lack scores.
    """
    task = planner.task
    if rounds and len(evidence.scores) == 0:
        return None
    left = _trials_left(task, trials, rounds, start, n_trials, limit)
    if left <= 0:
        return None
    asked = int(min(ROUND_SIZE + SPARE, left))
    # The last round has a candidate for each trial that is left.
    wanted = asked if not rounds or left <= ROUND_SIZE + SPARE else ROUND_SIZE
    return Job(
        questions=TaskQuestions(
            planner,
            evidence,
            insights=insights,
            tables=tables,
            guidelines=guidelines,
            wanted=asked,
            fates=fates(trials, rounds),
        ),
        trials=len(evidence.scores),
        wanted=wanted,
        start=start,
        span=wanted if rounds else FIRST_SPAN,
        price=partial(price_of, task, agent),
        spent=lambda rounds: str(spend_of(task, trials, rounds, limit)),
        experience=experience,
    )


def _trials_left(
    task: Task,
    trials: Sequence[FrozenTrial],
    rounds: Sequence[Round],
    start: int,
    n_trials: int | None,
    limit: float | None,
) -> float:
    """Return how many trials the search has from one on; infinity if no end is known."""
    left = math.inf if n_trials is None else n_trials - start
    finished = [t for t in trials if t.state.is_finished() and not storage.confirmation_block(t)]
    if limit is not None and finished:
        spent = spend_of(task, trials, rounds, limit)
        mean = (spent.trials - spent.confirmation) / len(finished)
        if mean > 0:
            running = start - len(finished)
            left = min(left, math.ceil((limit - spent.total) / mean) - running)
    return left


def generic_job(
    trials: Sequence[FrozenTrial],
    stated: Mapping[str, BaseDistribution],
    *,
    maximize: bool,
    description: str,
    guidelines: bool,
    rounds: Sequence[Round] = (),
    start: int = 0,
    n_trials: int | None = None,
) -> Job | None:
    """Build the job that plans a round over an arbitrary search space.

    Half of the round's trials are the agent's; see `generic_candidate_index`.

    Args:
        trials: The study's trials.
        stated: Distributions by parameter, as given by the user; may be empty.
        maximize: Whether higher values are better.
        description: What is optimized, in the user's words; may be empty.
        guidelines: Whether to ask for guidelines.
        rounds: The earlier rounds.
        start: Number of the first trial that the round can be for.
        n_trials: Number of trials that the study will have; None if it is not known.

    Returns:
        The job; None without parameters, in the first three trials, or if the search ends before.
    """
    # The first six trials are the independent sampler's.
    if start < ROUND_SIZE // 2:
        return None
    start = max(start, ROUND_SIZE)
    if n_trials is not None and start >= n_trials:
        return None
    evidence = generic_evidence(trials, stated, maximize=maximize)
    if not evidence.values or not evidence.space:
        return None
    return Job(
        questions=GenericQuestions(
            evidence,
            description=description,
            guidelines=guidelines,
            wanted=ROUND_SIZE // STRIDE + 1,
            fates=fates(trials, rounds, stride=STRIDE),
        ),
        trials=len(evidence.values),
        wanted=ROUND_SIZE // STRIDE,
        start=start,
        span=ROUND_SIZE,
        price=lambda prompt, generated, cached: None,
        spent=lambda rounds: "",
    )


def generic_evidence(
    trials: Sequence[FrozenTrial], stated: Mapping[str, BaseDistribution], *, maximize: bool
) -> GenericEvidence:
    """Collect the finished and running trials of a study over an arbitrary search space.

    Args:
        trials: The study's trials.
        stated: Distributions by parameter, as given by the user; may be empty.
        maximize: Whether higher values are better.
    """
    finished = [
        trial
        for trial in trials
        if trial.state == TrialState.COMPLETE
        and trial.values is not None
        and math.isfinite(trial.values[0])
        and trial.params
    ]
    space: dict[str, BaseDistribution] = dict(stated)
    for trial in finished:
        space.update({n: d for n, d in trial.distributions.items() if not d.single()})
    return GenericEvidence(
        space=space,
        conditional=tuple(
            name for name in space if any(name not in trial.params for trial in finished)
        ),
        maximize=maximize,
        numbers=tuple(trial.number for trial in finished),
        params=tuple(trial.params for trial in finished),
        values=tuple(float(trial.values[0]) for trial in finished if trial.values),
        running=tuple(t.params for t in trials if t.state == TrialState.RUNNING and t.params),
        origins=tuple(str(t.user_attrs.get(storage.ORIGIN, "")) for t in finished),
    )


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
