"""Logs that are visible by default, as Optuna's are, and events that are logged once per study.

Without configuration, Python shows warnings only. Optuna configures its own logger, never the root
logger, and so does this package: its lines look like Optuna's and follow
`optuna.logging.set_verbosity`. A program that configures `logging` gets them through its own
handlers instead, each line once.
"""

from __future__ import annotations

import logging
from weakref import WeakKeyDictionary

import optuna
from optuna.storages import BaseStorage
from optuna.study import Study

_logged: WeakKeyDictionary[BaseStorage, dict[tuple[int, str], object]] = WeakKeyDictionary()
"""Events of studies that this process has logged. Without a lock, which a forked process could not
take if another thread held it: `setdefault` is atomic."""


class _OptunaHandler(logging.Handler):
    """Handler that passes records on to Optuna's handlers, unless the program has its own."""

    def emit(self, record: logging.LogRecord) -> None:
        """Pass the record on if Optuna's verbosity allows it and no other handler receives it."""
        if record.levelno >= optuna.logging.get_verbosity() and not _has_other_handler(record):
            logging.getLogger("optuna").handle(record)


_handler = _OptunaHandler()


def show_logs(package: str) -> None:
    """Show the log of a package where Optuna's log is shown, from level INFO on.

    Args:
        package: Name of the package. Its modules log to `logging.getLogger(__name__)`.
    """
    logger = logging.getLogger(package)
    logger.addHandler(_handler)
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


def is_first(study: Study, event: str) -> bool:
    """Return True once for each study and event in a process, and in those forked from it."""
    first = object()
    events = _logged.setdefault(study._storage, {})
    return events.setdefault((study._study_id, event), first) is first


def log_once(
    logger: logging.Logger, level: int, study: Study, event: str, message: str, *arguments: object
) -> None:
    """Log a line the first time that an event happens to a study in this process.

    Args:
        logger: Logger of the module.
        level: Level of the line.
        study: The study.
        event: Name of the event.
        message: The line, with places for the arguments.
        *arguments: Arguments of the message.
    """
    if is_first(study, event):
        logger.log(level, message, *arguments)


def _has_other_handler(record: logging.LogRecord) -> bool:
    """Return whether the program has added a handler that receives a record."""
    logger: logging.Logger | None = logging.getLogger(record.name)
    while logger is not None:
        if any(handler is not _handler for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False
