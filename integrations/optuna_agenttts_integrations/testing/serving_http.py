"""HTTP/1.1 over asyncio's streams for `serving`: faults and limits.

Standard library only. Against ``http.server`` with a thread for each connection, it saves a
thread switch to the event loop and back for each request, and the parsing of headers as e-mail.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, get_args

from optuna_agenttts_integrations.exceptions import PipelineError

_logger = logging.getLogger(__name__)

Dialect = Literal["tgi", "openai"]
Fault = Literal["429", "429 with Retry-After", "500", "503", "hang-up", "slow", "drip", "cut"]
FAULTS: tuple[Fault, ...] = get_args(Fault)
Manner = Literal["whole", "drip", "cut", "hang-up"]
"""How a reply is sent: at once, in many pieces, half of its body, or not at all."""
_ERROR_TYPES = {"429": "overloaded", "500": "incomplete_generation", "503": "healthcheck"}

SLOW_SECONDS = 0.2
"""Seconds that a slow reply waits, and that a dripping one takes from head to end."""
_DRIPS = 25
_MAX_BODY = 2_000_000
"""Bytes of a request; TGI's own limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How often a server misbehaves, and how.

    A request answered by ``"429"``, ``"429 with Retry-After"`` (of 0 seconds), ``"500"`` or
    ``"503"`` is not looked at, nor is one whose connection closes without a reply (``"hang-up"``).
    The others are answered: ``"slow"`` after 0.2 s; ``"drip"`` in some 25 pieces over 0.2 s,
    complete in the end; ``"cut"`` with half of the body before the connection closes.

    Args:
        rate: The share of requests for completions and embeddings that go wrong, 0 to 1.
        kinds: What goes wrong, each as often as the others.
        seed: Of which requests those are.

    Raises:
        PipelineError: A value is out of range or unknown.
    """

    rate: float = 0.2
    kinds: Sequence[Fault] = FAULTS
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 <= self.rate <= 1:
            raise PipelineError(f"Faults: `rate` is {self.rate!r}: give a share from 0 to 1.")
        if not self.kinds:
            raise PipelineError(f"Faults: `kinds` is empty: give some of {FAULTS!r}.")
        if unknown := [kind for kind in self.kinds if kind not in FAULTS]:
            raise PipelineError(f"Faults: `kinds` has {unknown!r}: there are {FAULTS!r}.")


class RefusedError(Exception):
    """A request that is answered with an error of TGI's.

    Args:
        status: HTTP's status.
        error: What is wrong, for people.
        error_type: The same in TGI's terms.
        headers: Headers of the reply.
    """

    def __init__(
        self, status: int, error: str, error_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """See the class."""
        super().__init__(error)
        self.status, self.headers = status, headers or {}
        self.body = {"error": error, "error_type": error_type}


def count_words(text: str) -> int:
    """How many words, separated by white space, a text has."""
    return len(text.split())


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """What a server accepts; more is refused as TGI refuses it.

    Args:
        max_input_tokens: The most tokens of a prompt, or of a text to embed.
        max_total_tokens: The most tokens of a prompt and its reply. Who asks for no length of
            reply gets as many tokens as this leaves of a prompt of `max_input_tokens`.
        max_concurrent_requests: The most requests at work at once; more are answered 429.
        max_stop_sequences: The most strings that end a reply.
        count: Tokens of a text: an estimate by which the limits are held, and which usage is made
            of where a chat model reports none. A server of real models has a tokenizer here.

    Raises:
        PipelineError: The limits leave no room for a request.
    """

    max_input_tokens: int = 32000
    max_total_tokens: int = 32768
    max_concurrent_requests: int = 128
    max_stop_sequences: int = 4
    count: Callable[[str], int] = count_words

    def __post_init__(self) -> None:
        """Check the values."""
        if not 0 < self.max_input_tokens < self.max_total_tokens:
            raise PipelineError(
                f"ServerLimits: `max_input_tokens` is {self.max_input_tokens!r} and "
                f"`max_total_tokens` {self.max_total_tokens!r}: give 0 < the first < the second."
            )
        if self.max_concurrent_requests < 1 or self.max_stop_sequences < 0:
            raise PipelineError(
                "ServerLimits: `max_concurrent_requests` is "
                f"{self.max_concurrent_requests!r} and `max_stop_sequences` "
                f"{self.max_stop_sequences!r}: give at least 1 and 0."
            )

    @property
    def room(self) -> int:
        """Tokens of a reply whose length is not asked for."""
        return self.max_total_tokens - self.max_input_tokens

    def check(self, prompt: int, generated: int) -> None:
        """Refuse a request of too many tokens.

        Args:
            prompt: Tokens of the prompt.
            generated: The most tokens of the reply.

        Raises:
            RefusedError: There are too many of them.
        """
        if prompt + generated > self.max_total_tokens:
            raise RefusedError(
                422,
                f"`inputs` tokens + `max_new_tokens` must be <= {self.max_total_tokens}. Given: "
                f"{prompt} `inputs` tokens and {generated} `max_new_tokens`",
                "validation",
            )
        if prompt > self.max_input_tokens:
            message = f"`inputs` must have at most {self.max_input_tokens} tokens. Given: {prompt}"
            raise RefusedError(422, message, "validation")


def fault_error(fault: Fault) -> RefusedError:
    """The error that a fault other than in speed or manner answers with."""
    status = fault[:3]
    headers = {"retry-after": "0"} if fault == "429 with Retry-After" else {}
    return RefusedError(int(status), fault, _ERROR_TYPES[status], headers)


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request.

    Args:
        method: The method, such as ``"POST"``.
        path: The path, without its query.
        content: The body; None if it is longer than is read.
        keep: Whether the connection stays open.
    """

    method: str
    path: str
    content: bytes | None
    keep: bool


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A reply.

    Args:
        status: The status.
        values: The body, to be sent as JSON; None for an empty one.
        headers: Headers besides the length and type of the body.
        manner: How it is sent.
    """

    status: int
    values: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    manner: Manner = "whole"


async def converse(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    answer: Callable[[HttpRequest], Awaitable[HttpReply]],
) -> None:
    """Answer the requests of one connection, one after the other, and close it."""
    try:
        keep = True
        while keep and (request := await _read(reader, writer)) is not None:
            if isinstance(request, RefusedError):
                refusal = HttpReply(request.status, request.body)
                await _write(writer, HttpRequest("", "", None, keep=False), refusal)
                break
            reply = await answer(request)
            _logger.debug("%s %s: %s", request.method, request.path, reply.status)
            keep = await _write(writer, request, reply)
    except (OSError, EOFError):
        # Clients that hang up are no news.
        _logger.debug("A connection ended early", exc_info=True)
    finally:
        writer.close()


async def _read(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> HttpRequest | RefusedError | None:
    """The next request, or why it is none that this server reads; None if the client is done."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    except asyncio.LimitOverrunError:
        return RefusedError(431, "The headers are too long", "validation")
    first, *lines = head[:-4].decode("latin-1").split("\r\n")
    fields = [line.partition(":") for line in lines]
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    words, digits = first.split(" "), headers.get("content-length", "0")
    spoken = len(words) == 3 and words[2].startswith("HTTP/1.")
    if not spoken or not digits.isdecimal() or len(digits) > 15:
        return RefusedError(400, "Bad request", "validation")
    if "transfer-encoding" in headers:
        return RefusedError(411, "Send the body whole, with `content-length`", "validation")
    wish = headers.get("connection", "").lower()
    keep = "close" not in wish and (words[2] != "HTTP/1.0" or "keep-alive" in wish)
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length, content = int(digits), None
    if length <= _MAX_BODY:
        content = await reader.readexactly(length)
    while content is None and length:
        # Closing on a client that still sends would cost it the reply.
        length -= len(await reader.readexactly(min(length, _MAX_BODY)))
    return HttpRequest(words[0], words[1].partition("?")[0], content, keep)


async def _write(writer: asyncio.StreamWriter, request: HttpRequest, reply: HttpReply) -> bool:
    """Send a reply; whether the connection stays open."""
    if reply.manner == "hang-up":
        return False
    content = b"" if reply.values is None else json.dumps(reply.values).encode()
    keep = request.keep and reply.manner != "cut"
    head = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
        # A cut is a surprise, so it is not announced.
        *(["connection: close"] if not request.keep else []),
    ]
    start = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
    if request.method == "HEAD":
        content = b""
    if reply.manner == "cut":
        content = content[: len(content) // 2]
    if reply.manner != "drip":
        writer.write(start + content)
        await writer.drain()
        return keep
    writer.write(start)
    size = max(1, -(-len(content) // _DRIPS))
    for position in range(0, len(content), size):
        await asyncio.sleep(SLOW_SECONDS * size / len(content))
        writer.write(content[position : position + size])
        await writer.drain()
    return keep
