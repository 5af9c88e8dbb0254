"""Limit on the spend of a search, which stops the study when it does not cover the next call."""

from __future__ import annotations

import logging
import math
from contextlib import suppress
from weakref import WeakKeyDictionary

import optuna
from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.study.spending import stated_spend
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts_integrations.calls.metering import Account, Ledger
from optuna_agenttts_integrations.exceptions import SpendLimitError

_logger = logging.getLogger(__name__)


class SpendLimit(Resetting):
    """Limit on the spend of each search that an objective serves, with one ledger per study.

    Args:
        limit: Limit in units of the task's cost model; None for no limit.
        unit: Unit of the cost model.
    """

    _unpickled = ("_ledgers", "_ledger")

    def __init__(self, limit: float | None, unit: str) -> None:
        self.limit = math.inf if limit is None else float(limit)
        self._unit = unit or "units of the task's cost"
        self._reset()

    def _reset(self) -> None:
        logging.getLogger("optuna.study._optimize").addFilter(_drop_traceback)
        self._ledgers: WeakKeyDictionary[Study, Ledger] = WeakKeyDictionary()
        # Of trials without a study, such as `optuna.trial.FixedTrial`.
        self._ledger = Ledger(limit=self.limit, unit=self._unit)
        # Calls in progress are not those of a forked process.
        on_fork(self, SpendLimit._reset)

    def open_account(self, trial: optuna.Trial) -> Account:
        """Open the account of a trial, after what its study's other trials have spent."""
        study = storage.study_of(trial)
        if math.isinf(self.limit):
            return Account()
        if study is None:
            return Account(self._ledger)
        ledger = self._ledgers.setdefault(study, Ledger(limit=self.limit, unit=self._unit))
        ledger.trials.add(trial.number)
        if study._thread_local.in_optimize_loop and not study._stop_flag:
            # A new search of the study, which says again why it stops.
            ledger.stopped = False
        ledger.earlier = math.fsum(
            stated_spend(other) or 0.0
            for other in storage.read_trials(study)
            if other.number not in ledger.trials
        )
        return Account(ledger)

    def open_evaluation(self, max_spend: float | None) -> Account:
        """Open the account of an evaluation, whose limit is separate from that of a search."""
        limit = self.limit if max_spend is None else float(max_spend)
        return Account(Ledger(limit=limit, unit=self._unit))

    def stop(
        self, trial: optuna.Trial, account: Account, progress: str, *, finished: bool
    ) -> None:
        """Stop the study of a trial whose next call the limit does not cover.

        Args:
            trial: The trial.
            account: Its account.
            progress: Description of what the trial has done, for the log.
            finished: Whether it has finished an instance, if only with stored samples.

        Raises:
            SpendLimitError: Nothing has been spent or finished: the limit is too low for a
                single call.
        """
        error, ledger = account.refused, account.ledger
        if error is None:
            return
        if not ledger.total and not finished:
            # A new error has no traceback inside the pipeline, where nothing is wrong.
            raise SpendLimitError(f"{error}. Raise `max_spend`.")
        study = storage.study_of(trial)
        if study is not None:
            # With ask and tell, the caller decides which trials run.
            with suppress(RuntimeError):
                study.stop()
        if ledger.stopped:
            return
        ledger.stopped = True
        _logger.warning(
            "Study %r stops: %s over the whole search. Trial %d is kept as pruned, after %s. "
            "Raise `max_spend` and run the study again to continue: completions generated so "
            "far are in the store.",
            getattr(study, "study_name", ""),
            error,
            trial.number,
            progress,
        )


def _drop_traceback(record: logging.LogRecord) -> bool:
    """Drop the traceback in Optuna's line about a trial without money: Python prints it, too."""
    if record.exc_info and isinstance(record.exc_info[1], SpendLimitError):
        record.exc_info = None
    return True
