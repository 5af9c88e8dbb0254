"""Embedding models behind Hugging Face's router, or any OpenAI-compatible server."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm import ChatRefusedError, ChatUnavailableError
from optuna_agenttts.llm.client import ServerClient, Session, Verify
from optuna_agenttts.llm.error_replies import error_in_body, error_of, http_error
from optuna_agenttts.llm.inference_providers import provider_request
from optuna_agenttts.llm.loop import gather
from optuna_agenttts.llm.secrets import ApiKey, Headers
from optuna_agenttts.llm.untrusted import as_mapping, as_number, decode_json
from optuna_agenttts.llm.wire import chat_url, redact_url
from optuna_agenttts.support.plain import one_line

_MAX_REPLY_BYTES = 16_000_000
"""Maximum length of a reply in bytes: 32 vectors of 8192 numbers take about 6 MB as JSON."""


class HuggingFaceEmbedder(ServerClient):
    """Embedding model at Hugging Face, or behind an OpenAI-compatible server.

    The security rules are those of `HuggingFaceChat`: the user's Hugging Face token is sent to
    servers of Hugging Face only, redirects are not followed, and servers on this machine are not
    reached through a proxy. Connections are closed at the end of each call of `embed`.

    Args:
        model: Id of the model on the Hub, or its name at the server.
        base_url: Root URL of a server with ``/v1/embeddings``, for example Text Embeddings
            Inference, vLLM or llama.cpp. Default: Hugging Face's router (feature extraction).
        api_key: API key, or a function that returns it; only a function is kept by pickling.
            Default: the user's Hugging Face token for servers of Hugging Face, none for others.
        timeout: Timeout of one request in seconds, from sending to the last byte.
        concurrency: Maximum number of concurrent requests; the time that others wait does not
            count toward their timeout.
        batch: Maximum number of texts per request.
        max_characters: Number of characters to truncate texts to, because some servers refuse
            texts longer than the model's context. Default: no truncation.
        headers: Further headers of each request; see `HuggingFaceChat`.
        verify: Certificates to trust; see `HuggingFaceChat`.

    Raises:
        AgentTTSError: An argument is out of range, or a URL is invalid.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: ApiKey = None,
        # Chosen by hand.
        timeout: float = 60.0,
        concurrency: int = 8,
        batch: int = 32,
        max_characters: int | None = None,
        headers: Headers = None,
        verify: Verify = True,
    ) -> None:
        """See the class."""
        if not model or "://" in model:
            raise AgentTTSError(
                f"HuggingFaceEmbedder: `model` is {one_line(redact_url(model))!r}: give a model's "
                "name, and a URL only as `base_url`."
            )
        if batch < 1:
            raise AgentTTSError(f"HuggingFaceEmbedder: `batch` must be at least 1, got {batch!r}.")
        if max_characters is not None and max_characters < 1:
            raise AgentTTSError(
                "HuggingFaceEmbedder: `max_characters` must be at least 1 or None, got "
                f"{max_characters!r}."
            )
        self._batch, self._max_characters = batch, max_characters
        super().__init__(
            model,
            base_url=base_url,
            api_key=api_key,
            timeout=timeout,
            concurrency=concurrency,
            max_reply_bytes=_MAX_REPLY_BYTES,
            headers=headers,
            verify=verify,
        )

    @property
    def identity(self) -> str:
        """Model, server and truncation, which determine the vectors."""
        place = "hf"
        if self.base_url is not None:
            parts = urlsplit(self.base_url)
            place = f"{(parts.hostname or '').lower()}:{parts.port or parts.scheme}{parts.path}"
        cut = "" if self._max_characters is None else f", {self._max_characters} characters"
        return f"embedding {self.model} at {place}{cut}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text; see `Embedder.embed`."""
        sent = [text[: self._max_characters] for text in texts]
        parts = [sent[start : start + self._batch] for start in range(0, len(sent), self._batch)]
        if not parts:
            return []
        pool = self._pool()
        pool.users += 1
        try:
            found = await gather(self._call(self._embed_batch, part) for part in parts)
        finally:
            pool.users -= 1
            if not pool.users:
                # No hook would close them at the end of the event loop.
                await self.aclose()
        vectors = [vector for batch in found for vector in batch]
        if len({len(vector) for vector in vectors}) > 1:
            raise ChatUnavailableError(
                f"{self.where}: the vectors have different lengths", kind="no embeddings"
            )
        return vectors

    async def _embed_batch(self, session: Session, texts: Sequence[str]) -> list[list[float]]:
        """Return the vectors of one request to a server, or to Hugging Face's router."""
        headers = session.headers
        if self.base_url is not None:
            url = _embeddings_url(self.base_url)
            body = {"model": self.model, "input": list(texts)}
        else:
            url, headers, body = await provider_request(
                list(texts),
                {},
                provider=None,
                task="feature-extraction",
                model=self.model,
                key=session.key,
                headers=headers,
                where=self.where,
            )
        sent = json.dumps(body).encode()
        status, received, content = await self._exchange(session, "POST", url, sent, headers)
        if status != 200:
            raise http_error(status, received, content.decode("utf-8", "replace"), self.where)
        values = decode_json(content)
        if error := error_of(as_mapping(values)):
            raise error_in_body(error, self.where, received, None)
        try:
            return self._read_vectors(values, len(texts))
        except ValueError as error:
            raise ChatUnavailableError(
                f"{self.where}: the reply has no valid embeddings: {one_line(str(error))}",
                kind="no JSON" if values is None else "no embeddings",
            ) from None

    def _read_vectors(self, values: Any, count: int) -> list[list[float]]:
        """Return the vectors of a decoded reply: a list, or OpenAI's format.

        Raises:
            ValueError: The reply has another format, or a number is not finite.
        """
        rows = values
        if not isinstance(values, list) or self.base_url is not None:
            rows = _openai_vectors(values, count)
        elif any(isinstance(row, list) and row and isinstance(row[0], list) for row in values):
            raise ChatRefusedError(
                f"{self.where}: the model returns one vector per token: use a model that embeds "
                "whole texts",
                kind="no embeddings",
            )
        if len(rows) != count:
            raise ValueError(f"expected {count} vectors, got {len(rows)}")
        vectors = []
        for row in rows:
            if not isinstance(row, list) or not row or len(row) != len(rows[0]):
                raise ValueError("the vectors are not lists of equal length")
            numbers = (as_number(entry, least=-math.inf) for entry in row)
            vector = [number for number in numbers if number is not None]
            if len(vector) < len(row):
                raise ValueError("a vector has an entry that is not a finite number")
            vectors.append(vector)
        return vectors


def _embeddings_url(base_url: str) -> str:
    """Return the URL of a server's embeddings, adding ``/v1`` and ``/embeddings`` if missing."""
    parts = urlsplit(base_url)
    root = parts.path.rstrip("/").removesuffix("/embeddings")
    there = urlsplit(chat_url(urlunsplit((parts.scheme, parts.netloc, root, parts.query, ""))))
    path = there.path.removesuffix("/chat/completions") + "/embeddings"
    return urlunsplit((there.scheme, there.netloc, path, there.query, ""))


def _openai_vectors(values: Any, count: int) -> list[Any]:
    """Return the vectors of a decoded reply in OpenAI's format, in the order of the texts."""
    data = as_mapping(values).get("data")
    if not isinstance(data, list) or not all(isinstance(entry, Mapping) for entry in data):
        raise ValueError("`data` is not a list of objects")
    if len(data) == count and all("index" in entry for entry in data):
        if sorted(repr(entry["index"]) for entry in data) != sorted(map(repr, range(count))):
            raise ValueError("the values of `index` are not those of the texts")
        data = sorted(data, key=lambda entry: entry["index"])
    return [entry.get("embedding") for entry in data]
