"""Loopback server that answers like TGI, or like an OpenAI-compatible server.

It follows the OpenAPI specification of TGI 3.3.6 (``/v1/chat/completions``, ``/generate``,
``/info``, ``/health``, ``/v1/models``, error types and status codes) and OpenAI's
``/v1/embeddings``, passes seeds on to the chat models, and injects faults on demand.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, get_args

from optuna_agenttts.llm import (
    ChatModel,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Message,
    Usage,
)
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.testing.faults import FAULTS, Fault, Faults, inject
from optuna_agenttts_integrations.testing.serving_bodies import (
    Dialect,
    ServerLimits,
    chat_body,
    count_words,
    json_object,
    messages_of,
    positive_integer,
    schema_of,
    stops_of,
    temperature_of,
    texts_of,
)
from optuna_agenttts_integrations.testing.serving_http import (
    Delivery,
    HttpReply,
    HttpRequest,
    HttpServer,
    RefusedError,
    send_reply,
)
from optuna_agenttts_integrations.testing.serving_thinking import (
    ThinkingDialect,
    effort_of,
    with_thoughts,
)

_logger = logging.getLogger(__name__)

__all__ = [
    "FAULTS",
    "Dialect",
    "Embed",
    "Fault",
    "Faults",
    "HttpServer",
    "LoopbackServer",
    "ServerLimits",
    "ThinkingDialect",
    "count_words",
]

_LIMITS = ServerLimits()

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Function from texts to their vectors, in order."""


class LoopbackServer(HttpServer):
    """Server of chat models on 127.0.0.1; start it with ``with``.

    Connections and chat models share one event loop in a thread that belongs to the server, so a
    chat model that blocks instead of awaiting delays every request.

    Args:
        chats: Chat models by the name that clients send. TGI serves exactly one.
        dialect: ``"tgi"``: one model that answers under any name; ``"openai"``: one or more
            models, selected by name.
        port: Port; 0 selects a free one.
        faults: Faults to inject. Default: none.
        limits: Limits of requests.
        served_as: Name of the only chat model in ``/info``, ``/v1/models`` and replies, which
            clients may also request it by. It simulates a server that serves another model than
            its operator expects. Default: the name in `chats`.
        embed: Function that answers ``/v1/embeddings`` for any model name. It runs in a worker
            thread, one call at a time. If given, `chats` may be empty in OpenAI's dialect.
        thinking: Fields in which the server reads thinking efforts. ``"openai"``:
            `reasoning_effort`; other fields are refused, and thoughts are counted but withheld.
            ``"vllm"``: `chat_template_kwargs` and `thinking_token_budget`, as for Qwen3; thoughts
            are sent as `reasoning_content`. ``"provider"``: one of `reasoning` and
            `reasoning_effort`, or `thinking`; thoughts are sent as `reasoning`. Default: none, and
            thoughts are not sent.

    Raises:
        PipelineError: An argument is invalid or contradicts another one.

    Attributes:
        models: Names of the chat models.
        served: Number of requests by path, and of injected faults as ``fault: <kind>``.
    """

    kind: ClassVar[str] = "loopback"
    """Kind of server, as it appears in ``/info`` and in replies."""

    def __init__(
        self,
        chats: Mapping[str, ChatModel],
        *,
        dialect: Dialect = "openai",
        port: int = 0,
        faults: Faults | None = None,
        limits: ServerLimits = _LIMITS,
        served_as: str | None = None,
        embed: Embed | None = None,
        thinking: ThinkingDialect | None = None,
    ) -> None:
        """See the class."""
        super().__init__(port=port)
        name = type(self).__name__
        if dialect not in get_args(Dialect):
            raise PipelineError(f"{name}: `dialect` must be 'tgi' or 'openai', got {dialect!r}.")
        if thinking is not None and thinking not in get_args(ThinkingDialect):
            raise PipelineError(
                f"{name}: `thinking` must be 'openai', 'vllm', 'provider' or None, got "
                f"{thinking!r}."
            )
        if (not chats and embed is None) or (dialect == "tgi" and len(chats) != 1):
            raise PipelineError(
                f"{name}: TGI serves exactly one model and other servers at least one, got "
                f"{list(chats)!r}."
            )
        if served_as is not None and (not served_as or len(chats) > 1):
            raise PipelineError(
                f"{name}: `served_as` must be a name that is not empty, for a single model, got "
                f"{served_as!r} for the models {list(chats)!r}."
            )
        self.models, self.dialect, self.limits = tuple(chats), dialect, limits
        self.served_as, self.thinking = served_as, thinking
        self._chats, self._embed, self._faults = dict(chats), embed, faults
        self._rng = random.Random(faults.seed if faults else 0)
        self._in_progress = 0
        self.served: Counter[str] = Counter()

    async def complete(self, model: str, request: ChatRequest, seed: int) -> Completion:
        """Generate one completion on the server's event loop.

        Args:
            model: Name of the model.
            request: The request.
            seed: Seed of the completion, from 1 to 2**31 - 1.
        """
        return await self._chats[model].complete(request, seed=seed)

    def prompt_tokens(self, request: ChatRequest) -> int:
        """Return the number of tokens of a prompt, by `ServerLimits.count`.

        Args:
            request: The request.
        """
        return sum(self.limits.count(message.content) for message in request.messages)

    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool:
        """Answer one request; see `HttpServer.serve`."""
        return await send_reply(writer, request, await self._answer(request))

    async def _listen(self) -> None:
        # A lock belongs to one event loop, and each start after `__exit__` has another one.
        self._embed_lock = asyncio.Lock()
        await super()._listen()

    async def _answer(self, request: HttpRequest) -> HttpReply:
        """Return the reply to a request."""
        self.served[request.path] += 1
        delivery: Delivery = "whole"
        try:
            if request.content is None:
                raise RefusedError(413, "Payload too large", "validation")
            if request.method == "GET":
                return HttpReply(200, self._page(request.path))
            if request.method != "POST":
                raise RefusedError(405, "Method not allowed", "validation")
            fault = self._faults.draw(self._rng) if self._faults is not None else None
            if fault is not None:
                self.served[f"fault: {fault}"] += 1
            delivery = await inject(fault)
            if delivery == "hang-up":
                return HttpReply(500, None, delivery=delivery)
            values = await self._process(request.path, request.content)
            return HttpReply(200, values, delivery=delivery)
        except RefusedError as error:
            return HttpReply(error.status, error.body, error.headers, delivery)

    def _page(self, path: str) -> Any:
        """Return the body of the reply to a GET request."""
        if path == "/health":
            return None
        if path == "/v1/models":
            names = self.models if self.served_as is None else (self.served_as,)
            data = [
                {"id": name, "object": "model", "created": 0, "owned_by": name} for name in names
            ]
            return {"object": "list", "data": data}
        if path != "/info" or self.dialect != "tgi":
            raise RefusedError(404, "Not found", "not_found")
        return {
            "model_id": self.served_as or self.models[0],
            "model_sha": None,
            "model_pipeline_tag": "text-generation",
            "max_concurrent_requests": self.limits.max_concurrent_requests,
            "max_best_of": 1,
            "max_stop_sequences": self.limits.max_stop_sequences,
            "max_input_tokens": self.limits.max_input_tokens,
            "max_total_tokens": self.limits.max_total_tokens,
            "validation_workers": 1,
            "max_client_batch_size": 1,
            "router": f"optuna-agenttts-{self.kind}",
            "version": "3.3.6",
            "sha": None,
            "docker_label": None,
        }

    async def _process(self, path: str, content: bytes) -> dict[str, Any]:
        """Return the body of the reply to a request for completions or embeddings."""
        answers = {"/v1/chat/completions": self._chat}
        if self.dialect == "tgi":
            answers |= {"/generate": self._generate, "/": self._generate}
        if self._embed is not None:
            answers["/v1/embeddings"] = self._embeddings
        if path not in answers:
            raise RefusedError(404, "Not found", "not_found")
        if self._in_progress >= self.limits.max_concurrent_requests:
            raise RefusedError(429, "Model is overloaded", "overloaded")
        self._in_progress += 1
        try:
            return await answers[path](json_object(content))
        except ChatUnavailableError as error:
            after = error.retry_after
            headers = {} if after is None else {"retry-after": f"{after:g}"}
            raise RefusedError(503, str(error), "healthcheck", headers) from None
        except ChatRefusedError as error:
            raise RefusedError(422, str(error), "validation") from None
        except RefusedError:
            raise
        except Exception as error:
            _logger.warning(
                "The chat model or embedder raised an exception on a request to %s%s; the client "
                "gets status 424.",
                self.url,
                path,
                exc_info=True,
            )
            message = f"Request failed during generation: {error}"
            raise RefusedError(424, message, "generation") from None
        finally:
            self._in_progress -= 1

    async def _chat(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``/v1/chat/completions``."""
        messages = messages_of(values)
        name = values.get("model")
        known = self.models if self.served_as is None else (*self.models, self.served_as)
        if not self.models or (self.dialect == "openai" and name not in known):
            raise RefusedError(404, f"The model {name!r} does not exist", "not_found")
        model = str(name) if name in self.models else self.models[0]
        if values.get("stream"):
            raise RefusedError(422, "this server does not stream", "validation")
        request = ChatRequest(
            model=model,
            messages=messages,
            max_tokens=positive_integer(values, "max_tokens", self.limits.default_max_tokens),
            temperature=temperature_of(values, least=0.0),
            stop=self._stops(values),
            schema=schema_of(values, dialect=self.dialect),
            thinking=None if self.thinking is None else effort_of(values, self.thinking),
        )
        completion = await self._complete(request, values)
        usage = self._usage(request, completion)
        body = chat_body(self.served_as or model, completion, usage, system=self.kind)
        if self.thinking is None:
            return body
        return with_thoughts(body, completion, usage, self.thinking)

    async def _generate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Answer TGI's own ``/generate``."""
        inputs = values.get("inputs")
        parameters = values.get("parameters") or {}
        if not isinstance(inputs, str) or not inputs or not isinstance(parameters, dict):
            raise RefusedError(422, "`inputs` cannot be empty", "validation")
        if positive_integer(parameters, "best_of", 1) > 1:
            raise RefusedError(422, "`best_of` must be 1 here", "validation")
        sampled = parameters.get("do_sample") or parameters.get("temperature") is not None
        request = ChatRequest(
            model=self.models[0],
            messages=(Message("user", inputs),),
            max_tokens=positive_integer(
                parameters, "max_new_tokens", self.limits.default_max_tokens
            ),
            # TGI refuses a temperature of 0.
            temperature=temperature_of(parameters, least=1e-9) if sampled else 0.0,
            stop=self._stops(parameters),
        )
        completion = await self._complete(request, parameters)
        reply: dict[str, Any] = {"generated_text": completion.text}
        if parameters.get("details"):
            reason = {"stop": "eos_token"}.get(completion.finish_reason, completion.finish_reason)
            reply["details"] = {
                "finish_reason": reason,
                "generated_tokens": self._usage(request, completion).completion_tokens,
                "seed": parameters.get("seed"),
                "prefill": [],
                "tokens": [],
            }
        return reply

    async def _embeddings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``/v1/embeddings``."""
        assert self._embed is not None
        texts = texts_of(values)
        counts = [self.limits.count(text) for text in texts]
        self.limits.check(max(counts), 0)
        async with self._embed_lock:
            vectors = await asyncio.to_thread(self._embed, texts)
        tokens = sum(counts)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": [float(x) for x in vector]}
                for i, (_, vector) in enumerate(zip(texts, vectors, strict=True))
            ],
            "model": self.served_as or str(values.get("model") or ""),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    async def _complete(self, request: ChatRequest, values: Mapping[str, Any]) -> Completion:
        """Check the limits of a request and generate its completion."""
        seed = positive_integer(values, "seed", 0) or random.SystemRandom().randrange(1, 2**31)
        self.limits.check(self.prompt_tokens(request), request.max_tokens)
        return await self.complete(request.model, request, seed)

    def _stops(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the stop strings of a request."""
        return stops_of(values, most=self.limits.max_stop_sequences, dialect=self.dialect)

    def _usage(self, request: ChatRequest, completion: Completion) -> Usage:
        """Return the reported usage, or count tokens if the chat model reports none."""
        usage = completion.usage
        if usage.prompt_tokens or usage.completion_tokens:
            return usage
        return Usage(self.prompt_tokens(request), self.limits.count(completion.text))
