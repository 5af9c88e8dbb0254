"""HTTP connections to one server, each used by one call at a time, and requests on them."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from weakref import WeakKeyDictionary

import httpx2

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.outages import connection_error, note_answer
from optuna_agenttts.llm.port import ChatRefusedError, ChatUnavailableError
from optuna_agenttts.llm.secrets import hide_keys, redact, secret_values
from optuna_agenttts.llm.untrusted import one_line
from optuna_agenttts.llm.waiting import waiting
from optuna_agenttts.llm.wire import is_loopback

Verify = bool | str | ssl.SSLContext
"""Certificates to trust: those of the environment (True), a file or folder, a context, or any
(False)."""

_KEEPALIVE_EXPIRY = 15.0
"""Seconds for which an idle connection is kept open; chosen by hand."""


class Connections:
    """Pool of single-connection HTTP clients, separate for each event loop.

    httpcore2's pool scans all its connections for each request; with 64 of them this takes most
    of a call's time. This pool hands out the most recently used client, and calls wait for a
    client in its own queue, where waiting does not count against any timeout.

    Args:
        concurrency: Maximum number of connections per event loop.
        timeout: Seconds for connecting, for sending, and for each chunk of a reply.
        base_url: URL of the server, if known. Servers on this machine are not behind the proxies
            that the environment configures.
        verify: Certificates to trust.
    """

    def __init__(
        self, *, concurrency: int, timeout: float, base_url: str | None, verify: Verify = True
    ) -> None:
        """See the class."""
        self._concurrency, self._timeout = concurrency, timeout
        local = is_loopback(base_url)
        # Without TLS and proxies no certificates are needed; those named may not even exist.
        self._verify = False if local and (base_url or "").startswith("http:") else verify
        self._trust_env = not local
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _LoopPool] = WeakKeyDictionary()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[httpx2.AsyncClient]:
        """Acquire a client for one call; wait while all are in use."""
        async with self._pool().slots:
            context = None if self._pool().idle else await self._certificates(self._pool())
            # Look up again: `aclose` may have discarded the pool while this call waited.
            pool = self._pool()
            client = pool.idle.pop() if pool.idle else self._open(pool, context)
            try:
                yield client
            finally:
                pool.idle.append(client)

    def _pool(self) -> _LoopPool:
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            self._pools[loop] = _LoopPool(self._concurrency)
        return self._pools[loop]

    async def _certificates(self, pool: _LoopPool) -> ssl.SSLContext:
        """Load the certificates once, in a thread: it takes up to 60 ms."""
        if pool.context is None:
            loading = asyncio.to_thread(_ssl_context, self._verify)
            pool.context = asyncio.ensure_future(loading)
        try:
            return await asyncio.shield(pool.context)
        except OSError as error:
            raise setup_error(error) from None

    def _open(self, pool: _LoopPool, context: ssl.SSLContext | None) -> httpx2.AsyncClient:
        try:
            client = httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._timeout, pool=None),
                limits=httpx2.Limits(
                    # One for the current call, one for a cancelled call that is still closing.
                    max_connections=2,
                    max_keepalive_connections=1,
                    keepalive_expiry=_KEEPALIVE_EXPIRY,
                ),
                follow_redirects=False,
                trust_env=self._trust_env,
                verify=context or _ssl_context(self._verify),
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise setup_error(error) from None
        pool.all.append(client)
        return client

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        for client in pool.all if pool is not None else ():
            await client.aclose()


class _LoopPool:
    """Clients of one event loop."""

    def __init__(self, concurrency: int) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.idle: list[httpx2.AsyncClient] = []
        self.all: list[httpx2.AsyncClient] = []
        self.context: asyncio.Future[ssl.SSLContext] | None = None


async def exchange(
    client: httpx2.AsyncClient,
    method: str,
    url: str,
    *,
    headers: Mapping[str, str],
    content: bytes | None,
    max_bytes: int,
    where: str,
) -> tuple[int, Mapping[str, str], bytes]:
    """Send a request and read the reply.

    Args:
        client: HTTP client.
        method: HTTP method.
        url: URL of the request.
        headers: Headers to send; see `hide_keys` for the reply.
        content: JSON body, if any.
        max_bytes: Maximum length of the reply's body, in bytes.
        where: Model and server, for error messages.

    Returns:
        Status, headers and body.

    Raises:
        ChatUnavailableError: The connection failed, or the reply is incomplete or too long.
        httpx2.TimeoutException: The request timed out.
    """
    sent = {"accept": "application/json", "accept-encoding": "identity"}
    if content is not None:
        sent["content-type"] = "application/json"
    sent.update(headers)
    received = bytearray()
    try:
        with waiting(f"{where}: no reply yet", unless_answered=True):
            async with client.stream(method, _parsed(url), content=content, headers=sent) as reply:
                note_answer(where)
                async for chunk in reply.aiter_bytes():
                    received += chunk
                    if len(received) > max_bytes:
                        raise ChatUnavailableError(
                            f"{where}: the reply is longer than {max_bytes} bytes",
                            kind="reply too long",
                            lost=True,
                        )
                # Before messages quote the beginning of the body.
                body = hide_keys(received.decode("latin-1"), secret_values(headers))
                return reply.status_code, reply.headers, body.encode("latin-1")
    except httpx2.TimeoutException:
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise connection_error(error, where) from None


@lru_cache(maxsize=256)
def _parsed(url: str) -> httpx2.URL:
    """Parse a URL, cached: parsing takes 5% of a call to a local server."""
    return httpx2.URL(url)


def check_certificates(owner: str, verify: Verify) -> None:
    """Check that certificates to trust exist.

    Raises:
        AgentTTSError: The path names no file or folder.
    """
    if isinstance(verify, str) and not os.path.exists(verify):
        raise AgentTTSError(f"{owner}: `verify` names no file or folder: {verify!r}.")


def setup_error(error: Exception) -> ChatRefusedError:
    """Build the error for proxies or certificates with which no connection can be made."""
    message = redact(one_line(str(error)), [])
    if isinstance(error, ImportError):
        message = (
            "the environment configures a SOCKS proxy, which needs a package: run `pip install "
            "'optuna-agenttts[socks]'`, or add the server to NO_PROXY"
        )
    return ChatRefusedError(
        f"no connection is possible with this environment's proxies or certificates: {message}",
        kind="proxy" if isinstance(error, ImportError) else type(error).__name__,
    )


def _ssl_context(verify: Verify) -> ssl.SSLContext:
    """Return the certificates to trust."""
    if isinstance(verify, ssl.SSLContext):
        return verify
    return _load_certificates(
        verify, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    )


@lru_cache(maxsize=8)
def _load_certificates(verify: bool | str, *environment: str | None) -> ssl.SSLContext:
    """Load certificates, cached for other event loops."""
    if isinstance(verify, str):
        if os.path.isdir(verify):
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    return httpx2.create_ssl_context(verify)
