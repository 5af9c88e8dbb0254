"""Chat models behind HTTP on loopback: a stand-in for TGI, or for an OpenAI-compatible server.

It speaks TGI 3.3.6's API as its OpenAPI specification has it (``/v1/chat/completions``,
``/generate``, ``/info``, ``/health``, ``/v1/models``, error types and status codes), and OpenAI's
``/v1/embeddings``; it passes seeds on, and misbehaves on demand.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, cast, get_args

from optuna_agenttts.llm import (
    ChatModel,
    ChatRefusedError,
    ChatRequest,
    ChatUnavailableError,
    Completion,
    Message,
    Usage,
)
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.testing.serving_bodies import (
    chat_body,
    json_object,
    messages_of,
    positive_integer,
    schema_of,
    stops_of,
    temperature_of,
    texts_of,
)
from optuna_agenttts_integrations.testing.serving_http import (
    FAULTS,
    SLOW_SECONDS,
    Dialect,
    Fault,
    Faults,
    HttpReply,
    HttpRequest,
    Manner,
    RefusedError,
    ServerLimits,
    converse,
    count_words,
    fault_error,
)

_logger = logging.getLogger(__name__)

__all__ = [
    "FAULTS",
    "Dialect",
    "Embed",
    "Fault",
    "Faults",
    "LoopbackServer",
    "ServerLimits",
    "count_words",
]

_Self = TypeVar("_Self", bound="LoopbackServer")
_LIMITS = ServerLimits()

Embed = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""From texts to their vectors, in order."""


class LoopbackServer:
    """Serves chat models on 127.0.0.1; start it with ``with``.

    Connections and chat models share one event loop, in a thread of its own: a chat model that
    blocks instead of awaiting holds up every request.

    Args:
        chats: What answers, by the name that clients ask for. TGI serves one of them.
        dialect: ``"tgi"``: one model, whatever name is asked for; ``"openai"``: several, by name.
        port: The port; 0 for any that is free.
        faults: Whether and how to misbehave.
        limits: What is accepted.
        served_as: The name that the server claims in ``/info``, ``/v1/models`` and replies while
            one chat model answers, asked for by either name. It stands in for a server that
            serves another model than its operator believes.
        embed: Answers ``/v1/embeddings``, whatever model is asked for, in a thread and never
            twice at the same time. With it, `chats` may be empty in OpenAI's dialect.

    Raises:
        PipelineError: The arguments do not fit together.

    Attributes:
        models: Names of the chat models.
        served: How many requests came for each path, and how many ``fault: ...`` were put in.
    """

    kind: ClassVar[str] = "loopback"
    """What the server calls itself."""

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
    ) -> None:
        """See the class."""
        name = type(self).__name__
        if dialect not in get_args(Dialect):
            raise PipelineError(f"{name}: `dialect` is {dialect!r}: give 'tgi' or 'openai'.")
        if (not chats and embed is None) or (dialect == "tgi" and len(chats) != 1):
            raise PipelineError(
                f"{name}: the models are {list(chats)!r}: TGI serves one, other servers one or "
                "more."
            )
        if served_as is not None and (not served_as or len(chats) > 1):
            raise PipelineError(
                f"{name}: `served_as` is {served_as!r}, the models {list(chats)!r}: one model "
                "goes by one name that is not empty."
            )
        self.models, self.dialect, self.limits = tuple(chats), dialect, limits
        self.served_as = served_as
        self._chats, self._embed = dict(chats), embed
        self._port, self._faults = port, faults
        self._rng = random.Random(faults.seed if faults else 0)
        self._loop = LoopThread(self._close)
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._busy = 0
        self.served: Counter[str] = Counter()

    @property
    def url(self) -> str:
        """The server's root."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The port; known once the server has started."""
        return self._port

    def __enter__(self: _Self) -> _Self:
        """Start."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self.stop()
        self._loop.close()

    def start(self) -> None:
        """Listen; again on the same port after `stop`.

        Raises:
            OSError: The port is taken.
        """
        self._loop.run(self._listen())

    def stop(self) -> None:
        """Stop at once: what is under way loses its connection."""
        if self._server is not None:
            self._loop.run(self._close())

    def wait(self) -> None:
        """Serve until interrupted."""
        while True:
            time.sleep(3600)

    async def complete(self, model: str, request: ChatRequest, seed: int) -> Completion:
        """Generate one completion, on the server's event loop."""
        return await self._chats[model].complete(request, seed=seed)

    def prompt_tokens(self, request: ChatRequest) -> int:
        """Tokens of a request's prompt, as `ServerLimits.count` has them."""
        return sum(self.limits.count(message.content) for message in request.messages)

    async def _listen(self) -> None:
        # A lock belongs to one event loop.
        self._embedding = asyncio.Lock()
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self._port, backlog=512
        )
        self._port = int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        # What was accepted just now becomes a connection within two turns of the loop. A server
        # that closes before that forgets its socket and leaves it open.
        for _ in range(2):
            await asyncio.sleep(0)
        server.close()
        tasks = list(self._open)
        for task, writer in self._open.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A coroutine as callback would have its cancellation logged as an error (Python 3.11).
        task = asyncio.get_running_loop().create_task(converse(reader, writer, self._answer))
        self._open[task] = writer
        task.add_done_callback(self._open.pop)

    def _fault(self) -> Fault | None:
        if self._faults is None or self._rng.random() >= self._faults.rate:
            return None
        fault = self._rng.choice(list(self._faults.kinds))
        self.served[f"fault: {fault}"] += 1
        return fault

    async def _answer(self, request: HttpRequest) -> HttpReply:
        self.served[request.path] += 1
        manner: Manner = "whole"
        try:
            if request.content is None:
                raise RefusedError(413, "Payload too large", "validation")
            if request.method == "GET":
                return HttpReply(200, self._page(request.path))
            if request.method != "POST":
                raise RefusedError(405, "Method not allowed", "validation")
            fault = self._fault()
            if fault in get_args(Manner):
                manner = cast(Manner, fault)
            elif fault == "slow":
                await asyncio.sleep(SLOW_SECONDS)
            elif fault is not None:
                raise fault_error(fault)
            if manner == "hang-up":
                return HttpReply(500, None, manner=manner)
            values = await self._work(request.path, request.content)
            return HttpReply(200, values, manner=manner)
        except RefusedError as error:
            return HttpReply(error.status, error.body, error.headers, manner)

    def _claimed(self, model: str) -> str:
        return model if self.served_as is None else self.served_as

    def _page(self, path: str) -> Any:
        """The body of what is there to be read."""
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
            "model_id": self._claimed(self.models[0]),
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

    async def _work(self, path: str, content: bytes) -> dict[str, Any]:
        """The body of the reply to a request for completions or embeddings."""
        answers = {"/v1/chat/completions": self._chat}
        if self.dialect == "tgi":
            answers |= {"/generate": self._generate, "/": self._generate}
        if self._embed is not None:
            answers["/v1/embeddings"] = self._embeddings
        if path not in answers:
            raise RefusedError(404, "Not found", "not_found")
        if self._busy >= self.limits.max_concurrent_requests:
            raise RefusedError(429, "Model is overloaded", "overloaded")
        self._busy += 1
        try:
            return await answers[path](json_object(content))
        except ChatUnavailableError as error:
            wait = {} if error.retry_after is None else {"retry-after": f"{error.retry_after:g}"}
            raise RefusedError(503, str(error), "healthcheck", wait) from None
        except ChatRefusedError as error:
            raise RefusedError(422, str(error), "validation") from None
        except RefusedError:
            raise
        except Exception as error:
            _logger.warning("A model failed at %s", path, exc_info=True)
            message = f"Request failed during generation: {error}"
            raise RefusedError(424, message, "generation") from None
        finally:
            self._busy -= 1

    async def _chat(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``/v1/chat/completions``."""
        messages = messages_of(values)
        asked = values.get("model")
        claimed = self.models if self.served_as is None else (*self.models, self.served_as)
        if not self.models or (self.dialect == "openai" and asked not in claimed):
            raise RefusedError(404, f"The model {asked!r} does not exist", "not_found")
        model = str(asked) if asked in self.models else self.models[0]
        if values.get("stream"):
            raise RefusedError(422, "this server does not stream", "validation")
        request = ChatRequest(
            model=model,
            messages=messages,
            max_tokens=positive_integer(values, "max_tokens", self.limits.room),
            temperature=temperature_of(values, least=0.0),
            stop=self._stops(values),
            schema=schema_of(values, dialect=self.dialect),
        )
        completion = await self._complete(request, values)
        usage = self._usage(request, completion)
        return chat_body(self._claimed(model), completion, usage, system=self.kind)

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
            max_tokens=positive_integer(parameters, "max_new_tokens", self.limits.room),
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
        async with self._embedding:
            vectors = await asyncio.to_thread(self._embed, texts)
        tokens = sum(counts)
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": i, "embedding": [float(x) for x in vector]}
                for i, (_, vector) in enumerate(zip(texts, vectors, strict=True))
            ],
            "model": self._claimed(str(values.get("model") or "")),
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    async def _complete(self, request: ChatRequest, values: Mapping[str, Any]) -> Completion:
        seed = positive_integer(values, "seed", 0) or random.SystemRandom().randrange(1, 2**31)
        self.limits.check(self.prompt_tokens(request), request.max_tokens)
        return await self.complete(request.model, request, seed)

    def _stops(self, values: Mapping[str, Any]) -> tuple[str, ...]:
        return stops_of(values, most=self.limits.max_stop_sequences, dialect=self.dialect)

    def _usage(self, request: ChatRequest, completion: Completion) -> Usage:
        """Tokens used: counted where the chat model reports none."""
        usage = completion.usage
        if usage.prompt_tokens or usage.completion_tokens:
            return usage
        return Usage(self.prompt_tokens(request), self.limits.count(completion.text))
