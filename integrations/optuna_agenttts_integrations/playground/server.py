"""The playground's models behind HTTP: a stand-in for TGI, or for an OpenAI-compatible server.

It speaks TGI 3.3.6's API as its OpenAPI specification has it (``/v1/chat/completions``,
``/generate``, ``/info``, ``/health``, ``/v1/models``, error types and status codes), generates
from the same seeds as in process, and misbehaves on demand.
"""

from __future__ import annotations

import json
import logging
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from optuna_agenttts.llm import ChatError, ChatRequest, Completion, Message
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts_integrations.endpoints import BatchingChatModel
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground.pipeline import ANSWERERS, RETRIEVERS, PlaygroundModel

_logger = logging.getLogger(__name__)

Fault = Literal["429", "429 with Retry-After", "500", "503", "hang-up", "slow"]
FAULTS: tuple[Fault, ...] = ("429", "429 with Retry-After", "500", "503", "hang-up", "slow")
Dialect = Literal["tgi", "openai"]

_MAX_INPUT, _MAX_TOTAL = 95, 128
_MAX_CONCURRENT = 128
_MAX_STOP = 4
_MAX_BODY = 2_000_000
_SLOW = 0.2
"""Seconds that a slow reply takes more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often a server misbehaves, and how.

    Args:
        rate: The share of requests for completions that go wrong, 0 to 1.
        kinds: What goes wrong, each as often as the others.
        seed: Of which requests those are.
    """

    rate: float = 0.2
    kinds: Sequence[Fault] = FAULTS
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.rate <= 1:
            raise PipelineError(f"Faults: `rate` is {self.rate!r}: give a share from 0 to 1.")
        if unknown := [kind for kind in self.kinds if kind not in FAULTS]:
            raise PipelineError(f"Faults: `kinds` has {unknown!r}: there are {FAULTS!r}.")


class PlaygroundServer:
    """Serves models of the playground on loopback; start it with ``with``.

    Args:
        models: Names of the models. TGI serves one of them.
        dialect: ``"tgi"``: one model, whatever name is asked for; ``"openai"``: several, by name.
        port: The port; 0 for any that is free.
        faults: Whether and how to misbehave.

    Raises:
        PipelineError: A name is unknown, or TGI is to serve several models.
    """

    def __init__(
        self,
        models: Sequence[str] = (*RETRIEVERS, *ANSWERERS),
        *,
        dialect: Dialect = "openai",
        port: int = 0,
        faults: Faults | None = None,
    ) -> None:
        known = (*RETRIEVERS, *ANSWERERS)
        if unknown := [name for name in models if name not in known]:
            raise PipelineError(f"PlaygroundServer: {unknown!r} is none of {', '.join(known)}.")
        if not models or (dialect == "tgi" and len(models) != 1):
            raise PipelineError(
                f"PlaygroundServer: `models` is {list(models)!r}: TGI serves one, other servers "
                "one or more."
            )
        self.models, self.dialect = tuple(models), dialect
        self._wanted_port, self._faults = port, faults
        self._chats = {name: BatchingChatModel(PlaygroundModel(name)) for name in models}
        self._loop = LoopThread()
        self._server: _Server | None = None
        self._rng = random.Random(faults.seed if faults else 0)
        self._guard = threading.Lock()
        self._slots = threading.Semaphore(_MAX_CONCURRENT)
        self.served: Counter[str] = Counter()
        """How many requests came for each path, and how many ``fault: ...`` were put in."""

    @property
    def url(self) -> str:
        """The server's root."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """The port; known once the server has started."""
        return self._wanted_port

    def __enter__(self) -> PlaygroundServer:
        """Start."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop."""
        self.stop()
        self._loop.close()

    def start(self) -> None:
        """Listen; again on the same port after `stop`."""
        self._server = _Server(("127.0.0.1", self._wanted_port), self)
        self._wanted_port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop at once: what is under way loses its connection."""
        if self._server is not None:
            self._server.shutdown()
            self._server.cut()
            self._server.server_close()
            self._server = None

    def wait(self) -> None:
        """Serve until interrupted."""
        while True:
            time.sleep(3600)

    def _fault(self) -> Fault | None:
        if self._faults is None:
            return None
        with self._guard:
            if self._rng.random() >= self._faults.rate:
                return None
            fault = self._rng.choice(list(self._faults.kinds))
            self.served[f"fault: {fault}"] += 1
            return fault

    def complete(self, model: str, request: ChatRequest, seed: int) -> Completion:
        """Generate one completion, as `PlaygroundModel` does in process."""
        return self._loop.run(self._chats[model].complete(request, seed=seed))

    def count(self, path: str) -> None:
        """Count a request."""
        with self._guard:
            self.served[path] += 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 512

    def __init__(self, address: tuple[str, int], owner: PlaygroundServer) -> None:
        self.owner = owner
        self._open: set[socket.socket] = set()
        self._open_guard = threading.Lock()
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._open_guard:
            self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._open_guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """Drop every connection."""
        with self._open_guard:
            for connection in self._open:
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    _logger.debug("A connection was gone already")

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are no news."""
        _logger.debug("A connection ended early", exc_info=True)


class _RefusedError(Exception):
    """A request that is answered with an error of TGI's."""

    def __init__(self, status: int, error: str, error_type: str) -> None:
        super().__init__(error)
        self.status, self.body = status, {"error": error, "error_type": error_type}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def setup(self) -> None:
        super().setup()
        # Replies are two small packets; without this each waits for the client's acknowledgement.
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, True)

    def log_message(self, format: str, *args: Any) -> None:
        _logger.debug(format, *args)

    def do_GET(self) -> None:
        owner = self.server.owner
        path = self.path.partition("?")[0]
        owner.count(path)
        pages: Mapping[str, Callable[[], Any]] = {
            "/health": dict,
            "/v1/models": lambda: {
                "object": "list",
                "data": [
                    {"id": name, "object": "model", "created": 0, "owned_by": name}
                    for name in owner.models
                ],
            },
        }
        if owner.dialect == "tgi":
            pages = {**pages, "/info": lambda: _info(owner.models[0])}
        if path not in pages:
            self._send(404, {"error": "Not found", "error_type": "not_found"})
        elif path == "/health":
            self._send(200, None)
        else:
            self._send(200, pages[path]())

    def do_POST(self) -> None:
        owner = self.server.owner
        path = self.path.partition("?")[0]
        owner.count(path)
        try:
            length = int(self.headers.get("content-length", "0"))
            if length > _MAX_BODY:
                self.close_connection = True
                raise _RefusedError(413, "Payload too large", "validation")
            content = self.rfile.read(length)
            fault = owner._fault()
            if fault is not None and self._misbehave(fault):
                return
            answer = {"/v1/chat/completions": self._chat}
            if owner.dialect == "tgi":
                answer = {**answer, "/generate": self._generate, "/": self._generate}
            if path not in answer:
                raise _RefusedError(404, "Not found", "not_found")
            if not owner._slots.acquire(blocking=False):
                raise _RefusedError(429, "Model is overloaded", "overloaded")
            try:
                self._send(200, answer[path](_decoded(content)))
            finally:
                owner._slots.release()
        except _RefusedError as error:
            self._send(error.status, error.body)

    def _misbehave(self, fault: Fault) -> bool:
        """Do what the fault says; whether that was all of the answer."""
        if fault == "slow":
            time.sleep(_SLOW)
            return False
        if fault == "hang-up":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return True
        status = int(fault[:3])
        headers = {"retry-after": "0"} if fault == "429 with Retry-After" else {}
        kind = "overloaded" if status == 429 else "healthcheck" if status == 503 else "incomplete"
        self._send(status, {"error": fault, "error_type": kind}, headers)
        return True

    def _chat(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Answer ``/v1/chat/completions``."""
        owner = self.server.owner
        messages = values.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _RefusedError(422, "`messages` must be a list of messages", "validation")
        asked = values.get("model")
        model = owner.models[0] if owner.dialect == "tgi" else asked
        if model not in owner.models:
            raise _RefusedError(404, f"The model {asked!r} does not exist", "not_found")
        if values.get("stream"):
            raise _RefusedError(422, "this server does not stream", "validation")
        request = ChatRequest(
            model=str(model),
            messages=tuple(_message(message) for message in messages),
            max_tokens=_integer(values, "max_tokens", _MAX_TOTAL - _MAX_INPUT),
            temperature=_temperature(values, least=0.0),
            stop=_stop(values),
        )
        _check_form(values.get("response_format"), owner.dialect)
        completion = self._complete(str(model), request, values)
        usage = completion.usage
        return {
            "id": "",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": str(model),
            "system_fingerprint": "playground",
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": completion.text},
                    "logprobs": None,
                    "finish_reason": completion.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            },
        }

    def _generate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Answer TGI's own ``/generate``."""
        model = self.server.owner.models[0]
        inputs = values.get("inputs")
        parameters = values.get("parameters") or {}
        if not isinstance(inputs, str) or not inputs or not isinstance(parameters, dict):
            raise _RefusedError(422, "`inputs` cannot be empty", "validation")
        if (parameters.get("best_of") or 1) > 1:
            raise _RefusedError(422, "`best_of` must be 1 here", "validation")
        sampled = parameters.get("do_sample") or parameters.get("temperature") is not None
        temperature = _temperature(parameters, least=1e-9) if sampled else 0.0
        request = ChatRequest(
            model=model,
            messages=(Message("user", inputs),),
            max_tokens=_integer(parameters, "max_new_tokens", _MAX_TOTAL - _MAX_INPUT),
            temperature=temperature,
            stop=_stop(parameters),
        )
        completion = self._complete(model, request, parameters)
        reply: dict[str, Any] = {"generated_text": completion.text}
        if parameters.get("details"):
            reason = {"stop": "eos_token"}.get(completion.finish_reason, completion.finish_reason)
            reply["details"] = {
                "finish_reason": reason,
                "generated_tokens": completion.usage.completion_tokens,
                "seed": parameters.get("seed"),
                "prefill": [],
                "tokens": [],
            }
        return reply

    def _complete(self, model: str, request: ChatRequest, values: Mapping[str, Any]) -> Completion:
        seed = _integer(values, "seed", 0) or random.SystemRandom().randrange(1, 2**31)
        words = sum(len(message.content.split()) for message in request.messages[-1:])
        if words + request.max_tokens > _MAX_TOTAL:
            raise _RefusedError(
                422,
                f"`inputs` tokens + `max_new_tokens` must be <= {_MAX_TOTAL}. Given: {words} "
                f"`inputs` tokens and {request.max_tokens} `max_new_tokens`",
                "validation",
            )
        try:
            return self.server.owner.complete(model, request, seed)
        except ChatError as error:
            raise _RefusedError(422, str(error), "validation") from None

    def _send(self, status: int, values: Any, headers: Mapping[str, str] | None = None) -> None:
        content = b"" if values is None else json.dumps(values).encode()
        try:
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except OSError:
            self.close_connection = True


def _info(model: str) -> dict[str, Any]:
    return {
        "model_id": model,
        "model_sha": None,
        "model_pipeline_tag": "text-generation",
        "max_concurrent_requests": _MAX_CONCURRENT,
        "max_best_of": 1,
        "max_stop_sequences": _MAX_STOP,
        "max_input_tokens": _MAX_INPUT,
        "max_total_tokens": _MAX_TOTAL,
        "validation_workers": 1,
        "max_client_batch_size": 1,
        "router": "optuna-agenttts-playground",
        "version": "3.3.6",
        "sha": None,
        "docker_label": None,
    }


def _decoded(content: bytes) -> Mapping[str, Any]:
    try:
        values = json.loads(content)
    except (ValueError, RecursionError):
        values = None
    if not isinstance(values, dict):
        raise _RefusedError(422, "the body is no JSON object", "validation")
    return values


def _message(values: Any) -> Message:
    role = values.get("role") if isinstance(values, dict) else None
    content = values.get("content") if isinstance(values, dict) else None
    if role not in ("system", "user", "assistant") or not isinstance(content, str):
        raise _RefusedError(422, "each message needs `role` and `content`", "validation")
    return Message(role, content)


def _integer(values: Mapping[str, Any], name: str, default: int) -> int:
    value = values.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _RefusedError(422, f"`{name}` must be strictly positive", "validation")
    return value


def _temperature(values: Mapping[str, Any], *, least: float) -> float:
    value = values.get("temperature")
    value = 1.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= least:
        raise _RefusedError(422, "`temperature` must be strictly positive", "validation")
    top = values.get("top_p")
    if top is not None and not (isinstance(top, (int, float)) and 0 < top < 1):
        raise _RefusedError(422, "`top_p` must be > 0.0 and < 1.0", "validation")
    return float(value)


def _stop(values: Mapping[str, Any]) -> tuple[str, ...]:
    stop = values.get("stop") or []
    if not isinstance(stop, list) or not all(isinstance(text, str) for text in stop):
        raise _RefusedError(422, "`stop` must be a list of strings", "validation")
    if len(stop) > _MAX_STOP:
        raise _RefusedError(422, f"`stop` holds more than {_MAX_STOP}", "validation")
    if stop:
        raise _RefusedError(422, "the playground's models end by themselves", "validation")
    return ()


def _check_form(form: Any, dialect: Dialect) -> None:
    """Refuse forms of constraint as TGI does; accepted ones are ignored by these models."""
    if form is None or dialect != "tgi":
        return
    if not isinstance(form, dict) or "value" not in form:
        raise _RefusedError(422, "response_format: missing field `value`", "validation")
