"""What a server says of itself: small pages beside its completions."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

from optuna_agenttts.llm.connections import exchange
from optuna_agenttts.llm.port import ChatError, ChatUnavailableError
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.llm.wire import chat_url, server_root

_PROBE_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """Requests for a server's pages, on one connection."""

    client: httpx2.AsyncClient
    base_url: str
    key: str | None
    max_reply_bytes: int
    where: str

    async def healthy(self) -> bool:
        """Whether the server says that it is well (``/health``)."""
        status, _ = await self._get(server_root(self.base_url) + "/health")
        return status == 200

    async def info(self) -> Mapping[str, Any]:
        """What TGI says of itself (``/info``); empty for other servers."""
        _, values = await self._get(server_root(self.base_url) + "/info")
        return values if isinstance(values, Mapping) else {}

    async def listing(self) -> tuple[int, tuple[Mapping[str, Any], ...]]:
        """The entries of ``/v1/models``, behind the HTTP status (0 where no reply came)."""
        url = chat_url(self.base_url).removesuffix("/chat/completions") + "/models"
        status, values = await self._get(url)
        data = values.get("data") if isinstance(values, Mapping) else None
        entries = data if isinstance(data, list) else []
        return status, tuple(entry for entry in entries if isinstance(entry, Mapping))

    async def names(self) -> tuple[str, ...]:
        """The names of the models that the server lists.

        Raises:
            ChatUnavailableError: The server is out of reach or lists none.
        """
        status, entries = await self.listing()
        names = [entry.get("id") for entry in entries]
        if not names:
            info_status, values = await self._get(server_root(self.base_url) + "/info")
            names = [values.get("model_id")] if isinstance(values, Mapping) else []
            status = status or info_status
        found = tuple(redact(name, [self.key]) for name in names if isinstance(name, str) and name)
        if not found:
            raise ChatUnavailableError(
                f"{self.where}: the server does not say which models it serves "
                f"({'no reply' if not status else f'HTTP {status}'})",
                kind="no model listed",
            )
        return found

    async def _get(self, url: str) -> tuple[int, Any]:
        """Get a small page: its status (0: out of reach) and decoded JSON (None: no JSON)."""
        try:
            status, _, content = await asyncio.wait_for(
                exchange(
                    self.client,
                    "GET",
                    url,
                    key=self.key,
                    content=None,
                    most=self.max_reply_bytes,
                    where=self.where,
                ),
                _PROBE_TIMEOUT,
            )
            return status, json.loads(content) if status == 200 else None
        except (ChatError, asyncio.TimeoutError, httpx2.TimeoutException):
            return 0, None
        except (ValueError, RecursionError):
            return 200, None
