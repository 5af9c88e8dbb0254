"""Misbehaving server for tests of clients of language models.

`AdversarialServer` is an `HttpServer` whose replies a test controls byte by byte. It records its
requests and answers chat completions by a behaviour: a name from `BEHAVIOURS`, a function or
coroutine function of the `Exchange`, or a list of these for consecutive requests, of which the
last repeats.
"""

import asyncio
import gzip
import json
import math
import random
import socket
import struct
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any

from optuna_agenttts.llm import ChatRequest, Message
from optuna_agenttts_integrations.testing.serving_http import HttpRequest, HttpServer


def ask(text: str = "hello", **options: Any) -> ChatRequest:
    """Make a chat request."""
    values = {"model": "", "max_tokens": 5, "temperature": 0.7, **options}
    return ChatRequest(messages=(Message("user", text),), **values)


@dataclass(frozen=True)
class Recorded:
    """A received request; header names are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any
    """Decoded JSON; None if there is none."""


class Exchange:
    """A request, with methods to answer it in any way."""

    def __init__(
        self, server: "AdversarialServer", request: Recorded, writer: asyncio.StreamWriter
    ):
        self.server, self.request, self._writer = server, request, writer
        self.keep = True

    def reply(
        self, status: int, body: Any = b"", headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a complete reply; the body is sent as JSON unless it is bytes or text."""
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
        self._writer.write(data)
        self.server.sent += len(data)

    async def stream(self, piece: bytes, *, pause: float = 0.0, limit: float = math.inf) -> None:
        """Send the same bytes repeatedly, up to a total number of bytes."""
        sent = 0
        while sent < limit:
            await asyncio.sleep(pause)
            self.send(piece)
            await self._writer.drain()
            sent += len(piece)

    def hang_up(self, *, reset: bool = False) -> None:
        """Close the connection; with `reset`, by a TCP reset that the client sees as an error."""
        self.keep = False
        if reset:
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._writer.transport.abort()


Behaviour = Callable[[Exchange], "Awaitable[None] | None"]


def chat_reply(text: str, **changes: Any) -> dict[str, Any]:
    """Return a chat completion in OpenAI's format."""
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
    """Send a correct reply after some seconds."""

    async def behave(exchange: Exchange) -> None:
        await asyncio.sleep(delay)
        exchange.reply(200, chat_reply(text, **changes))

    return behave


def body(content: Any, status: int = 200, **headers: str) -> Behaviour:
    """Send a body; underscores in header names become hyphens."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange: exchange.reply(status, content, named)


def failing(status: int, **headers: str) -> Behaviour:
    """Send an error in OpenAI's format."""
    return body({"error": {"message": f"failed on purpose with {status}"}}, status, **headers)


def redirect(status: int = 307, location: str | None = None) -> Behaviour:
    """Send a redirect, by default to the correct server `elsewhere`."""

    def behave(exchange: Exchange) -> None:
        there = exchange.server.elsewhere.url + exchange.request.path
        exchange.reply(status, b"", {"location": there if location is None else location})

    return behave


def endless(piece: bytes, pause: float = 0.0, limit: int = 10**12) -> Behaviour:
    """Send a body of repeated pieces, up to a total number of bytes."""

    async def behave(exchange: Exchange) -> None:
        exchange.start(200, {"content-length": str(limit)})
        await exchange.stream(piece, pause=pause, limit=limit)
        exchange.hang_up()

    return behave


def raw(data: bytes) -> Behaviour:
    """Send bytes instead of an HTTP reply, and close the connection."""

    def behave(exchange: Exchange) -> None:
        exchange.send(data)
        exchange.hang_up()

    return behave


async def _hang(exchange: Exchange) -> None:
    await asyncio.Event().wait()


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
    """Send an error that contains the API key of the request."""

    def behave(exchange: Exchange) -> None:
        seen = exchange.request.headers.get("authorization", "nothing")
        exchange.reply(status, {"error": f"no access with {seen}"})

    return behave


def _echo_auth_in_html(exchange: Exchange) -> None:
    exchange.reply(200, f"<p>{exchange.request.headers.get('authorization', 'nothing')}</p>")


async def _endless_headers(exchange: Exchange) -> None:
    exchange.send(b"HTTP/1.1 200 OK\r\n")
    await exchange.stream(b"x-more: " + b"a" * 1000 + b"\r\n")


async def _endless_continue(exchange: Exchange) -> None:
    await exchange.stream(b"HTTP/1.1 102 Processing\r\n\r\n", pause=0.001)


_NAN_USAGE = json.dumps(chat_reply("fine")).replace("11", "NaN").replace("18", "Infinity")

BEHAVIOURS: dict[str, Behaviour] = {
    "good": good(),
    "echo_auth": _echo_auth,
    # Valid replies with invalid numbers.
    "nan": body(_NAN_USAGE),
    "huge_usage": body(chat_reply("fine", usage={"prompt_tokens": 10**30})),
    "odd_usage": body(chat_reply("fine", usage=[{"prompt_tokens": -1}, True])),
    # Status 200 without a completion.
    "garbage": body(random.Random(0).randbytes(5000)),
    "html": body("<!doctype html><html><body>Log in</body></html>", content_type="text/html"),
    "empty_body": body(b""),
    "empty_object": body({}),
    "json_null": body(b"null"),
    "json_list": body([chat_reply("in a list")]),
    "empty_choices": body(chat_reply("", choices=[], usage=None)),
    "null_choices": body(chat_reply("", choices=None)),
    "choices_object": body(chat_reply("", choices={"0": {"message": {"content": "x"}}})),
    "null_choice": body(chat_reply("", choices=[None])),
    "null_message": body(chat_reply("", choices=[{"message": None}])),
    "null_content": body(chat_reply("", choices=[{"message": {"content": None}}], usage=None)),
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
    # Invalid or incomplete HTTP.
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
"""Behaviours by name."""

ANSWERING = frozenset(
    {"good", "echo_auth", "nan", "huge_usage", "odd_usage", "blank_content", "parts_content"}
)
"""Behaviours with a usable completion."""

REFUSING = frozenset(
    {f"status_{status}" for status in (204, 400, 401, 402, 403, 404, 413, 422)}
    | {name for name in BEHAVIOURS if name.startswith("redirect")}
    | {"echo_auth_400", "echo_auth_401"}
)
"""Behaviours that a repeated call would meet again."""


_MODELS = body({"object": "list", "data": [{"id": "served"}]})
_INFO = body({"model_id": "served", "max_input_tokens": 4095})
_HEALTH = body(b"")


class AdversarialServer(HttpServer):
    """HTTP server with scripted misbehavior that records its requests.

    Args:
        behaviour: Answer to ``POST .../chat/completions``: a name from `BEHAVIOURS`, a function,
            or a list of these for consecutive requests, of which the last repeats.
        models: Answer to ``GET .../models``: a name or a function.
        info: Answer to ``GET /info``.
        health: Answer to ``GET /health``.

    Attributes:
        requests: Received requests.
        most_at_once: Maximum number of requests that were in progress at the same time.
        sent: Number of bytes sent.
    """

    def __init__(
        self,
        behaviour: "str | Behaviour | Sequence[str | Behaviour]" = "good",
        *,
        models: "str | Behaviour" = _MODELS,
        info: "str | Behaviour" = _INFO,
        health: "str | Behaviour" = _HEALTH,
    ) -> None:
        super().__init__()
        several = not isinstance(behaviour, str) and isinstance(behaviour, Sequence)
        self._script = [_behaviour(b) for b in (behaviour if several else [behaviour])]
        self._pages = [
            ("/models", _behaviour(models)),
            ("/info", _behaviour(info)),
            ("/health", _behaviour(health)),
        ]
        self.requests: list[Recorded] = []
        self.most_at_once = self.sent = self._now = self._chats = 0
        self._elsewhere: AdversarialServer | None = None

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        if self._elsewhere is not None:
            self._elsewhere.__exit__()

    @property
    def elsewhere(self) -> "AdversarialServer":
        """A second, correct server, started at first use."""
        if self._elsewhere is None:
            self._elsewhere = AdversarialServer().__enter__()
        return self._elsewhere

    @property
    def chats(self) -> list[Recorded]:
        """Received requests for chat completions."""
        return [request for request in self.requests if request.path.endswith("/completions")]

    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool:
        """Record and answer one request."""
        try:
            decoded = json.loads(request.content or b"")
        except ValueError:
            decoded = None
        recorded = Recorded(request.method, request.path, request.headers, decoded)
        self.requests.append(recorded)
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        try:
            exchange = Exchange(self, recorded, writer)
            answer = self._choose(request.path)(exchange)
            if answer is not None:
                await answer
            await writer.drain()
        finally:
            self._now -= 1
        return exchange.keep and request.keep

    def _choose(self, path: str) -> Behaviour:
        if path.endswith("/chat/completions"):
            self._chats += 1
            return self._script[min(self._chats, len(self._script)) - 1]
        pages = (found for end, found in self._pages if path.endswith(end))
        return next(pages, BEHAVIOURS["status_404"])


def _behaviour(named: "str | Behaviour") -> Behaviour:
    return BEHAVIOURS[named] if isinstance(named, str) else named


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Behaviour of a server that counts tokens, honors seeds and reads system messages, or not.

    A word is a token, and a chat template adds ten.

    Args:
        context: Length at which prompts are cut; more than `refuse` are refused.
        refuse: Longest prompt.
        counts: Whether replies have token counts; a number is the count of every prompt.
        counts_replies: Whether generated tokens are counted.
        system: What becomes of system messages.
        seeds: What seeds do: ``"ignored"`` ones give another reply each time, and ``"cached"``
            replies are the same for all seeds.
        thoughts: Tokens that the model thinks before each reply.
        visible: Whether thoughts are in the reply.
        unfinished: Whether replies that end inside thoughts are errors, as OpenAI's may be.
        beyond: Whether thoughts do not count as `max_tokens`.
        end: Text at the end of each reply.
        name: Name of the model in replies. Default: the request's.
        refused: Parameters that are refused by name.
        text: Reply. Default: words that depend on prompt and seed.
    """

    context: int | None = None
    refuse: int | None = None
    counts: bool | int = True
    counts_replies: bool = True
    system: str = "read"
    seeds: str = "honored"
    thoughts: int = 0
    visible: bool = True
    unfinished: bool = False
    beyond: bool = False
    end: str = ""
    name: str | None = None
    refused: tuple[str, ...] = ()
    text: str | None = None

    def __call__(self, exchange: Exchange) -> None:
        """Answer a request."""
        sent = exchange.request.body
        for name in self.refused:
            if name in sent:
                error = {"message": f"Unsupported parameter: '{name}'", "param": name}
                return exchange.reply(400, {"error": error})
        messages = sent["messages"]
        if self.system == "broken" and messages[0]["role"] == "system":
            exchange.reply(500, "Internal Server Error")
            return exchange.hang_up()
        if self.system == "refused" and messages[0]["role"] == "system":
            return exchange.reply(400, {"error": {"message": "System role not supported"}})
        if self.system == "ignored":
            messages = [message for message in messages if message["role"] != "system"]
        words = [word for message in messages for word in message["content"].split()]
        count = len(words) + 10
        limit = sent.get("max_tokens", sent.get("max_completion_tokens"))
        if self.refuse is not None and count > self.refuse:
            return exchange.reply(400, {"error": {"message": "maximum context length exceeded"}})
        count = min(count, self.context or count)
        seed: Any = {"cached": 0, "ignored": len(exchange.server.requests)}.get(self.seeds)
        seed = sent.get("seed", random.random()) if seed is None else seed
        rng = random.Random(f"{words} {seed}")
        generated = limit + self.thoughts * self.beyond
        room = max(0, generated - self.thoughts)
        if self.unfinished and generated <= self.thoughts:
            error = "Could not finish the message because max_tokens was reached."
            return exchange.reply(400, {"error": {"message": error}})
        schema = "response_format" in sent
        reply = ['{"x": 4}'] if schema else [str(rng.randrange(10**6)) for _ in range(9)]
        reply = reply if self.text is None or schema else self.text.split()
        thought = [f"hm{rng.randrange(999)}" for _ in range(self.thoughts)][:generated]
        text = " ".join(reply[:room]) + (self.end if room >= len(reply) else "")
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if self.visible and thought:
            message["reasoning_content"] = " ".join(thought)
        used = len(thought) + min(room, len(reply))
        usage: Any = {
            "prompt_tokens": count if self.counts is True else self.counts,
            "completion_tokens": used if self.counts_replies else 0,
            "completion_tokens_details": {"reasoning_tokens": len(thought)},
        }
        choice = {
            "message": message,
            "finish_reason": "stop" if room >= len(reply) else "length",
        }
        changes = {"model": self.name or sent["model"]}
        if self.counts is False:
            changes["usage"] = None
        else:
            changes["usage"] = usage
        exchange.reply(200, chat_reply("", choices=[choice], **changes))
        return None
