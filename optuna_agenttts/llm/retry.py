"""Retries and circuit breaking.

`RetryPolicy.wait` decides whether and when to retry; tenacity does the waiting. A circuit breaker
stops calls to a server that keeps failing.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import tenacity

from optuna_agenttts.llm.port import (
    ChatError,
    ChatModel,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    close_chat,
    count_repeated,
    prompt_usage,
)
from optuna_agenttts.llm.secrets import one_line

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_UNAVAILABLE = frozenset(
    {"HTTP 429", "HTTP 502", "HTTP 503", "HTTP 504", "ConnectError", "ConnectTimeout"}
)
"""Kinds of failure caused by the server's state (overloaded, starting), not by the request."""
_SILENT_WAIT = 5.0
"""Seconds that a call waits for a server before the log has a line about it. Chosen by hand: short
failures are ordinary."""
_MAX_LOGGED = 100
"""Servers that are logged. Chosen by hand: messages of other models may all be distinct."""
_logged_waits: set[str] = set()
"""Servers whose unavailability this process has logged."""
_MAX_DOUBLINGS = 30
"""Limit of the exponential back-off's exponent, which keeps thousands of attempts finite.
Chosen by hand."""


class CircuitOpenError(ChatUnavailableError):
    """The call was not sent, because earlier ones failed; see `CircuitBreaker`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Number of attempts and the waits between them.

    Args:
        attempts: Maximum number of calls for one completion.
        base: Upper bound of the first wait, in seconds. The bound doubles with each attempt, and
            each wait is drawn uniformly from zero to the bound (full jitter), so that clients do
            not retry at the same time.
        longest: Upper bound of every wait, in seconds, including the server's ``Retry-After``.
        patience: Total waiting time, in seconds, up to which calls to an overloaded or
            unreachable server are retried beyond `attempts`.
    """

    # Chosen by hand: outlasts short failures without delaying a trial by minutes.
    attempts: int = 4
    base: float = 1.0
    longest: float = 30.0
    patience: float = 0.0

    def wait(
        self, error: BaseException, attempt: int, rng: random.Random, waited: float = 0.0
    ) -> float | None:
        """Return the wait before the next call.

        Args:
            error: Exception that the last call raised.
            attempt: Number of failed calls, 1 or more.
            rng: Random number generator.
            waited: Seconds waited so far.

        Returns:
            Seconds to wait; None to stop retrying.
        """
        if not isinstance(error, ChatUnavailableError) or isinstance(error, CircuitOpenError):
            return None
        patient = error.kind in _UNAVAILABLE and waited < self.patience
        if attempt >= self.attempts and not patient:
            return None
        if error.retry_after is not None:
            # Stop if the server asks for more than the longest wait.
            bound = max(self.longest, self.patience - waited if patient else 0.0)
            if error.retry_after > bound:
                return None
            if attempt < self.attempts:
                return error.retry_after
        exponent = min(attempt - 1, _MAX_DOUBLINGS)
        wait = rng.uniform(0, min(self.longest, self.base * 2.0**exponent))
        if attempt < self.attempts:
            return wait
        # Zero waits ("Retry-After: 0") would never use up the patience.
        return max(error.retry_after or 0.0, min(wait, self.patience - waited)) or None


async def with_retries(
    call: Callable[[], Awaitable[_T]],
    *,
    policy: RetryPolicy,
    rng: random.Random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    failures: Counter[str] | None = None,
) -> _T:
    """Call until success or until the policy stops.

    Args:
        call: Function that returns a new awaitable for each attempt.
        policy: The policy.
        rng: Random number generator for the waits.
        sleep: Coroutine function that waits for a number of seconds.
        failures: Counter of failed calls by kind, to be updated.

    Returns:
        The result of the successful call.

    Raises:
        ChatError: The last call failed.
    """
    waits: list[float] = []
    # Most calls succeed at once, and tenacity takes 10% of a call to a local server.
    first: list[ChatError] = []
    try:
        return await call()
    except ChatError as error:
        first.append(error)

    def should_retry(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is None:
            return False
        if failures is not None and isinstance(error, ChatError):
            failures[error.kind] += 1
        wait = policy.wait(error, state.attempt_number, rng, sum(waits))
        if wait is not None:
            waits.append(wait)
            if policy.patience and sum(waits) >= _SILENT_WAIT:
                _log_wait(error, policy.patience)
            if isinstance(error, ChatError):
                count_repeated(error)
        return wait is not None

    retrying = tenacity.AsyncRetrying(
        retry=should_retry, wait=lambda _: waits[-1], sleep=sleep, reraise=True
    )

    async def attempt() -> _T:
        if first:
            raise first.pop()
        return await call()

    return await retrying(attempt)


def _log_wait(error: BaseException, patience: float) -> None:
    """Log once for each server that it is unavailable and waited for."""
    # Messages begin with the model and its server.
    server = str(error).partition(": ")[0]
    if server not in _logged_waits and len(_logged_waits) < _MAX_LOGGED:
        _logged_waits.add(server)
        _logger.warning(
            "Waiting for a server: %s. Calls are repeated for up to %g s of waits, so trials take "
            "longer. Further waits for it are not logged.",
            one_line(str(error)),
            patience,
        )


class CircuitBreaker:
    """Circuit breaker for a server that keeps failing.

    After several consecutive failures the circuit opens: calls are rejected for a pause, which
    doubles each time the next call after it fails.

    Args:
        threshold: Number of consecutive failures that open the circuit.
        pause: Length of the first pause, in seconds.
        longest: Maximum length of a pause, in seconds.
        clock: Monotonic clock, in seconds.
    """

    def __init__(
        self,
        *,
        # Chosen by hand.
        threshold: int = 4,
        pause: float = 30.0,
        longest: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class."""
        self._threshold, self._pause, self._longest = threshold, pause, longest
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        self._failures = 0
        self._open_until = float("-inf")
        self._next_pause = self._pause

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments, but no times: clocks differ between machines."""
        names = ("_threshold", "_pause", "_longest", "_clock")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the arguments, with a closed circuit."""
        self.__dict__.update(state)
        self._reset()

    def check(self) -> None:
        """Raise an exception if the circuit is open.

        Raises:
            CircuitOpenError: The circuit is open.
        """
        remaining = self._open_until - self._clock()
        if remaining > 0:
            raise CircuitOpenError(
                "circuit open: not called after earlier failures; the next call is allowed in "
                f"{remaining:.0f} s",
                kind="circuit open",
                retry_after=remaining,
            )

    def record(self, error: ChatError | None) -> None:
        """Record the outcome of a call; None is success."""
        if error is None:
            self._failures, self._next_pause = 0, self._pause
            return
        if self._open_until > self._clock():
            # The call began before the circuit opened: it belongs to the same outage.
            return
        self._failures += 1
        # Permanent errors (wrong key, unknown model) open the circuit at once.
        if self._failures >= self._threshold or isinstance(error, ChatRefusedError):
            self._open_until = self._clock() + self._next_pause
            self._next_pause = min(self._longest, 2 * self._next_pause)


class RetryingChatModel:
    """Wrapper around a chat model with retries and a circuit breaker.

    Args:
        chat: The chat model.
        policy: Retry policy. Default: `RetryPolicy()`.
        breaker: Circuit breaker. Default: `CircuitBreaker()`.
        rng: Random number generator for the waits.
        sleep: Coroutine function that waits for a number of seconds.
        timeout: Timeout for one completion, in seconds, including all attempts and waits.

    Attributes:
        chat: The wrapped chat model.
        failures: Number of failed calls by kind.
        calls: Number of calls made, including failed ones.
    """

    def __init__(
        self,
        chat: ChatModel,
        *,
        policy: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        timeout: float = 120.0,
    ) -> None:
        """See the class."""
        self.chat, self._policy = chat, policy or RetryPolicy()
        self._breaker = breaker or CircuitBreaker()
        self._rng, self._sleep, self._timeout = rng or random.Random(), sleep, timeout
        self.failures: Counter[str] = Counter()
        self.calls = 0

    @property
    def where(self) -> str:
        """Model and server, for messages."""
        name = getattr(self.chat, "where", None) or getattr(self.chat, "model", None)
        return str(name or type(self.chat).__name__)

    async def aclose(self) -> None:
        """Close the wrapped model's connections on the running event loop, if it has any."""
        await close_chat(self.chat)

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""
        waiting = False

        async def call() -> Completion:
            nonlocal waiting
            self._breaker.check()
            self.calls += 1
            waiting = True
            try:
                completion = await self.chat.complete(request, seed=seed)
            except ChatError as error:
                waiting = False
                self._breaker.record(error)
                raise
            self._breaker.record(None)
            return completion

        retried = with_retries(
            call,
            policy=self._policy,
            rng=self._rng,
            sleep=self._sleep,
            failures=self.failures,
        )
        try:
            return await asyncio.wait_for(retried, self._timeout)
        except asyncio.TimeoutError:
            error = ChatUnavailableError(
                f"no completion within {self._timeout:g} s, including retries",
                kind="timeout",
                usage=prompt_usage(request) if waiting else None,
                lost=waiting,
            )
            self.failures[error.kind] += 1
            self._breaker.record(error)
            raise error from None
