"""Pages on which a server describes itself: ``/health``, ``/info`` and ``/v1/models``."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from optuna_agenttts.llm.connections import exchange
from optuna_agenttts.llm.port import ChatError, ChatUnavailableError
from optuna_agenttts.llm.secrets import hide_keys, secret_values
from optuna_agenttts.llm.untrusted import as_mapping, decode_json
from optuna_agenttts.llm.wire import models_url, server_root

_PROBE_TIMEOUT = 5.0
"""Timeout for one page, in seconds; chosen by hand, as these pages are small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """Requests for a server's pages, on one connection.

    Args:
        client: HTTP client.
        base_url: URL of the server.
        headers: Headers to send.
        max_reply_bytes: Maximum length of a page, in bytes.
        where: Model and server, for error messages.
    """

    client: httpx2.AsyncClient
    base_url: str
    headers: Mapping[str, str]
    max_reply_bytes: int
    where: str

    async def healthy(self) -> bool:
        """Return whether the server reports that it is healthy (``/health``)."""
        status, _ = await self._get(server_root(self.base_url) + "/health")
        return status == 200

    async def info(self) -> Mapping[str, Any]:
        """Return TGI's ``/info``; empty for other servers."""
        _, values = await self._get(server_root(self.base_url) + "/info")
        return as_mapping(values)

    async def listing(self) -> tuple[int, tuple[Mapping[str, Any], ...]]:
        """Return the HTTP status (0: no reply) and the entries of ``/v1/models``."""
        status, values = await self._get(models_url(self.base_url))
        data = as_mapping(values).get("data")
        entries = data if isinstance(data, list) else []
        return status, tuple(entry for entry in entries if isinstance(entry, Mapping))

    async def model_names(self) -> tuple[str, ...]:
        """Return the names of the models that the server lists.

        Raises:
            ChatUnavailableError: The server is unreachable or lists no model.
        """
        status, entries = await self.listing()
        names = [entry.get("id") for entry in entries]
        if not names:
            info_status, values = await self._get(server_root(self.base_url) + "/info")
            names = [as_mapping(values).get("model_id")]
            status = status or info_status
        found = tuple(
            hide_keys(name, secret_values(self.headers))
            for name in names
            if isinstance(name, str) and name
        )
        if not found:
            raise ChatUnavailableError(
                f"{self.where}: the server lists no models "
                f"({'no reply' if not status else f'HTTP {status}'})",
                kind="no model listed",
            )
        return found

    async def _get(self, url: str) -> tuple[int, Any]:
        """Return the status (0: no reply) and decoded JSON (None: not JSON) of a page."""
        try:
            status, _, content = await asyncio.wait_for(
                exchange(
                    self.client,
                    "GET",
                    url,
                    headers=self.headers,
                    content=None,
                    max_bytes=self.max_reply_bytes,
                    where=self.where,
                ),
                _PROBE_TIMEOUT,
            )
            return status, decode_json(content) if status == 200 else None
        except (ChatError, asyncio.TimeoutError, httpx2.TimeoutException):
            return 0, None
