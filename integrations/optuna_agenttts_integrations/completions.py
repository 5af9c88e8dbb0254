"""Samples of a request: those that are known are reused, the others are generated, side by side.

Sample i of a request is defined by the request and i alone: a trial that wants 20 samples pays
for 15 if one with 5 came before, and the same result of one stage leads to the same requests in
the next. Seeds are derived from the request too, never from where it is sent: models that honour
seeds give the same samples in process and behind any server.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from optuna_agenttts.llm import ChatError, ChatRequest, Completion, RetryPolicy
from optuna_agenttts.llm.retry import with_retries
from optuna_agenttts_integrations.endpoints import Endpoint, ManySampler
from optuna_agenttts_integrations.store import CompletionStore

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_POLICY = RetryPolicy(attempts=8)
"""A server that restarts takes half a minute; where one call in five fails, eight in a row do in
one of 400,000."""


def request_text(request: ChatRequest) -> str:
    """A request as canonical JSON: what it is known by."""
    values = {key: value for key, value in asdict(request).items() if value is not None}
    return json.dumps(values, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def sample_seed(text: str, index: int, base: int) -> int:
    """The seed of a sample: 1 to 2**31 - 1, the range that all servers accept.

    Args:
        text: The request as `request_text` writes it.
        index: The sample's index.
        base: The objective's own seed.
    """
    digest = hashlib.blake2b(f"{base}:{index}:{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % (2**31 - 1) + 1


@dataclass(frozen=True, slots=True)
class Samples:
    """Samples of one request.

    Args:
        completions: Those that could be had, in order of index.
        generated: How many of them were generated rather than reused.
        generated_tokens: Tokens that were generated for them.
        prompt_tokens: Tokens of the prompts of those that were generated.
        naive_tokens: Tokens that all of them took to generate, reused or not.
        failed: How many could not be had.
    """

    completions: tuple[Completion, ...]
    generated: int
    generated_tokens: int
    prompt_tokens: int
    naive_tokens: int
    failed: int


class Completions:
    """Draws samples through a store. Belongs to one event loop.

    Args:
        store: Where completions are kept.
        seed: Of all samples' seeds.
        rng: Source of randomness for waits between attempts.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        *,
        store: CompletionStore,
        seed: int,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store, self._seed, self._rng, self._sleep = store, seed, rng, sleep
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._busy: dict[str, asyncio.Lock] = {}
        self.failures: Counter[str] = Counter()

    async def sample(self, request: ChatRequest, endpoint: Endpoint, count: int) -> Samples:
        """Draw samples 0 to `count` - 1 of a request.

        What fails for good is missing from the result, and counted in `failures` by its cause.

        Raises:
            StoreError: The store cannot be read or written.
        """
        text = request_text(request)
        identity = f"{endpoint.identity}\n{self._seed}\n{text}"
        key = hashlib.sha256(identity.encode()).hexdigest()
        # Whoever wants samples of the same request waits, and then finds them in the store.
        lock = self._busy.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                known = self._store.get(key, count)
                missing = [index for index in range(count) if index not in known]
                fresh: dict[int, Completion] = {}
                if missing:
                    seeds = {i: sample_seed(text, i, self._seed) for i in missing}
                    fresh = await self._generate(request, endpoint, key, seeds)
        finally:
            if not lock.locked():
                self._busy.pop(key, None)
        found = {**known, **fresh}
        return Samples(
            completions=tuple(found[index] for index in sorted(found)),
            generated=len(fresh),
            generated_tokens=sum(c.usage.completion_tokens for c in fresh.values()),
            prompt_tokens=sum(c.usage.prompt_tokens for c in fresh.values()),
            naive_tokens=sum(c.usage.completion_tokens for c in found.values()),
            failed=count - len(found),
        )

    async def _generate(
        self, request: ChatRequest, endpoint: Endpoint, key: str, seeds: Mapping[int, int]
    ) -> dict[int, Completion]:
        """Generate samples by index, and keep each of them as soon as it is there."""
        slots = self._slots.setdefault(endpoint.identity, asyncio.Semaphore(endpoint.concurrency))
        if isinstance(endpoint.chat, ManySampler):
            chat = endpoint.chat
            async with slots:
                many = await self._attempt(
                    lambda: chat.complete_many(request, list(seeds.values()))
                )
            fresh = dict(zip(seeds, many or ()))
            self._store.put(key, fresh)
            return fresh

        async def one(index: int) -> tuple[int, Completion | None]:
            async with slots:
                reply = await self._attempt(
                    lambda: endpoint.chat.complete(request, seed=seeds[index])
                )
            if reply is not None:
                self._store.put(key, {index: reply})
            return index, reply

        replies = await asyncio.gather(*(one(index) for index in seeds))
        return {index: reply for index, reply in replies if reply is not None}

    async def _attempt(self, call: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            return await with_retries(call, policy=_POLICY, rng=self._rng, sleep=self._sleep)
        except ChatError as error:
            self.failures[f"{type(error).__name__}: {error}"] += 1
            return None
