"""Scheduling of planning rounds across trials, threads and processes.

A round has candidates for the trials from its `first` one on. The first round is planned with the
first trial, and its candidates count from the trial at which they arrive. A later one begins after
the last trial of the round before it. Trial numbers are the only thing that every Optuna storage
keeps unique, so they decide which worker plans: each round states the trial whose worker claims
the next one (`Round.next_at`) and plans it in the background while trials run. Other workers read
the round from the study's storage. If the planning worker dies, its claim expires and another
worker plans the round.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from weakref import WeakKeyDictionary

from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.agent.ask import MakeSubject, Subject, Tokens, plan_round
from optuna_agenttts.agent.pace import (
    MIN_WAIT,
    ROUND_SIZE,
    allowed_repairs,
    first_open,
    lead,
    typical_seconds,
)
from optuna_agenttts.agent.study_rounds import StudyRounds
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.llm.port import ChatModel
from optuna_agenttts.llm.retry import RetryingChatModel
from optuna_agenttts.study.rounds import (
    Round,
    claimed_at,
    read_round,
    read_rounds,
    seconds_running,
    write_round,
)
from optuna_agenttts.study.spending import price_of
from optuna_agenttts.support.logs import log_once
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.task.model import Model

_logger = logging.getLogger(__name__)

# All in seconds, chosen by hand.
_CLAIM_GRACE = 2.0
"""Time that the designated worker has to claim its round, and slack before a claim expires."""
_POLL_INTERVAL = 0.05
"""Time between two reads of the storage while another process plans a round."""
_SILENT_WAIT = 2.0
"""Wait for a round after which the log has a line about it."""


class RoundScheduler:
    """Scheduler that plans rounds with a chat model, in the background of one process.

    Args:
        chat: The chat model; wrapped for retries unless it is already.
        timeout: Timeout for planning one round, in seconds, including repeated requests.
        facts: The chat model's prices and size, and further fields of each request.
        clock: Returns Unix time in seconds, comparable between workers.
        on_round_written: Called with the study after a round is written, on the thread that
            wrote it.
    """

    def __init__(
        self,
        chat: ChatModel,
        *,
        timeout: float = 120.0,
        facts: Model | None = None,
        clock: Callable[[], float] = time.time,
        on_round_written: Callable[[Study], object] | None = None,
    ) -> None:
        """See the class."""
        self._chat = (
            chat
            if isinstance(chat, RetryingChatModel)
            else RetryingChatModel(chat, timeout=timeout)
        )
        self._timeout, self._facts, self._clock = timeout, facts, clock
        self._on_round_written = on_round_written
        self._loop = LoopThread(self._chat.aclose)
        self._studies: WeakKeyDictionary[BaseStorage, dict[int, StudyRounds]] = WeakKeyDictionary()
        self._guard = threading.Lock()

    @property
    def name(self) -> str:
        """Label of the planning model and its server."""
        return model_label(self._chat)

    def plan_ahead(self, study: Study, number: int, make: MakeSubject) -> None:
        """Start planning the next round in the background, if this trial's worker should.

        Args:
            study: The study.
            number: Number of a trial that is about to start.
            make: Builds the subject; called only if planning starts.
        """
        rounds = self._rounds_of(study)
        with rounds.lock:
            self._save(study, rounds)
            last = rounds.written.get(rounds.next_number() - 1)
            if last is not None and number < last.next_at:
                return
            if rounds.next_number() in rounds.planning:
                return
            attributes = storage.attributes_of(study)
            rounds.refresh(attributes)
            target = rounds.next_number()
            last = rounds.written.get(target - 1)
            planning_trial, end = (0, 0) if last is None else (last.next_at, last.end)
            if number < planning_trial or target in rounds.planning:
                return
            now, claimed = self._clock(), claimed_at(attributes, target)
            if self._is_fresh(claimed):
                return
            if claimed is None and self._awaits_claim_by(study, planning_trial, number, now):
                return
            earlier = read_rounds(attributes)
            subject = make(max(end, number), earlier)
            if subject is None:
                if number == planning_trial:
                    # Too few results. An expired claim lets the next trial's worker try at once.
                    storage.write_round_claim(study, target, number, 0.0)
                return
            storage.write_round_claim(study, target, number, now)
            if isinstance(subject, Round):
                self._leave_out(study, rounds, replace(subject, number=target), earlier)
            else:
                work = self._plan(study, rounds, target, subject, earlier)
                rounds.planning[target] = self._loop.submit(work)
                # Keep the last few futures only; older rounds are in the storage.
                for old in [each for each in rounds.planning if each < target - 4]:
                    del rounds.planning[old]

    def get_round(self, study: Study, number: int) -> Round | None:
        """Return the round of a trial, waiting for it if it is being planned.

        Trials wait no longer than a typical trial takes, so that waiting costs no more time than
        a better candidate can save; once, from the seventh trial on, one waits up to the planning
        timeout for the first round.

        Args:
            study: The study.
            number: The trial's number.

        Returns:
            The round, or one with an error if it is not ready in time; None if none is being
            planned, as in the opening or at the end of a search.
        """
        rounds = self._rounds_of(study)
        with rounds.lock:
            found = rounds.round_of(number)
            if found is None:
                attributes = storage.attributes_of(study)
                rounds.refresh(attributes)
                found = rounds.round_of(number)
            if found is not None:
                return found
            index = rounds.next_number()
            future = rounds.planning.get(index)
        in_progress = future is not None or self._is_fresh(claimed_at(attributes, index))
        patient = not rounds.written and number >= ROUND_SIZE
        if in_progress and (index, patient) not in rounds.timed_out:
            self._wait_for(study, rounds, number, index, future, patient=patient)
        with rounds.lock:
            found = rounds.round_of(number)
            if found is None:
                rounds.without = max(rounds.without, number)
        # In the opening, no round is expected.
        if found is None and in_progress and number >= ROUND_SIZE:
            return Round(number=index, error="the agent's round did not come in time")
        return found

    def rounds_until(self, study: Study, number: int) -> tuple[Round, ...]:
        """Return the known rounds that begin with a trial or before it, in order of number."""
        # Without the lock of the rounds: its holder may wait for the planner that callers have.
        known = sorted(self._rounds_of(study).written.copy().items())
        return tuple(planned for _, planned in known if planned.first <= number)

    def _wait_for(
        self,
        study: Study,
        rounds: StudyRounds,
        number: int,
        index: int,
        future: concurrent.futures.Future[Round] | None,
        *,
        patient: bool,
    ) -> None:
        """Wait for a round on behalf of a trial; log long and vain waits."""
        timeout = self._timeout if patient else self._short_timeout(study)
        found = self._wait(study, index, future, min(timeout, _SILENT_WAIT))
        if found is None and timeout > _SILENT_WAIT:
            message = "Study %r: trial %d waits up to %.0f s for round %d of the agent, %s."
            values = study.study_name, number, timeout, index, self.name
            log_once(_logger, logging.INFO, study, "wait for a round", message, *values)
            found = self._wait(study, index, future, timeout - _SILENT_WAIT)
        if found is not None:
            with rounds.lock:
                rounds.written[index] = found
            return
        rounds.timed_out.add((index, patient))
        if rounds.written or patient:
            message = (
                "Study %r: trial %d waited %.2g s for round %d of the agent, %s, and starts "
                "without it, as later trials of late rounds do."
            )
            values = study.study_name, number, timeout, index, self.name
            log_once(_logger, logging.INFO, study, "late round", message, *values)

    def wait(self, study: Study) -> None:
        """Block until every round that this process is planning for a study is done."""
        for future in list(self._rounds_of(study).planning.values()):
            future.result()

    def _is_fresh(self, claimed: float | None) -> bool:
        """Return whether a claim made at this time has not expired."""
        return claimed is not None and self._clock() - claimed < self._timeout + _CLAIM_GRACE

    def _short_timeout(self, study: Study) -> float:
        """Return the median duration of the last trials, within bounds, in seconds."""
        typical = typical_seconds(storage.read_trials(study))
        return max(MIN_WAIT, min(typical, self._timeout))

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
            found = read_round(storage.attributes_of(study), index)
            if found is not None:
                return found
        return None

    def _awaits_claim_by(self, study: Study, other: int, number: int, now: float) -> bool:
        """Return whether another trial has just started and may still claim its round."""
        if other == number:
            return False
        trials = storage.read_trials(study)
        return other < len(trials) and seconds_running(trials[other], now) < _CLAIM_GRACE

    def _leave_out(
        self, study: Study, rounds: StudyRounds, planned: Round, earlier: Sequence[Round]
    ) -> None:
        """Write a round for which the agent is not asked."""
        due = planned.end - lead(earlier, storage.read_trials(study))
        planned = replace(planned, model=self.name, next_at=max(planned.first, due))
        rounds.unsaved.append(planned)
        self._save(study, rounds)
        message = (
            "Study %r: the agent, %s, is not asked before trial %d: %s. "
            "`guidelines(study)` has the reason of each round."
        )
        values = study.study_name, self.name, planned.end, planned.why
        log_once(_logger, logging.INFO, study, "agent not asked", message, *values)

    async def _plan(
        self,
        study: Study,
        rounds: StudyRounds,
        target: int,
        subject: Subject,
        earlier: Sequence[Round],
    ) -> Round:
        """Plan one round and write it; record failures in the round instead of raising."""
        calls, failures, tokens = self._chat.calls, Counter(self._chat.failures), Tokens()
        try:
            planned = await asyncio.wait_for(
                plan_round(
                    self._chat,
                    subject,
                    target,
                    max_repairs=allowed_repairs(earlier),
                    extra=None if self._facts is None else self._facts.extra,
                    tokens=tokens,
                ),
                self._timeout,
            )
        except asyncio.TimeoutError:
            planned = _failed(target, "timeout", f"no plan within {self._timeout:g} s")
        # No failure in planning may end the search.
        except Exception as error:
            name = study.study_name
            _logger.debug("Study %r: failed to plan round %d", name, target, exc_info=True)
            planned = _failed(target, type(error).__name__, one_line(str(error)))
        first, trials = max(subject.start, rounds.without + 1), list[FrozenTrial]()
        # Some storages, such as in-memory SQLite, are bound to one thread.
        with suppress(Exception):
            trials = storage.read_trials(study)
            first = max(first, first_open(trials))
        task, used = subject.task, (tokens.prompt, tokens.completion, tokens.cached)
        planned = replace(
            planned,
            first=first,
            end=first + subject.span,
            stride=subject.stride,
            why=subject.why,
            model=self.name,
            # Includes retries. Studies that share the model at the same time count each
            # other's calls too.
            requests=max(planned.requests, self._chat.calls - calls),
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
            cost=None if task is None else price_of(task, self._facts or self.name, *used),
            trials=subject.trials,
            failures=dict(Counter(planned.failures) | (self._chat.failures - failures)),
        )
        due = planned.end - lead([*earlier, planned], trials)
        planned = replace(planned, next_at=max(first, due))
        rounds.log_problems(study, planned)
        rounds.unsaved.append(planned)
        try:
            self._save(study, rounds)
        except Exception:
            # Some storages, such as in-memory SQLite, are bound to one thread.
            message = "Study %r: round %d was not written; the next trial retries"
            _logger.debug(message, study.study_name, target, exc_info=True)
        return planned

    def _save(self, study: Study, rounds: StudyRounds) -> None:
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
                if self._on_round_written is not None and planned.asked:
                    self._on_round_written(study)
            # The round is written; the callback (the dashboard's note) is optional.
            except Exception:
                message = "Study %r: the callback after round %d failed"
                _logger.debug(message, study.study_name, planned.number, exc_info=True)

    def _rounds_of(self, study: Study) -> StudyRounds:
        """Return the cached rounds of a study."""
        with self._guard:
            studies = self._studies.setdefault(study._storage, {})
            return studies.setdefault(study._study_id, StudyRounds())


def model_label(chat: ChatModel) -> str:
    """Return a label of a chat model: model and server if it has them, else its type."""
    for attribute in ("where", "model"):
        name = getattr(chat, attribute, None)
        if isinstance(name, str) and name:
            return one_line(name)
    return type(chat).__name__


def _failed(number: int, kind: str, error: str) -> Round:
    """Build a round that failed as a whole."""
    return Round(number=number, failures={kind: 1}, error=error, requests=1)
