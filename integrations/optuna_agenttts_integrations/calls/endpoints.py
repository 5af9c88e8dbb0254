"""Where models live."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable
from urllib.parse import urldefrag, urlsplit

from optuna_agenttts import HuggingFaceChat, Task
from optuna_agenttts.llm import ChatModel, ChatRequest, Completion, PatientChat
from optuna_agenttts.llm.secrets import ApiKey
from optuna_agenttts.llm.wire import server_root
from optuna_agenttts_integrations.calls.replicas import ReplicatedChatModel
from optuna_agenttts_integrations.exceptions import PipelineError

_AT_PROVIDERS = 8
_AT_URL = 64
_IN_PROCESS = 32

Generate = Callable[[Sequence[tuple[ChatRequest, int]]], Sequence[Completion]]
"""From requests with their seeds to their completions, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A place that serves a model.

    Args:
        chat: What answers.
        identity: What tells this server's completions from those of another that serves a model
            of the same name: a part of the completion store's keys.
        concurrency: How many requests may be under way at once, at all endpoints of one server.
        server: The server's name, for endpoints that share one. Default: the identity.
    """

    chat: ChatModel
    identity: str
    concurrency: int = 32
    server: str = ""

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.identity:
            raise PipelineError("Endpoint: `identity` is empty: name the server and the model.")
        if self.concurrency < 1:
            raise PipelineError(
                f"Endpoint: `concurrency` is {self.concurrency!r}: give 1 or more."
            )

    @property
    def shared(self) -> str:
        """The name under which endpoints of one server share their requests' slots."""
        return self.server or self.identity


Place = str | Sequence[str] | ChatModel | Endpoint
"""Where a model lives: see `connect_endpoints`."""

Endpoints = Mapping[str, Endpoint]
"""For each model's name, where it is served."""


def connect_endpoints(
    models: Task | Sequence[str],
    places: Place | Mapping[str, Place] = "hf",
    *,
    bill_to: str | None = None,
    api_key: ApiKey = None,
    concurrency: int | None = None,
    timeout: float = 300.0,
) -> dict[str, Endpoint]:
    """Say where models live.

    A place is ``"hf"`` for Hugging Face Inference Providers or ``"hf:groq"`` for one of them; the
    URL of a TGI or OpenAI-compatible server, with the name that the model has there after ``#`` if
    it is another one; several URLs of servers that share the load; or a `ChatModel` or `Endpoint`.

    Args:
        models: Names of models, or the task that names them.
        places: A place for each model, or one for all of them.
        bill_to: Organization of the Hub that pays.
        api_key: A key for all of them, or a function that returns it. Default: the user's Hugging
            Face token, which goes to Hugging Face only.
        concurrency: How many requests may be under way at once at each server. Default: 8 at
            Inference Providers, 64 at a URL, 32 at a `ChatModel`.
        timeout: The most seconds for one call.

    Returns:
        An endpoint for each model.

    Raises:
        PipelineError: A model has no place, or one that is none of these; `concurrency` is below
            1.
        AgentTTSError: A URL makes no sense.
    """
    names = [models] if isinstance(models, str) else models
    if isinstance(names, Task):
        names = [model.name for stage in names.stages for model in stage.models]
    if concurrency is not None and concurrency < 1:
        raise PipelineError(f"`concurrency` is {concurrency!r}: give 1 or more.")
    given = places if isinstance(places, Mapping) else dict.fromkeys(names, places)
    if missing := sorted(set(names) - set(given)):
        raise PipelineError(
            f"`places` lacks {', '.join(missing)}: say where each model is served: 'hf', or a URL."
        )
    connected: dict[str, Endpoint] = {}
    for name in dict.fromkeys(names):
        place = given[name]
        if isinstance(place, Endpoint):
            connected[name] = place
            continue
        count, most = 1, 0
        if isinstance(place, str) and (place == "hf" or place.startswith("hf:")):
            most = _AT_PROVIDERS
            chat: ChatModel = HuggingFaceChat(
                name,
                provider=place.removeprefix("hf").removeprefix(":") or None,
                bill_to=bill_to,
                api_key=api_key,
                timeout=timeout,
                concurrency=concurrency or most,
            )
        elif isinstance(place, ChatModel) and not isinstance(place, type):
            chat, most = place, _IN_PROCESS
        else:
            urls, most = _urls(name, place), _AT_URL
            served = [_served(name, url, api_key, concurrency, timeout) for url in urls]
            chat = served[0] if len(served) == 1 else ReplicatedChatModel(served)
            count = len(served)
        found = _whereabouts(chat)
        there = " and ".join(f"{server}{alias}" for server, alias in found)
        connected[name] = Endpoint(
            chat=chat,
            identity=f"{name} at {there}" if there else f"{type(chat).__name__}:{name}",
            concurrency=(concurrency or most) * count,
            server=" and ".join(server for server, _ in found),
        )
    return connected


def _urls(name: str, place: object) -> list[str]:
    """The URLs of a place, each once."""
    urls = [place] if isinstance(place, str) else place
    if not isinstance(urls, Sequence) or not urls or not all(isinstance(u, str) for u in urls):
        raise PipelineError(
            f"`places` has a {type(place).__name__} for {name!r}: give 'hf', the URL of a server "
            "or several of them, a `ChatModel` or an `Endpoint`."
        )
    return list(dict.fromkeys(urls))


def _whereabouts(chat: ChatModel) -> list[tuple[str, str]]:
    """A chat model's servers, without what may be secret, and how the model is called there.

    The second is empty where it is the usual name. There are no servers where the model lives in
    this process or does not say.
    """
    if isinstance(chat, PatientChat):
        return _whereabouts(chat._chat)
    if isinstance(chat, RenamedChatModel):
        return [(server, f"#{chat.name}") for server, _ in _whereabouts(chat.chat)]
    if isinstance(chat, ReplicatedChatModel):
        found = [_whereabouts(replica) for replica in chat.replicas]
        return sorted(place for places in found for place in places) if all(found) else []
    if not isinstance(chat, HuggingFaceChat):
        return []
    if chat.base_url is None:
        return [(f"hf:{chat._provider}" if chat._provider else "hf", "")]
    return [(_address(chat.base_url), "")]


def _address(url: str) -> str:
    """Where a server is: host, port and path, the same for all ways to write them."""
    parts = urlsplit(server_root(url))
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.hostname}:{port}{parts.path}"


def _served(
    name: str, url: str, api_key: ApiKey, concurrency: int | None, timeout: float
) -> ChatModel:
    root, there = urldefrag(url)
    chat = HuggingFaceChat(
        there or name,
        base_url=root,
        api_key=api_key,
        timeout=timeout,
        concurrency=concurrency or _AT_URL,
    )
    return chat if not there or there == name else RenamedChatModel(chat, there)


@dataclass(frozen=True, slots=True)
class RenamedChatModel:
    """A chat model that its server knows by another name than the task does.

    Args:
        chat: The other.
        name: The name there.
    """

    chat: HuggingFaceChat
    name: str

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""
        return await self.chat.complete(replace(request, model=self.name), seed=seed)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self.chat.aclose()


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
