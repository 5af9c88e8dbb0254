"""Lines of the log about servers that are waited for: one a minute for each server."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from optuna_agenttts.llm.outages import last_answer, server_of
from optuna_agenttts.support.plain import one_line

_logger = logging.getLogger(__name__)

_SILENT_WAIT = 5.0
"""Seconds that a call waits for a server before the log has a line about it. Chosen by hand: short
failures are ordinary."""
_INTERVAL = 60.0
"""Seconds between two lines about one server."""
_MAX_LOGGED = 1000
"""Servers to remember. Chosen by hand: labels of other chat models may all be distinct."""
_logged: dict[str, float] = {}
"""Monotonic time of the last line about each server."""


def log_wait(
    reason: object,
    waited: float,
    wait: float,
    patience: float = 0.0,
    level: int = logging.WARNING,
) -> None:
    """Log that a call waits for a server, unless another line about it is less than a minute old.

    Args:
        reason: Error of the last call, or another reason. Its text begins with model and server.
        waited: Seconds of waits so far, including the next one.
        wait: Seconds of the next wait.
        patience: Seconds of waits after which the call is given up; 0 if attempts decide.
        level: Level of the line.
    """
    text = one_line(str(reason))
    if waited < _SILENT_WAIT or not _is_due(server_of(text.partition(": ")[0])):
        return
    bound = f" Calls are repeated for up to {patience:g} s of waits." if patience else ""
    _logger.log(
        level,
        "Waiting for a server: %s. Next call in %.0f s, after %.0f s of waits.%s",
        *(text, wait, waited, bound),
    )


@contextmanager
def waiting(reason: object, *, unless_answered: bool = False) -> Iterator[None]:
    """Log a line a minute while the body waits for a server, for a reason as in `log_wait`.

    With `unless_answered`, nothing is logged if the server has answered in the last minute.
    """
    loop, started = asyncio.get_running_loop(), time.monotonic()
    handle: asyncio.TimerHandle

    def tick() -> None:
        nonlocal handle
        handle = loop.call_later(_INTERVAL, tick)
        text, now = one_line(str(reason)), time.monotonic()
        where = text.partition(": ")[0]
        if unless_answered and now - last_answer(where) < _INTERVAL:
            return
        if _is_due(server_of(where)):
            _logger.warning("Waiting for a server for %.0f s: %s.", now - started, text)

    handle = loop.call_later(_INTERVAL, tick)
    try:
        yield
    finally:
        handle.cancel()


def _is_due(server: str) -> bool:
    """Return whether the last line about a server is a minute old, and note this one."""
    now = time.monotonic()
    if now - _logged.get(server, -_INTERVAL) < _INTERVAL:
        return False
    if server in _logged or len(_logged) < _MAX_LOGGED:
        _logged[server] = now
        return True
    return False
