"""Chat models behind Hugging Face Inference Providers, TGI or any OpenAI-compatible server.

For models on the Hub, `huggingface_hub` finds the provider's route. Requests are sent by
`ServerClient` there and to a URL alike. `huggingface_hub.AsyncInferenceClient` (2.4.0), if given a
URL, would send the user's token to every host, rewrite ``json_schema`` to a format that only TGI
reads, count waiting for its pool against the timeout, and read replies of any length.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.client import ServerClient, Session, Verify
from optuna_agenttts.llm.error_replies import parse_refusal
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
from optuna_agenttts.llm.replies import parse_completion
from optuna_agenttts.llm.secrets import ApiKey, Headers, hide_keys, secret_values
from optuna_agenttts.llm.thinking import with_extra
from optuna_agenttts.llm.untrusted import as_mapping, decode_json
from optuna_agenttts.llm.wire import (
    chat_url,
    encode_chat_request,
    models_url,
    redact_url,
    server_root,
)
from optuna_agenttts.support.efforts import is_off
from optuna_agenttts.support.plain import one_line

_logger = logging.getLogger(__name__)

_PAGE_TIMEOUT = 5.0
"""Timeout for a server's own page, in seconds; chosen by hand, as these pages are small."""


class HuggingFaceChat(ServerClient):
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
            ``"response_format"`` is ``"json_schema"``, ``"json_object"`` or None, and ``"stream"``
            is ``"false"`` or ``"true"``. ``"thinking"`` is the fields that carry thinking efforts,
            such as ``"reasoning_effort"``. Parameters that a server refuses by name are changed in
            this way without being listed.
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
        if model is None and base_url is None:
            raise AgentTTSError("HuggingFaceChat: pass `model`, `base_url`, or both.")
        if model is not None and "://" in model:
            raise AgentTTSError(
                "HuggingFaceChat: `model` must be a model id, got "
                f"{one_line(redact_url(model))!r}: pass a URL as `base_url`."
            )
        if base_url is not None and (provider or bill_to) is not None:
            raise AgentTTSError(
                "HuggingFaceChat: `provider` and `bill_to` apply to models on the Hub only: omit "
                "them if `base_url` is given."
            )
        check_parameters("HuggingFaceChat", request_parameters)
        self._provider, self._bill_to, self._starting = provider, bill_to, starting
        self.request_parameters = dict(request_parameters)
        self._negotiated: dict[str, dict[str, str | None]] = {}
        """Forms of parameters, by model, in which the server has accepted them."""
        self._thinks_always: set[str] = set()
        """Models that thought although they were asked not to."""
        super().__init__(
            model,
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            concurrency=concurrency,
            max_reply_bytes=max_reply_bytes,
            headers=headers,
            verify=verify,
        )

    def _reset(self) -> None:
        super()._reset()
        if self._starting:
            note_answer(self.where)

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
        try:
            return await self._call(self._negotiate, request, seed)
        except ChatError as error:
            if error.lost and error.usage is None:
                # Only the prompt can be counted.
                error.usage = prompt_usage(request)
            raise

    async def _negotiate(self, session: Session, request: ChatRequest, seed: int) -> Completion:
        """Call until the server refuses no further parameter."""
        model = request.model or self.model
        if model is None:
            try:
                model = (await self._model_names(session))[0]
            # TGI serves a single model and ignores the name; other servers refuse this one.
            except ChatUnavailableError:
                model = "tgi"
            self.model = model
        changes: dict[str, str | None] = {}
        while True:
            parameters = self.negotiated(model) | changes
            own = {"model": model, **request_fields(request, seed, parameters)}
            fields = with_extra(own, request.extra)
            messages = adapt_messages(request.messages, parameters)
            status, received, content = await self._send(session, fields, messages)
            text = content.decode("utf-8", "replace")
            try:
                if status == 200:
                    completion = parse_completion(content, request, self.where, received)
                else:
                    completion = parse_refusal(status, received, text, request, self.where)
            except ChatError as error:
                refused = refused_parameters(status, text, request, parameters)
                if "thinking" in self.request_parameters:
                    refused.pop("thinking", None)
                failed = status == 200 and not isinstance(error, ChatRefusedError)
                if error.permanent or not refused or failed:
                    raise
                changes |= refused
                continue
            if changes:
                self._remember(model, changes)
            if is_off(request.thinking):
                self._check_off(model, completion)
            text = cut_at_stop(completion.text, request, parameters)
            # A server that echoes the request, in any escapes, must not get the key into a store.
            secrets = secret_values(session.headers)
            return replace(
                completion,
                text=hide_keys(text, secrets),
                finish_reason=hide_keys(completion.finish_reason, secrets),
                thoughts=hide_keys(completion.thoughts, secrets),
                model=hide_keys(completion.model, secrets),
            )

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

    def _check_off(self, model: str, completion: Completion) -> None:
        """Log once if a model thinks although it was asked not to."""
        tokens = completion.usage.thought_tokens or (completion.thoughts and "some")
        if tokens and model not in self._thinks_always:
            self._thinks_always.add(model)
            _logger.warning(
                "%s thinks (%s tokens) although requests ask for no thoughts: the server ignores "
                "the fields that switch them off. `agenttts doctor --thinking off,high` shows "
                "which efforts it takes.",
                self.where,
                tokens,
            )

    async def _send(
        self, session: Session, fields: Mapping[str, Any], messages: tuple[Message, ...]
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request; return status, headers and body of the reply."""
        headers = session.headers
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
                key=session.key,
                headers={**headers, **billing(self._bill_to)},
                where=self.where,
            )
            # Encoded messages are cached, unless a provider reads them in another form.
            rest = {name: value for name, value in body.items() if name != "messages"}
            same = body.get("messages") == inputs
            content = encode_chat_request(rest, messages) if same else json.dumps(body).encode()
        return await self._exchange(session, "POST", url, content, headers)

    async def served_models(self) -> tuple[str, ...]:
        """Return the names of the models that the server lists.

        Reads ``/v1/models`` or TGI's ``/info``. Without a URL, this is the object's own model.

        Raises:
            ChatUnavailableError: The server is unreachable or lists no model.
        """
        if self.base_url is None:
            return (self.model,) if self.model else ()
        async with self._session() as session:
            return await self._model_names(session)

    async def _model_names(self, session: Session) -> tuple[str, ...]:
        """Return the names of the models that a server lists; see `served_models`."""
        status, entries = await self.listing(session)
        names = [entry.get("id") for entry in entries]
        if not names:
            info_status, values = await self._page("/info", session)
            names, status = [as_mapping(values).get("model_id")], status or info_status
        secrets = secret_values(session.headers)
        found = tuple(hide_keys(n, secrets) for n in names if isinstance(n, str) and n)
        if not found:
            raise ChatUnavailableError(
                f"{self.where}: the server lists no models "
                f"({'no reply' if not status else f'HTTP {status}'})",
                kind="no model listed",
            )
        return found

    async def healthy(self) -> bool:
        """Return whether the server reports that it is healthy (``/health``)."""
        return self.base_url is None or (await self._page("/health"))[0] == 200

    async def info(self) -> Mapping[str, Any]:
        """Return TGI's ``/info``; empty for other servers."""
        return as_mapping((await self._page("/info"))[1])

    async def listing(
        self, session: Session | None = None
    ) -> tuple[int, tuple[Mapping[str, Any], ...]]:
        """Return the HTTP status and the entries of ``/v1/models``.

        The status is 0 if there was no reply, or if there is no URL.

        Args:
            session: Session that sends the request. Default: a new one.
        """
        status, values = await self._page("", session)
        entries = as_mapping(values).get("data")
        entries = entries if isinstance(entries, list) else []
        return status, tuple(entry for entry in entries if isinstance(entry, Mapping))

    async def _page(self, path: str, session: Session | None = None) -> tuple[int, Any]:
        """Return the status (0: no reply) and decoded JSON of one of the server's own pages.

        Args:
            path: Path below the server's root; empty for the list of models.
            session: Connection to use. Default: another one.
        """
        if self.base_url is None:
            return 0, None
        if session is None:
            async with self._session() as session:
                return await self._page(path, session)
        url = server_root(self.base_url) + path if path else models_url(self.base_url)
        try:
            status, _, content = await asyncio.wait_for(
                self._exchange(session, "GET", url), _PAGE_TIMEOUT
            )
        except (ChatError, asyncio.TimeoutError):
            return 0, None
        return status, decode_json(content) if status == 200 else None
