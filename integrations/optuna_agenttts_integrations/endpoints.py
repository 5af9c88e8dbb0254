"""Where models live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from optuna_agenttts.llm import ChatModel, ChatRequest, Completion

Generate = Callable[[Sequence[tuple[ChatRequest, int]]], Sequence[Completion]]
"""From requests with their seeds to their completions, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A place that serves a model.

    Args:
        chat: What answers.
        identity: What tells this server's completions from those of another that serves a model
            of the same name: a part of the completion store's keys.
        concurrency: How many requests may be under way at once.
    """

    chat: ChatModel
    identity: str
    concurrency: int = 32


Endpoints = Mapping[str, Endpoint]
"""For each model's name, where it is served."""


@runtime_checkable
class ManySampler(Protocol):
    """A chat model that would rather be asked for all samples of a request at once."""

    async def complete_many(
        self, request: ChatRequest, seeds: Sequence[int]
    ) -> Sequence[Completion]:
        """One completion for each seed; see `ChatModel.complete`."""


class BatchingChatModel:
    """A chat model made of a function that is fastest when asked for many replies at once.

    Requests that arrive while the function runs, in a thread of its own, wait and make up the
    next batch. What is generated must depend on request and seed alone.

    Args:
        generate: The function. It is never run twice at the same time.
        max_batch: The most replies to ask for at once.
    """

    def __init__(self, generate: Generate, *, max_batch: int = 4096) -> None:
        self._generate, self._max_batch = generate, max_batch
        self._waiting: list[tuple[ChatRequest, int, asyncio.Future[Completion]]] = []
        self._running: asyncio.Task[None] | None = None

    def __getstate__(self) -> dict[str, object]:
        """Leave behind what is under way."""
        return {"_generate": self._generate, "_max_batch": self._max_batch}

    def __setstate__(self, state: dict[str, object]) -> None:
        """Undo `__getstate__`."""
        self.__dict__.update(state)
        self._waiting, self._running = [], None

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""
        return (await self.complete_many(request, [seed]))[0]

    async def complete_many(
        self, request: ChatRequest, seeds: Sequence[int]
    ) -> Sequence[Completion]:
        """Generate one completion for each seed."""
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Completion]] = [loop.create_future() for _ in seeds]
        self._waiting += [(request, seed, future) for seed, future in zip(seeds, futures)]
        if self._running is not None and self._running.get_loop() is not loop:
            # An objective was closed, and its event loop with it; nobody waits there any more.
            self._waiting, self._running = self._waiting[-len(seeds) :], None
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._work())
        return await asyncio.gather(*futures)

    async def _work(self) -> None:
        # Let everyone who is about to ask in this turn of the loop do so first.
        await asyncio.sleep(0)
        while self._waiting:
            batch = self._waiting[: self._max_batch]
            del self._waiting[: self._max_batch]
            asked = [(request, seed) for request, seed, _ in batch]
            try:
                completions = await asyncio.to_thread(self._generate, asked)
            except Exception as error:
                for _, _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, _, future), completion in zip(batch, completions):
                if not future.done():
                    future.set_result(completion)
