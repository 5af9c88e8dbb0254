"""Samples of a request: those that are known are reused, the others are generated, side by side.

Sample i of a request is defined by the request and i alone: a trial that wants 20 samples pays
for 15 if one with 5 came before, and the same result of one stage leads to the same requests in
the next. Seeds are derived from the request too, never from where it is sent: models that honour
seeds give the same samples in process and behind any server.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

from optuna_agenttts.llm import ChatError, ChatRequest, Completion, RetryPolicy
from optuna_agenttts.llm.loop import together
from optuna_agenttts.llm.retry import with_retries
from optuna_agenttts_integrations.calls.endpoints import Endpoint, ManySampler
from optuna_agenttts_integrations.calls.store import CompletionStore, RequestKey, canonical_json
from optuna_agenttts_integrations.exceptions import StoreError

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

PATIENT = RetryPolicy(attempts=8, base=0.5, longest=15.0, patience=600.0)
"""Where one call in five fails, eight in a row do in one of 400,000. A server that restarts with a
large model takes minutes, and costs time, not trials."""

_MOST_KINDS = 1000


def request_text(request: ChatRequest) -> str:
    """A request as canonical JSON: what it is known by."""
    values = {key: value for key, value in asdict(request).items() if value is not None}
    return canonical_json(values)


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
        prompt_length: Length of the prompt, in tokens; 0 where nothing could be had.
        naive_tokens: Tokens that all of them took to generate, reused or not.
        failed: How many could not be had.
    """

    completions: tuple[Completion, ...]
    generated: int
    generated_tokens: int
    prompt_tokens: int
    prompt_length: int
    naive_tokens: int
    failed: int


class _Turn:
    """Whose turn it is to draw samples of a request, and how many want to."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.callers = 0


class Completions:
    """Draws samples through a store. Belongs to one event loop.

    Args:
        store: Where completions are kept.
        seed: Of all samples' seeds.
        rng: Source of randomness for waits between attempts.
        sleep: Waits for some seconds.
        policy: When to call again.
        replay: Whether everything must be in the store already.
    """

    def __init__(
        self,
        *,
        store: CompletionStore,
        seed: int,
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        policy: RetryPolicy = PATIENT,
        replay: bool = False,
    ) -> None:
        self._store, self._seed, self._rng, self._sleep = store, seed, rng, sleep
        self._policy, self._replay = policy, replay
        self._slots: dict[str, asyncio.Semaphore] = {}
        self._busy: dict[str, _Turn] = {}
        self.failures: Counter[str] = Counter()

    async def sample(self, request: ChatRequest, endpoint: Endpoint, count: int) -> Samples:
        """Draw samples 0 to `count` - 1 of a request.

        What fails for good is missing from the result, and counted in `failures` by its cause.

        Raises:
            StoreError: The store cannot be read or written, or lacks what is to be replayed.
        """
        text = request_text(request)
        request_key = RequestKey(endpoint.identity, self._seed, text)
        digest = request_key.digest
        # Whoever wants samples of the same request waits, and then finds them in the store.
        turn = self._busy.setdefault(digest, _Turn())
        turn.callers += 1
        try:
            async with turn.lock:
                known = self._store.get(digest, count)
                missing = [index for index in range(count) if index not in known]
                fresh: dict[int, Completion] = {}
                if missing and self._replay:
                    raise StoreError(
                        f"The store {self._store.path!r} lacks {len(missing)} of {count} samples "
                        f"of a request to {endpoint.identity}: replay with the pipeline, "
                        "instances, seed and endpoints of the study, or leave `replay` out."
                    )
                if missing:
                    seeds = {i: sample_seed(text, i, self._seed) for i in missing}
                    fresh = await self._generate(request, endpoint, request_key, seeds)
        finally:
            turn.callers -= 1
            if not turn.callers:
                del self._busy[digest]
        found = {**known, **fresh}
        return Samples(
            completions=tuple(found[index] for index in sorted(found)),
            generated=len(fresh),
            generated_tokens=sum(c.usage.completion_tokens for c in fresh.values()),
            prompt_tokens=sum(c.usage.prompt_tokens for c in fresh.values()),
            prompt_length=max((c.usage.prompt_tokens for c in found.values()), default=0),
            naive_tokens=sum(c.usage.completion_tokens for c in found.values()),
            failed=count - len(found),
        )

    async def _generate(
        self,
        request: ChatRequest,
        endpoint: Endpoint,
        request_key: RequestKey,
        seeds: Mapping[int, int],
    ) -> dict[int, Completion]:
        """Generate samples by index, and keep each of them as soon as it is there."""
        slots = self._slots.setdefault(endpoint.shared, asyncio.Semaphore(endpoint.concurrency))
        if isinstance(endpoint.chat, ManySampler):
            chat = endpoint.chat
            async with slots:
                many = await self._attempt(
                    lambda: chat.complete_many(request, list(seeds.values()))
                )
            fresh = dict(zip(seeds, many or ()))
            self._store.put(request_key, fresh)
            return fresh

        async def one(index: int) -> tuple[int, Completion | None]:
            async with slots:
                reply = await self._attempt(
                    lambda: endpoint.chat.complete(request, seed=seeds[index])
                )
            if reply is not None:
                self._store.put(request_key, {index: reply})
            return index, reply

        replies = await together([one(index) for index in seeds])
        return {index: reply for index, reply in replies if reply is not None}

    async def _attempt(self, call: Callable[[], Awaitable[_T]]) -> _T | None:
        try:
            return await with_retries(call, policy=self._policy, rng=self._rng, sleep=self._sleep)
        except ChatError as error:
            self.count_failure(type(error).__name__, str(error))
            return None

    def count_failure(self, kind: str, says: str) -> None:
        """Count what failed for good, by its cause."""
        cause = f"{kind}: {says}"
        if cause not in self.failures and len(self.failures) >= _MOST_KINDS:
            # Messages that name the time or the request would add up without end.
            cause = kind
        self.failures[cause] += 1
