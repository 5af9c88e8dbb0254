"""Retries and circuit breaking.

`RetryPolicy.wait` decides whether and when to retry, `with_retries` waits. A circuit breaker stops
calls to a server that keeps failing.
"""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from optuna_agenttts.llm.outages import is_outage, may_be_the_request
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
    servers_behind,
    without_retries,
)
from optuna_agenttts.llm.waiting import log_wait, waiting
from optuna_agenttts.support.resetting import Resetting

_T = TypeVar("_T")

_MAX_DOUBLINGS = 30
"""Limit of the exponential back-off's exponent, which keeps thousands of attempts finite.
Chosen by hand."""


class CircuitOpenError(ChatUnavailableError):
    """The call was not sent, because earlier ones failed; see `CircuitBreaker`.

    It is `permanent` if the error of the last call was.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """Number of attempts and the waits between them.

    Args:
        attempts: Maximum number of calls for one completion.
        base: Upper bound of the first wait, in seconds. The bound doubles with each attempt, and
            each wait is drawn uniformly from zero to the bound (full jitter), so that clients do
            not retry at the same time.
        longest: Upper bound of every wait, in seconds, including the server's ``Retry-After``.
        patience: Total waiting time, in seconds, up to which calls to an overloaded, broken or
            unreachable server are retried beyond `attempts`. The pause of an open circuit may end
            later.
    """

    # Chosen by hand: outlasts short failures without delaying a trial by minutes.
    attempts: int = 4
    base: float = 1.0
    longest: float = 30.0
    patience: float = 0.0

    def wait(
        self, error: BaseException, attempt: int, rng: random.Random, waited: float = 0.0
    ) -> float | None:
        """Return the seconds to wait before the next call; None to stop retrying.

        Args:
            error: Exception that the last call raised.
            attempt: Number of failed calls, 1 or more.
            rng: Random number generator.
            waited: Seconds waited so far.
        """
        if not isinstance(error, ChatUnavailableError) or error.permanent:
            return None
        patient = waited < self.patience
        if isinstance(error, CircuitOpenError):
            # The breaker allows the next call when its pause ends.
            return error.retry_after if patient else None
        patient &= is_outage(error)
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
    successes: Callable[[], int] = int,
    probe: Callable[[], Awaitable[object]] | None = None,
) -> _T:
    """Call until success or until the policy stops; log a line a minute meanwhile.

    Args:
        call: Function that returns a new awaitable for each attempt.
        policy: The policy.
        rng: Random number generator for the waits.
        sleep: Coroutine function that waits for a number of seconds.
        failures: Counter of failed calls by kind, to be updated.
        successes: Function that returns how many calls to the server have succeeded. If others
            succeed while this call keeps failing, its request may be at fault: from then on, only
            the policy's attempts are made.
        probe: Function that sends another request, which counts as a success if it succeeds. It
            is called while this call is retried beyond the attempts and no other has succeeded.

    Raises:
        ChatError: The last call failed.
    """
    waited, attempt, alone, succeeded = 0.0, 0, 0, 0
    while True:
        attempt += 1
        try:
            return await call()
        except ChatError as error:
            if failures is not None:
                failures[error.kind] += 1
            if attempt == 1:
                succeeded = successes()
            if probe and attempt >= policy.attempts and not alone and may_be_the_request(error):
                # Perhaps no other call is left to succeed.
                await probe()
            # Failures since another call has succeeded after this one first failed.
            alone += successes() > succeeded and may_be_the_request(error)
            patience_used = waited if alone < policy.attempts else math.inf
            wait = policy.wait(error, attempt, rng, patience_used)
            if wait is None:
                raise
            waited += wait
            log_wait(error, waited, wait, policy.patience)
            count_repeated(error)
            with waiting(error):
                await sleep(wait)


class CircuitBreaker(Resetting):
    """Circuit breaker for a server that keeps failing.

    After several consecutive failures the circuit opens: calls are rejected for a pause, which
    doubles each time the next call after it fails.

    Args:
        threshold: Number of consecutive failures that open the circuit.
        pause: Length of the first pause, in seconds.
        longest: Maximum length of a pause, in seconds.
        clock: Monotonic clock, in seconds.
    """

    _unpickled = ("_failures", "_open_until", "_next_pause", "_last", "_permanent")

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
        self._last, self._permanent = "", False

    @property
    def is_open(self) -> bool:
        """True while calls are rejected."""
        return self._open_until > self._clock()

    def check(self) -> None:
        """Raise `CircuitOpenError` if the circuit is open."""
        remaining = self._open_until - self._clock()
        if remaining > 0:
            raise CircuitOpenError(
                f"{self._last}: circuit open: not called after this failure; the next call is "
                f"allowed in {remaining:.0f} s",
                kind="circuit open",
                retry_after=remaining,
                permanent=self._permanent,
            )

    def record(self, error: ChatError | None) -> None:
        """Record the outcome of a call; None is success.

        Args:
            error: The error of the call; None if it succeeded.
        """
        if error is None:
            self._failures, self._next_pause = 0, self._pause
            return
        if self.is_open:
            # The call began before the circuit opened: it belongs to the same outage.
            return
        self._failures, self._last = self._failures + 1, str(error)
        # Permanent errors (wrong key, unknown model) open the circuit at once.
        self._permanent = isinstance(error, ChatRefusedError) or error.permanent
        if self._failures >= self._threshold or self._permanent:
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

    def servers_behind(self) -> tuple[tuple[ChatModel, str], ...]:
        """Return the servers of the wrapped model; see `port.servers_behind`."""
        return servers_behind(self.chat)

    def without_retries(self) -> ChatModel:
        """Return the wrapped model, without its own retries if it has some."""
        return without_retries(self.chat)

    async def aclose(self) -> None:
        """Close the wrapped model's connections on the running event loop, if it has any."""
        await close_chat(self.chat)

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""
        in_progress = False

        async def call() -> Completion:
            nonlocal in_progress
            self._breaker.check()
            self.calls += 1
            in_progress = True
            try:
                completion = await self.chat.complete(request, seed=seed)
            except ChatError as error:
                in_progress = False
                self._breaker.record(error)
                raise
            self._breaker.record(None)
            return completion

        retried = with_retries(
            call, policy=self._policy, rng=self._rng, sleep=self._sleep, failures=self.failures
        )
        try:
            return await asyncio.wait_for(retried, self._timeout)
        except asyncio.TimeoutError:
            error = ChatUnavailableError(
                f"no completion within {self._timeout:g} s, including retries",
                kind="timeout",
                usage=prompt_usage(request) if in_progress else None,
                lost=in_progress,
            )
            self.failures[error.kind] += 1
            self._breaker.record(error)
            raise error from None
