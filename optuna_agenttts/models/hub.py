"""Sizes, prices and context lengths of models from the Hugging Face Hub and its router.

Requests are sent by the HTTP client of `huggingface_hub`, which users can configure
(`set_async_client_factory`), but not by its `HfApi`, which (2.4.0) reads replies of any length,
has no total timeout, and follows redirects to other servers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import get_async_session, is_offline_mode

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.llm.port import ChatRefusedError
from optuna_agenttts.llm.secrets import ApiKey, key_for, picklable_key
from optuna_agenttts.llm.untrusted import as_count, as_mapping, as_number, one_line
from optuna_agenttts.llm.wire import is_loopback, redact_url, split_url
from optuna_agenttts.models.checkpoint import (
    PACKED,
    Facts,
    active_parameters,
    is_checkpoint,
    local_facts,
)
from optuna_agenttts.support.experimental import experimental_class
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts.task.stage import Model, is_finite

_logger = logging.getLogger(__name__)

_MAX_REPLY_BYTES = 16_000_000
"""Maximum length of a reply, in bytes; chosen by hand, well above the router's full list."""

_NAME = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?::([\w.-]*))?", re.ASCII)
"""Model id on the Hub, optionally followed by a provider, as the router accepts it."""
_NO_PROVIDER = (None, "", "auto", "fastest", "cheapest", "preferred")
"""Values of a provider that let Hugging Face choose one."""


_MIXTURE = re.compile(
    "moe|mixtral|gpt.oss|deepseek|kimi|llama4|jamba|dbrx|grok|minimax|qwen3.?next|bailing|longcat"
)
"""Types of mixtures of experts, of which the Hub lists the total size."""


def describe_model(name: str, *, hub: Hub | None = None, provider: str | None = None) -> Model:
    """Build a `Model` from a name and the facts found for it.

    If the name is the folder of a checkpoint, the size is read from its files. Otherwise size and
    prices are looked up in `hub`, if given. If the size is still unknown, it is read from the
    name ("Qwen2.5-7B").

    Args:
        name: A folder, or a model id on the Hub, optionally followed by ``:provider``.
        hub: Hub to look facts up in. Default: nothing is looked up online.
        provider: Inference provider whose prices to use; see `Hub.facts`.

    Returns:
        The model; unknown facts are None.

    Raises:
        TaskError: `name` is not a non-empty string.
        AgentTTSError: The checkpoint's files are damaged.
    """
    facts = Facts()
    if isinstance(name, str) and is_checkpoint(name):
        facts = local_facts(name)
    elif hub is not None:
        facts = hub.facts(name, provider=provider)
    return Model(
        name,
        parameters=facts.parameters,
        input_price=facts.input_price,
        output_price=facts.output_price,
    )


@experimental_class("0.1.0")
class Hub:
    """Client of the Hugging Face Hub (sizes) and its router (prices).

    Unknown facts are None; the reason is logged as a warning, once. Requests are not retried. If
    ``HF_HUB_OFFLINE`` is set, requests are sent to servers on this machine only.

    Args:
        endpoint: Root of the Hub or of a mirror.
        router: Root of the router.
        token: API key for `endpoint`, or a function that returns it. Default: the user's Hugging
            Face token if `endpoint` belongs to Hugging Face, else none. No key is sent to the
            router, whose list is public.
        timeout: Timeout of one request, in seconds, from connecting to the last byte.

    Raises:
        AgentTTSError: A URL is invalid or contains credentials, or `timeout` is not positive.
    """

    def __init__(
        self,
        *,
        endpoint: str = "https://huggingface.co",
        router: str = "https://router.huggingface.co",
        token: ApiKey = None,
        timeout: float = 5.0,  # chosen by hand
    ) -> None:
        """See the class."""
        for name, url in (("endpoint", endpoint), ("router", router)):
            parts = split_url(url) if isinstance(url, str) else None
            if parts is None or parts.query or parts.fragment or parts.username or parts.password:
                raise AgentTTSError(
                    f"Hub: `{name}` must be the root of a server such as "
                    "'https://huggingface.co', without credentials or query, got "
                    f"{one_line(redact_url(str(url)))!r}: pass a key as `token`."
                )
        if not (is_finite(timeout) and timeout > 0):
            raise AgentTTSError(f"Hub: `timeout` must be positive seconds, got {timeout!r}.")
        self._endpoint, self._router = endpoint.rstrip("/"), router.rstrip("/")
        self._token, self._timeout = token, timeout
        self._offers: Mapping[str, list[_Offer]] | None = None
        self._warned: set[tuple[str, str]] = set()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        on_fork(self, Hub._reset)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without a key given as a string."""
        state = {name: value for name, value in self.__dict__.items() if name != "_lock"}
        return {**state, "_token": picklable_key(self._token)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state."""
        self.__dict__.update(state)
        self._reset()

    def __copy__(self) -> Hub:
        """Return a copy that keeps the key."""
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> Hub:
        """Return a copy that keeps the key."""
        other = type(self).__new__(type(self))
        other.__setstate__({**self.__dict__, "_warned": set(self._warned)})
        return other

    def __repr__(self) -> str:
        """Return the servers, without the key."""
        return f"<Hub {self._endpoint}, {self._router}>"

    def describe(self, name: str, provider: str | None = None) -> Model:
        """Return a `Model` with the facts found for its name; see `describe_model`.

        Suitable as the argument `describe` of `Task.from_pipeline`.
        """
        return describe_model(name, hub=self, provider=provider)

    def facts(self, model: str, *, provider: str | None = None) -> Facts:
        """Look up a model.

        The router's list is fetched once per object, even if that fails. Errors of the network
        and of the servers are logged, never raised.

        Args:
            model: Model id on the Hub, such as ``"Qwen/Qwen3-8B"``, optionally followed by
                ``:provider``.
            provider: Inference provider whose prices to use, such as ``"groq"``. Default: the
                live one with the lowest sum of input and output price. A call for which Hugging
                Face chooses the provider may cost more.

        Returns:
            The facts; unknown ones are None.
        """
        parts = _NAME.fullmatch(model) if isinstance(model, str) else None
        if parts is None or ".." in model:
            self._warn(
                "id",
                repr(model),
                f"{one_line(repr(model))}: not a model id on the Hub; nothing is looked up.",
            )
            return Facts()
        name, wanted = parts[1], parts[2] if provider is None else provider
        if wanted in _NO_PROVIDER:
            wanted = None
        parameters, context = self._size(name)
        source = [] if parameters is None else ["Hub"]
        offer = self._offer(name, wanted)
        if offer.input_price is not None or offer.output_price is not None:
            source.append(f"prices: router, provider {offer.provider}")
        return Facts(
            parameters=parameters,
            input_price=offer.input_price,
            output_price=offer.output_price,
            context_length=offer.context_length or context,
            source="; ".join(source) or "nothing found",
        )

    def _size(self, name: str) -> tuple[float | None, int | None]:
        """Return number of parameters and context length (which only GGUF files have)."""
        try:
            key = key_for(self._endpoint, self._token)
        except ChatRefusedError as error:
            self._warn(self._endpoint, "key", f"{name}: size unknown: {error}.")
            return None, None
        url = f"{self._endpoint}/api/models/{name}?expand=safetensors&expand=gguf&expand=config"
        reply = self._get(url, key, f"{name}: size unknown", name)
        if reply is None:
            return None, None
        weights, gguf = as_mapping(reply.get("safetensors")), as_mapping(reply.get("gguf"))
        size = as_number(weights.get("total"))
        packed = not PACKED.isdisjoint(as_mapping(weights.get("parameters")))
        # GGUF lists the shapes of the weights before quantization.
        parameters = as_number(gguf.get("total")) if size is None or packed else size
        reason = "its weights are packed" if packed else "the Hub does not list it"
        kind = as_mapping(reply.get("config")).get("model_type") or gguf.get("architecture")
        if parameters is not None and _MIXTURE.search(str(kind)):
            url = f"{self._endpoint}/{name}/resolve/main/config.json"
            config = self._get(url, key, f"{name}: size unknown", name)
            parameters = active_parameters(config, parameters) if config else None
            reason = "it is a mixture, whose active experts config.json does not state"
        if parameters is None:
            message = f"{name}: size unknown: {reason}; set `Model(..., parameters=...)`."
            self._warn(self._endpoint, name, message)
        return parameters, as_count(gguf.get("context_length"))

    def _offer(self, name: str, provider: str | None) -> _Offer:
        """Return a provider's offer, or the cheapest one; an empty one if there is none."""
        with self._lock:
            if self._offers is None:
                self._offers = self._fetch_offers(name)
            offers = self._offers.get(name, [])
        if provider is None:
            priced = [o for o in offers if o.live and o.total is not None]
            return min(priced, key=lambda o: o.total or 0.0, default=_Offer())
        found = [o for o in offers if o.provider == provider]
        if not found and self._offers:
            reason = f"provider {one_line(repr(provider), 60)} does not offer it"
            known = one_line(", ".join(o.provider for o in offers)) or "none"
            message = f"{name}: prices unknown: {reason}; providers that do: {known}."
            self._warn(self._router, f"{name}:{provider}", message)
        return found[0] if found else _Offer()

    def _fetch_offers(self, name: str) -> Mapping[str, list[_Offer]]:
        url, what = f"{self._router}/v1/models", f"{name}: prices unknown"
        reply = self._get(url, None, what)
        if reply is None:
            return {}
        data = reply.get("data")
        if not isinstance(data, list):
            self._warn(
                self._router, "shape", f"{what}: the router's reply is not a list of models."
            )
            return {}
        return {
            entry["id"]: [
                offer for offer in map(_read_offer, entry["providers"]) if offer.provider
            ]
            for entry in map(as_mapping, data)
            if isinstance(entry.get("id"), str) and isinstance(entry.get("providers"), list)
        }

    def _get(
        self, url: str, key: str | None, what: str, name: str = ""
    ) -> Mapping[str, Any] | None:
        """Return the JSON object at a URL; log a warning and return None if there is none."""
        server = urlsplit(url).netloc
        if is_offline_mode() and not is_loopback(url):
            self._warn(
                server, "offline", f"{what}: HF_HUB_OFFLINE is set, so {server} is not queried."
            )
            return None
        loop = LoopThread()
        try:
            return as_mapping(json.loads(loop.run(self._fetch(url, key))))
        except _NoReplyError as error:
            # These statuses concern one model only: warn for each.
            cause = f"{error} {name}" if error.status in (401, 403, 404) else str(error)
            self._warn(server, cause, f"{what}: {server}: {error}.")
        except (ValueError, RecursionError):
            self._warn(server, "JSON", f"{what}: {server}: the reply is not JSON.")
        finally:
            loop.close()
        return None

    async def _fetch(self, url: str, key: str | None) -> bytes:
        """Return the body of a reply with status 200.

        Raises:
            _NoReplyError: There is no such reply.
        """
        try:
            return await asyncio.wait_for(self._follow(url, key), self._timeout)
        except _NoReplyError:
            raise
        except (asyncio.TimeoutError, httpx2.TimeoutException):
            raise _NoReplyError(f"no reply within {self._timeout:g} s") from None
        # Anything else that prevents the request, such as an invalid proxy setting.
        except Exception as error:
            raise _NoReplyError(type(error).__name__) from None

    async def _follow(self, url: str, key: str | None) -> bytes:
        headers = {"accept": "application/json", "accept-encoding": "identity"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        server = httpx2.URL(url)

        async def stay(request: httpx2.Request) -> None:
            # The Hub redirects requests for renamed models.
            if (request.url.scheme, request.url.netloc) != (server.scheme, server.netloc):
                raise _NoReplyError("it redirects to another server, which is not followed")

        # Servers on this machine are neither behind a proxy nor unreachable offline.
        client = httpx2.AsyncClient(trust_env=False) if is_loopback(url) else get_async_session()
        client.event_hooks["request"].insert(0, stay)
        client.headers.update(headers)
        client.timeout, client.follow_redirects = self._timeout, True
        async with client, client.stream("GET", url) as reply:
            if reply.status_code == 200:
                return await _body(reply)
            hint = ""
            if reply.status_code in (401, 403, 404):
                hint = " (no such model, or no access with this token)"
            raise _NoReplyError(f"HTTP {reply.status_code}{hint}", reply.status_code)

    def _warn(self, server: str, cause: str, message: str) -> None:
        if (server, cause) not in self._warned:
            self._warned.add((server, cause))
            _logger.warning("%s", message)


class _NoReplyError(Exception):
    """The server gave no usable reply."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class _Offer:
    """Offer of a provider for one model; prices in USD per million tokens."""

    provider: str = ""
    live: bool = False
    input_price: float | None = None
    output_price: float | None = None
    context_length: int | None = None

    @property
    def total(self) -> float | None:
        if self.input_price is None or self.output_price is None:
            return None
        return self.input_price + self.output_price


def _read_offer(values: object) -> _Offer:
    offer = as_mapping(values)
    pricing, provider = as_mapping(offer.get("pricing")), offer.get("provider")
    if not isinstance(provider, str) or not provider:
        return _Offer()
    return _Offer(
        provider=one_line(provider, 60),
        live=offer.get("status", "live") == "live",
        input_price=as_number(pricing.get("input"), least=0.0),
        output_price=as_number(pricing.get("output"), least=0.0),
        context_length=as_count(offer.get("context_length")),
    )


async def _body(reply: httpx2.Response) -> bytes:
    received = bytearray()
    # Raw: a decompressed body may be of any length.
    async for piece in reply.aiter_raw():
        received += piece
        if len(received) > _MAX_REPLY_BYTES:
            raise _NoReplyError(f"the reply is longer than {_MAX_REPLY_BYTES} bytes")
    return bytes(received)
