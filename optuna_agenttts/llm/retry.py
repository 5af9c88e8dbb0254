"""When to call again, and when not to call at all.

What deserves another attempt is a value (`RetryPolicy.wait`), decided apart from waiting, which
tenacity does. A circuit breaker keeps a server that is down from being asked again and again.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import tenacity

from optuna_agenttts.llm.port import (
    ChatError,
    ChatModel,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    close_chat,
)

_T = TypeVar("_T")


_AWAY = frozenset(
    {"HTTP 429", "HTTP 502", "HTTP 503", "HTTP 504", "ConnectError", "ConnectTimeout"}
)
"""Kinds of failure that tell of the server rather than of the request: it sheds load, or it is
starting."""


class LeftAloneError(ChatUnavailableError):
    """The server was not asked, because it failed before; see `CircuitBreaker`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How often to call, and how long to wait between.

    Args:
        attempts: The most calls for one completion.
        base: Upper bound of the first wait, in seconds; it doubles with each attempt, and each
            wait is drawn from zero to the bound (full jitter), so that callers spread out.
        longest: Upper bound of every wait, in seconds, also of what a server asks for.
        patience: For how many seconds, waits added up, a server that sheds load or is out of
            reach is asked again beyond `attempts`.
    """

    attempts: int = 4
    base: float = 1.0
    longest: float = 30.0
    patience: float = 0.0

    def wait(
        self, error: BaseException, attempt: int, rng: random.Random, waited: float = 0.0
    ) -> float | None:
        """Seconds to wait before the next call; None if there should be none.

        Args:
            error: What the last call raised.
            attempt: How many calls have failed, 1 or more.
            rng: Source of randomness.
            waited: Seconds waited so far.
        """
        if not isinstance(error, ChatUnavailableError) or isinstance(error, LeftAloneError):
            return None
        patient = error.kind in _AWAY and waited < self.patience
        if attempt >= self.attempts and not patient:
            return None
        if error.retry_after is not None:
            # A server that asks for more than the longest wait is not worth waiting for.
            bound = max(self.longest, self.patience - waited if patient else 0.0)
            if error.retry_after > bound:
                return None
            if attempt < self.attempts:
                return error.retry_after
        # Not 2 ** attempt: a patient caller's thousandth attempt would overflow.
        wait = rng.uniform(0, min(self.longest, self.base * 2.0 ** min(attempt - 1, 30)))
        if attempt < self.attempts:
            return wait
        # Waits of nothing ("Retry-After: 0") would never use up the patience.
        return max(error.retry_after or 0.0, min(wait, self.patience - waited)) or None


async def with_retries(
    call: Callable[[], Awaitable[_T]],
    *,
    policy: RetryPolicy,
    rng: random.Random,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    failures: Counter[str] | None = None,
) -> _T:
    """Call until it succeeds or the policy says to stop.

    Args:
        call: What to call; each call makes a new awaitable.
        policy: When to call again.
        rng: Source of randomness for waits.
        sleep: Waits for some seconds.
        failures: Where to count the kind of each failed call.

    Raises:
        ChatError: What the last call raised.
    """
    waits: list[float] = []
    # Nearly all calls succeed at once, and tenacity takes a tenth of a call to a near server.
    first: list[Exception] = []
    try:
        return await call()
    except Exception as error:
        first.append(error)

    def again(state: tenacity.RetryCallState) -> bool:
        error = state.outcome.exception() if state.outcome is not None else None
        if error is None:
            return False
        if failures is not None and isinstance(error, ChatError):
            failures[error.kind] += 1
        wait = policy.wait(error, state.attempt_number, rng, sum(waits))
        if wait is not None:
            waits.append(wait)
        return wait is not None

    retrying = tenacity.AsyncRetrying(
        retry=again, wait=lambda _: waits[-1], sleep=sleep, reraise=True
    )

    async def attempt() -> _T:
        if first:
            raise first.pop()
        return await call()

    return await retrying(attempt)


class CircuitBreaker:
    """Refuses to call a server that keeps failing, for a while that doubles each time.

    Args:
        threshold: Failures in a row after which calls are refused.
        pause: For how many seconds at first.
        longest: For how many seconds at most.
        clock: Seconds, as from `time.monotonic`.
    """

    def __init__(
        self,
        *,
        threshold: int = 4,
        pause: float = 30.0,
        longest: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """See the class."""
        self._threshold, self._pause, self._longest = threshold, pause, longest
        self._clock = clock
        self._failures = 0
        self._until = float("-inf")
        self._next = pause

    def check(self) -> None:
        """Pass, or refuse at once.

        Raises:
            LeftAloneError: The server failed too often to be asked now.
        """
        rest = self._until - self._clock()
        if rest > 0:
            raise LeftAloneError(
                f"not asked: the server failed before, and is left alone for {rest:.0f} s",
                kind="left alone",
                retry_after=rest,
            )

    def record(self, error: ChatError | None) -> None:
        """Take note of how a call ended; None for well."""
        if error is None:
            self._failures, self._next = 0, self._pause
            return
        if self._until > self._clock():
            # It was under way when the pause began: the same breakdown, told once more.
            return
        self._failures += 1
        # What was refused for good (a wrong key, an unknown model) is refused again.
        if self._failures >= self._threshold or isinstance(error, ChatRefusedError):
            self._until = self._clock() + self._next
            self._next = min(self._longest, 2 * self._next)


class PatientChat:
    """A chat model that calls another again where that helps, and spares it where it does not.

    Args:
        chat: The other.
        policy: When to call again.
        breaker: When not to call at all.
        rng: Source of randomness for waits.
        sleep: Waits for some seconds.
        timeout: The most seconds for one completion, all attempts and waits included.
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
        self._chat, self._policy = chat, policy or RetryPolicy()
        self._breaker = breaker or CircuitBreaker()
        self._rng, self._sleep, self._timeout = rng or random.Random(), sleep, timeout
        self.failures: Counter[str] = Counter()
        """How often calls failed, by kind."""
        self.calls = 0
        """How many calls were made, failed ones included."""

    @property
    def where(self) -> str:
        """Who answers, for people."""
        name = getattr(self._chat, "where", None) or getattr(self._chat, "model", None)
        return str(name or type(self._chat).__name__)

    async def aclose(self) -> None:
        """Close the other's connections of the running event loop, if it has any."""
        await close_chat(self._chat)

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""

        async def call() -> Completion:
            self._breaker.check()
            self.calls += 1
            try:
                completion = await self._chat.complete(request, seed=seed)
            except ChatError as error:
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
                f"no completion within {self._timeout:g} s, all attempts included", kind="timeout"
            )
            self.failures[error.kind] += 1
            self._breaker.record(error)
            raise error from None
