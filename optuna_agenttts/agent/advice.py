"""What becomes of the agent's proposals: which of them are tried, and what the rest is.

An agent that knows more than the evidence shows must be able to say so, and one that talks
nonsense must cost little. So each proposal is weighed when its trial begins: it is tried if its
expected improvement is at least a share of the largest one. How large the share must be follows
from how the agent's earlier proposals did beside the numerical planner's.
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
from optuna_agenttts.agent.any_space import GenericEvidence, GenericQuestions
from optuna_agenttts.agent.ask import Job
from optuna_agenttts.agent.prompts import TABLES
from optuna_agenttts.agent.scheduler import ROUND_SIZE
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.agent.validation import Proposal
from optuna_agenttts.planner.evidence import Candidate, Choices, Constraint, Evidence
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.study.spending import price_of, spend_of

_WANTED = ROUND_SIZE + 2
_BASE_SHARE = 0.1
"""How much of the largest expected improvement an unknown agent's proposal must promise."""
_MAX_SHARE = 0.9


def required_share(evidence: Evidence) -> float:
    """How much of the largest expected improvement the agent's next proposal must promise.

    A proposal has done well if it scored at least the median of the trials that others proposed
    after the opening, or of all others where there are none.
    """
    ours = [s for s, origin in zip(evidence.scores, evidence.origins) if origin == "agent"]
    others = [
        s
        for s, origin in zip(evidence.scores, evidence.origins)
        if origin in ("numerical", "fallback")
    ] or [s for s, origin in zip(evidence.scores, evidence.origins) if origin != "agent"]
    if not ours or not others:
        return _BASE_SHARE
    middle = float(np.median(others))
    good = sum(score >= middle for score in ours)
    # One good and one bad proposal are imagined beside the real ones.
    odds = (good + 1) / (len(ours) - good + 1)
    return float(min(_MAX_SHARE, _BASE_SHARE / odds))


def advised_candidate(
    planner: NumericalPlanner, evidence: Evidence, planned: Round | None, number: int
) -> Candidate:
    """The candidate of a trial whose round has, or should have, been planned by the agent.

    Args:
        planner: The numerical planner.
        evidence: What is known.
        planned: The trial's round; None if it did not come in time.
        number: The trial's number.
    """
    if planned is None or planned.error:
        own = planner.propose(evidence, Constraint())
        why = "the agent's round did not come in time" if planned is None else planned.error
        return replace(own, origin="fallback", reason=f"{own.reason} (fallback: {why})")
    choices = _agent_choices(planner, evidence, planned, number)
    if choices is None or planner.in_opening(evidence):
        return planner.propose(evidence, Constraint())
    own, worth = planner.compare(evidence, [choices])
    if worth[0] >= required_share(evidence):
        reason = planned.candidates[number % ROUND_SIZE].reason
        return Candidate(choices, "agent", reason or "proposed without a reason")
    if evidence.concurrent:
        own = planner.propose(evidence, Constraint())
    weak = "nothing" if worth[0] < 0.005 else f"{100 * worth[0]:.0f} % as much"
    return replace(own, reason=f"{own.reason}; what the agent proposed promises {weak}")


def _agent_choices(
    planner: NumericalPlanner, evidence: Evidence, planned: Round, number: int
) -> Choices | None:
    """What the agent proposed for a trial, if that can still be tried."""
    position, task = number % ROUND_SIZE, planner.task
    if position >= len(planned.candidates):
        return None
    known = task.choices_from_params(planned.candidates[position].params)
    choices: Choices = tuple(known[i] for i in sorted(known))
    usable = (
        len(choices) == len(task.stages)
        and task.feasible.fits(choices)
        and choices not in evidence.visited
    )
    return choices if usable else None


def task_job(
    planner: NumericalPlanner,
    evidence: Evidence,
    trials: Sequence[FrozenTrial],
    *,
    agent: str,
    insights: tuple[int, ...],
    guidelines: bool,
    tables: tuple[str, ...] = TABLES,
    experience: tuple[str, ...] = (),
    limit: float | None = None,
) -> Job | None:
    """What a round of a task is planned from; None before the first score."""
    task = planner.task
    if len(evidence.scores) == 0:
        return None

    def choose(proposals: Sequence[Proposal]) -> Sequence[Proposal]:
        if len(proposals) <= ROUND_SIZE:
            return proposals
        _, worth = planner.compare(evidence, [proposal.choices for proposal in proposals])
        # The posterior says which to drop; the order stays the agent's. In the posterior's order
        # an agent that knows the playground's grid took 12.2 trials to its best allocation, in
        # its own 7.2 (means of 20 seeds): what the posterior doubts waits until it is ruled out.
        kept = sorted(np.argsort(-worth, kind="stable")[:ROUND_SIZE].tolist())
        return [proposals[i] for i in kept]

    return Job(
        questions=TaskQuestions(
            planner,
            evidence,
            insights=insights,
            tables=tables,
            guidelines=guidelines,
            wanted=_WANTED,
        ),
        trials=len(evidence.scores),
        wanted=ROUND_SIZE,
        choose=choose,
        params=lambda proposal: task.params(task.allocation(proposal.choices)),
        price=lambda prompt, generated: price_of(task, agent, prompt, generated),
        spent=lambda rounds: str(spend_of(task, trials, rounds, limit)),
        experience=experience,
    )


def generic_job(
    trials: Sequence[FrozenTrial],
    stated: Mapping[str, BaseDistribution],
    *,
    maximize: bool,
    description: str,
    guidelines: bool,
) -> Job | None:
    """What a round over an arbitrary space is planned from; None before the first value."""
    evidence = generic_evidence(trials, stated, maximize=maximize)
    if not evidence.values or not evidence.space:
        return None
    return Job(
        questions=GenericQuestions(
            evidence, description=description, guidelines=guidelines, wanted=ROUND_SIZE // 2 + 1
        ),
        trials=len(evidence.values),
        wanted=ROUND_SIZE // 2,
        choose=lambda proposals: proposals[: ROUND_SIZE // 2],
        params=lambda proposal: proposal.params,
        price=lambda prompt, generated: None,
        spent=lambda rounds: "",
    )


def generic_evidence(
    trials: Sequence[FrozenTrial], stated: Mapping[str, BaseDistribution], *, maximize: bool
) -> GenericEvidence:
    """Trials as evidence about an arbitrary space."""
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
    )


def generic_candidate_index(
    trials: Sequence[FrozenTrial], number: int, *, maximize: bool
) -> int | None:
    """Which of a round's candidates a trial gets; None if it is the independent sampler's.

    Every second trial is the agent's, the others stay with the independent sampler: without a
    posterior to weigh proposals by, that bounds what a bad agent costs. One whose trials do
    worse than the others' median keeps one trial in each round.
    """
    position = number % ROUND_SIZE
    if position % 2:
        return None
    values: dict[bool, list[float]] = {True: [], False: []}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.values is not None:
            proposed = trial.user_attrs.get(storage.ORIGIN) == "agent"
            values[proposed].append(trial.values[0] if maximize else -trial.values[0])
    worse = min(len(values[True]), len(values[False])) >= 4 and (
        np.median(values[True]) < np.median(values[False])
    )
    return None if worse and position > 0 else position // 2


def contains(distribution: BaseDistribution, value: Any) -> bool:
    """Whether a distribution has a value."""
    try:
        return bool(distribution._contains(distribution.to_internal_repr(value)))
    except (ValueError, TypeError):
        return False
