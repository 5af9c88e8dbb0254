"""Chat models in process that generate many samples in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, runtime_checkable

from optuna_agenttts.llm import ChatRequest, Completion
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts_integrations.exceptions import PipelineError

Generate = Callable[[Sequence[tuple[ChatRequest, int]]], Sequence[Completion]]
"""Function from requests with their seeds to their completions, in order."""


@runtime_checkable
class MultiSampleChatModel(Protocol):
    """Chat model that generates all samples of a request in one call."""

    async def complete_many(
        self, request: ChatRequest, seeds: Sequence[int]
    ) -> Sequence[Completion]:
        """Generate one completion per seed; see `ChatModel.complete`.

        Args:
            request: The request.
            seeds: Seed of each completion, from 1 to 2**31 - 1.
        """


class BatchingChatModel(Resetting):
    """Chat model that collects concurrent requests into batches for a function.

    The function runs in a worker thread. Requests that arrive while it runs form the next batch.
    Each completion must depend on its request and seed alone.

    Args:
        generate: Function that generates one completion for each request of a batch, in order. It
            never runs concurrently with itself.
        max_batch: Maximum number of completions per batch. The default is chosen by hand.
    """

    _unpickled = ("_waiting", "_running")

    def __init__(self, generate: Generate, *, max_batch: int = 4096) -> None:
        self._generate, self._max_batch = generate, max_batch
        self._reset()

    def _reset(self) -> None:
        self._waiting: list[tuple[ChatRequest, int, asyncio.Future[Completion]]] = []
        self._running: asyncio.Task[None] | None = None

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""
        return (await self.complete_many(request, [seed]))[0]

    async def complete_many(
        self, request: ChatRequest, seeds: Sequence[int]
    ) -> Sequence[Completion]:
        """Generate one completion per seed; see `ChatModel.complete`.

        Args:
            request: The request.
            seeds: Seed of each completion, from 1 to 2**31 - 1.
        """
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Completion]] = [loop.create_future() for _ in seeds]
        self._waiting += [(request, seed, future) for seed, future in zip(seeds, futures)]
        if self._running is not None and self._running.get_loop() is not loop:
            # The event loop of the older requests was closed, so no caller awaits them.
            self._waiting, self._running = self._waiting[-len(seeds) :], None
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._work())
        return await asyncio.gather(*futures)

    async def _work(self) -> None:
        """Process batches until no request is waiting."""
        # Yield once, so that requests of the same turn of the loop join the first batch.
        await asyncio.sleep(0)
        while self._waiting:
            batch = self._waiting[: self._max_batch]
            del self._waiting[: self._max_batch]
            requests = [(request, seed) for request, seed, _ in batch]
            try:
                completions = await asyncio.to_thread(self._generate_all, requests)
            except Exception as error:
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, _, future), completion in zip(batch, completions):
                if not future.done():
                    future.set_result(completion)

    def _generate_all(self, requests: Sequence[tuple[ChatRequest, int]]) -> list[Completion]:
        """Call the function, and check that each request has a completion."""
        try:
            completions = self._generate(requests)
        except StopIteration as error:
            # Futures cannot hold this exception.
            raise RuntimeError("BatchingChatModel: `generate` raised StopIteration.") from error
        found = list(completions) if isinstance(completions, Iterable) else None
        if found is None or len(found) != len(requests):
            got = type(completions).__name__ if found is None else len(found)
            raise PipelineError(
                "BatchingChatModel: `generate` must return one completion for each of "
                f"{len(requests)} requests, got {got}."
            )
        return found
