"""Embeddings: texts as vectors, for scores of what has no one right answer.

Vectors are kept like completions: what was embedded once is never asked for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlsplit, urlunsplit
from weakref import WeakKeyDictionary

import httpx2
import numpy as np
from huggingface_hub import AsyncInferenceClient
from huggingface_hub.errors import InferenceTimeoutError, OfflineModeIsEnabled

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm import (
    ChatError,
    ChatRefusedError,
    ChatUnavailableError,
    Completion,
    RetryPolicy,
    Usage,
)
from optuna_agenttts.llm.connections import Connections
from optuna_agenttts.llm.replies import error_of
from optuna_agenttts.llm.retry import with_retries
from optuna_agenttts.llm.secrets import ApiKey, LostKey, key_for, one_line, redact, redact_bytes
from optuna_agenttts.llm.wire import chat_url, is_loopback, shown_url, split_url
from optuna_agenttts_integrations.completions import PATIENT
from optuna_agenttts_integrations.exceptions import StoreError
from optuna_agenttts_integrations.pipeline import estimated_tokens
from optuna_agenttts_integrations.store import Asked, CompletionStore, canonical_json

_MOST_BYTES = 16_000_000
"""The longest reply to read: 32 vectors of 8192 numbers take about 6 MB as JSON."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


@runtime_checkable
class Embedder(Protocol):
    """Anything that turns texts into vectors."""

    @property
    def identity(self) -> str:
        """What tells its vectors from those of another embedder."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text, in order, all of one length.

        Raises:
            ChatUnavailableError: A later call may succeed.
            ChatRefusedError: Repeating the call is no use.
        """


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
            parts = split_url(base_url)
            if parts is None:
                raise AgentTTSError(
                    f"HuggingFaceEmbedder: `base_url` is {one_line(shown_url(base_url))!r}: give "
                    "one such as 'http://127.0.0.1:8080'."
                )
            if parts.username or parts.password:
                raise AgentTTSError(
                    "HuggingFaceEmbedder: `base_url` holds a user name or password: give the key "
                    "as `api_key`, where it is kept out of logs and storage."
                )
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
        headers = {
            "accept": "application/json",
            "accept-encoding": "identity",
            "content-type": "application/json",
            **({"authorization": f"Bearer {key}"} if key else {}),
        }
        body = json.dumps({"model": self.model, "input": list(texts)}).encode()
        received = bytearray()
        try:
            async with client.stream(
                "POST", _embeddings_url(base_url), content=body, headers=headers
            ) as reply:
                async for piece in reply.aiter_bytes():
                    received += piece
                    if len(received) > _MOST_BYTES:
                        raise ChatUnavailableError(
                            f"{self.where}: the reply is longer than {_MOST_BYTES} bytes",
                            kind="reply too long",
                        )
        except httpx2.TimeoutException:
            raise self._late() from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ChatUnavailableError(
                f"{self.where}: {type(error).__name__}: {one_line(str(error))}",
                kind=type(error).__name__,
            ) from None
        content = redact_bytes(bytes(received), key)
        if reply.status_code != 200:
            text = content.decode("utf-8", "replace")
            raise error_of(reply.status_code, reply.headers, text, self.where)
        try:
            vectors = _listed(json.loads(content), len(texts))
        except (ValueError, RecursionError) as error:
            raise self._unreadable(error) from None
        return vectors

    async def _call_hub(self, texts: Sequence[str], key: str | None) -> list[list[float]]:
        try:
            async with AsyncInferenceClient(api_key=key, timeout=self._timeout) as client:
                reply = await client.feature_extraction(list(texts), model=self.model)
        except OfflineModeIsEnabled:
            raise ChatRefusedError(
                f"{self.where}: HF_HUB_OFFLINE is set: unset it, or give the URL of a server",
                kind="offline",
            ) from None
        except InferenceTimeoutError:
            raise self._late() from None
        except httpx2.HTTPError as error:
            response = getattr(error, "response", None)
            if response is None:
                raise ChatUnavailableError(
                    f"{self.where}: {type(error).__name__}", kind=type(error).__name__
                ) from None
            text = redact(response.text, [key])
            raise error_of(response.status_code, response.headers, text, self.where) from None
        except json.JSONDecodeError as error:
            raise self._unreadable(error) from None
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            # No token, no such provider, or a reply of unexpected shape: the client says so.
            raise ChatRefusedError(
                f"{self.where}: {one_line(redact(str(error), [key]))}", kind=type(error).__name__
            ) from None
        except (OSError, RuntimeError) as error:
            raise ChatUnavailableError(
                f"{self.where}: {type(error).__name__}", kind=type(error).__name__
            ) from None
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


class StoredEmbedder:
    """An embedder that asks another for what a store does not hold, and keeps it there.

    Equal texts are embedded once. Failed calls are repeated where that helps.

    Args:
        embedder: The other.
        store: Where vectors are kept; it may be the store of the completions.
        policy: When to call again.
        rng: Source of randomness for waits between attempts.
        sleep: Waits for some seconds.
        replay: Whether everything must be in the store already.
    """

    def __init__(
        self,
        embedder: Embedder,
        store: CompletionStore,
        *,
        policy: RetryPolicy = PATIENT,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        replay: bool = False,
    ) -> None:
        """See the class."""
        self._embedder, self._store = embedder, store
        self._policy, self._rng, self._sleep = policy, rng or random.Random(0), sleep
        self._replay = replay

    @property
    def identity(self) -> str:
        """The other's identity."""
        return self._embedder.identity

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text; see `Embedder.embed`.

        Raises:
            ChatError: What the last call raised.
            StoreError: The store cannot be read or written, or lacks what is to be replayed.
        """
        asked = {text: self._asked(text) for text in texts}
        missing = [text for text, about in asked.items() if not self._store.get(about.key, 1)]
        if missing and self._replay:
            raise StoreError(
                f"The store {self._store.path!r} lacks the vectors of {len(missing)} texts by "
                f"{self.identity}: replay what the study embedded, or leave `replay` out."
            )
        if missing:
            vectors = await with_retries(
                lambda: self._embedder.embed(missing),
                policy=self._policy,
                rng=self._rng,
                sleep=self._sleep,
            )
            for text, vector in zip(missing, vectors):
                usage = Usage(round(estimated_tokens(text)), 0)
                self._store.put(asked[text], {0: Completion(json.dumps(vector), usage)})
        # From the store: where two callers embedded the same text at once, the first one counts.
        found = {text: self._store.get(about.key, 1)[0] for text, about in asked.items()}
        return [json.loads(found[text].text) for text in texts]

    def _asked(self, text: str) -> Asked:
        model = str(getattr(self._embedder, "model", self.identity))
        return Asked(self.identity, 0, canonical_json({"model": model, "input": text}))


class HashingEmbedder:
    """Counts words by hash: an offline stand-in for tests and examples.

    Words and the parts of identifiers (``wordCount``, ``word_count``) are taken in lower case, and
    each adds 1 to the entry that its hash names; the vector is then given length 1. Two texts are
    alike as far as they use the same words: this says nothing about their meaning.

    Args:
        dimensions: Length of the vectors.

    Raises:
        AgentTTSError: `dimensions` is below 1.
    """

    def __init__(self, dimensions: int = 256) -> None:
        """See the class."""
        if dimensions < 1:
            raise AgentTTSError(
                f"HashingEmbedder: `dimensions` is {dimensions!r}: give 1 or more."
            )
        self._dimensions = dimensions
        self.identity = f"hashing {dimensions}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector for each text; zero for a text without words."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> list[float]:
        vector = [0.0] * self._dimensions
        for word in _WORD.findall(text):
            digest = hashlib.blake2b(word.lower().encode("utf-8", "replace"), digest_size=8)
            vector[int.from_bytes(digest.digest(), "big") % self._dimensions] += 1
        norm = math.hypot(*vector)
        return [entry / norm for entry in vector] if norm else vector
