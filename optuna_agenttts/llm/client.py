"""Client of one server: connections, certificates, proxies, headers and bounded replies."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import httpx2

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.outages import connection_error, note_answer
from optuna_agenttts.llm.port import ChatError, ChatRefusedError, ChatUnavailableError
from optuna_agenttts.llm.secrets import (
    ApiKey,
    Headers,
    headers_for,
    hide_keys,
    key_for,
    picklable_key,
    redact,
    secret_values,
)
from optuna_agenttts.llm.waiting import waiting
from optuna_agenttts.llm.wire import check_base_url, is_loopback
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.support.resetting import Resetting

if TYPE_CHECKING:
    from typing_extensions import Self

_T = TypeVar("_T")

Verify = bool | str | os.PathLike[str] | ssl.SSLContext
"""Certificates to trust: those of the environment (True), a file or folder, a context, or any
(False)."""

_KEEPALIVE_EXPIRY = 15.0
"""Seconds for which an idle connection is kept open; chosen by hand."""


@dataclass(frozen=True, slots=True)
class Session:
    """Connection of one call, with the key and the headers to send."""

    client: httpx2.AsyncClient
    key: str | None
    headers: Mapping[str, str]


class ServerClient(Resetting):
    """Client of one server: base class of chat models and embedders.

    Each call has a connection of its own, the most recently used one; further calls wait in a
    queue. httpcore2's pool scans all its connections for each request; with 64 of them this takes
    most of a call's time.

    The arguments are those of `HuggingFaceChat`. Proxies of the environment do not apply to
    servers on this machine.
    """

    _unpickled = ("_pools",)
    _provider: str | None = None  # for messages

    def __init__(
        self,
        model: str | None,
        *,
        base_url: str | None,
        api_key: ApiKey,
        timeout: float,
        concurrency: int,
        max_reply_bytes: int,
        headers: Headers = None,
        verify: Verify = True,
    ) -> None:
        """See the class."""
        owner = type(self).__name__
        if base_url is not None:
            check_base_url(owner, base_url)
        if isinstance(verify, (str, os.PathLike)) and not os.path.exists(verify):
            raise AgentTTSError(f"{owner}: `verify` names no file or folder: {str(verify)!r}.")
        if not timeout > 0:
            raise AgentTTSError(f"{owner}: `timeout` must be positive, got {timeout!r}.")
        if concurrency < 1:
            raise AgentTTSError(f"{owner}: `concurrency` must be at least 1, got {concurrency!r}.")
        self.model, self.base_url = model, base_url
        self._api_key, self._headers, self._verify = api_key, headers, verify
        self._timeout, self._concurrency = timeout, concurrency
        self._max_reply_bytes = max_reply_bytes
        self._reset()

    def _reset(self) -> None:
        self._pools: WeakKeyDictionary[asyncio.AbstractEventLoop, _Pool] = WeakKeyDictionary()

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without connections, and without keys given as values."""
        state = super().__getstate__()
        return state | {name: picklable_key(state[name]) for name in ("_api_key", "_headers")}

    def __copy__(self) -> Self:
        """Return a copy with the key and new connections."""
        other = type(self).__new__(type(self))
        other.__setstate__(self.__dict__)
        return other

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy with the key and new connections."""
        return self.__copy__()

    def __repr__(self) -> str:
        """Return model and server, without the key."""
        return f"<{type(self).__name__} {self.where}>"

    @property
    def where(self) -> str:
        """Model and server, for messages."""
        server = self._provider or "Hugging Face"
        if self.base_url is not None:
            server = urlsplit(self.base_url).netloc
        return server if self.model is None else f"{self.model} at {server}"

    def _pool(self) -> _Pool:
        loop = asyncio.get_running_loop()
        if loop not in self._pools:
            self._pools[loop] = _Pool(self._concurrency)
        return self._pools[loop]

    @asynccontextmanager
    async def _session(self) -> AsyncIterator[Session]:
        """Acquire a connection for one call; wait while all are in use."""
        async with self._pool().slots:
            pool = self._pool()
            client = pool.idle.pop() if pool.idle else await self._open()
            # `aclose` may have discarded the pool while this call waited.
            pool = self._pool()
            pool.all.add(client)
            try:
                key = key_for(self.base_url, self._api_key)
                yield Session(client, key, headers_for(key, self._headers))
            finally:
                pool.idle.append(client)

    async def _open(self) -> httpx2.AsyncClient:
        local = is_loopback(self.base_url)
        try:
            return httpx2.AsyncClient(
                timeout=httpx2.Timeout(self._timeout, pool=None),
                limits=httpx2.Limits(
                    # One for the current call, one for a cancelled call that is still closing.
                    max_connections=2,
                    max_keepalive_connections=1,
                    keepalive_expiry=_KEEPALIVE_EXPIRY,
                ),
                follow_redirects=False,
                trust_env=not local,
                verify=await self._certificates(local),
            )
        except (ImportError, ValueError, OSError, httpx2.InvalidURL) as error:
            raise setup_error(error) from None

    async def _certificates(self, local: bool) -> ssl.SSLContext:
        """Load the certificates once, in a thread: it takes up to 60 ms."""
        pool = self._pool()
        if pool.certificates is None:
            # Without TLS and proxies none are needed; those named may not even exist.
            plain = local and (self.base_url or "").startswith("http:")
            loading = asyncio.to_thread(_ssl_context, False if plain else self._verify)
            pool.certificates = asyncio.ensure_future(loading)
        return await asyncio.shield(pool.certificates)

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        pool = self._pools.pop(asyncio.get_running_loop(), None)
        for client in pool.all if pool is not None else ():
            await client.aclose()

    async def _call(self, work: Callable[..., Awaitable[_T]], *arguments: Any) -> _T:
        """Run a function of a session and further arguments, within the timeout.

        Raises:
            ChatError: The call failed; the message has no keys.
        """
        async with self._session() as session:
            try:
                return await asyncio.wait_for(work(session, *arguments), self._timeout)
            except asyncio.TimeoutError:
                raise self._no_reply(lost=True) from None
            except ChatError as error:
                error.args = (redact(str(error), secret_values(session.headers)),)
                raise

    async def _exchange(
        self,
        session: Session,
        method: str,
        url: str,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request, by default with the session's headers; read status, headers and body.

        Raises:
            ChatUnavailableError: The connection failed, or the reply is late, incomplete or too
                long.
        """
        headers = session.headers if headers is None else headers
        sent = {"accept": "application/json", "accept-encoding": "identity"}
        if content is not None:
            sent["content-type"] = "application/json"
        sent.update(headers)
        received = bytearray()
        # Many calls may start, or end, at once: let the event loop do other work between the steps
        # of each, here and after the reply is read.
        await asyncio.sleep(0)
        where, client = self.where, session.client
        try:
            with waiting(f"{where}: no reply yet", unless_answered=True):
                sending = client.stream(method, _parsed(url), content=content, headers=sent)
                async with sending as reply:
                    note_answer(where)
                    async for chunk in reply.aiter_bytes():
                        received += chunk
                        if len(received) > self._max_reply_bytes:
                            raise ChatUnavailableError(
                                f"{where}: the reply is longer than {self._max_reply_bytes} bytes",
                                kind="reply too long",
                                lost=True,
                            )
            await asyncio.sleep(0)
            # Before messages quote the beginning of the body.
            body = hide_keys(received.decode("latin-1"), secret_values(headers))
            return reply.status_code, reply.headers, body.encode("latin-1")
        except httpx2.TimeoutException as error:
            raise self._no_reply(lost=not isinstance(error, httpx2.ConnectTimeout)) from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise connection_error(error, where) from None

    def _no_reply(self, *, lost: bool) -> ChatUnavailableError:
        """Build the error of a call that timed out, or that could not connect."""
        return ChatUnavailableError(
            f"{self.where}: no reply within {self._timeout:g} s",
            # An unreachable host is retried for longer than a slow reply.
            kind="timeout" if lost else "ConnectTimeout",
            lost=lost,
        )


class _Pool:
    """Connections of one event loop, one for each client."""

    def __init__(self, concurrency: int) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.idle: list[httpx2.AsyncClient] = []
        self.all: set[httpx2.AsyncClient] = set()
        self.certificates: asyncio.Future[ssl.SSLContext] | None = None
        self.users = 0


@lru_cache(maxsize=256)
def _parsed(url: str) -> httpx2.URL:
    """Parse a URL, cached: parsing takes 5% of a call to a local server."""
    return httpx2.URL(url)


def setup_error(error: Exception) -> ChatRefusedError:
    """Build the error for proxies or certificates with which no connection can be made."""
    message = (
        f"{redact(one_line(str(error)), [])}. Check `verify=`, SSL_CERT_FILE and SSL_CERT_DIR, "
        "and the proxies in HTTPS_PROXY, HTTP_PROXY and ALL_PROXY"
    )
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
    path = verify if isinstance(verify, bool) else os.fspath(verify)
    return _load_certificates(
        path, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
    )


@lru_cache(maxsize=8)
def _load_certificates(verify: bool | str, *environment: str | None) -> ssl.SSLContext:
    """Load certificates, cached for other event loops."""
    if isinstance(verify, str):
        if os.path.isdir(verify):
            return ssl.create_default_context(capath=verify)
        return ssl.create_default_context(cafile=verify)
    return httpx2.create_ssl_context(verify)
