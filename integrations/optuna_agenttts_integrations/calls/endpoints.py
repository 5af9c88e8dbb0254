"""Endpoints: the places that serve each model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urldefrag, urlsplit

from optuna_agenttts import HuggingFaceChat, Task
from optuna_agenttts.llm import ChatModel, ChatRequest, Completion
from optuna_agenttts.llm.client import Verify
from optuna_agenttts.llm.negotiation import Parameters
from optuna_agenttts.llm.port import close_chat, servers_behind
from optuna_agenttts.llm.secrets import ApiKey, Headers
from optuna_agenttts.llm.thinking import sent_fields
from optuna_agenttts.llm.wire import server_root
from optuna_agenttts_integrations.calls.replicas import ReplicatedChatModel
from optuna_agenttts_integrations.exceptions import PipelineError

_PROVIDER_CONCURRENCY = 8
_URL_CONCURRENCY = 64
_IN_PROCESS_CONCURRENCY = 32
"""Default numbers of requests in progress. Chosen by hand: providers limit the rate of requests,
servers batch many requests, and in-process models have no network latency to hide."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Endpoint that serves a model.

    Args:
        chat: Chat model that answers.
        identity: Name that distinguishes this endpoint from others that serve a model of the same
            name; a part of the completion store's keys.
        concurrency: Maximum number of requests in progress, over all endpoints of one server.
        server: Name of the server, for endpoints that share one. Default: the identity.
        requests_per_minute: Maximum number of requests that start within 60 seconds.
        tokens_per_minute: Maximum number of their tokens, of prompts and replies. A request
            reserves the most that it can take until it ends.

    Raises:
        PipelineError: The identity is empty, or a limit is below 1.
    """

    chat: ChatModel
    identity: str
    concurrency: int = _IN_PROCESS_CONCURRENCY
    server: str = ""
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        if not self.identity:
            raise PipelineError(
                "Endpoint: `identity` is empty: give the names of the server and the model."
            )
        for name in ("concurrency", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise PipelineError(f"Endpoint: `{name}` must be at least 1, got {value!r}.")

    @property
    def concurrency_group(self) -> str:
        """Name of the group of endpoints that share one limit of concurrency."""
        return self.server or self.identity


Place = str | Sequence[str] | ChatModel | Endpoint
"""Place that serves a model: see `connect_endpoints`."""

Endpoints = Mapping[str, Endpoint]
"""Endpoints by the name of the model."""


def connect_endpoints(
    models: Task | Sequence[str],
    places: Place | Mapping[str, Place] = "hf",
    *,
    bill_to: str | None = None,
    api_key: ApiKey = None,
    concurrency: int | None = None,
    timeout: float = 300.0,  # chosen by hand
    starting: bool = False,
    requests_per_minute: int | None = None,
    tokens_per_minute: int | None = None,
    request_parameters: Parameters = MappingProxyType({}),
    headers: Headers = None,
    verify: Verify = True,
) -> dict[str, Endpoint]:
    """Connect models to the places that serve them.

    A place is one of:

    * ``"hf"`` for Hugging Face Inference Providers, or ``"hf:groq"`` for a certain provider;
    * the URL of a TGI or OpenAI-compatible server, followed by ``#`` and the model's name there if
      that is a different one;
    * a sequence of URLs of servers that share the load;
    * a `ChatModel` or an `Endpoint`.

    Args:
        models: Names of models, or a task with models.
        places: Place of each model by its name, or one place for all models. Thinking efforts
            served elsewhere have places by their choices, such as "Qwen/Qwen3-8B, low thinking".
        bill_to: Organization on the Hub to bill.
        api_key: API key for all servers, or a function that returns it. Default: the user's
            Hugging Face token, which is sent to Hugging Face only.
        concurrency: Maximum number of requests in progress per server. Default: 8 for Inference
            Providers, 64 for a URL, 32 for a `ChatModel`.
        timeout: Timeout of one call, in seconds.
        starting: Whether to wait for servers at URLs that have never answered, as they may be
            starting. Default: a server is waited for only after it has answered once.
        requests_per_minute: Maximum number of requests that start within 60 seconds, per model.
        tokens_per_minute: Maximum number of their tokens; see `Endpoint`.
        request_parameters: Names under which servers read parameters, or None to leave one out;
            see `HuggingFaceChat`.
        headers: Further headers of each request, or a function that returns them.
        verify: Certificates to trust; see `HuggingFaceChat`.

    Returns:
        Endpoints by the name of the model.

    Raises:
        PipelineError: A model has no place or an invalid one, or a limit is below 1.
        AgentTTSError: A URL is invalid.
    """
    if isinstance(models, Task):
        served = served_names(models)
    else:
        served = {name: name for name in ([models] if isinstance(models, str) else models)}
    if concurrency is not None and concurrency < 1:
        raise PipelineError(f"`concurrency` must be at least 1, got {concurrency!r}.")
    options: dict[str, Any] = {
        "api_key": api_key,
        "timeout": timeout,
        "request_parameters": request_parameters,
        "headers": headers,
        "verify": verify,
    }
    # Efforts of a model share its connections, its limits, and what was negotiated.
    connected, endpoints = dict[tuple[str, int], Endpoint](), {}
    for choice, place in _places(served, places).items():
        key = served[choice], id(place)
        if key not in connected:
            connected[key] = (
                place
                if isinstance(place, Endpoint)
                else replace(
                    _connect(key[0], place, bill_to, concurrency, starting, options),
                    requests_per_minute=requests_per_minute,
                    tokens_per_minute=tokens_per_minute,
                )
            )
        endpoints[choice] = connected[key]
    return endpoints


def _places(served: Mapping[str, str], places: Place | Mapping[str, Place]) -> dict[str, Place]:
    """Return the place of each choice, its own or that of its model."""
    given = places if isinstance(places, Mapping) else dict.fromkeys(served, places)
    if missing := {name for choice, name in served.items() if not {choice, name} & set(given)}:
        raise PipelineError(
            f"`places` lacks {', '.join(sorted(missing))}: give a place for each model, 'hf' or a "
            "URL."
        )
    mistyped = [
        name
        for name in given
        if name not in served and any(name.startswith(f"{model}, ") for model in served.values())
    ]
    if mistyped:
        raise PipelineError(
            f"`places` has {mistyped[0]!r}, which is no choice of the task: give places by names "
            f"of models, or of {', '.join(map(repr, served))}."
        )
    return {choice: given[choice if choice in given else n] for choice, n in served.items()}


def served_names(task: Task) -> dict[str, str]:
    """Return the name on its server of each choice of a task's models."""
    return {model.name: model.served_name for stage in task.stages for model in stage.models}


def with_choices(endpoints: Endpoints, task: Task) -> Endpoints:
    """Return endpoints with that of each model as the endpoint of all of its thinking efforts."""
    others = {
        choice: endpoints[name]
        for choice, name in served_names(task).items()
        if choice not in endpoints and name in endpoints
    }
    return {**endpoints, **others} if others else endpoints


def _connect(
    name: str,
    place: object,
    bill_to: str | None,
    concurrency: int | None,
    starting: bool,
    options: Mapping[str, Any],
) -> Endpoint:
    """Connect a model to its place."""
    count = 1
    if isinstance(place, str) and (place == "hf" or place.startswith("hf:")):
        concurrency = concurrency or _PROVIDER_CONCURRENCY
        provider = place.removeprefix("hf").removeprefix(":") or None
        chat: ChatModel = HuggingFaceChat(
            name, provider=provider, bill_to=bill_to, concurrency=concurrency, **options
        )
    elif isinstance(place, ChatModel) and not isinstance(place, type):
        chat, concurrency = place, concurrency or _IN_PROCESS_CONCURRENCY
    else:
        concurrency = concurrency or _URL_CONCURRENCY
        limited = {**options, "concurrency": concurrency, "starting": starting}
        served = [_connect_url(name, url, limited) for url in _urls(name, place)]
        chat = served[0] if len(served) == 1 else ReplicatedChatModel(served)
        count = len(served)
    servers = _servers_of(chat)
    location = " and ".join(f"{server}{alias}" for server, alias in servers)
    return Endpoint(
        chat=chat,
        identity=f"{name} at {location}" if location else f"{type(chat).__name__}:{name}",
        concurrency=concurrency * count,
        server=" and ".join(server for server, _ in servers),
    )


def _urls(name: str, place: object) -> list[str]:
    """Return the distinct URLs of a place."""
    urls = [place] if isinstance(place, str) else place
    if not isinstance(urls, Sequence) or not urls or not all(isinstance(u, str) for u in urls):
        raise PipelineError(
            f"`places` has a {type(place).__name__} for {name!r}: give 'hf', the URL of a server, "
            "a sequence of URLs, a `ChatModel` or an `Endpoint`."
        )
    return list(dict.fromkeys(urls))


def _servers_of(chat: ChatModel) -> list[tuple[str, str]]:
    """Return the servers of a chat model, and what distinguishes the model there, if anything.

    Addresses hold no secrets. There are no servers if the model is in process or of unknown type.
    """
    found = []
    for server, name in servers_behind(chat):
        if not isinstance(server, HuggingFaceChat):
            return []
        provider = f"hf:{server._provider}" if server._provider else "hf"
        address = provider if server.base_url is None else _address(server.base_url)
        # Samples without a parameter differ from those with it, other than in their seeds.
        forms = server.request_parameters.items()
        omitted = sorted(key for key, form in forms if not form and key != "seed")
        more = f" without {', '.join(omitted)}" if omitted else ""
        # A server may ignore the fields of one form, and read those of another.
        if "thinking" in server.request_parameters:
            more += f" thinking by {', '.join(sent_fields(server.request_parameters))}"
        found.append((address, (f"#{name}" if name else "") + more))
    return sorted(found)


def _address(url: str) -> str:
    """Return host, port and path of a server, equal for all spellings of its URL."""
    parts = urlsplit(server_root(url))
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.hostname}:{port}{parts.path}"


def _connect_url(name: str, url: str, options: Mapping[str, Any]) -> ChatModel:
    """Return the chat model of a URL."""
    root, alias = urldefrag(url)
    chat = HuggingFaceChat(alias or name, base_url=root, **options)
    return chat if not alias or alias == name else RenamedChatModel(chat, alias)


@dataclass(frozen=True, slots=True)
class RenamedChatModel:
    """Chat model whose name at its server differs from the one in the task.

    Args:
        chat: Chat model of the server.
        name: Name of the model at the server.
    """

    chat: HuggingFaceChat
    name: str

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""
        return await self.chat.complete(replace(request, model=self.name), seed=seed)

    def servers_behind(self) -> list[tuple[ChatModel, str]]:
        """Return the server and the model's name there; see `port.servers_behind`."""
        return [(self.chat, self.name)]

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self.chat.aclose()


async def close_chats(endpoints: Endpoints) -> None:
    """Close the connections that chat models hold on the running event loop."""
    for endpoint in endpoints.values():
        await close_chat(endpoint.chat)
