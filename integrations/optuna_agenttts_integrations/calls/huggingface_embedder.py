"""Embedding models behind Hugging Face's router, or any OpenAI-compatible server."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakKeyDictionary

import httpx2
import numpy as np
from huggingface_hub import AsyncInferenceClient

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm import ChatError, ChatRefusedError, ChatUnavailableError
from optuna_agenttts.llm.connections import Connections, exchange
from optuna_agenttts.llm.replies import HUB_ERRORS, error_of, hub_error
from optuna_agenttts.llm.secrets import ApiKey, LostKey, key_for, one_line, redact
from optuna_agenttts.llm.wire import chat_url, check_base_url, is_loopback, shown_url

_MOST_BYTES = 16_000_000
"""The longest reply to read: 32 vectors of 8192 numbers take about 6 MB as JSON."""


class HuggingFaceEmbedder:
    """An embedding model behind an OpenAI-compatible server, or at Hugging Face.

    The same rules hold as for `HuggingFaceChat`: the user's Hugging Face token goes to servers of
    Hugging Face only, no redirect is followed, and nothing on this machine is reached through a
    proxy. Connections last for one call of `embed`.

    Args:
        model: The model's id, as the Hub or the server calls it.
        base_url: Root of a server with ``/v1/embeddings``, such as Text Embeddings Inference,
            vLLM or llama.cpp. Default: Hugging Face's router (feature extraction).
        api_key: A key, or a function that returns it; only a function travels with a pickle.
            Default: the user's Hugging Face token, for servers of Hugging Face; none for others.
        timeout: The most seconds for one request, from sending to the last byte.
        concurrency: The most requests at once; more wait their turn, outside the timeout.
        batch: The most texts in one request.
        max_characters: Of longer texts, only so many characters are sent: some servers refuse
            texts that are longer than the model reads. Default: texts are sent whole.

    Raises:
        AgentTTSError: An argument makes no sense.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: ApiKey = None,
        timeout: float = 60.0,
        concurrency: int = 8,
        batch: int = 32,
        max_characters: int | None = None,
    ) -> None:
        """See the class."""
        if not model or "://" in model:
            raise AgentTTSError(
                f"HuggingFaceEmbedder: `model` is {one_line(shown_url(model))!r}: give a model's "
                "name, and a URL as `base_url`, where the rules for keys hold."
            )
        if base_url is not None:
            check_base_url("HuggingFaceEmbedder", base_url)
        if not timeout > 0 or concurrency < 1 or batch < 1:
            raise AgentTTSError(
                f"HuggingFaceEmbedder: `timeout` is {timeout!r}, `concurrency` {concurrency!r} "
                f"and `batch` {batch!r}: all must be above 0."
            )
        if max_characters is not None and max_characters < 1:
            raise AgentTTSError(
                f"HuggingFaceEmbedder: `max_characters` is {max_characters!r}: give 1 or more, or "
                "None."
            )
        self.model, self.base_url = model, base_url
        self._api_key, self._timeout = api_key, timeout
        self._concurrency, self._batch = concurrency, batch
        self._max_characters = max_characters
        self._slots: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = (
            WeakKeyDictionary()
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave keys and what belongs to an event loop behind."""
        state = {k: v for k, v in self.__dict__.items() if k != "_slots"}
        if isinstance(self._api_key, str):
            state["_api_key"] = LostKey()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        self.__dict__.update(state)
        self._slots = WeakKeyDictionary()

    def __deepcopy__(self, memo: dict[int, Any]) -> HuggingFaceEmbedder:
        """Copy within the process; the key stays."""
        other = type(self).__new__(type(self))
        other.__setstate__(dict(self.__dict__))
        return other

    def __repr__(self) -> str:
        """Model and server, no key."""
        return f"<HuggingFaceEmbedder {self.where}>"

    @property
    def where(self) -> str:
        """Model and server, for people."""
        server = "Hugging Face" if self.base_url is None else urlsplit(self.base_url).netloc
        return f"{self.model} at {server}"

    @property
    def identity(self) -> str:
        """Model and server, and how much of a text is sent."""
        place = "hf"
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            place = f"{(parts.hostname or '').lower()}:{parts.port or parts.scheme}{parts.path}"
        cut = "" if self._max_characters is None else f", {self._max_characters} characters"
        return f"embedding {self.model} at {place}{cut}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text; see `Embedder.embed`."""
        sent = [text[: self._max_characters] for text in texts]
        parts = [sent[start : start + self._batch] for start in range(0, len(sent), self._batch)]
        if not parts:
            return []
        slots = self._slots.setdefault(
            asyncio.get_running_loop(), asyncio.Semaphore(self._concurrency)
        )
        # Not kept for longer: nobody would close them when their event loop ends.
        connections = Connections(
            concurrency=self._concurrency,
            timeout=self._timeout,
            # What runs on this machine is not reached through a proxy.
            trust_env=not is_loopback(self.base_url),
        )

        async def one(part: list[str]) -> list[list[float]]:
            async with slots:
                return await self._batch_of(connections, part)

        running = [asyncio.ensure_future(one(part)) for part in parts]
        try:
            found = await asyncio.gather(*running)
        finally:
            # Where one request failed, the others would go on without their connections.
            for future in running:
                future.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            await connections.aclose()
        vectors = [vector for batch in found for vector in batch]
        if len({len(vector) for vector in vectors}) > 1:
            raise ChatUnavailableError(
                f"{self.where}: the vectors have different lengths", kind="no embeddings"
            )
        return vectors

    async def _batch_of(self, connections: Connections, texts: Sequence[str]) -> list[list[float]]:
        key = key_for(self.base_url, self._api_key)
        try:
            if self.base_url is None:
                return await asyncio.wait_for(self._call_hub(texts, key), self._timeout)
            async with connections.lane() as client:
                call = self._call_url(client, self.base_url, texts, key)
                return await asyncio.wait_for(call, self._timeout)
        except asyncio.TimeoutError:
            raise self._late() from None
        except ChatError as error:
            raise type(error)(
                redact(str(error), [key]), kind=error.kind, retry_after=error.retry_after
            ) from None

    async def _call_url(
        self, client: httpx2.AsyncClient, base_url: str, texts: Sequence[str], key: str | None
    ) -> list[list[float]]:
        try:
            status, headers, content = await exchange(
                client,
                "POST",
                _embeddings_url(base_url),
                key=key,
                content=json.dumps({"model": self.model, "input": list(texts)}).encode(),
                most=_MOST_BYTES,
                where=self.where,
            )
        except httpx2.TimeoutException:
            raise self._late() from None
        if status != 200:
            raise error_of(status, headers, content.decode("utf-8", "replace"), self.where)
        try:
            return _listed(json.loads(content), len(texts))
        except (ValueError, RecursionError) as error:
            raise self._unreadable(error) from None

    async def _call_hub(self, texts: Sequence[str], key: str | None) -> list[list[float]]:
        try:
            async with AsyncInferenceClient(api_key=key, timeout=self._timeout) as client:
                reply = await client.feature_extraction(list(texts), model=self.model)
        except json.JSONDecodeError as error:
            raise self._unreadable(error) from None
        except HUB_ERRORS as error:
            raise hub_error(error, key=key, where=self.where, timeout=self._timeout) from None
        rows = np.asarray(reply)
        if rows.ndim > 2:
            raise ChatRefusedError(
                f"{self.where}: the model gives a vector for each token: take one that embeds "
                "sentences",
                kind="no embeddings",
            )
        try:
            return _vectors(rows.tolist(), len(texts))
        except ValueError as error:
            raise self._unreadable(error) from None

    def _late(self) -> ChatUnavailableError:
        return ChatUnavailableError(
            f"{self.where}: no reply within {self._timeout:g} s", kind="timeout"
        )

    def _unreadable(self, error: Exception) -> ChatUnavailableError:
        return ChatUnavailableError(
            f"{self.where}: the reply holds no embeddings: {one_line(str(error))}",
            kind="no embeddings",
        )


def _embeddings_url(base_url: str) -> str:
    """Where embeddings of a server live: ``/v1/embeddings`` unless the URL says."""
    parts = urlsplit(base_url)
    root = parts.path.rstrip("/").removesuffix("/embeddings")
    there = urlsplit(chat_url(urlunsplit((parts.scheme, parts.netloc, root, parts.query, ""))))
    path = there.path.removesuffix("/chat/completions") + "/embeddings"
    return urlunsplit((there.scheme, there.netloc, path, there.query, ""))


def _listed(values: Any, count: int) -> list[list[float]]:
    """The vectors of a decoded reply of OpenAI's form, in the order of the texts.

    Raises:
        ValueError: It is of another form.
    """
    data = values.get("data") if isinstance(values, Mapping) else None
    if not isinstance(data, list) or not all(isinstance(entry, Mapping) for entry in data):
        raise ValueError("`data` is no list of objects")
    if len(data) == count and all("index" in entry for entry in data):
        if sorted(repr(entry["index"]) for entry in data) != sorted(map(repr, range(count))):
            raise ValueError("`index` does not number the texts")
        data = sorted(data, key=lambda entry: entry["index"])
    return _vectors([entry.get("embedding") for entry in data], count)


def _vectors(rows: Any, count: int) -> list[list[float]]:
    """Check vectors, and make floats of their entries.

    Raises:
        ValueError: There are others than wanted, or not all entries are finite numbers.
    """
    if not isinstance(rows, list) or len(rows) != count:
        found = len(rows) if isinstance(rows, list) else "no list"
        raise ValueError(f"{count} vectors were asked for, and {found} came")
    vectors = []
    for row in rows:
        if not isinstance(row, list) or not row or len(row) != len(rows[0]):
            raise ValueError("the vectors are not lists of one length")
        if not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in row):
            raise ValueError("a vector holds something that is no number")
        try:
            vector = [float(x) for x in row]
        except OverflowError:
            vector = [math.inf]
        if not all(map(math.isfinite, vector)):
            raise ValueError("a vector holds something that is not finite")
        vectors.append(vector)
    return vectors
