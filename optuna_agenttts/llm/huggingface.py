"""Chat models behind Hugging Face Inference Providers, TGI or any OpenAI-compatible server.

Models on the Hub are called through `huggingface_hub.AsyncInferenceClient`, which handles the
providers, their routes and billing. A URL is called directly, with huggingface_hub's own HTTP
library, because the client (2.4.0), if given a URL, sends the user's token to every host,
rewrites ``json_schema`` to a format that only TGI reads, refuses loopback addresses if
``HF_HUB_OFFLINE`` is set, counts waiting for its pool against the timeout, and reads replies of
any length.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import AsyncInferenceClient

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.connections import Connections, exchange
from optuna_agenttts.llm.outages import note_answer
from optuna_agenttts.llm.port import (
    ChatError,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    prompt_usage,
)
from optuna_agenttts.llm.replies import (
    HUB_ERRORS,
    completion_from_json,
    http_error,
    hub_error,
    hub_reply_to_json,
    parse_completion,
)
from optuna_agenttts.llm.secrets import ApiKey, hide_key, key_for, one_line, picklable_key, redact
from optuna_agenttts.llm.server_info import ServerInfo
from optuna_agenttts.llm.wire import (
    chat_url,
    check_base_url,
    encode_chat_request,
    is_loopback,
    redact_url,
    refuses_response_format,
    response_formats,
)

_logger = logging.getLogger(__name__)


class HuggingFaceChat:
    """Chat model on a server.

    Args:
        model: Id of the model on the Hub or name on the server. If omitted, the first model that
            the server at `base_url` lists is used.
        base_url: Root of a TGI or OpenAI-compatible server. Default: Hugging Face's router.
        provider: Inference provider, such as ``"groq"``. Default: Hugging Face chooses.
        bill_to: Organization on the Hub to bill.
        api_key: API key, or a function that returns it; only a function is pickled. Default: the
            user's Hugging Face token for servers of Hugging Face, no key for others.
        timeout: Timeout of one call, in seconds, from sending to the last byte.
        concurrency: Maximum number of concurrent calls; further calls wait in a queue, which does
            not count against the timeout.
        max_reply_bytes: Maximum length of a reply, in bytes.
        starting: Whether to wait for a server that has never answered, as it may be starting.

    Raises:
        AgentTTSError: An argument is invalid.
    """

    def __init__(
        self,
        model: str | None = None,
        *,
        base_url: str | None = None,
        provider: str | None = None,
        bill_to: str | None = None,
        api_key: ApiKey = None,
        # Chosen by hand; 4 MB are far above the length of any reply.
        timeout: float = 120.0,
        concurrency: int = 32,
        max_reply_bytes: int = 4_000_000,
        starting: bool = False,
    ) -> None:
        """See the class."""
        if model is None and base_url is None:
            raise AgentTTSError("HuggingFaceChat: pass `model`, `base_url`, or both.")
        if model is not None and "://" in model:
            raise AgentTTSError(
                "HuggingFaceChat: `model` must be a model id, got "
                f"{one_line(redact_url(model))!r}: pass a URL as `base_url`."
            )
        if base_url is not None:
            check_base_url("HuggingFaceChat", base_url)
            if provider is not None or bill_to is not None:
                raise AgentTTSError(
                    "HuggingFaceChat: `provider` and `bill_to` apply to models on the Hub only: "
                    "omit them if `base_url` is given."
                )
        if not timeout > 0:
            raise AgentTTSError(f"HuggingFaceChat: `timeout` must be positive, got {timeout!r}.")
        if concurrency < 1:
            raise AgentTTSError(
                f"HuggingFaceChat: `concurrency` must be at least 1, got {concurrency!r}."
            )
        self.model, self.base_url = model, base_url
        self._provider, self._bill_to, self._api_key = provider, bill_to, api_key
        self._timeout, self._concurrency = timeout, concurrency
        self._max_reply_bytes, self._starting = max_reply_bytes, starting
        self._reset()

    def _reset(self) -> None:
        if self._starting:
            note_answer(self.where)
        self._connections = Connections(
            concurrency=self._concurrency,
            timeout=self._timeout,
            # Servers on this machine are not behind a proxy.
            trust_env=not is_loopback(self.base_url),
        )
        self._format_index = 0
        """Index of the `response_format` to try first: the last accepted one."""

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without connections and without a key given as a string."""
        process_local = ("_connections", "_format_index")
        state = {k: v for k, v in self.__dict__.items() if k not in process_local}
        return {**state, "_api_key": picklable_key(self._api_key)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the state and create new connections."""
        self.__dict__.update(state)
        self._reset()

    def __copy__(self) -> HuggingFaceChat:
        """Return a copy with the key and new connections."""
        return self.__deepcopy__({})

    def __deepcopy__(self, memo: dict[int, Any]) -> HuggingFaceChat:
        """Return a copy with the key and new connections."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._reset()
        return other

    def __repr__(self) -> str:
        """Return model and server, without the key."""
        return f"<HuggingFaceChat {self.where}>"

    @property
    def where(self) -> str:
        """Model and server, for messages."""
        server = self._provider or "Hugging Face"
        if self.base_url is not None:
            server = urlsplit(self.base_url).netloc
        return server if self.model is None else f"{self.model} at {server}"

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`.

        An empty ``request.model`` means this object's model. Servers differ in the
        `response_format` that they accept for a schema; they are tried in turn, the last accepted
        one first.
        """
        formats = response_formats(request.schema)
        async with self._connections.connection() as client:
            try:
                return await asyncio.wait_for(
                    self._call_any_format(client, request, seed, formats), self._timeout
                )
            except asyncio.TimeoutError:
                raise ChatUnavailableError(
                    f"{self.where}: no reply within {self._timeout:g} s",
                    kind="timeout",
                    usage=prompt_usage(request),
                    lost=True,
                ) from None

    async def _call_any_format(
        self,
        client: httpx2.AsyncClient,
        request: ChatRequest,
        seed: int,
        formats: list[Mapping[str, Any]],
    ) -> Completion:
        first = min(self._format_index, len(formats) - 1)
        for index in range(first, len(formats)):
            try:
                completion = await self._call(client, request, seed, formats[index])
            except _FormatRefusedError as error:
                if index == len(formats) - 1:
                    raise error.reason from None
                _logger.debug("%s refused `response_format` %d.", self.where, index)
                continue
            if len(formats) > 1:
                self._format_index = index
            return completion
        raise AssertionError("unreachable")

    async def _call(
        self,
        client: httpx2.AsyncClient,
        request: ChatRequest,
        seed: int,
        response_format: Mapping[str, Any],
    ) -> Completion:
        key = key_for(self.base_url, self._api_key)
        try:
            if self.base_url is None:
                completion = await self._call_hub(request, seed, response_format, key)
            else:
                completion = await self._call_url(client, request, seed, response_format, key)
        except _FormatRefusedError:
            raise
        except ChatError as error:
            error.args = (redact(str(error), [key]),)
            if error.lost and error.usage is None:
                # Only the prompt can be counted.
                error.usage = prompt_usage(request)
            raise
        if not key:
            return completion
        # A server that echoes the request, in any escapes, must not get the key into a store.
        parts = (completion.text, completion.finish_reason, completion.thoughts)
        text, reason, thoughts = (hide_key(part, key) for part in parts)
        return Completion(text, completion.usage, reason, thoughts)

    async def _call_url(
        self,
        client: httpx2.AsyncClient,
        request: ChatRequest,
        seed: int,
        response_format: Mapping[str, Any],
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
            **response_format,
            **json.loads(request.extra or "{}"),
        }
        try:
            status, headers, content = await exchange(
                client,
                "POST",
                chat_url(self.base_url),
                key=key,
                content=encode_chat_request(body, request.messages),
                max_bytes=self._max_reply_bytes,
                where=self.where,
            )
        except httpx2.TimeoutException as timeout:
            raise ChatUnavailableError(
                f"{self.where}: no reply within {self._timeout:g} s ({type(timeout).__name__})",
                # An unreachable host is retried for longer than a slow reply.
                kind="ConnectTimeout" if isinstance(timeout, httpx2.ConnectTimeout) else "timeout",
                lost=not isinstance(timeout, httpx2.ConnectTimeout),
            ) from None
        if status == 200:
            return parse_completion(content, request, self.where, headers)
        text = content.decode("utf-8", "replace")
        error = http_error(status, headers, text, self.where)
        if response_format and refuses_response_format(status, text):
            raise _FormatRefusedError(error)
        raise error

    async def _call_hub(
        self, request: ChatRequest, seed: int, response_format: Mapping[str, Any], key: str | None
    ) -> Completion:
        if "://" in request.model:
            raise ChatRefusedError(
                f"{self.where}: the request's model is a URL: pass it as `base_url` instead",
                kind="URL as model",
            )
        options: dict[str, Any] = {
            "model": request.model or self.model,
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "seed": seed,
            "stop": list(request.stop) or None,
            **response_format,
            **({"extra_body": json.loads(request.extra)} if request.extra else {}),
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
                f"{self.where}: the reply is not JSON", kind="no JSON", lost=True
            ) from None
        except HUB_ERRORS as error:
            found = hub_error(error, key=key, where=self.where, timeout=self._timeout)
            response = getattr(error, "response", None)
            if (
                response_format
                and response is not None
                and refuses_response_format(response.status_code, response.text)
            ):
                raise _FormatRefusedError(found) from None
            raise found from None
        note_answer(self.where)
        return completion_from_json(hub_reply_to_json(reply), request, self.where)

    async def served_models(self) -> tuple[str, ...]:
        """Return the names of the models that the server lists.

        Reads ``/v1/models`` or TGI's ``/info``. Without a URL, this is the object's own model.

        Raises:
            ChatUnavailableError: The server is unreachable or lists no model.
        """
        if self.base_url is None:
            return (self.model,) if self.model else ()
        async with self._server(self.base_url) as server:
            return await server.model_names()

    async def healthy(self) -> bool:
        """Return whether the server reports that it is healthy (``/health``)."""
        if self.base_url is None:
            return True
        async with self._server(self.base_url) as server:
            return await server.healthy()

    async def info(self) -> Mapping[str, Any]:
        """Return TGI's ``/info``; empty for other servers."""
        if self.base_url is None:
            return {}
        async with self._server(self.base_url) as server:
            return await server.info()

    async def listing(self) -> tuple[int, tuple[Mapping[str, Any], ...]]:
        """Return the HTTP status and the entries of ``/v1/models``.

        The status is 0 if there was no reply, or if there is no URL.
        """
        if self.base_url is None:
            return 0, ()
        async with self._server(self.base_url) as server:
            return await server.listing()

    @asynccontextmanager
    async def _server(self, base_url: str) -> AsyncIterator[ServerInfo]:
        key = key_for(base_url, self._api_key)
        async with self._connections.connection() as client:
            yield self._server_info(client, base_url, key)

    def _server_info(
        self, client: httpx2.AsyncClient, base_url: str, key: str | None
    ) -> ServerInfo:
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
            return (await self._server_info(client, base_url, key).model_names())[0]
        # TGI serves a single model and ignores the name; other servers refuse this one.
        except ChatUnavailableError:
            return "tgi"

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._connections.aclose()


class _FormatRefusedError(Exception):
    """The server refused a request with a `response_format`."""

    def __init__(self, reason: ChatError) -> None:
        super().__init__(str(reason))
        self.reason = reason
