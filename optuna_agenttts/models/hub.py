"""Sizes, prices and context lengths of models from the Hugging Face Hub and its router.

Requests are sent by the HTTP client of `huggingface_hub`, which users can configure
(`set_async_client_factory`), but not by its `HfApi`, which (2.4.0) reads replies of any length,
has no total timeout, and follows redirects to other servers.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx2
from huggingface_hub import get_async_session, is_offline_mode

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.client import ServerClient, Session
from optuna_agenttts.llm.error_replies import http_error
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.llm.port import ChatError, ChatRefusedError
from optuna_agenttts.llm.secrets import ApiKey
from optuna_agenttts.llm.untrusted import (
    as_count,
    as_mapping,
    as_number,
    decode_json,
)
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
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts.task.model import Model

_logger = logging.getLogger(__name__)

_MAX_REPLY_BYTES = 8_000_000
"""Maximum length of a reply, in bytes; chosen by hand, well above the router's full list."""
_REDIRECTS, _MAX_REDIRECTS = (301, 302, 303, 307, 308), 5
"""HTTP statuses of redirects, and how many of them are followed; chosen by hand."""

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
class Hub(Resetting):
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

    _unpickled = ("_lock",)

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
        limits: dict[str, Any] = {
            "timeout": timeout,
            "concurrency": 1,
            "max_reply_bytes": _MAX_REPLY_BYTES,
        }
        self._endpoint = _HubClient(None, base_url=endpoint.rstrip("/"), api_key=token, **limits)
        # Its list is public: the empty key keeps the user's token away from it.
        self._router = _HubClient(None, base_url=router.rstrip("/"), api_key="", **limits)
        self._offers: Mapping[str, list[_Offer]] | None = None
        self._warned: set[tuple[str, str]] = set()
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        on_fork(self, Hub._reset)

    def __repr__(self) -> str:
        """Return the servers, without the key."""
        return f"<Hub {self._endpoint.base_url}, {self._router.base_url}>"

    def describe(self, name: str, provider: str | None = None) -> Model:
        """Return a `Model` with the facts found for its name; see `describe_model`.

        Suitable as the argument `describe` of `Task.from_pipeline`.

        Args:
            name: Model id of the Hub.
            provider: Inference provider whose prices to use; see `facts`.
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
        what = f"{name}: size unknown"
        query = "?expand=safetensors&expand=gguf&expand=config"
        reply = self._get(self._endpoint, f"/api/models/{name}{query}", what, name)
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
            path = f"/{name}/resolve/main/config.json"
            config = self._get(self._endpoint, path, what, name)
            parameters = active_parameters(config, parameters) if config else None
            reason = "it is a mixture, whose active experts config.json does not state"
        if parameters is None:
            message = f"{what}: {reason}; set `Model(..., parameters=...)`."
            self._warn(self._endpoint.where, name, message)
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
            self._warn(self._router.where, f"{name}:{provider}", message)
        return found[0] if found else _Offer()

    def _fetch_offers(self, name: str) -> Mapping[str, list[_Offer]]:
        what = f"{name}: prices unknown"
        reply = self._get(self._router, "/v1/models", what)
        data = None if reply is None else reply.get("data")
        if not isinstance(data, list):
            if reply is not None:
                message = f"{what}: the router's reply is not a list of models."
                self._warn(self._router.where, "shape", message)
            return {}
        return {
            entry["id"]: [
                offer for offer in map(_read_offer, entry["providers"]) if offer.provider
            ]
            for entry in map(as_mapping, data)
            if isinstance(entry.get("id"), str) and isinstance(entry.get("providers"), list)
        }

    def _get(
        self, server: _HubClient, path: str, what: str, name: str = ""
    ) -> Mapping[str, Any] | None:
        """Return the JSON object at a path; log a warning and return None if there is none."""
        if is_offline_mode() and not is_loopback(server.base_url):
            reason = f"HF_HUB_OFFLINE is set, so {server.where} is not queried"
            self._warn(server.where, "offline", f"{what}: {reason}.")
            return None
        loop = LoopThread(server.aclose)
        try:
            return loop.run(server.read(path))
        except ChatError as error:
            # These statuses concern one model only: warn for each.
            about = name if error.kind in ("HTTP 401", "HTTP 403", "HTTP 404") else ""
            reason = str(error).rstrip(".")
        # A client of the user may raise anything.
        except Exception as error:
            about, reason = "", f"{server.where}: {type(error).__name__}"
        finally:
            loop.close()
        self._warn(server.where, reason + about, f"{what}: {reason}.")
        return None

    def _warn(self, server: str, cause: str, message: str) -> None:
        if (server, cause) not in self._warned:
            self._warned.add((server, cause))
            _logger.warning("%s", message)


class _HubClient(ServerClient):
    """Client of the Hub or its router."""

    async def _open(self) -> httpx2.AsyncClient:
        """Return a client of `huggingface_hub`, unless the server is on this machine."""
        if is_loopback(self.base_url):
            return await super()._open()
        client = get_async_session()
        client.timeout, client.follow_redirects = self._timeout, False
        return client

    async def read(self, path: str) -> Mapping[str, Any]:
        """Return the JSON object at a path, or raise a `ChatError`; follow local redirects."""
        return await self._call(self._read, f"{self.base_url}{path}")

    async def _read(self, session: Session, url: str) -> Mapping[str, Any]:
        for _ in range(_MAX_REDIRECTS):
            status, headers, content = await self._exchange(session, "GET", url)
            if status not in _REDIRECTS:
                break
            # The Hub redirects requests for renamed models.
            target = urljoin(url, headers.get("location", ""))
            if urlsplit(target)[:2] != urlsplit(url)[:2]:
                raise ChatRefusedError(
                    f"{self.where}: it redirects to another server, which is not followed"
                )
            url = target
        if status != 200:
            raise http_error(status, headers, content.decode("utf-8", "replace"), self.where)
        if (values := decode_json(content)) is None:
            raise ChatRefusedError(f"{self.where}: the reply is not JSON")
        return as_mapping(values)


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
