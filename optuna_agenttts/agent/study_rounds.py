"""Rounds of one study, as cached in one process."""

from __future__ import annotations

import concurrent.futures
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from optuna.study import Study

from optuna_agenttts.study.rounds import Round, read_round, read_rounds

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class StudyRounds:
    """Rounds of one study, as cached in this process.

    Args:
        lock: Guards the other fields.
        written: Rounds that are in the storage.
        planning: Rounds that this process is planning or has planned.
        unsaved: Planned rounds that are not yet in the storage.
        timed_out: Rounds that a trial waited for until the timeout, and whether that was the long
            one; later trials do not wait again.
        without: Highest number of a trial that went on without a round.
        problems: Number of problems by kind, for the log.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    written: dict[int, Round] = field(default_factory=dict)
    planning: dict[int, concurrent.futures.Future[Round]] = field(default_factory=dict)
    unsaved: list[Round] = field(default_factory=list)
    timed_out: set[tuple[int, bool]] = field(default_factory=set)
    without: int = -1
    problems: Counter[str] = field(default_factory=Counter)

    def refresh(self, attributes: Mapping[str, Any]) -> None:
        """Read the rounds that other workers have written since."""
        if not self.written:
            self.written.update((planned.number, planned) for planned in read_rounds(attributes))
        while (found := read_round(attributes, self.next_number())) is not None:
            self.written[found.number] = found

    def next_number(self) -> int:
        """Return the number of the round after the last that is known."""
        return max(self.written, default=-1) + 1

    def round_of(self, number: int) -> Round | None:
        """Return the known round of a trial, or None."""
        found = (p for p in self.written.values() if p.first <= number < p.end)
        return max(found, key=lambda planned: planned.number, default=None)

    def log_problems(self, study: Study, planned: Round) -> None:
        """Log each kind of problem when it first occurs and at each power of ten.

        The level is WARNING if the round has no usable candidate, else INFO.
        """
        level = logging.WARNING if planned.error else logging.INFO
        counts = Counter(planned.failures) + Counter(planned.problems)
        problems = self.problems
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
