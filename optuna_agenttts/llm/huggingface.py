"""Models behind Hugging Face Inference Providers, TGI, or any OpenAI-compatible server.

Models of the Hub go through `huggingface_hub.AsyncInferenceClient`, which knows the providers,
their routes and billing. For a URL the request is posted by ourselves, with huggingface_hub's own
HTTP library, because with a URL the client (2.4.0) sends the user's token to every host, rewrites
``json_schema`` to a form that only TGI reads, refuses loopback when ``HF_HUB_OFFLINE`` is set,
waits for its pool within the timeout, and reads replies of any length.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import AsyncInferenceClient

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.connections import Connections, exchange
from optuna_agenttts.llm.port import (
    ChatError,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
)
from optuna_agenttts.llm.replies import (
    HUB_ERRORS,
    completion_of,
    error_of,
    hub_error,
    parse_completion,
    plain,
)
from optuna_agenttts.llm.secrets import ApiKey, LostKey, key_for, one_line, redact
from optuna_agenttts.llm.server_info import ServerInfo
from optuna_agenttts.llm.wire import (
    chat_url,
    check_base_url,
    encoded,
    is_loopback,
    refuses_form,
    schema_forms,
    shown_url,
)

_logger = logging.getLogger(__name__)


class HuggingFaceChat:
    """A chat model on a server.

    Args:
        model: The model's id, as the Hub or the server calls it. With a `base_url` it may be
            left out: the server is asked which model it serves.
        base_url: Root of a TGI or OpenAI-compatible server. Default: Hugging Face's router.
        provider: Inference provider, such as ``"groq"``. Default: Hugging Face chooses.
        bill_to: Organization of the Hub that pays.
        api_key: A key, or a function that returns it; only a function travels with a pickle.
            Default: the user's Hugging Face token, for servers of Hugging Face; none for others.
        timeout: The most seconds for one call, from sending to the last byte.
        concurrency: The most calls at once; more wait their turn, outside the timeout.
        max_reply_bytes: The longest reply to read.

    Raises:
        AgentTTSError: An argument makes no sense.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        provider: str | None = None,
        bill_to: str | None = None,
        api_key: ApiKey = None,
        timeout: float = 120.0,
        concurrency: int = 32,
        max_reply_bytes: int = 4_000_000,
    ) -> None:
        """See the class."""
        if model is None and base_url is None:
            raise AgentTTSError("HuggingFaceChat: give a `model`, a `base_url`, or both.")
        if model is not None and "://" in model:
            raise AgentTTSError(
                f"HuggingFaceChat: `model` is {one_line(shown_url(model))!r}: give a URL as "
                "`base_url`, where the rules for keys hold."
            )
        if base_url is not None:
            check_base_url("HuggingFaceChat", base_url)
            if provider is not None or bill_to is not None:
                raise AgentTTSError(
                    "HuggingFaceChat: `provider` and `bill_to` are for models of the Hub: leave "
                    "them out beside a `base_url`."
                )
        if not timeout > 0 or concurrency < 1:
            raise AgentTTSError(
                f"HuggingFaceChat: `timeout` is {timeout!r} and `concurrency` {concurrency!r}: "
                "both must be above 0."
            )
        self.model, self.base_url = model, base_url
        self._provider, self._bill_to, self._api_key = provider, bill_to, api_key
        self._timeout, self._concurrency = timeout, concurrency
        self._max_reply_bytes = max_reply_bytes
        self._forget()

    def _forget(self) -> None:
        self._connections = Connections(
            concurrency=self._concurrency,
            timeout=self._timeout,
            # What runs on this machine is not reached through a proxy.
            trust_env=not is_loopback(self.base_url),
        )
        self._form = 0
        """Position of the form of constraint to try first: the last one that was accepted."""

    def __getstate__(self) -> dict[str, Any]:
        """Leave connections and keys behind."""
        state = {k: v for k, v in self.__dict__.items() if k not in ("_connections", "_form")}
        if isinstance(self._api_key, str):
            state["_api_key"] = LostKey()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        self.__dict__.update(state)
        self._forget()

    def __deepcopy__(self, memo: dict[int, Any]) -> HuggingFaceChat:
        """Copy within the process; the key stays."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._forget()
        return other

    def __repr__(self) -> str:
        """Model and server, no key."""
        return f"<HuggingFaceChat {self.where}>"

    @property
    def where(self) -> str:
        """Model and server, for people."""
        server = self._provider or "Hugging Face"
        if self.base_url is not None:
            server = urlsplit(self.base_url).netloc
        return server if self.model is None else f"{self.model} at {server}"

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`.

        An empty ``request.model`` stands for the adapter's own. A schema is sent in the forms
        that servers are known to honour, until one is not refused.
        """
        forms = schema_forms(request.schema)
        async with self._connections.lane() as client:
            try:
                return await asyncio.wait_for(
                    self._negotiate(client, request, seed, forms), self._timeout
                )
            except asyncio.TimeoutError:
                raise ChatUnavailableError(
                    f"{self.where}: no reply within {self._timeout:g} s", kind="timeout"
                ) from None

    async def _negotiate(
        self,
        client: httpx2.AsyncClient,
        request: ChatRequest,
        seed: int,
        forms: list[Mapping[str, Any]],
    ) -> Completion:
        first = min(self._form, len(forms) - 1)
        for position in range(first, len(forms)):
            try:
                completion = await self._call(client, request, seed, forms[position])
            except _FormRefusedError as error:
                if position == len(forms) - 1:
                    raise error.reason from None
                _logger.debug("%s refuses %s", self.where, sorted(forms[position]))
                continue
            if len(forms) > 1:
                self._form = position
            return completion
        raise AssertionError("unreachable")

    async def _call(
        self, client: httpx2.AsyncClient, request: ChatRequest, seed: int, form: Mapping[str, Any]
    ) -> Completion:
        key = key_for(self.base_url, self._api_key)
        try:
            if self.base_url is None:
                completion = await self._call_hub(request, seed, form, key)
            else:
                completion = await self._call_url(client, request, seed, form, key)
        except _FormRefusedError:
            raise
        except ChatError as error:
            raise type(error)(
                redact(str(error), [key]), kind=error.kind, retry_after=error.retry_after
            ) from None
        # A server that echoes the request must not make us store the key.
        if key and (key in completion.text or key in completion.finish_reason):
            return Completion(
                redact(completion.text, [key]),
                completion.usage,
                redact(completion.finish_reason, [key]),
            )
        return completion

    async def _call_url(
        self,
        client: httpx2.AsyncClient,
        request: ChatRequest,
        seed: int,
        form: Mapping[str, Any],
        key: str | None,
    ) -> Completion:
        assert self.base_url is not None
        model = request.model or self.model
        if model is None:
            model = self.model = await self._served_model(client, self.base_url, key)
        body = {
            "model": model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": seed,
            "stream": False,
            **({"stop": list(request.stop)} if request.stop else {}),
            **form,
        }
        try:
            status, headers, content = await exchange(
                client,
                "POST",
                chat_url(self.base_url),
                key=key,
                content=encoded(body, request.messages),
                most=self._max_reply_bytes,
                where=self.where,
            )
        except httpx2.TimeoutException as timeout:
            raise ChatUnavailableError(
                f"{self.where}: no reply within {self._timeout:g} s ({type(timeout).__name__})",
                # One tells of a host that is away, the other of a reply that is slow.
                kind="ConnectTimeout" if isinstance(timeout, httpx2.ConnectTimeout) else "timeout",
            ) from None
        if status == 200:
            return parse_completion(content, request, self.where)
        text = content.decode("utf-8", "replace")
        error = error_of(status, headers, text, self.where)
        if form and refuses_form(status, text):
            raise _FormRefusedError(error)
        raise error

    async def _call_hub(
        self, request: ChatRequest, seed: int, form: Mapping[str, Any], key: str | None
    ) -> Completion:
        if "://" in request.model:
            raise ChatRefusedError(
                "the request names a URL as its model: give it as `base_url`", kind="URL as model"
            )
        options: dict[str, Any] = {
            "model": request.model or self.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": seed,
            "stop": list(request.stop) or None,
            **form,
        }
        try:
            async with AsyncInferenceClient(
                provider=self._provider,  # type: ignore[arg-type]
                api_key=key,
                bill_to=self._bill_to,
                timeout=self._timeout,
            ) as client:
                reply = await client.chat_completion(
                    [{"role": m.role, "content": m.content} for m in request.messages], **options
                )
        except json.JSONDecodeError:
            raise ChatUnavailableError(
                f"{self.where}: the reply is no JSON", kind="no JSON"
            ) from None
        except HUB_ERRORS as error:
            found = hub_error(error, key=key, where=self.where, timeout=self._timeout)
            response = getattr(error, "response", None)
            if form and response is not None and refuses_form(response.status_code, response.text):
                raise _FormRefusedError(found) from None
            raise found from None
        return completion_of(plain(reply), request, self.where)

    async def served_models(self) -> tuple[str, ...]:
        """The names of the models that the server lists (``/v1/models``, or TGI's ``/info``).

        Raises:
            ChatUnavailableError: The server is out of reach or lists none.
        """
        if self.base_url is None:
            return (self.model,) if self.model else ()
        key = key_for(self.base_url, self._api_key)
        async with self._connections.lane() as client:
            return await self._server(client, self.base_url, key).names()

    async def healthy(self) -> bool:
        """Whether the server says that it is well (``/health``)."""
        if self.base_url is None:
            return True
        key = key_for(self.base_url, self._api_key)
        async with self._connections.lane() as client:
            return await self._server(client, self.base_url, key).healthy()

    async def info(self) -> Mapping[str, Any]:
        """What TGI says of itself (``/info``); empty for other servers."""
        if self.base_url is None:
            return {}
        key = key_for(self.base_url, self._api_key)
        async with self._connections.lane() as client:
            return await self._server(client, self.base_url, key).info()

    async def listing(self) -> tuple[int, tuple[Mapping[str, Any], ...]]:
        """The entries of ``/v1/models`` as the server sends them, behind its HTTP status.

        The status is 0 where no reply came, and for the Hub, which is not asked.
        """
        if self.base_url is None:
            return 0, ()
        key = key_for(self.base_url, self._api_key)
        async with self._connections.lane() as client:
            return await self._server(client, self.base_url, key).listing()

    def _server(self, client: httpx2.AsyncClient, base_url: str, key: str | None) -> ServerInfo:
        return ServerInfo(
            client=client,
            base_url=base_url,
            key=key,
            max_reply_bytes=self._max_reply_bytes,
            where=self.where,
        )

    async def _served_model(
        self, client: httpx2.AsyncClient, base_url: str, key: str | None
    ) -> str:
        try:
            return (await self._server(client, base_url, key).names())[0]
        except ChatUnavailableError:
            # TGI serves one model and drops this name; others will say that they do not know it.
            return "tgi"

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._connections.aclose()


class _FormRefusedError(Exception):
    """A server refused a request that carried a constraint."""

    def __init__(self, reason: ChatError) -> None:
        super().__init__(str(reason))
        self.reason = reason
