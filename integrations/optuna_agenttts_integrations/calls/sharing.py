"""Samples that several workers want: one of them generates a sample, the others wait for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

from optuna_agenttts.llm import Completion
from optuna_agenttts_integrations.calls.store import CompletionStore, RequestKey

_FIRST_POLL, _LONGEST_POLL, _POLL_GROWTH = 0.05, 1.0, 1.5
"""Waits between looks at another worker's samples: the first and the longest, in seconds, and the
factor from one to the next. Chosen by hand: short beside calls to a large model, and 64 waiting
requests read the store about 64 times a second."""


_NOTED_WAIT = 10.0
"""Seconds of waiting after which a line is logged. Chosen by hand: longer than most calls."""


class Claim:
    """Claim of missing samples of one request, made when the first of them can be generated.

    Requests that wait for a slot of their endpoint are thus left to workers that have one.

    Args:
        store: Store of the samples.
        digest: Digest of the request's key.
        missing: Indices of the samples.
        waited: Whether the samples were claimed before, in vain.
    """

    def __init__(
        self,
        store: CompletionStore,
        digest: str,
        missing: Collection[int],
        *,
        waited: bool = False,
    ) -> None:
        self._store, self._digest, self.missing = store, digest, missing
        self._waited = waited
        self._granted: frozenset[int] | None = None
        self._done: set[int] = set()
        self._ended = False
        self._lock = asyncio.Lock()

    async def granted(self) -> frozenset[int]:
        """Return the samples to generate here; others are stored, or those of other workers.

        Raises:
            StoreError: The store cannot be written.
        """
        async with self._lock:
            if self._granted is None:
                free = self._store.leases.hold(self._digest, self.missing)
                if free:
                    await self._store.run(self._acquire, free)
                else:
                    self._granted = frozenset()
            return self._granted or frozenset()

    def _acquire(self, free: list[int]) -> None:
        """Lease samples; in a thread, which ends after the caller if that is cancelled."""
        leases = self._store.leases
        try:
            self._granted = leases.acquire(self._digest, free, self._waited)
        finally:
            leases.settle(self._digest, set(free) - (self._granted or frozenset()))
        if self._ended:
            leases.release({self._digest: self._granted})

    async def begin(self, index: int) -> bool:
        """Return whether to generate a sample here, just before its call.

        Raises:
            StoreError: The store cannot be written.
        """
        granted = await self.granted()
        leases = self._store.leases
        if index not in granted or leases.is_current(self._digest, index):
            return index in granted
        if await self._store.run(leases.acquire, self._digest, [index]):
            return True
        self._granted = (self._granted or frozenset()) - {index}
        self.settle([index])
        return False

    async def fail(self, index: int) -> None:
        """Release a sample whose call failed: other workers need not wait for the others."""
        self._done.add(index)
        await release(self._store, {self._digest: [index]})

    async def put(
        self, request_key: RequestKey, replies: Mapping[int, Completion]
    ) -> dict[int, Completion]:
        """Store replies, and return them as the store holds them: the first writer's are kept.

        Raises:
            StoreError: The store cannot be written.
        """
        self._done.update(replies)
        return {**replies, **await self._store.run(self._put, request_key, replies)}

    def _put(
        self, request_key: RequestKey, replies: Mapping[int, Completion]
    ) -> dict[int, Completion]:
        """Store replies, and end their leases; in a thread, as `_acquire`."""
        try:
            held = self._store.put(request_key, replies)
            self.settle(held)
            return held
        finally:
            # Those that were not stored.
            self._store.leases.release({self._digest: replies.keys()})

    @property
    def possible(self) -> Collection[int]:
        """Samples that may be granted: all before the claim is made."""
        return self.missing if self._granted is None else sorted(self._granted)

    @property
    def refused(self) -> list[int]:
        """Samples that are not to be generated here."""
        return [index for index in self.missing if index not in (self._granted or ())]

    def settle(self, indices: Collection[int]) -> None:
        """End the leases of stored samples."""
        self._store.leases.settle(self._digest, indices)

    def end(self) -> Collection[int]:
        """Return the samples whose leases are to be released, at the end of the claim."""
        self._ended = True
        return (self._granted or frozenset()) - self._done


async def release(store: CompletionStore, samples: Mapping[str, Collection[int]]) -> None:
    """Release samples that were not stored, for other workers.

    Args:
        store: The store.
        samples: Indices of samples by the digest of their request's key.
    """
    if any(samples.values()):
        await store.run(store.leases.release, samples)


class Polls:
    """Growing waits between looks at samples that other workers generate.

    Args:
        rng: Random number generator for the jitter of the waits.
        sleep: Function that waits for a number of seconds.

    Attributes:
        waited: Seconds waited so far.
    """

    def __init__(self, rng: random.Random, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._rng, self._sleep = rng, sleep
        self._bound = _FIRST_POLL
        self.waited = 0.0

    async def wait(self) -> None:
        """Wait before the next look."""
        seconds = self._bound * self._rng.uniform(0.5, 1.0)
        self._bound = min(self._bound * _POLL_GROWTH, _LONGEST_POLL)
        await self._sleep(seconds)
        self.waited += seconds


async def obtain(
    store: CompletionStore,
    digest: str,
    missing: Sequence[int],
    generate: Callable[[Claim], Awaitable[dict[int, Completion]]],
    polls: Polls,
) -> tuple[dict[int, Completion], int]:
    """Generate missing samples of a request, or wait for the workers that are generating them.

    Samples of a worker whose calls fail, or which was killed, are generated here. A worker that
    waits for samples holds none of its own.

    Args:
        store: Store of the samples.
        digest: Digest of the request's key.
        missing: Indices of the samples.
        generate: Function that generates and stores the samples of a claim, by index.
        polls: Waits for other workers.

    Returns:
        The samples by index, without those that failed, and the number that were generated here.

    Raises:
        StoreError: The store cannot be read or written.
    """
    found: dict[int, Completion] = {}
    generated = 0
    claim = Claim(store, digest, missing)
    while True:
        try:
            fresh = await generate(claim)
        finally:
            await release(store, {digest: claim.end()})
        found.update(fresh)
        generated += len(fresh)
        left = claim.refused
        while True:
            if not left:
                return found, generated
            await polls.wait()
            if polls.waited > _NOTED_WAIT:
                store.leases.note_wait(len(left))
            stored = await store.run(store.get, digest, max(left) + 1)
            found.update((index, stored[index]) for index in left if index in stored)
            left = [index for index in left if index not in stored]
            claim = Claim(store, digest, left, waited=True)
            if await claim.granted():
                break
