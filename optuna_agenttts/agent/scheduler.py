"""Scheduling of planning rounds across trials, threads and processes.

Round r covers the trials r * ROUND_SIZE to (r + 1) * ROUND_SIZE - 1. Round 0 is the opening and
needs no agent. Trial numbers are the only thing that every Optuna storage keeps unique, so they
decide which worker plans: the worker of trial r * ROUND_SIZE - ROUND_LEAD claims round r and plans
it in the background while trials run. Other workers read the round from the study's storage. If
the planning worker dies, its claim expires and another worker plans the round.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts import storage
from optuna_agenttts.agent.ask import Job, MakeJob, Plan, RoundContext, Tokens, plan_round
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.llm.port import ChatModel
from optuna_agenttts.llm.retry import RetryingChatModel
from optuna_agenttts.study.rounds import (
    Proposed,
    Round,
    claimed_at,
    read_round,
    read_rounds,
    seconds_running,
    write_round,
)
from optuna_agenttts.support.logs import log_once
from optuna_agenttts.support.plain import one_line

_logger = logging.getLogger(__name__)

ROUND_SIZE = 6
"""Trials per round; chosen by hand."""
ROUND_LEAD = 3
"""Trials between the start of planning and the round's first trial: late enough to see most
results of the round before, early enough for a slow model. Chosen by hand."""

# All in seconds, chosen by hand.
_CLAIM_GRACE = 2.0
"""Time that the designated worker has to claim its round, and slack before a claim expires."""
_POLL_INTERVAL = 0.05
"""Time between two reads of the storage while another process plans a round."""
_MIN_WAIT = 0.5
"""Lower bound of the wait for a round after the first."""
_SILENT_WAIT = 2.0
"""Wait for a round after which the log has a line about it."""


@dataclass(slots=True)
class _StudyRounds:
    """Rounds of one study, as cached in this process.

    Args:
        lock: Guards the other fields.
        written: Rounds that are in the storage.
        planning: Rounds that this process is planning or has planned.
        unsaved: Planned rounds that are not yet in the storage.
        timed_out: Rounds that a trial waited for until the timeout; later trials do not wait
            again.
        problems: Number of problems by kind, for the log.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    written: dict[int, Round] = field(default_factory=dict)
    planning: dict[int, concurrent.futures.Future[Round]] = field(default_factory=dict)
    unsaved: list[Round] = field(default_factory=list)
    timed_out: set[int] = field(default_factory=set)
    problems: Counter[str] = field(default_factory=Counter)


class RoundScheduler:
    """Scheduler that plans rounds with a chat model, in the background of one process.

    Args:
        chat: The chat model; wrapped for retries unless it is already.
        timeout: Timeout for planning one round, in seconds, including repeated requests.
        extra: Further fields of each request.
        clock: Returns Unix time in seconds, comparable between workers.
        on_round_written: Called with the study after a round is written, on the thread that
            wrote it.
    """

    def __init__(
        self,
        chat: ChatModel,
        *,
        timeout: float = 120.0,
        extra: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.time,
        on_round_written: Callable[[Study], object] | None = None,
    ) -> None:
        """See the class."""
        self._chat = (
            chat
            if isinstance(chat, RetryingChatModel)
            else RetryingChatModel(chat, timeout=timeout)
        )
        self._timeout, self._extra, self._clock = timeout, extra, clock
        self._on_round_written = on_round_written
        self._loop = LoopThread(self._chat.aclose)
        self._studies: WeakKeyDictionary[BaseStorage, dict[int, _StudyRounds]] = (
            WeakKeyDictionary()
        )
        self._guard = threading.Lock()

    @property
    def name(self) -> str:
        """Label of the planning model and its server."""
        return model_label(self._chat)

    def plan_ahead(self, study: Study, number: int, make: MakeJob) -> None:
        """Start planning the next round in the background, if this trial's worker should.

        Args:
            study: The study.
            number: Number of a trial that is about to start.
            make: Builds the job; called only if planning starts.
        """
        target = (number + ROUND_LEAD) // ROUND_SIZE
        rounds = self._rounds_of(study)
        with rounds.lock:
            self._save(study, rounds)
            if target < 1 or target in rounds.written or target in rounds.planning:
                return
            attributes = study._storage.get_study_system_attrs(study._study_id)
            found = read_round(attributes, target)
            if found is not None:
                rounds.written[target] = found
                return
            now, planning_trial = self._clock(), target * ROUND_SIZE - ROUND_LEAD
            claimed = claimed_at(attributes, target)
            if self._is_fresh(claimed):
                return
            if claimed is None and self._awaits_claim_by(study, planning_trial, number, now):
                return
            job = make()
            if job is None:
                if number == planning_trial:
                    # No results yet. An expired claim lets the next trial's worker try at once.
                    storage.write_round_claim(study, target, number, 0.0)
                return
            storage.write_round_claim(study, target, number, now)
            self._start(study, rounds, target, job, read_rounds(attributes))

    def get_round(self, study: Study, number: int) -> Round | None:
        """Return the round of a trial, waiting for it if it is being planned.

        The first round blocks up to the planning timeout. Later ones block no longer than a
        typical trial, so that waiting costs no more time than a better candidate can save.

        Args:
            study: The study.
            number: The trial's number.

        Returns:
            The round, or None if it is not ready in time.
        """
        index = number // ROUND_SIZE
        if index < 1:
            return None
        rounds = self._rounds_of(study)
        with rounds.lock:
            if index in rounds.written:
                return rounds.written[index]
            future = rounds.planning.get(index)
        attributes = study._storage.get_study_system_attrs(study._study_id)
        found = read_round(attributes, index)
        in_progress = future is not None or self._is_fresh(claimed_at(attributes, index))
        if found is None and in_progress and index not in rounds.timed_out:
            first = not read_rounds(attributes)
            timeout = self._timeout if first else self._later_round_timeout(study)
            found = self._wait(study, index, future, min(timeout, _SILENT_WAIT))
            if found is None and timeout > _SILENT_WAIT:
                message = "Study %r: trial %d waits up to %.0f s for round %d of the agent, %s."
                values = study.study_name, number, timeout, index, self.name
                log_once(_logger, logging.INFO, study, "wait for a round", message, *values)
                found = self._wait(study, index, future, timeout - _SILENT_WAIT)
            if found is None:
                rounds.timed_out.add(index)
                message = (
                    "Study %r: trial %d waited %.2g s for round %d of the agent, %s, and starts "
                    "without it, as later trials of late rounds do."
                )
                values = study.study_name, number, timeout, index, self.name
                log_once(_logger, logging.INFO, study, "late round", message, *values)
        if found is not None:
            with rounds.lock:
                rounds.written[index] = found
        return found

    def wait(self, study: Study) -> None:
        """Block until every round that this process is planning for a study is done."""
        for future in list(self._rounds_of(study).planning.values()):
            future.result()

    def _is_fresh(self, claimed: float | None) -> bool:
        """Return whether a claim made at this time has not expired."""
        return claimed is not None and self._clock() - claimed < self._timeout + _CLAIM_GRACE

    def _later_round_timeout(self, study: Study) -> float:
        """Return the median duration of the last 20 trials, within bounds, in seconds."""
        trials = [t for t in storage.read_trials(study) if t.state == TrialState.COMPLETE]
        seconds = [t.duration.total_seconds() for t in trials[-20:] if t.duration is not None]
        typical = float(np.median(seconds)) if seconds else 0.0
        return max(_MIN_WAIT, min(typical, self._timeout))

    def _wait(
        self,
        study: Study,
        index: int,
        future: concurrent.futures.Future[Round] | None,
        timeout: float,
    ) -> Round | None:
        """Wait up to `timeout` seconds for a round planned here (`future`) or elsewhere."""
        if future is not None:
            try:
                return future.result(timeout=timeout)
            # Timed out, cancelled at shutdown, or failed: the numerical planner takes over.
            except (Exception, concurrent.futures.CancelledError):
                return None
        deadline = self._clock() + timeout
        while self._clock() < deadline:
            time.sleep(_POLL_INTERVAL)
            attributes = study._storage.get_study_system_attrs(study._study_id)
            found = read_round(attributes, index)
            if found is not None:
                return found
        return None

    def _awaits_claim_by(self, study: Study, other: int, number: int, now: float) -> bool:
        """Return whether another trial has just started and may still claim its round."""
        if other == number:
            return False
        trials = storage.read_trials(study)
        return other < len(trials) and seconds_running(trials[other], now) < _CLAIM_GRACE

    def _start(
        self, study: Study, rounds: _StudyRounds, target: int, job: Job, earlier: Sequence[Round]
    ) -> None:
        """Submit the planning of a round to the background loop."""
        context = RoundContext(
            guidelines=tuple((planned.number, planned.guidelines) for planned in earlier),
            max_repairs=_allowed_repairs(earlier),
            spent=job.spent(earlier),
            experience=job.experience,
            claims=next((planned.claims for planned in reversed(earlier) if planned.claims), ()),
            extra=self._extra,
        )
        future = self._loop.submit(self._plan(study, rounds, target, job, context))
        rounds.planning[target] = future
        # Keep the last few futures only; older rounds are in the storage.
        for old in [number for number in rounds.planning if number < target - 4]:
            del rounds.planning[old]

    async def _plan(
        self, study: Study, rounds: _StudyRounds, target: int, job: Job, context: RoundContext
    ) -> Round:
        """Plan one round and write it; record failures in the round instead of raising."""
        calls, failures, tokens = self._chat.calls, Counter(self._chat.failures), Tokens()
        try:
            plan = await asyncio.wait_for(
                # Seeds of successive rounds differ by 100, so their requests never share one.
                plan_round(
                    self._chat,
                    job.questions,
                    context,
                    wanted=job.wanted,
                    seed=1 + 100 * target,
                    tokens=tokens,
                ),
                self._timeout,
            )
        except asyncio.TimeoutError:
            plan = _failed_plan("timeout", f"no plan within {self._timeout:g} s")
        # No failure in planning may end the search.
        except Exception as error:
            name = study.study_name
            _logger.debug("Study %r: failed to plan round %d", name, target, exc_info=True)
            plan = _failed_plan(type(error).__name__, one_line(str(error)))
        planned = Round(
            number=target,
            guidelines=plan.guidelines,
            candidates=tuple(Proposed(p.params, p.reason, p.asked) for p in plan.proposals),
            dropped=plan.dropped,
            model=self.name,
            # Includes retries. Studies that share the model at the same time count each
            # other's calls too.
            requests=max(plan.requests, self._chat.calls - calls),
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
            cost=job.price(tokens.prompt, tokens.completion, tokens.cached),
            seconds=plan.seconds,
            trials=job.trials,
            problems=plan.problems,
            failures=dict(Counter(plan.failures) | (self._chat.failures - failures)),
            error=plan.error,
            claims=plan.claims,
            verdicts=plan.verdicts,
        )
        self._log_problems(study, planned)
        rounds.unsaved.append(planned)
        try:
            self._save(study, rounds)
        except Exception:
            # Some storages, such as in-memory SQLite, are bound to one thread.
            message = "Study %r: round %d was not written; the next trial retries"
            _logger.debug(message, study.study_name, target, exc_info=True)
        return planned

    def _save(self, study: Study, rounds: _StudyRounds) -> None:
        """Write the planned rounds that are not yet in the storage."""
        with rounds.lock:
            waiting, rounds.unsaved[:] = list(rounds.unsaved), []
        for position, planned in enumerate(waiting):
            try:
                write_round(study, planned)
            except Exception:
                rounds.unsaved.extend(waiting[position:])
                raise
            with rounds.lock:
                rounds.written[planned.number] = planned
            try:
                if self._on_round_written is not None:
                    self._on_round_written(study)
            # The round is written; the callback (the dashboard's note) is optional.
            except Exception:
                message = "Study %r: the callback after round %d failed"
                _logger.debug(message, study.study_name, planned.number, exc_info=True)

    def _log_problems(self, study: Study, planned: Round) -> None:
        """Log each kind of problem when it first occurs and at each power of ten.

        The level is WARNING if the round has no usable candidate, else INFO.
        """
        level = logging.WARNING if planned.error else logging.INFO
        counts = Counter(planned.failures) + Counter(planned.problems)
        problems = self._rounds_of(study).problems
        if planned.error and not counts:
            counts["nothing proposed"] = 1
        for kind, count in counts.items():
            before, now = problems[kind], problems[kind] + count
            problems[kind] = now
            if before == 0 or len(str(before)) < len(str(now)):
                detail = f" ({planned.error})" if planned.error else ""
                _logger.log(
                    level,
                    "Study %r, agent %s, round %d: %s, %d so far%s. The numerical planner "
                    "proposes the trials without a usable candidate; see "
                    "`optuna_agenttts.guidelines(study)` for each round's problems and failures.",
                    *(study.study_name, planned.model, planned.number, kind, now, detail),
                )

    def _rounds_of(self, study: Study) -> _StudyRounds:
        """Return the cached rounds of a study."""
        with self._guard:
            studies = self._studies.setdefault(study._storage, {})
            return studies.setdefault(study._study_id, _StudyRounds())


def model_label(chat: ChatModel) -> str:
    """Return a label of a chat model: model and server if it has them, else its type."""
    for attribute in ("where", "model"):
        name = getattr(chat, attribute, None)
        if isinstance(name, str) and name:
            return one_line(name)
    return type(chat).__name__


def _allowed_repairs(earlier: Sequence[Round]) -> int:
    """Return the maximum number of repair requests in the next round.

    Zero after a round without usable candidates. Over a search, two, plus one for every third
    round, so that 50 trials take at most 12 requests to a server that answers.
    """
    if earlier and earlier[-1].error:
        return 0
    sent = sum(max(0, planned.requests - 1) for planned in earlier)
    return max(0, 2 + len(earlier) // 3 - sent)


def _failed_plan(kind: str, error: str) -> Plan:
    """Build the plan of a round that failed as a whole."""
    return Plan(failures={kind: 1}, error=error, requests=1)
