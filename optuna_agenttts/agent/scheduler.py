"""When the agent plans, and who waits for it.

Round r serves the trials whose numbers are r * SIZE to (r + 1) * SIZE - 1; round 0 is the opening
and needs no agent. Trial numbers are unique on every storage of Optuna, and nothing else is: so
the worker of trial r * SIZE - LEAD plans round r, in the background, while trials run; the others
find the plan in the study's storage. A worker that died is replaced when its claim has expired.
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
from datetime import timezone
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import storage
from optuna_agenttts.agent.ask import Past, Plan, Questions, plan
from optuna_agenttts.agent.validation import Proposal
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.llm.port import ChatModel
from optuna_agenttts.llm.retry import PatientChat
from optuna_agenttts.llm.secrets import one_line
from optuna_agenttts.study.rounds import (
    Proposed,
    Round,
    claimed_at,
    read_round,
    read_rounds,
    write_round,
)

_logger = logging.getLogger(__name__)

SIZE = 6
LEAD = 3
"""How many trials before its first one a round is planned: late enough to know most of the round
before, early enough for a slow model."""

_GRACE = 2.0
"""Seconds that the worker whose turn it is gets to claim its round."""
_POLL = 0.05
_LEAST_WAIT = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a round is planned from.

    Args:
        questions: What to ask.
        trials: How many finished trials that rests on.
        wanted: How many proposals make a round.
        choose: Orders proposals, best first, and drops what is too much.
        params: The parameters of a proposal.
        price: What tokens of the prompt and generated cost; None if nobody can tell.
        spent: What the search has spent, given earlier rounds, in words.
        experience: Lines on earlier studies.
    """

    questions: Questions
    trials: int
    wanted: int
    choose: Callable[[Sequence[Proposal]], Sequence[Proposal]]
    params: Callable[[Proposal], Mapping[str, Any]]
    price: Callable[[int, int], float | None]
    spent: Callable[[Sequence[Round]], str]
    experience: tuple[str, ...] = ()


MakeJob = Callable[[], "Job | None"]
"""Makes a job of what is known now; None where that is too little."""


@dataclass(slots=True)
class _Desk:
    """What this process knows of a study's rounds."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    rounds: dict[int, Round] = field(default_factory=dict)
    planning: dict[int, concurrent.futures.Future[Round]] = field(default_factory=dict)
    unsaved: list[Round] = field(default_factory=list)
    waited: set[int] = field(default_factory=set)


class Conductor:
    """Plans rounds with a chat model. Belongs to one process.

    Args:
        chat: The model.
        timeout: The most seconds for a round, re-asks included.
        clock: Seconds since 1970, as from `time.time`; workers compare it.
        after: Called with each study whose round has been written, in the background.
    """

    def __init__(
        self,
        chat: ChatModel,
        *,
        timeout: float = 120.0,
        clock: Callable[[], float] = time.time,
        after: Callable[[Study], object] | None = None,
    ) -> None:
        """See the class."""
        self._chat = chat if isinstance(chat, PatientChat) else PatientChat(chat, timeout=timeout)
        self._timeout, self._clock, self._after = timeout, clock, after
        self._loop = LoopThread(self._chat.aclose)
        self._desks: WeakKeyDictionary[BaseStorage, dict[int, _Desk]] = WeakKeyDictionary()
        self._guard = threading.Lock()
        self._told: Counter[str] = Counter()

    @property
    def name(self) -> str:
        """Who plans: model and server."""
        return name_of(self._chat)

    def prepare(self, study: Study, number: int, make: MakeJob) -> None:
        """Start planning the next round in the background, if it is this trial's turn.

        Args:
            study: The study.
            number: The number of a trial that begins.
            make: Makes the job.
        """
        target = (number + LEAD) // SIZE
        desk = self._desk(study)
        with desk.lock:
            self._save(study, desk)
            if target < 1 or target in desk.rounds or target in desk.planning:
                return
            attributes = study._storage.get_study_system_attrs(study._study_id)
            found = read_round(attributes, target)
            if found is not None:
                desk.rounds[target] = found
                return
            now, ticket = self._clock(), target * SIZE - LEAD
            at = claimed_at(attributes, target)
            if self._is_fresh(at):
                return
            if at is None and number != ticket and self._about_to_claim(study, ticket, now):
                return
            job = make()
            if job is None:
                if number == ticket:
                    # Nothing is known yet: whoever comes next need not wait for this trial.
                    storage.write_round_claim(study, target, number, 0.0)
                return
            storage.write_round_claim(study, target, number, now)
            self._start(study, desk, target, job, read_rounds(attributes))

    def take(self, study: Study, number: int) -> Round | None:
        """The round that a trial belongs to; None if there is none in time.

        Waits for the first round as long as planning may take, and for later ones no longer than
        a trial takes: advice must not cost more time than it can save.
        """
        index = number // SIZE
        if index < 1:
            return None
        desk = self._desk(study)
        with desk.lock:
            if index in desk.rounds:
                return desk.rounds[index]
            future = desk.planning.get(index)
        attributes = study._storage.get_study_system_attrs(study._study_id)
        found = read_round(attributes, index)
        coming = future is not None or self._is_fresh(claimed_at(attributes, index))
        if found is None and coming and index not in desk.waited:
            first = not read_rounds(attributes)
            bound = self._timeout if first else self._patience(study)
            found = self._wait(study, index, future, bound)
            if found is None:
                desk.waited.add(index)
        if found is not None:
            with desk.lock:
                desk.rounds[index] = found
        return found

    def _is_fresh(self, claimed: float | None) -> bool:
        """Whether whoever claimed a round then may still be planning it."""
        return claimed is not None and self._clock() - claimed < self._timeout + _GRACE

    def _patience(self, study: Study) -> float:
        trials = study._storage.get_all_trials(
            study._study_id, deepcopy=False, states=(TrialState.COMPLETE,)
        )
        seconds = [t.duration.total_seconds() for t in trials[-20:] if t.duration is not None]
        typical = float(np.median(seconds)) if seconds else 0.0
        return max(_LEAST_WAIT, min(typical, self._timeout))

    def _wait(
        self,
        study: Study,
        index: int,
        future: concurrent.futures.Future[Round] | None,
        bound: float,
    ) -> Round | None:
        if future is not None:
            try:
                return future.result(timeout=bound)
            # Out of time, cancelled at the end, or a flaw in planning: no plan, no harm.
            except (Exception, concurrent.futures.CancelledError):
                _logger.debug("No plan for round %d", index, exc_info=True)
                return None
        deadline = self._clock() + bound
        while self._clock() < deadline:
            time.sleep(_POLL)
            attributes = study._storage.get_study_system_attrs(study._study_id)
            found = read_round(attributes, index)
            if found is not None:
                return found
        return None

    def _about_to_claim(self, study: Study, ticket: int, now: float) -> bool:
        """Whether the trial whose turn it is has only just begun."""
        trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
        return ticket < len(trials) and _began(trials[ticket], now) < _GRACE

    def _start(
        self, study: Study, desk: _Desk, target: int, job: Job, earlier: Sequence[Round]
    ) -> None:
        past = Past(
            guidelines=tuple((planned.number, planned.guidelines) for planned in earlier),
            reasks=_reasks(earlier),
            spent=job.spent(earlier),
            experience=job.experience,
            claims=next((planned.claims for planned in reversed(earlier) if planned.claims), ()),
        )
        future = self._loop.submit(self._plan(study, desk, target, job, past))
        desk.planning[target] = future
        for old in [number for number in desk.planning if number < target - 4]:
            del desk.planning[old]

    async def _plan(self, study: Study, desk: _Desk, target: int, job: Job, past: Past) -> Round:
        calls, failures = self._chat.calls, Counter(self._chat.failures)
        try:
            made = await asyncio.wait_for(
                plan(
                    self._chat,
                    job.questions,
                    past,
                    wanted=job.wanted,
                    seed=1 + 100 * target,
                ),
                self._timeout,
            )
            chosen = job.choose(made.proposals) if made.proposals else ()
        except asyncio.TimeoutError:
            made, chosen = _nothing("timeout", f"no plan within {self._timeout:g} s"), ()
        # Planning must never end a search, whatever is wrong with it.
        except Exception as error:
            _logger.debug("Planning round %d failed", target, exc_info=True)
            made, chosen = _nothing(type(error).__name__, one_line(str(error))), ()
        planned = Round(
            number=target,
            guidelines=made.guidelines,
            candidates=tuple(Proposed(dict(job.params(p)), p.reason) for p in chosen),
            model=self.name,
            # Repeated calls count too. One model serves one study at a time, or counts for both.
            requests=max(made.requests, self._chat.calls - calls),
            prompt_tokens=made.prompt_tokens,
            completion_tokens=made.completion_tokens,
            cost=job.price(made.prompt_tokens, made.completion_tokens),
            seconds=made.seconds,
            trials=job.trials,
            problems=made.problems,
            failures=dict(Counter(made.failures) | (self._chat.failures - failures)),
            error=made.error,
            claims=made.claims,
            verdicts=made.verdicts,
        )
        self._tell(planned)
        desk.unsaved.append(planned)
        try:
            self._save(study, desk)
        except Exception:
            # The next trial tries again, in its own thread: SQLite in memory, for example,
            # belongs to one thread.
            _logger.debug("Round %d could not be written from here", target, exc_info=True)
        return planned

    def _save(self, study: Study, desk: _Desk) -> None:
        with desk.lock:
            waiting, desk.unsaved[:] = list(desk.unsaved), []
        for position, planned in enumerate(waiting):
            try:
                write_round(study, planned)
            except Exception:
                desk.unsaved.extend(waiting[position:])
                raise
            with desk.lock:
                desk.rounds[planned.number] = planned
            try:
                if self._after is not None:
                    self._after(study)
            # The round is safe; what comes after it is decoration.
            except Exception:
                _logger.debug("After round %d", planned.number, exc_info=True)

    def _tell(self, planned: Round) -> None:
        """Log what went wrong: one line for each kind, and again at each power of ten.

        A warning where nothing came of the round; else, say of a repeated proposal, for those who
        ask for more.
        """
        level = logging.WARNING if planned.error else logging.INFO
        counts = Counter(planned.failures) + Counter(planned.problems)
        if planned.error and not counts:
            counts["nothing proposed"] = 1
        for kind, count in counts.items():
            before, now = self._told[kind], self._told[kind] + count
            self._told[kind] = now
            if before == 0 or len(str(before)) < len(str(now)):
                detail = f" ({planned.error})" if planned.error else ""
                _logger.log(
                    level,
                    "Agent %s, round %d: %s, %d so far%s. What it does not propose the numerical "
                    "planner does; `optuna_agenttts.guidelines(study)` counts what follows.",
                    planned.model,
                    planned.number,
                    kind,
                    now,
                    detail,
                )

    def _desk(self, study: Study) -> _Desk:
        with self._guard:
            desks = self._desks.setdefault(study._storage, {})
            return desks.setdefault(study._study_id, _Desk())


def name_of(chat: ChatModel) -> str:
    """Who answers, in words: model and server where the chat model says so."""
    for attribute in ("where", "model"):
        name = getattr(chat, attribute, None)
        if isinstance(name, str) and name:
            return one_line(name)
    return type(chat).__name__


def _reasks(earlier: Sequence[Round]) -> int:
    """How many requests may follow the next round's first one.

    None after a round that came to nothing; and over a search two, and one more for every third
    round, so that 50 trials never take more than 12 requests of a server that answers.
    """
    if earlier and earlier[-1].error:
        return 0
    made = sum(max(0, planned.requests - 1) for planned in earlier)
    return max(0, 2 + len(earlier) // 3 - made)


def _nothing(kind: str, error: str) -> Plan:
    return Plan(failures={kind: 1}, error=error, requests=1)


def _began(trial: FrozenTrial, now: float) -> float:
    """Seconds since a trial began; endless if it is not running or began at an unknown time."""
    if trial.state != TrialState.RUNNING or trial.datetime_start is None:
        return float("inf")
    # Optuna keeps local time in memory and, from version 5 on, UTC without a zone elsewhere: the
    # smaller distance is the right one.
    start = trial.datetime_start
    readings = (start.timestamp(), start.replace(tzinfo=timezone.utc).timestamp())
    return min(abs(now - moment) for moment in readings)
