"""HTTP/1.1 server on the loopback interface, over asyncio's streams.

It uses the standard library only. Unlike ``http.server`` with a thread per connection, it needs
no thread switch per request and does not parse headers as e-mail.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Literal, TypeVar

from optuna_agenttts.llm.loop import LoopThread

_logger = logging.getLogger(__name__)

_Self = TypeVar("_Self", bound="HttpServer")

Delivery = Literal["whole", "drip", "cut", "hang-up"]
"""Ways to send a reply: at once, in many pieces, only half of its body, or not at all."""

_DRIP_SECONDS = 0.2
"""Seconds over which a ``"drip"`` reply is sent. Chosen by hand: noticeable, but fast enough."""

_DRIP_PIECES = 25
"""Pieces of a ``"drip"`` reply. Chosen by hand: clients must read the body several times."""

_MAX_BODY = 2_000_000
"""Largest request body in bytes; the limit of TGI."""

_BACKLOG = 512
"""Connections that may wait to be accepted. Chosen by hand: more than any test opens at once."""


class RefusedError(Exception):
    """A request that is answered with an error in TGI's format.

    Args:
        status: HTTP status.
        error: Message of the error.
        error_type: Type of the error as TGI names it.
        headers: Headers of the reply.
    """

    def __init__(
        self, status: int, error: str, error_type: str, headers: Mapping[str, str] | None = None
    ) -> None:
        """See the class."""
        super().__init__(error)
        self.status, self.headers = status, headers or {}
        self.body = {"error": error, "error_type": error_type}


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """HTTP request, as read by the server.

    Args:
        method: Method, for example ``"POST"``.
        path: Path without the query.
        headers: Headers by name in lower case.
        content: Body; None if it exceeds 2 MB and was discarded.
        keep: Whether the client wants to keep the connection open.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes | None
    keep: bool


@dataclass(frozen=True, slots=True)
class HttpReply:
    """HTTP reply, and how to send it.

    Args:
        status: HTTP status.
        values: Body, sent as JSON; None for an empty one.
        headers: Headers other than the length and type of the body.
        delivery: How the reply is sent.
    """

    status: int
    values: Any
    headers: Mapping[str, str] = field(default_factory=dict)
    delivery: Delivery = "whole"


class HttpServer(ABC):
    """HTTP server on 127.0.0.1; start it with ``with``.

    A subclass defines in `serve` how a request is answered. All connections share one event loop
    in a thread that belongs to the server.

    Args:
        port: Port; 0 selects a free one.
    """

    def __init__(self, *, port: int = 0) -> None:
        """See the class."""
        self._port = port
        self._loop = LoopThread(self._close)
        self._server: asyncio.Server | None = None
        self._connections: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    @abstractmethod
    async def serve(self, request: HttpRequest, writer: asyncio.StreamWriter) -> bool:
        """Answer one request, with `send_reply` or by writing to the connection directly.

        An `OSError`, for example of a client that has closed the connection, ends the connection.

        Args:
            request: The request.
            writer: Stream to the client.

        Returns:
            Whether the connection stays open for further requests.
        """

    @property
    def url(self) -> str:
        """Root URL of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        """Port of the server; if constructed with port 0, known after the first start."""
        return self._port

    def __enter__(self: _Self) -> _Self:
        """Start the server."""
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop the server."""
        self.stop()
        self._loop.close()

    def start(self) -> None:
        """Start listening; after `stop`, on the same port as before.

        Raises:
            OSError: The port is in use.
        """
        self._loop.run(self._listen())

    def stop(self) -> None:
        """Stop immediately and abort all open connections."""
        if self._server is not None:
            self._loop.run(self._close())

    def wait(self) -> None:
        """Block until interrupted, for example by Ctrl-C."""
        while True:
            time.sleep(3600)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(
            self._accept, "127.0.0.1", self._port, backlog=_BACKLOG
        )
        self._port = int(self._server.sockets[0].getsockname()[1])

    async def _close(self) -> None:
        if self._server is None:
            return
        server, self._server = self._server, None
        loop = asyncio.get_running_loop()
        for listening in server.sockets:
            loop.remove_reader(listening.fileno())
        # A socket that has just been accepted becomes a connection within two turns of the loop.
        # Closing the server earlier would leak that socket.
        for _ in range(2):
            await asyncio.sleep(0)
        server.close()
        tasks = list(self._connections)
        for task, writer in self._connections.items():
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Python 3.11 logs the cancellation of a coroutine callback as an error; a task's is not.
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._connections[task] = writer
        task.add_done_callback(self._connections.pop)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection in order, and close it."""
        try:
            keep = True
            while keep and (request := await _read_request(reader, writer)) is not None:
                if isinstance(request, RefusedError):
                    refusal = HttpReply(request.status, request.body)
                    await send_reply(
                        writer, HttpRequest("(malformed)", "", {}, None, keep=False), refusal
                    )
                    break
                keep = await self.serve(request, writer)
        except (OSError, EOFError):
            # Clients may close a connection at any time.
            _logger.debug("A client closed its connection during a request", exc_info=True)
        finally:
            writer.close()


async def _read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> HttpRequest | RefusedError | None:
    """Read the next request: an error if it is malformed, None if the client has closed."""
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
    is_http = len(words) == 3 and words[2].startswith("HTTP/1.")
    # 15 digits: far above any real length, and quick to convert to an integer.
    if not is_http or not digits.isdecimal() or len(digits) > 15:
        return RefusedError(400, "Bad request", "validation")
    if "transfer-encoding" in headers:
        return RefusedError(411, "Send the body whole, with `content-length`", "validation")
    connection = headers.get("connection", "").lower()
    keep = "close" not in connection and (words[2] != "HTTP/1.0" or "keep-alive" in connection)
    if headers.get("expect", "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length, content = int(digits), None
    if length <= _MAX_BODY:
        content = await reader.readexactly(length)
    while content is None and length:
        # A client whose connection is closed while it sends would not read the reply.
        length -= len(await reader.readexactly(min(length, _MAX_BODY)))
    return HttpRequest(words[0], words[1].partition("?")[0], headers, content, keep)


async def send_reply(writer: asyncio.StreamWriter, request: HttpRequest, reply: HttpReply) -> bool:
    """Send a reply.

    Args:
        writer: Stream to the client.
        request: Request to answer.
        reply: Reply to send, in the way of its `delivery`.

    Returns:
        Whether the connection stays open.
    """
    _logger.debug("%s %s: %s", request.method, request.path, reply.status)
    if reply.delivery == "hang-up":
        return False
    content = b"" if reply.values is None else json.dumps(reply.values).encode()
    keep = request.keep and reply.delivery != "cut"
    head = [
        f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase}",
        "content-type: application/json",
        f"content-length: {len(content)}",
        *(f"{name}: {value}" for name, value in reply.headers.items()),
        # Clients must not expect a cut reply, so no header announces that the connection closes.
        *(["connection: close"] if not request.keep else []),
    ]
    start = ("\r\n".join(head) + "\r\n\r\n").encode("latin-1")
    if request.method == "HEAD":
        content = b""
    if reply.delivery == "cut":
        content = content[: len(content) // 2]
    if reply.delivery != "drip":
        writer.write(start + content)
        await writer.drain()
        return keep
    writer.write(start)
    size = max(1, -(-len(content) // _DRIP_PIECES))
    for position in range(0, len(content), size):
        await asyncio.sleep(_DRIP_SECONDS * size / len(content))
        writer.write(content[position : position + size])
        await writer.drain()
    return keep
