"""Subjects of the agent's rounds: what to plan next, if there is anything to plan."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from optuna.distributions import BaseDistribution
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.agent.alarm import SILENCE, alarms
from optuna_agenttts.agent.any_space import SpaceSubject
from optuna_agenttts.agent.pace import (
    ALARM_SPAN,
    FIRST_SPAN,
    MAX_ENQUEUED,
    ROUND_SIZE,
    SILENT_SPAN,
    SPARE,
    STRIDE,
)
from optuna_agenttts.agent.prompts import TABLES
from optuna_agenttts.agent.space_evidence import space_evidence
from optuna_agenttts.agent.task_questions import TaskQuestions
from optuna_agenttts.planner.evidence import Evidence
from optuna_agenttts.planner.numerical import NumericalPlanner, has_differing_repeats
from optuna_agenttts.study.diagnostics import read_diagnostics
from optuna_agenttts.study.fates import fates
from optuna_agenttts.study.rounds import Round
from optuna_agenttts.study.spending import Spend, spend_of
from optuna_agenttts.support.logs import log_once

_logger = logging.getLogger(__name__)

_SENT = (
    "Study %r: the agent's prompts have transcripts of up to three instances: inputs, outputs and "
    "replies of stages, and reference answers that the inputs contain. "
    "`AgentTTSSampler(..., transcripts=False)` leaves them out."
)
When = Literal["auto", "always"]
"""When the agent is asked: on alarms, or for every round."""


def task_subject(
    planner: NumericalPlanner,
    evidence: Evidence,
    trials: Sequence[FrozenTrial],
    *,
    insights: tuple[int, ...],
    guidelines: bool,
    tables: tuple[str, ...] = TABLES,
    transcripts: bool = True,
    study: Study | None = None,
    experience: tuple[str, ...] = (),
    limit: float | None = None,
    rounds: Sequence[Round] = (),
    start: int = 0,
    n_trials: int | None = None,
    when: When = "always",
) -> TaskQuestions | Round | None:
    """Build the subject of a task's next round.

    Args:
        planner: The numerical planner of the task.
        evidence: The trials so far.
        trials: The same trials as Optuna holds them, for the spending.
        insights: Numbers of the paper's insights to state.
        guidelines: Whether to ask for guidelines.
        tables: Names of the tables of computed evidence to show.
        transcripts: Whether to show transcripts of instances.
        study: The study, to log once that prompts have transcripts.
        experience: Prompt lines that describe earlier studies.
        limit: Spending limit of the search in the task's cost unit; None without one.
        rounds: The earlier rounds.
        start: Number of the first trial that the round can be for.
        n_trials: Number of trials that the study will have; None if it is not known.
        when: When the agent is asked.

    Returns:
        The subject, or None if the search ends before the round, later rounds lack scores, many
        enqueued trials come first, or every allocation was tried. If the agent is not to be asked,
        the round without candidates.
    """
    task = planner.task
    if rounds and len(evidence.scores) == 0:
        return None
    if sum(trial.state == TrialState.WAITING for trial in trials) > MAX_ENQUEUED:
        return None
    spent = spend_of(task, trials, rounds, limit)
    left = _trials_left(trials, spent, start, n_trials)
    untried = _untried(planner, evidence)
    if left <= 0 or untried <= 0:
        return None
    why = ""
    if when == "auto":
        why, ask = _why(planner, evidence, rounds, start)
        if not ask:
            return _silent_round(len(rounds), start, why, len(evidence.scores))
    diagnostics = read_diagnostics(task, trials, transcripts=transcripts)
    if study and "stages" in tables and any(each.transcripts for each in diagnostics):
        log_once(_logger, logging.INFO, study, "transcripts", _SENT, study.study_name)
    asked = int(min(ROUND_SIZE + SPARE, left, untried))
    # The last round has a candidate for each trial that is left.
    wanted = asked if not rounds or left <= ROUND_SIZE + SPARE else min(asked, ROUND_SIZE)
    return TaskQuestions(
        planner,
        evidence,
        insights=insights,
        tables=tables,
        guidelines=guidelines,
        wanted=asked,
        fates=fates(trials, rounds),
        rounds=rounds,
        spent=str(spent),
        experience=experience,
        kept=wanted,
        start=start,
        span=max(wanted, int(min(ROUND_SIZE, left))) if rounds else FIRST_SPAN,
        left=None if math.isinf(left) else int(left),
        diagnostics=diagnostics,
        why=why,
    )


def _silent_round(number: int, start: int, why: str, trials: int) -> Round:
    """Return a round for which the agent is not asked."""
    return Round(
        number=number,
        first=start,
        end=start + SILENT_SPAN,
        why=why,
        asked=False,
        trials=trials,
        cost=0.0,
    )


def _why(
    planner: NumericalPlanner, evidence: Evidence, rounds: Sequence[Round], start: int
) -> tuple[str, bool]:
    """Return why the agent is asked, or is not, and whether it is.

    An alarm for which a round was planned lately has been answered.
    """
    if not rounds:
        return "the search begins", True
    lately = {each.why for each in rounds if each.asked and each.first >= start - ALARM_SPAN}
    found = list(alarms(planner, evidence))
    why = next((reason for reason in found if reason not in lately), "")
    silence = f"it was asked before: {found[0]}" if found else SILENCE
    return why or silence, bool(why)


def _untried(planner: NumericalPlanner, evidence: Evidence) -> float:
    """Return how many allocations are left to propose; infinity if there are many.

    Also infinity if repeats teach something.
    """
    pool = planner.pool(evidence)
    if pool.thinned or has_differing_repeats(evidence):
        return math.inf
    return sum(key not in evidence.visited for key in pool.keys)


def _trials_left(
    trials: Sequence[FrozenTrial], spent: Spend, start: int, n_trials: int | None
) -> float:
    """Return how many trials the search has from one on; infinity if no end is known."""
    left = math.inf if n_trials is None else n_trials - start
    finished = [t for t in trials if t.state.is_finished() and not storage.confirmation_block(t)]
    if spent.limit is not None and finished:
        mean = (spent.trials - spent.confirmation) / len(finished)
        if mean > 0:
            # Trials that confirm have numbers, too.
            before = start - sum(trial.state.is_finished() for trial in trials[:start])
            left = min(left, math.ceil((spent.limit - spent.total) / mean) - before)
    return left


def space_subject(
    trials: Sequence[FrozenTrial],
    stated: Mapping[str, BaseDistribution],
    *,
    maximize: bool,
    description: str,
    guidelines: bool,
    rounds: Sequence[Round] = (),
    start: int = 0,
    n_trials: int | None = None,
) -> SpaceSubject | None:
    """Build the subject of the next round over another search space.

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
        The subject; None without parameters, in the first three trials, or if the search ends
        before.
    """
    # The first six trials are the independent sampler's.
    if start < ROUND_SIZE // 2:
        return None
    start = max(start, ROUND_SIZE)
    if n_trials is not None and start >= n_trials:
        return None
    evidence = space_evidence(trials, stated, maximize=maximize)
    if not evidence.values or not evidence.space:
        return None
    return SpaceSubject(
        evidence,
        description=description,
        guidelines=guidelines,
        wanted=ROUND_SIZE // STRIDE + 1,
        fates=fates(trials, rounds),
        rounds=rounds,
        kept=ROUND_SIZE // STRIDE,
        start=start,
    )
