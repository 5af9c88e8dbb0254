"""Trials of workers that were killed: ``agenttts studies --stale``."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from optuna.storages import BaseStorage, RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from optuna_agenttts import AgentTTSError
from optuna_agenttts.report.text import count_text, duration_text, table
from optuna_agenttts.storage import fail_trial, read_trials
from optuna_agenttts.study.rounds import seconds_running
from optuna_agenttts.support.plain import one_line

_HEAD = ("study", "trial", "running for", "last heartbeat", "parameters")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_SILENCE = 300.0
"""Seconds after its last heartbeat from which a trial is stale by default. Optuna's documentation
has heartbeats each 60 s, and fails a trial after two that are missing."""
_MAX_NAME = 60
_MAX_PARAMETERS = 80
"""Maximum lengths in characters. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class RunningTrial:
    """Running trial, and the last sign of its worker.

    Args:
        study: Its study.
        trial: The trial.
        running: Seconds since its start; infinity if the start is unknown.
        silent: Seconds since its last heartbeat; None if it has none.
    """

    study: Study
    trial: FrozenTrial
    running: float
    silent: float | None

    def is_stale(self, older_than: float | None) -> bool:
        """Return whether its worker gave no sign for longer than that, in seconds."""
        if self.silent is not None:
            return self.silent > (_SILENCE if older_than is None else older_than)
        return older_than is not None and self.running > older_than

    def row(self) -> tuple[str, ...]:
        """Return the cells of a table."""
        known = self.running != float("inf")
        parameters = ", ".join(f"{name}={value}" for name, value in self.trial.params.items())
        return (
            one_line(self.study.study_name, _MAX_NAME),
            str(self.trial.number),
            duration_text(self.running) if known else "-",
            "never" if self.silent is None else f"{duration_text(self.silent)} ago",
            one_line(parameters, _MAX_PARAMETERS) or "-",
        )


def seconds_of(text: str | None) -> float | None:
    """Return the seconds of a duration such as "90m", "2h" or "1d".

    Raises:
        AgentTTSError: The text is no duration.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd])", text.strip())
    if match is None:
        raise AgentTTSError(
            f"`--older-than` must be a number with a unit, such as 90m, 2h or 1d, got {text!r}."
        )
    return float(match[1]) * _UNITS[match[2]]


def list_stale(
    storage: BaseStorage, studies: Sequence[Study], older_than: float | None, *, fail: bool
) -> Iterator[str]:
    """Yield lines about stale trials, and about what was done to them.

    Args:
        storage: The storage.
        studies: Its studies.
        older_than: Seconds without a sign of the worker after which its trial is stale: since its
            last heartbeat, or since its start if it has none. Default: five minutes after the
            last heartbeat; trials without heartbeats are counted only.
        fail: Whether to fail the stale trials.
    """
    running = list(_running(storage, studies))
    stale = [each for each in running if each.is_stale(older_than)]
    if stale:
        yield from table([_HEAD, *(each.row() for each in stale)])
    else:
        yield f"No stale trial among {count_text(len(running), 'running trial')}."
    unknown = [each for each in running if each.silent is None]
    if unknown and older_than is None:
        longest = duration_text(max(each.running for each in unknown))
        yield (
            f"{count_text(len(unknown), 'running trial')} without heartbeats, for up to {longest}:"
            " --older-than names those that run for longer than your trials take."
        )
    for each in stale if fail else ():
        name = f"trial {each.trial.number} of study {one_line(each.study.study_name, _MAX_NAME)!r}"
        yield (
            f"Failed {name}." if _fail(each) else f"Kept {name}: it has finished in the meantime."
        )
    if stale and not fail:
        yield "--fail fails them, so that their allocations are tried again."


def _fail(found: RunningTrial) -> bool:
    """Fail a trial; return False if it has finished."""
    try:
        fail_trial(found.study, found.trial)
    # `UpdateFinishedTrialError`, which Optuna has since 4.3, is one.
    except RuntimeError:
        return False
    return True


def _running(storage: BaseStorage, studies: Sequence[Study]) -> Iterator[RunningTrial]:
    silences, now = _silences(storage), time.time()
    for study in studies:
        for trial in read_trials(study):
            if trial.state == TrialState.RUNNING:
                running = seconds_running(trial, now)
                yield RunningTrial(study, trial, running, silences.get(trial._trial_id))


def _silences(storage: BaseStorage) -> dict[int, float]:
    """Return the seconds since the last heartbeat by ID of the trial, by the database's clock."""
    if not isinstance(storage, RDBStorage):
        return {}
    from optuna.storages._rdb.models import TrialHeartbeatModel, TrialModel
    from sqlalchemy import func, select

    rows = (
        select(TrialHeartbeatModel.trial_id, TrialHeartbeatModel.heartbeat, func.now())
        .join(TrialModel, TrialModel.trial_id == TrialHeartbeatModel.trial_id)
        .where(TrialModel.state == TrialState.RUNNING)
    )
    with storage.engine.connect() as connection:
        # PostgreSQL's `now()` has a time zone, the heartbeats have none.
        return {
            trial_id: max((now.replace(tzinfo=None) - last).total_seconds(), 0.0)
            for trial_id, last, now in connection.execute(rows)
        }
