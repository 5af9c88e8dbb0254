"""HTTP connections to one server, each lent to one call at a time, and one request on them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from weakref import WeakKeyDictionary

import httpx2

from optuna_agenttts.llm.port import ChatUnavailableError
from optuna_agenttts.llm.secrets import one_line, redact_bytes

_KEPT = 15.0
"""Seconds that an idle connection is kept."""


class Connections:
    """HTTP clients, one connection each, for every event loop that asks.

    A pool of httpcore2 looks through all its connections for each request: with 64 of them that
    is most of a call's time. Here the one that was given back last is taken, and calls wait for
    their turn in a queue of their own, so that waiting counts against no timeout.

    Args:
        concurrency: How many there are at most, for each event loop.
        timeout: Seconds for connecting, for sending, and for each piece of a reply.
        trust_env: Whether the environment's proxies are used.
    """

    def __init__(self, *, concurrency: int, timeout: float, trust_env: bool) -> None:
        """See the class."""
        self._concurrency, self._timeout, self._trust_env = concurrency, timeout, trust_env
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lanes] = WeakKeyDictionary()

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Lend a client; waits for one where all are lent."""
        async with self._lanes().slots:
            # Not before: connections may be closed while calls wait for their turn.
            lanes = self._lanes()
            client = lanes.idle.pop() if lanes.idle else self._open(lanes)
            try:
                yield client
            finally:
                lanes.idle.append(client)

    def _lanes(self) -> _Lanes:
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            self._loops[loop] = _Lanes(self._concurrency)
        return self._loops[loop]

    def _open(self, lanes: _Lanes) -> httpx2.AsyncClient:
        client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(self._timeout, pool=None),
            limits=httpx2.Limits(
                # One for a call, and one for what a call that was given up has not closed yet.
                max_connections=2,
                max_keepalive_connections=1,
                keepalive_expiry=_KEPT,
            ),
            follow_redirects=False,
            trust_env=self._trust_env,
            verify=_certificates(self._trust_env),
        )
        lanes.all.append(client)
        return client

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        lanes = self._loops.pop(asyncio.get_running_loop(), None)
        for client in lanes.all if lanes is not None else ():
            await client.aclose()


class _Lanes:
    """Clients of one event loop."""

    def __init__(self, concurrency: int) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.idle: list[httpx2.AsyncClient] = []
        self.all: list[httpx2.AsyncClient] = []


async def exchange(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    key: str | None,
    content: bytes | None,
    most: int,
    where: str,
) -> tuple[int, Mapping[str, str], bytes]:
    """Send a request, with JSON if any, and read the reply.

    Args:
        client: Of the server.
        method: The method.
        url: The URL.
        key: The key to send; the reply is without it.
        content: The body.
        most: The longest reply to read, in bytes.
        where: Who answers, for messages.

    Returns:
        Status, headers and body.

    Raises:
        ChatUnavailableError: There is no whole reply of bearable length.
        httpx2.TimeoutException: It came too late.
    """
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    if content is not None:
        headers["content-type"] = "application/json"
    if key:
        headers["authorization"] = f"Bearer {key}"
    received = bytearray()
    try:
        async with client.stream(method, _parsed(url), content=content, headers=headers) as reply:
            async for piece in reply.aiter_bytes():
                received += piece
                if len(received) > most:
                    raise ChatUnavailableError(
                        f"{where}: the reply is longer than {most} bytes", kind="reply too long"
                    )
            return reply.status_code, reply.headers, redact_bytes(bytes(received), key)
    except httpx2.TimeoutException:
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise ChatUnavailableError(
            f"{where}: {type(error).__name__}: {one_line(str(error))}", kind=type(error).__name__
        ) from None


@lru_cache(maxsize=256)
def _parsed(url: str) -> httpx2.URL:
    """Parsing takes a twentieth of a call to a near server, and the URL is always the same."""
    return httpx2.URL(url)


@lru_cache(maxsize=2)
def _certificates(trust_env: bool) -> ssl.SSLContext:
    """Reading them takes 60 ms, which 64 clients need not spend each."""
    return httpx2.create_ssl_context(trust_env=trust_env)
