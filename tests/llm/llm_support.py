"""A server that misbehaves on purpose, for tests of whatever calls language models.

`AdversarialServer` is a real HTTP server on a free port of 127.0.0.1. It records what it is asked
and answers chat completions by a behaviour: a name from `BEHAVIOURS`, a function of the
`Exchange`, or a list of these to be used one after the other (the last one stays).
"""

import gzip
import json
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from optuna_agenttts.llm import ChatRequest, Message


def ask(text: str = "hello", **options: Any) -> ChatRequest:
    """Make a chat request."""
    values = {"model": "", "max_tokens": 5, "temperature": 0.7, **options}
    return ChatRequest(messages=(Message("user", text),), **values)


@dataclass(frozen=True)
class Recorded:
    """A request that came in; names of headers are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    """Decoded JSON; None if there is none."""


class Exchange:
    """One request, and the means to answer it in any way."""

    def __init__(self, server: "AdversarialServer", handler: "_Handler", request: Recorded):
        self.server, self.request, self._handler = server, request, handler

    def reply(
        self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a whole reply; what is not bytes or text is sent as JSON."""
        content = body if isinstance(body, bytes) else None
        if content is None:
            content = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.start(status, {"content-length": str(len(content)), **(headers or {})})
        self.send(content)

    def start(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the head of a reply."""
        names = {name.lower() for name in headers}
        more = {} if "content-type" in names else {"content-type": "application/json"}
        head = [f"HTTP/1.1 {status} Whatever"]
        head += [f"{name}: {value}" for name, value in {**headers, **more}.items()]
        self.send("\r\n".join([*head, "", ""]).encode("latin-1"))

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        self._handler.wfile.write(data)
        self.server.add_sent(len(data))

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection; with `reset`, so that the peer sees an error."""
        connection = self._handler.connection
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._handler.abandon()
        else:
            connection.shutdown(socket.SHUT_RDWR)
        self._handler.close_connection = True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait some seconds, or until the server is closed; returns whether it is."""
        return self.server.closing.wait(seconds)


Behaviour = Callable[[Exchange], None]


def chat_reply(text: str, **changes: Any) -> dict[str, Any]:
    """A chat completion as OpenAI's API sends it."""
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "served",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
        **changes,
    }


def good(text: str = "hi there", delay: float = 0.0, **changes: Any) -> Behaviour:
    """Answer as asked, after some seconds."""

    def behave(exchange: Exchange) -> None:
        if delay:
            exchange.wait(delay)
        exchange.reply(200, chat_reply(text, **changes))

    return behave


def body(content: Any, status: int = 200, **headers: str) -> Behaviour:
    """Answer with a body; underscores in the names of headers are dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.reply(status, content, named)


def failing(status: int, **headers: str) -> Behaviour:
    """Answer with an error, as OpenAI's API words it."""
    return body({"error": {"message": f"failed on purpose with {status}"}}, status, **headers)


def redirect(status: int = 307, location: str | None = None) -> Behaviour:
    """Point to somewhere else; by default to the server's `elsewhere`, a good one."""

    def behave(exchange: Exchange) -> None:
        there = exchange.server.elsewhere.url + exchange.request.path
        exchange.reply(status, b"", {"location": there if location is None else location})

    return behave


def endless(piece: bytes, pause: float = 0.0, limit: int | None = None) -> Behaviour:
    """Send one piece after the other, up to a number of bytes."""

    def behave(exchange: Exchange) -> None:
        total = 10**12 if limit is None else limit
        exchange.start(200, {"content-length": str(total)})
        sent = 0
        while sent < total and not exchange.wait(pause or 0):
            exchange.send(piece)
            sent += len(piece)
        exchange.hang_up()

    return behave


def raw(data: bytes) -> Behaviour:
    """Send bytes instead of an HTTP reply, and hang up."""

    def behave(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.hang_up()

    return behave


def _hang(exchange: Exchange) -> None:
    exchange.wait()


def _reset_mid_body(exchange: Exchange) -> None:
    exchange.start(200, {"content-length": "100000"})
    exchange.send(b'{"choices": [')
    exchange.hang_up(reset=True)


def _cut_mid_body(exchange: Exchange) -> None:
    exchange.start(200, {"content-length": "100000"})
    exchange.send(b'{"choices": [')
    exchange.hang_up()


def _echo_auth(exchange: Exchange) -> None:
    seen = exchange.request.headers.get("authorization", "nothing")
    exchange.reply(200, chat_reply(f"You sent {seen}, thank you."))


def echo_auth_error(status: int) -> Behaviour:
    """Answer with an error that holds the request's key."""

    def behave(exchange: Exchange) -> None:
        seen = exchange.request.headers.get("authorization", "nothing")
        exchange.reply(status, {"error": f"no access with {seen}"})

    return behave


def _echo_auth_in_html(exchange: Exchange) -> None:
    exchange.reply(200, f"<p>{exchange.request.headers.get('authorization', 'nothing')}</p>")


def _endless_headers(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    while not exchange.wait(0):
        exchange.send(b"x-more: " + b"a" * 1000 + b"\r\n")


def _endless_continue(exchange: Exchange) -> None:
    while not exchange.wait(0.001):
        exchange.send(b"HTTP/1.1 102 Processing\r\n\r\n")


_NAN_USAGE = json.dumps(chat_reply("fine")).replace("11", "NaN").replace("18", "Infinity")

BEHAVIOURS: dict[str, Behaviour] = {
    "good": good(),
    "echo_auth": _echo_auth,
    # A valid reply with senseless numbers.
    "nan": body(_NAN_USAGE),
    "huge_usage": body(chat_reply("fine", usage={"prompt_tokens": 10**30})),
    "odd_usage": body(chat_reply("fine", usage=[{"prompt_tokens": -1}, True])),
    # A status of 200, and no completion.
    "garbage": body(random.Random(0).randbytes(5000)),
    "html": body("<!doctype html><html><body>Log in</body></html>", content_type="text/html"),
    "empty_body": body(b""),
    "empty_object": body({}),
    "json_null": body(b"null"),
    "json_list": body([chat_reply("in a list")]),
    "empty_choices": body(chat_reply("", choices=[])),
    "null_choices": body(chat_reply("", choices=None)),
    "choices_object": body(chat_reply("", choices={"0": {"message": {"content": "x"}}})),
    "null_choice": body(chat_reply("", choices=[None])),
    "null_message": body(chat_reply("", choices=[{"message": None}])),
    "null_content": body(chat_reply("", choices=[{"message": {"content": None}}])),
    "number_content": body(chat_reply("", choices=[{"message": {"content": 7}}])),
    "parts_content": body(chat_reply("", choices=[{"message": {"content": [{"text": "x"}]}}])),
    "blank_content": body(chat_reply(" \n\t ")),
    "error_in_200": body({"error": {"message": "overloaded", "code": 503}}),
    "deep_nesting": body(b"[" * 200_000),
    "deep_objects": body(b'{"a":' * 200_000),
    "long_number": body(b'{"choices": ' + b"9" * 100_000 + b"}"),
    "no_utf8": body(b'{"choices": "\xff\xfe\xfa"}'),
    "megabytes": endless(b" " * 2**16, limit=20_000_000),
    "gzip_bomb": body(gzip.compress(bytes(100_000_000)), content_encoding="gzip"),
    "no_gzip": body(b"plain, not gzip", content_encoding="gzip"),
    "odd_charset": body(b"\xff\xfe", content_type="application/json; charset=rot13"),
    "event_stream": body(b'data: {"choices": []}\n\n', content_type="text/event-stream"),
    # Other statuses.
    "status_204": lambda exchange: exchange.start(204, {}),
    "status_400": failing(400),
    "status_401": failing(401),
    "status_402": failing(402),
    "status_403": failing(403),
    "status_404": failing(404),
    "status_413": failing(413),
    "status_422": failing(422),
    "status_429": failing(429),
    "status_429_now": failing(429, retry_after="0"),
    "status_429_date": lambda exchange: failing(
        429, retry_after=formatdate(time.time() + 60, usegmt=True)
    )(exchange),
    "status_429_garbage": failing(429, retry_after="soon\xff"),
    "status_429_year": failing(429, retry_after="Mon, 01 Jan 99999999999999999999 00:00:00 GMT"),
    "status_500": failing(500),
    "status_503": failing(503, retry_after="2"),
    "status_504_html": body("<html>" + "x" * 100_000, 504, content_type="text/html"),
    "status_999": failing(999),
    "redirect": redirect(),
    "redirect_301": redirect(301),
    "redirect_303": redirect(303),
    "redirect_308": redirect(308),
    "redirect_nonsense": redirect(307, "http://[nonsense"),
    "redirect_loop": lambda exchange: redirect(307, exchange.request.path)(exchange),
    # No HTTP, or not all of it.
    "no_http": raw(b"SSH-2.0-OpenSSH_9.6\r\n"),
    "hang": _hang,
    "hang_up": lambda exchange: exchange.hang_up(),
    "reset": lambda exchange: exchange.hang_up(reset=True),
    "reset_mid_body": _reset_mid_body,
    "cut_mid_body": _cut_mid_body,
    "slow_drip": endless(b" ", pause=0.05),
    "endless_headers": _endless_headers,
    "endless_continue": _endless_continue,
    "bad_chunks": raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
    "bad_length": raw(b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\nabc"),
    "echo_auth_400": echo_auth_error(400),
    "echo_auth_401": echo_auth_error(401),
    "echo_auth_503": echo_auth_error(503),
    "echo_auth_in_html": _echo_auth_in_html,
}
"""What a server may do to a chat completion, by name."""

ANSWERING = frozenset({"good", "echo_auth", "nan", "huge_usage", "odd_usage", "blank_content"})
"""The behaviours that give a usable completion."""

REFUSING = frozenset(
    {f"status_{status}" for status in (204, 400, 401, 402, 403, 404, 413, 422)}
    | {name for name in BEHAVIOURS if name.startswith("redirect")}
    | {"echo_auth_400", "echo_auth_401"}
)
"""The behaviours that repeating the call does not cure."""


_MODELS = body({"object": "list", "data": [{"id": "served"}]})
_INFO = body({"model_id": "served", "max_input_tokens": 4095})
_HEALTH = body(b"")


class AdversarialServer:
    """Answers in a good or bad way, and remembers what it was asked.

    Args:
        behaviour: What to do to ``POST .../chat/completions``: a name from `BEHAVIOURS`, a
            function, or a list of these to be used one after the other; the last one stays.
        models: What to do to ``GET .../models``; in the same words.
        info: What to do to ``GET /info``.
        health: What to do to ``GET /health``.

    Attributes:
        requests: What came in so far.
        most_at_once: The largest number of requests that were in progress together.
        sent: How many bytes were handed to the network.
    """

    def __init__(
        self,
        behaviour: "str | Behaviour | Sequence[str | Behaviour]" = "good",
        *,
        models: "str | Behaviour" = _MODELS,
        info: "str | Behaviour" = _INFO,
        health: "str | Behaviour" = _HEALTH,
    ) -> None:
        several = not isinstance(behaviour, str) and isinstance(behaviour, Sequence)
        self._script = [_behaviour(b) for b in (behaviour if several else [behaviour])]
        self._pages = [
            ("/models", _behaviour(models)),
            ("/info", _behaviour(info)),
            ("/health", _behaviour(health)),
        ]
        self.requests: list[Recorded] = []
        self.most_at_once = self.sent = 0
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._now = self._chats = 0
        self._guard = threading.Lock()
        self._elsewhere: AdversarialServer | None = None
        self._http: _Server | None = None

    def __enter__(self) -> "AdversarialServer":
        self._http = _Server(("127.0.0.1", 0), _Handler)
        self._http.owner = self
        # Fetched now, as the port outlives the socket in error messages.
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._http is not None
        self.closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
        with self._guard:
            for connection in self._open:
                # A handler may be closing it at this moment.
                try:
                    connection.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        if self._elsewhere is not None:
            self._elsewhere.__exit__()

    @property
    def elsewhere(self) -> "AdversarialServer":
        """A second, good server, started when it is first needed."""
        with self._guard:
            if self._elsewhere is None:
                self._elsewhere = AdversarialServer().__enter__()
            return self._elsewhere

    @property
    def chats(self) -> list[Recorded]:
        """The chat completions among the requests."""
        return [r for r in self.requests if r.path.partition("?")[0].endswith("/completions")]

    def add_sent(self, count: int) -> None:
        """Count bytes."""
        with self._guard:
            self.sent += count

    def track(self, connection: socket.socket, opened: bool) -> None:
        """Note that a connection was opened or closed."""
        with self._guard:
            (self._open.add if opened else self._open.discard)(connection)

    def handle(self, handler: "_Handler", request: Recorded) -> None:
        """Record a request, and answer it."""
        path = request.path.partition("?")[0]
        with self._guard:
            self.requests.append(request)
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            if path.endswith("/chat/completions"):
                behave = self._script[min(self._chats, len(self._script) - 1)]
                self._chats += 1
            else:
                pages = (found for end, found in self._pages if path.endswith(end))
                behave = next(pages, BEHAVIOURS["status_404"])
        try:
            behave(Exchange(self, handler, request))
        finally:
            with self._guard:
                self._now -= 1


def _behaviour(named: "str | Behaviour") -> Behaviour:
    return BEHAVIOURS[named] if isinstance(named, str) else named


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 256
    owner: AdversarialServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients hang up on bad servers, as they should."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server
    _abandoned = False

    def setup(self) -> None:
        super().setup()
        self.server.owner.track(self.connection, True)

    def finish(self) -> None:
        self.server.owner.track(self.connection, False)
        if not self._abandoned:
            super().finish()

    def abandon(self) -> None:
        """Close at once, by force, without the farewell that the base class sends."""
        self._abandoned = True
        self.server.owner.track(self.connection, False)
        self.wfile.close()
        self.rfile.close()
        self.connection.close()

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def _serve(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        try:
            decoded = json.loads(content)
        except ValueError:
            decoded = None
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Recorded(self.command, self.path, headers, decoded)
        self.server.owner.handle(self, request)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
