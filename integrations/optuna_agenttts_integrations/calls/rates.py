"""Limits of requests and tokens a minute, as providers have them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from optuna_agenttts.llm.waiting import log_wait

_WINDOW = 60.0
"""Seconds over which requests and tokens are counted."""
_POLL_INTERVAL = 1.0
"""Longest sleep in seconds: calls that end with fewer tokens than reserved let others start."""


@dataclass(slots=True)
class RateReservation:
    """Request in the window: its start, by the clock, and its tokens.

    Whoever made the reservation lowers `tokens` when the call ends.
    """

    start: float
    tokens: int


class RateLimit:
    """Limit of the requests, and of their tokens, that start within any 60 seconds.

    Requests start in the order of their reservations. A request with more tokens than the limit
    starts when no other one is in the window. Belongs to one event loop.

    Args:
        where: Model and server, for the log.
        requests: Maximum number of requests a minute; None for no limit.
        tokens: Maximum number of tokens a minute, of prompts and replies; None for no limit.
        clock: Monotonic clock, in seconds.
        sleep: Coroutine function that waits for a number of seconds.
    """

    def __init__(
        self,
        where: str,
        *,
        requests: int | None = None,
        tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """See the class."""
        limits = ((requests, "requests"), (tokens, "tokens"))
        named = " and ".join(f"{limit:,} {name}" for limit, name in limits if limit is not None)
        self._reason = f"{where}: the limit of {named} a minute is reached"
        self._requests = float("inf") if requests is None else requests
        self._tokens = float("inf") if tokens is None else tokens
        self._clock, self._sleep = clock, sleep
        self._window: deque[RateReservation] = deque()
        self._turn = asyncio.Lock()

    async def reserve(self, tokens: int) -> RateReservation:
        """Wait until a request that takes at most so many tokens may start, and count it."""
        async with self._turn:
            began = self._clock()
            while (wait := self._wait(tokens)) > 0:
                waited = self._clock() + wait - began
                log_wait(self._reason, waited, wait, level=logging.INFO)
                await self._sleep(min(wait, _POLL_INTERVAL))
            self._window.append(RateReservation(self._clock(), tokens))
            return self._window[-1]

    def _wait(self, tokens: int) -> float:
        """Return the seconds until a request fits into the window, if no call ends before."""
        now, wait = self._clock(), 0.0
        while self._window and self._window[0].start <= now - _WINDOW:
            self._window.popleft()
        requests_over = len(self._window) + 1 - self._requests
        tokens_over = sum(call.tokens for call in self._window) + tokens - self._tokens
        for call in self._window:
            if requests_over <= 0 and tokens_over <= 0:
                break
            requests_over, tokens_over = requests_over - 1, tokens_over - call.tokens
            # Not less than the clock's resolution, so that the wait ends.
            wait = max(call.start + _WINDOW - now, 1e-3)
        return wait
