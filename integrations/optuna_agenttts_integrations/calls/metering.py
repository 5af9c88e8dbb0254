"""Spend of calls: counted when they end, and reserved before they start if there is a limit.

A `Ledger` holds the spend of a search, an `Account` that of a trial or an evaluation, and a
`Meter` that of the samples of one request. All of them are used on one event loop, and nothing is
awaited between a check and its reservation, so that concurrent calls cannot exceed the limit.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from optuna_agenttts.llm import ChatError, ChatRequest, Completion
from optuna_agenttts.llm.loop import gather
from optuna_agenttts.llm.port import prompt_usage
from optuna_agenttts.llm.usage_bounds import longest_prompt
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts_integrations.exceptions import PipelineError, SpendLimitError

_T = TypeVar("_T")

_EXCESS = 4.0
"""Ratio of what an instance takes and the cost of its allocation, before one was finished: lengths
may be declared too low. Chosen by hand."""

Price = Callable[[int, float, float, float], float]
"""Cost of calls with the same prompt: their number, and their tokens read, generated and read from
the server's cache, which are some of those read."""


def check_max_spend(max_spend: float | None) -> None:
    """Check a limit on the spend.

    Raises:
        PipelineError: It is not a number above 0.
    """
    valid = is_finite(max_spend) or max_spend == math.inf
    if max_spend is not None and not (valid and max_spend > 0):
        raise PipelineError(f"`max_spend` must be above 0, or None, got {max_spend!r}.")


@dataclass(slots=True)
class Ledger:
    """Spend of a search, with a limit, in units of the task's cost model.

    Args:
        limit: Most that may be spent; infinity for no limit.
        unit: Unit of the cost model, for messages.
        earlier: Spend of the search that other processes have recorded.
        spent: Spend of the calls that have ended.
        held: Spend of the calls that have ended, and most that those in progress can cost.
        in_progress: Number of calls in progress.
        waiting: Callers that wait for a call in progress to end.
        longest: Tokens of each model's longest reply, at each thinking effort, where it is above
            `max_tokens`.
        trials: Numbers of the trials that this ledger has accounts of.
        stopped: Whether it was logged that the limit is reached, since the search began.
        begun: Cost of the allocations of instances in progress.
        instances: Number of instances in progress.
        excess: Largest ratio of what an instance took, reused samples included, and the cost of
            its allocation.
    """

    limit: float = math.inf
    unit: str = ""
    earlier: float = 0.0
    spent: float = 0.0
    held: float = 0.0
    in_progress: int = 0
    waiting: list[asyncio.Future[None]] = field(default_factory=list)
    longest: dict[tuple[str | int | None, ...], int] = field(default_factory=dict)
    trials: set[int] = field(default_factory=set)
    stopped: bool = False
    begun: float = 0.0
    instances: int = 0
    excess: float = 0.0

    @property
    def total(self) -> float:
        """Spend so far."""
        return self.earlier + self.spent

    def covers(self, amount: float) -> bool:
        """Return whether an amount is within the limit, but for rounding errors."""
        return amount <= self.limit * (1 + 1e-12)

    @asynccontextmanager
    async def instance(self, cost: float, account: Account) -> AsyncIterator[None]:
        """Run an instance once the limit covers it and all that are in progress, or none is.

        Otherwise all instances would share what is left, and none would be finished.

        Args:
            cost: Cost of its allocation.
            account: Account that it is charged to, which may be refused meanwhile.
        """
        while self.instances and account.refused is None:
            needed = (self.excess or _EXCESS) * (self.begun + cost)
            if self.covers(self.total + needed):
                break
            await self.wait()
        self.instances += 1
        self.begun += cost
        try:
            yield
        finally:
            self.instances -= 1
            self.begun -= cost
            self.wake()

    def finished(self, cost: float, taken: float) -> None:
        """Count what a finished instance took.

        Args:
            cost: Cost of its allocation.
            taken: What it took, reused samples included.
        """
        if cost > 0 and taken > 0:
            # Those that take little end first, so less than the cost is not expected.
            self.excess = max(self.excess, taken / cost, 1.0)

    async def wait(self) -> None:
        """Wait until a call or an instance in progress ends."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append(future)
        await future

    def wake(self) -> None:
        """Wake all waiting callers."""
        waiting, self.waiting = self.waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)


@dataclass(slots=True)
class Account:
    """Spend of a trial or an evaluation.

    Args:
        ledger: Ledger of the search.
        amounts: Spend of each request.
        tokens: Known tokens that were generated.
        refused: Error of the first call that the limit did not cover.
    """

    ledger: Ledger = field(default_factory=Ledger)
    amounts: list[float] = field(default_factory=list)
    tokens: int = 0
    refused: SpendLimitError | None = None

    @property
    def spent(self) -> float:
        """Spend so far; an exact sum does not depend on the order in which calls end."""
        return math.fsum(self.amounts)


@dataclass(slots=True)
class Meter:
    """Spend of the samples of one request, failed and repeated calls included.

    A call whose reply was lost counts as if it had generated `max_tokens`.

    Args:
        request: The request.
        price: Price of calls with this request's prompt.
        account: Account to charge.
        spent: Spend of the calls that have ended.
        prompt_tokens: Tokens of the prompts of these calls.
        generated_tokens: Tokens that these calls are known to have generated.
        cached_tokens: Tokens of the prompts that servers had cached.
        error: Error of the last call that failed despite retries.
    """

    request: ChatRequest
    price: Price = lambda calls, prompt, generated, cached: 0.0
    account: Account = field(default_factory=Account)
    spent: float = 0.0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    cached_tokens: int = 0
    error: ChatError | None = None
    _calls: int = 0
    _lost_tokens: int = 0
    _in_progress: int = 0
    _held: float = 0.0
    _longest_prompt: int = 0
    _charged: tuple[float, int] = (0.0, 0)

    async def reserve(self, calls: int) -> None:
        """Reserve the most that calls can cost; wait for calls in progress if they hold it.

        Raises:
            SpendLimitError: The limit does not cover the calls.
        """
        ledger = self.account.ledger
        while not math.isinf(ledger.limit):
            if self.account.refused is not None:
                # Too little is left to finish another instance.
                raise SpendLimitError(str(self.account.refused))
            if self._hold(self._in_progress + calls):
                break
            alone = self._most(calls) - self.spent
            if not ledger.in_progress or not ledger.covers(ledger.total + alone):
                raise self._refusal(calls, alone)
            await ledger.wait()
        ledger.in_progress += calls
        self._in_progress += calls

    def _hold(self, calls: int) -> bool:
        """Reserve the most that calls in progress can cost, if the limit covers it."""
        ledger, held = self.account.ledger, self._most(calls)
        if not ledger.covers(ledger.earlier + ledger.held + held - self._held):
            return False
        ledger.held += held - self._held
        self._held = held
        return True

    def _refusal(self, calls: int, amount: float) -> SpendLimitError:
        """Return the error of calls that the limit does not cover, and note it."""
        ledger = self.account.ledger
        what = f"the next {calls} calls" if calls > 1 else "the next call"
        error = SpendLimitError(
            f"`max_spend` of {ledger.limit:.5g} {ledger.unit} does not cover {what} of "
            f"{self.request.model} (of up to {self.longest_call[1]} tokens), which may cost up to "
            f"{amount:.3g} {ledger.unit}: "
            f"{ledger.total:.5g} {ledger.unit} are spent"
        )
        self.account.refused = error
        ledger.wake()
        return error

    def release(self, calls: int) -> None:
        """Release the reservation of calls after `count` has counted their tokens."""
        ledger = self.account.ledger
        ledger.in_progress -= calls
        self._in_progress -= calls
        if math.isinf(ledger.limit):
            return
        self._charge()
        held = self._most(self._in_progress)
        ledger.held += held - self._held
        self._held = held
        ledger.wake()

    def repeat(self, error: ChatError) -> None:
        """Count a failed call that a chat model is about to repeat, and reserve the next one.

        Raises:
            SpendLimitError: The limit does not cover the next one.
        """
        self.count(error)
        ledger = self.account.ledger
        if math.isinf(ledger.limit):
            return
        self._charge()
        if not self._hold(self._in_progress):
            raise self._refusal(1, self._most(1) - self.spent)

    def count(self, outcome: Completion | ChatError | None) -> None:
        """Count the tokens of a call: completed, failed, or cancelled (None)."""
        usage = getattr(outcome, "usage", None)
        lost = is_lost(outcome)
        if usage is None and lost:
            usage = prompt_usage(self.request)
        if usage is None:
            return
        self._calls += 1
        self.prompt_tokens += usage.prompt_tokens
        self.generated_tokens += usage.completion_tokens
        self.cached_tokens += usage.cached_tokens
        if lost:
            self._lost_tokens += max(0, self.request.max_tokens - usage.completion_tokens)
        elif usage.completion_tokens > self._longest_reply:
            self.account.ledger.longest[self._choice] = usage.completion_tokens

    def close(self) -> None:
        """Charge the account with what was not charged yet, after the last call for now."""
        self._charge()
        spent, tokens = self._charged
        self.account.amounts.append(self.spent - spent)
        self.account.tokens += self.generated_tokens - tokens
        self._charged = self.spent, self.generated_tokens

    def _charge(self) -> None:
        spent = self._cost(self._calls, self.prompt_tokens, self._generated)
        self.account.ledger.spent += spent - self.spent
        self.spent = spent

    @property
    def _generated(self) -> int:
        return self.generated_tokens + self._lost_tokens

    @property
    def _choice(self) -> tuple[str | int | None, ...]:
        return self.request.model, self.request.thinking, self.request.extra

    @property
    def _longest_reply(self) -> int:
        # Some servers do not count thoughts towards `max_tokens`.
        longest = self.account.ledger.longest.get(self._choice, 0)
        return max(self.request.max_tokens, longest)

    def _cost(self, calls: int, prompt: int, generated: int) -> float:
        return self.price(calls, prompt, generated, self.cached_tokens) if calls else 0.0

    def _most(self, calls: int) -> float:
        """Return the most that the calls that have ended and further ones can cost."""
        prompt, reply = self.longest_call
        return self._cost(
            self._calls + calls,
            self.prompt_tokens + calls * prompt,
            self._generated + calls * reply,
        )

    @property
    def longest_call(self) -> tuple[int, int]:
        """Most tokens of the prompt and of the reply of a call."""
        if not self._longest_prompt:
            self._longest_prompt = longest_prompt(self.request)
        return self._longest_prompt, self._longest_reply


def is_lost(outcome: Completion | ChatError | None) -> bool:
    """Return whether a call may have generated tokens that are not known."""
    return outcome is None or getattr(outcome, "lost", False)


async def finish_all(coroutines: Iterable[Coroutine[Any, Any, _T]]) -> list[_T]:
    """Run coroutines concurrently; if the limit stops one, finish the others before raising.

    Their calls are paid for: what they return can be stored.

    Raises:
        SpendLimitError: The limit stopped a coroutine.
    """
    refusals: list[SpendLimitError] = []
    started = list(coroutines)

    async def attempt(coroutine: Coroutine[Any, Any, _T]) -> list[_T]:
        try:
            return [await coroutine]
        except SpendLimitError as error:
            refusals.append(error)
            return []

    try:
        found = await gather(attempt(coroutine) for coroutine in started)
    finally:
        for coroutine in started:
            # Those that were cancelled before they ran.
            coroutine.close()
    if refusals:
        raise refusals[0]
    return [result for results in found for result in results]
