"""Chat models behind Hugging Face Inference Providers, TGI or any OpenAI-compatible server.

For models on the Hub, `huggingface_hub` finds the provider's route. Requests are sent by
`Connections` there and to a URL alike. `huggingface_hub.AsyncInferenceClient` (2.4.0), if given a
URL, would send the user's token to every host, rewrite ``json_schema`` to a format that only TGI
reads, count waiting for its pool against the timeout, and read replies of any length.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.connections import (
    Connections,
    Verify,
    check_certificates,
    exchange,
)
from optuna_agenttts.llm.inference_providers import billing, provider_request
from optuna_agenttts.llm.negotiation import (
    LOSSES,
    Parameters,
    adapt_messages,
    check_parameters,
    cut_at_stop,
    describe_change,
    refused_parameters,
    request_fields,
)
from optuna_agenttts.llm.outages import note_answer
from optuna_agenttts.llm.port import (
    ChatError,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Message,
    prompt_usage,
)
from optuna_agenttts.llm.replies import http_error, parse_completion
from optuna_agenttts.llm.secrets import (
    ApiKey,
    Headers,
    headers_for,
    hide_keys,
    key_for,
    picklable_key,
    redact,
    secret_values,
)
from optuna_agenttts.llm.server_info import ServerInfo
from optuna_agenttts.llm.wire import (
    chat_url,
    check_server,
    encode_chat_request,
)

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")


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
        request_parameters: Names under which the server reads parameters, or None to leave one
            out: ``{"max_tokens": "max_completion_tokens", "seed": None}``. ``"system"`` is the
            role of system messages; with None, they begin the first user message.
            ``"response_format"`` is ``"json_schema"``, ``"json_object"`` or None. Parameters that
            a server refuses by name are changed in this way without being listed.
        headers: Further headers of each request, such as Azure's ``api-key``, or a function that
            returns them; only a function is pickled.
        verify: Certificates to trust: True for those of the system or of ``SSL_CERT_FILE``, the
            path of a file or folder, an `ssl.SSLContext`, or False for any.

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
        request_parameters: Parameters = MappingProxyType({}),
        headers: Headers = None,
        verify: Verify = True,
    ) -> None:
        """See the class."""
        check_server(model, base_url, provider or bill_to)
        check_certificates("HuggingFaceChat", verify)
        if not timeout > 0:
            raise AgentTTSError(f"HuggingFaceChat: `timeout` must be positive, got {timeout!r}.")
        if concurrency < 1:
            raise AgentTTSError(
                f"HuggingFaceChat: `concurrency` must be at least 1, got {concurrency!r}."
            )
        check_parameters("HuggingFaceChat", request_parameters)
        self.model, self.base_url = model, base_url
        self._provider, self._bill_to, self._api_key = provider, bill_to, api_key
        self._timeout, self._concurrency = timeout, concurrency
        self._max_reply_bytes, self._starting = max_reply_bytes, starting
        self._headers, self._verify = headers, verify
        self.request_parameters = dict(request_parameters)
        self._negotiated: dict[str, dict[str, str | None]] = {}
        """Forms of parameters, by model, in which the server has accepted them."""
        self._reset()

    def _reset(self) -> None:
        if self._starting:
            note_answer(self.where)
        self._connections = Connections(
            concurrency=self._concurrency,
            timeout=self._timeout,
            base_url=self.base_url,
            verify=self._verify,
        )

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without connections, and without keys given as values."""
        state = {k: v for k, v in self.__dict__.items() if k != "_connections"}
        secrets = {name: picklable_key(state[name]) for name in ("_api_key", "_headers")}
        return state | secrets

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

    def negotiated(self, model: str = "") -> dict[str, str | None]:
        """Return the forms of parameters that differ from the usual ones.

        Args:
            model: Name of the model on its server. Default: this object's model.

        Returns:
            Those given as an argument, and those that the server has refused so far.
        """
        return self.request_parameters | self._negotiated.get(model or self.model or "", {})

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`.

        An empty ``request.model`` means this object's model. Parameters that the server refuses by
        name are renamed or left out, and so is any `response_format` that it refuses.
        """
        async with self._connections.connection() as client:
            try:
                return await asyncio.wait_for(self._call(client, request, seed), self._timeout)
            except asyncio.TimeoutError:
                raise ChatUnavailableError(
                    f"{self.where}: no reply within {self._timeout:g} s",
                    kind="timeout",
                    usage=prompt_usage(request),
                    lost=True,
                ) from None

    async def _call(
        self, client: httpx2.AsyncClient, request: ChatRequest, seed: int
    ) -> Completion:
        key = key_for(self.base_url, self._api_key)
        headers = headers_for(key, self._headers)
        secrets = secret_values(headers)
        try:
            completion = await self._negotiate(client, request, seed, key, headers)
        except ChatError as error:
            error.args = (redact(str(error), secrets),)
            if error.lost and error.usage is None:
                # Only the prompt can be counted.
                error.usage = prompt_usage(request)
            raise
        if not secrets:
            return completion
        # A server that echoes the request, in any escapes, must not get the key into a store.
        parts = (completion.text, completion.finish_reason, completion.thoughts)
        text, reason, thoughts = (hide_keys(part, secrets) for part in parts)
        return Completion(text, completion.usage, reason, thoughts)

    async def _negotiate(
        self,
        client: httpx2.AsyncClient,
        request: ChatRequest,
        seed: int,
        key: str | None,
        headers: Mapping[str, str],
    ) -> Completion:
        """Call until the server refuses no further parameter."""
        model = request.model or self.model
        if model is None:
            assert self.base_url is not None
            model = self.model = await self._served_model(client, self.base_url, headers)
        changes: dict[str, str | None] = {}
        while True:
            parameters = self.negotiated(model) | changes
            fields = {
                "model": model,
                **request_fields(request, seed, parameters),
                **json.loads(request.extra or "{}"),
            }
            messages = adapt_messages(request.messages, parameters)
            status, received, content = await self._send(client, fields, messages, key, headers)
            text = content.decode("utf-8", "replace")
            try:
                if status != 200:
                    raise http_error(status, received, text, self.where)
                completion = parse_completion(content, request, self.where, received)
            except ChatError as error:
                refused = refused_parameters(status, text, request, parameters)
                failed = status == 200 and not isinstance(error, ChatRefusedError)
                if error.permanent or not refused or failed:
                    raise
                changes |= refused
                continue
            if changes:
                self._remember(model, changes)
            text = cut_at_stop(completion.text, request, parameters)
            return completion if text == completion.text else replace(completion, text=text)

    def _remember(self, model: str, changes: Parameters) -> None:
        """Keep changes that led to a completion, and log new ones."""
        known = self._negotiated.setdefault(model, {})
        for name, form in changes.items():
            if known.get(name, "") != form:
                known[name] = form
                level = logging.WARNING if form is None and name in LOSSES else logging.INFO
                _logger.log(
                    level, "%s refuses `%s`: %s.", self.where, name, describe_change(name, form)
                )

    async def _send(
        self,
        client: httpx2.AsyncClient,
        fields: Mapping[str, Any],
        messages: tuple[Message, ...],
        key: str | None,
        headers: Mapping[str, str],
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request; return status, headers and body of the reply."""
        if self.base_url is not None:
            url, content = chat_url(self.base_url), encode_chat_request(fields, messages)
        elif "://" in fields["model"]:
            raise ChatRefusedError(
                f"{self.where}: the request's model is a URL: pass it as `base_url` instead",
                kind="URL as model",
            )
        else:
            inputs = [{"role": message.role, "content": message.content} for message in messages]
            url, headers, body = await provider_request(
                inputs,
                fields,
                provider=self._provider,
                task="conversational",
                model=fields["model"],
                key=key,
                headers={**headers, **billing(self._bill_to)},
                where=self.where,
            )
            # Encoded messages are cached, unless a provider reads them in another form.
            rest = {name: value for name, value in body.items() if name != "messages"}
            same = body.get("messages") == inputs
            content = encode_chat_request(rest, messages) if same else json.dumps(body).encode()
        try:
            return await exchange(
                client,
                "POST",
                url,
                headers=headers,
                content=content,
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

    async def served_models(self) -> tuple[str, ...]:
        """Return the names of the models that the server lists.

        Reads ``/v1/models`` or TGI's ``/info``. Without a URL, this is the object's own model.

        Raises:
            ChatUnavailableError: The server is unreachable or lists no model.
        """
        own = (self.model,) if self.model else ()
        return await self._read(ServerInfo.model_names, own)

    async def healthy(self) -> bool:
        """Return whether the server reports that it is healthy (``/health``)."""
        return await self._read(ServerInfo.healthy, True)

    async def info(self) -> Mapping[str, Any]:
        """Return TGI's ``/info``; empty for other servers."""
        return await self._read(ServerInfo.info, {})

    async def listing(self) -> tuple[int, tuple[Mapping[str, Any], ...]]:
        """Return the HTTP status and the entries of ``/v1/models``.

        The status is 0 if there was no reply, or if there is no URL.
        """
        return await self._read(ServerInfo.listing, (0, ()))

    async def _read(self, page: Callable[[ServerInfo], Awaitable[_T]], default: _T) -> _T:
        """Read one of the server's own pages; return the default if there is no URL."""
        if self.base_url is None:
            return default
        headers = headers_for(key_for(self.base_url, self._api_key), self._headers)
        async with self._connections.connection() as client:
            return await page(self._server_info(client, self.base_url, headers))

    def _server_info(
        self, client: httpx2.AsyncClient, base_url: str, headers: Mapping[str, str]
    ) -> ServerInfo:
        return ServerInfo(
            client=client,
            base_url=base_url,
            headers=headers,
            max_reply_bytes=self._max_reply_bytes,
            where=self.where,
        )

    async def _served_model(
        self, client: httpx2.AsyncClient, base_url: str, headers: Mapping[str, str]
    ) -> str:
        try:
            return (await self._server_info(client, base_url, headers).model_names())[0]
        # TGI serves a single model and ignores the name; other servers refuse this one.
        except ChatUnavailableError:
            return "tgi"

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._connections.aclose()
