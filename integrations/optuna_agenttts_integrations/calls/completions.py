"""Samples of a request: stored ones are reused, missing ones are generated concurrently.

The request and the index define a sample: a trial with 20 samples generates only 15 if an earlier
one generated 5, and an equal result of one stage leads to equal requests in the next. Seeds depend
on the request, not on the server: models that honor seeds return the same samples in process and
behind any server.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from weakref import WeakValueDictionary

from optuna_agenttts.llm import (
    ChatError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Message,
    RetryPolicy,
)
from optuna_agenttts.llm.port import repeated_call
from optuna_agenttts.llm.retry import with_retries
from optuna_agenttts.llm.usage_bounds import bounded_usage
from optuna_agenttts_integrations.calls.batching import MultiSampleChatModel
from optuna_agenttts_integrations.calls.endpoints import Endpoint
from optuna_agenttts_integrations.calls.metering import Meter, finish_all, is_lost
from optuna_agenttts_integrations.calls.rates import RateLimit
from optuna_agenttts_integrations.calls.sharing import Claim, Polls, obtain
from optuna_agenttts_integrations.calls.store import CompletionStore, RequestKey, canonical_json
from optuna_agenttts_integrations.exceptions import SpendLimitError, StoreError

DEFAULT_RETRY_POLICY = RetryPolicy(attempts=8, base=0.5, longest=15.0, patience=600.0)
"""Retries of a call. At a failure rate of 0.2, eight attempts fail once in 390,000 calls. 600
seconds of waits outlast the restart of a server with a large model, so that it fails no trial."""

_PROBE, _PROBE_TOKENS = (Message("user", "Hi"),), 16
"""Request that shows whether a server is up when a call keeps failing and no other is left. Chosen
by hand: some servers refuse fewer tokens."""

_MAX_CAUSES = 1000
"""Distinct causes of failures to count. Chosen by hand: far more than a report can show."""


def request_text(request: ChatRequest) -> str:
    """Return a request as canonical JSON, which identifies it."""
    values = {key: value for key, value in asdict(request).items() if value is not None}
    return canonical_json(values)


def sample_seed(text: str, index: int, base: int) -> int:
    """Return the seed of a sample of a request, from 1 to 2**31 - 1, which all servers accept.

    Args:
        text: Request, as returned by `request_text`.
        index: Index of the sample.
        base: Seed of the objective.
    """
    digest = hashlib.blake2b(f"{base}:{index}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % (2**31 - 1) + 1


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of one request.

    Args:
        completions: The completions, in order of index, without failed ones.
        generated: Number of completions that were generated rather than reused.
        generated_tokens: Tokens that were generated, also by failed calls.
        prompt_tokens: Tokens of the prompts of all calls, also of failed ones.
        spend: Cost of all calls, also of failed ones.
        prompt_length: Tokens of the prompt; 0 if all samples failed.
        naive_tokens: Tokens of all completions, generated or reused.
        failed: Number of failed samples.
    """

    completions: tuple[Completion, ...]
    generated: int
    generated_tokens: int
    prompt_tokens: int
    spend: float
    prompt_length: int
    naive_tokens: int
    failed: int


class Completions:
    """Source of samples that reuses the completions of a store. Belongs to one event loop.

    Args:
        store: Store of completions.
        seed: Base of the seeds of all samples.
        rng: Random number generator for the jitter of waits between attempts.
        sleep: Function that waits for a number of seconds.
        clock: Monotonic clock in seconds, for limits of requests and tokens a minute.
        policy: Retries of failed calls.
        replay: Whether to raise an error instead of generating completions.

    Attributes:
        failures: Number of failed calls by cause.
    """

    def __init__(
        self,
        *,
        store: CompletionStore,
        seed: int,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
        policy: RetryPolicy = DEFAULT_RETRY_POLICY,
        replay: bool = False,
    ) -> None:
        self._store, self._seed, self._rng, self._sleep = store, seed, rng, sleep
        self._policy, self._replay, self._clock = policy, replay, clock
        self._rates: dict[str, RateLimit] = {}
        self._slots: dict[str, asyncio.Semaphore] = {}
        # Callers of a request share a lock, which is dropped with the last of them.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._successes: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    async def sample(
        self,
        request: ChatRequest,
        endpoint: Endpoint,
        count: int,
        meter: Meter | None = None,
        *,
        start: int = 0,
    ) -> Samples:
        """Return samples `start` to `count` - 1 of a request.

        Samples whose calls fail despite retries are missing from the result, and `failures`
        counts them by cause.

        Args:
            request: The request.
            endpoint: Endpoint that serves its model.
            count: Number of samples, those before `start` included.
            meter: Meter of the request's spend. Default: its calls cost nothing.
            start: Index of the first sample.

        Raises:
            StoreError: The store cannot be read or written, or lacks a sample to be replayed.
            SpendLimitError: The limit does not cover a missing sample. Calls in progress are
                finished and stored before.
        """
        meter = Meter(request) if meter is None else meter
        text = request_text(request)
        request_key = RequestKey(endpoint.identity, self._seed, text)
        digest = request_key.digest
        exclusive = self._locks.setdefault(digest, asyncio.Lock())
        try:
            # Concurrent callers of the same request wait, and then find its samples in the store.
            async with exclusive:
                stored = await self._store.run(self._store.get, digest, count)
                wanted = range(start, count)
                found = {index: stored[index] for index in wanted if index in stored}
                missing = [index for index in wanted if index not in found]
                generated = 0
                if missing and self._replay:
                    raise StoreError(
                        f"The store {self._store.path!r} lacks {len(missing)} of {count} samples "
                        f"of a request to {endpoint.identity}: replay with the pipeline, "
                        "instances, seed and endpoints of the study, or do not set `replay`."
                    )
                if missing:
                    obtained, generated = await obtain(
                        self._store,
                        digest,
                        missing,
                        lambda claim: self._generate(request, endpoint, request_key, claim, meter),
                        Polls(self._rng, self._sleep),
                    )
                    found.update(obtained)
        finally:
            meter.close()
        return Samples(
            completions=tuple(found[index] for index in sorted(found)),
            generated=generated,
            generated_tokens=meter.generated_tokens,
            prompt_tokens=meter.prompt_tokens,
            spend=meter.spent,
            prompt_length=max((c.usage.prompt_tokens for c in found.values()), default=0),
            naive_tokens=sum(c.usage.completion_tokens for c in found.values()),
            failed=len(wanted) - len(found),
        )

    async def _generate(
        self,
        request: ChatRequest,
        endpoint: Endpoint,
        request_key: RequestKey,
        claim: Claim,
        meter: Meter,
    ) -> dict[int, Completion]:
        """Generate the samples of a claim by index, and store each as soon as it is complete."""
        slots = self._slots.setdefault(
            endpoint.concurrency_group, asyncio.Semaphore(endpoint.concurrency)
        )

        def seed(index: int, base: int = self._seed) -> int:
            return sample_seed(request_key.request, index, base)

        if isinstance(endpoint.chat, MultiSampleChatModel):
            chat = endpoint.chat
            async with slots:
                indices = [i for i in sorted(await claim.granted()) if await claim.begin(i)]
                if not indices:
                    return {}
                many = await self._attempt(
                    lambda: chat.complete_many(request, [seed(index) for index in indices]),
                    meter,
                    endpoint,
                    len(indices),
                )
            if many is not None and len(many) != len(indices):
                self.count_failure(
                    type(chat).__name__,
                    f"`complete_many` returned {len(many)} completions for {len(indices)} seeds",
                )
            return await claim.put(request_key, dict(zip(indices, many or ())))

        async def one(index: int) -> dict[int, Completion]:
            attempted = seed(index)

            async def call() -> Sequence[Completion]:
                reply = await endpoint.chat.complete(request, seed=attempted)
                if reply.failed:
                    raise ChatUnavailableError(
                        f"the reply ended early (finish reason {reply.finish_reason!r})",
                        kind="reply ended early",
                        usage=reply.usage,
                    )
                return [reply]

            async with slots:
                if not await claim.begin(index):
                    return {}
                replies = await self._attempt(call, meter, endpoint)
                if replies and replies[0].ended_in_thoughts and replies[0].finish_reason == "stop":
                    # Another seed may lead to an answer.
                    attempted = seed(index, ~self._seed)
                    first = replies
                    try:
                        replies = await self._attempt(call, meter, endpoint) or first
                    except (SpendLimitError, asyncio.CancelledError):
                        # It is paid for.
                        await claim.put(request_key, {index: first[0]})
                        raise
            if replies is None:
                await claim.fail(index)
                return {}
            return await claim.put(request_key, {index: replies[0]})

        fresh: dict[int, Completion] = {}
        for stored in await finish_all([one(index) for index in claim.possible]):
            fresh.update(stored)
        return fresh

    async def _attempt(
        self,
        call: Callable[[], Awaitable[Sequence[Completion]]],
        meter: Meter,
        endpoint: Endpoint,
        calls: int = 1,
    ) -> Sequence[Completion] | None:
        """Return the result of calls, retried if they fail; None if all attempts fail."""
        rate, name = self._rate_of(endpoint), endpoint.identity

        async def metered(
            call: Callable[[], Awaitable[Sequence[Completion]]], calls: int
        ) -> Sequence[Completion]:
            await meter.reserve(calls)
            if rate is not None:
                try:
                    reserved = await rate.reserve(calls * sum(meter.longest_call))
                except BaseException:
                    meter.release(calls)
                    raise
            outcomes: Sequence[Completion | ChatError | None] = []
            token = repeated_call.set(meter.repeat)
            try:
                outcomes = completions = [
                    replace(
                        c, usage=bounded_usage(c.usage, meter.request, c.thoughts + c.text, name)
                    )
                    for c in await call()
                ]
                return completions
            except ChatError as error:
                outcomes = [error] * (calls if error.lost else 1)
                raise
            except asyncio.CancelledError:
                outcomes = [None] * calls
                raise
            finally:
                repeated_call.reset(token)
                before = meter.prompt_tokens + meter.generated_tokens
                for outcome in outcomes:
                    meter.count(outcome)
                meter.release(calls)
                if rate is not None and not any(map(is_lost, outcomes)):
                    reserved.tokens = meter.prompt_tokens + meter.generated_tokens - before

        async def probe() -> None:
            request = replace(
                meter.request,
                messages=_PROBE,
                max_tokens=min(_PROBE_TOKENS, meter.request.max_tokens),
                schema=None,
            )

            async def call() -> Sequence[Completion]:
                return [await endpoint.chat.complete(request, seed=1)]

            with suppress(ChatError):
                await metered(call, 1)
                self._successes[name] += 1

        try:
            completions = await with_retries(
                lambda: metered(call, calls),
                policy=self._policy,
                rng=self._rng,
                sleep=self._sleep,
                successes=lambda: self._successes[name],
                probe=None if isinstance(endpoint.chat, MultiSampleChatModel) else probe,
            )
        except ChatError as error:
            self.count_failure(type(error).__name__, str(error))
            meter.error = error
            return None
        self._successes[name] += 1
        return completions

    def _rate_of(self, endpoint: Endpoint) -> RateLimit | None:
        """Return the limit of an endpoint's requests and tokens a minute, if it has one."""
        requests, tokens = endpoint.requests_per_minute, endpoint.tokens_per_minute
        if requests is None and tokens is None:
            return None
        name = endpoint.identity
        if name not in self._rates:
            self._rates[name] = RateLimit(
                name, requests=requests, tokens=tokens, clock=self._clock, sleep=self._sleep
            )
        return self._rates[name]

    def count_failure(self, kind: str, message: str) -> None:
        """Count a failure, by its kind and message, in `failures`."""
        cause = f"{kind}: {message}"
        if cause not in self.failures and len(self.failures) >= _MAX_CAUSES:
            # Messages that hold a time or a request are all distinct: bound the memory.
            cause = kind
        self.failures[cause] += 1
