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
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, runtime_checkable

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm import Completion, RetryPolicy, Usage
from optuna_agenttts.llm.retry import with_retries
from optuna_agenttts_integrations.calls.completions import PATIENT
from optuna_agenttts_integrations.calls.huggingface_embedder import HuggingFaceEmbedder
from optuna_agenttts_integrations.calls.store import CompletionStore, RequestKey, canonical_json
from optuna_agenttts_integrations.calls.tokens import estimated_tokens
from optuna_agenttts_integrations.exceptions import StoreError

__all__ = ["Embedder", "HashingEmbedder", "HuggingFaceEmbedder", "StoredEmbedder"]

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
        keys = {text: self._key(text) for text in texts}
        missing = [text for text, key in keys.items() if not self._store.get(key.digest, 1)]
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
                self._store.put(keys[text], {0: Completion(json.dumps(vector), usage)})
        # From the store: where two callers embedded the same text at once, the first one counts.
        found = {text: self._store.get(key.digest, 1)[0] for text, key in keys.items()}
        return [json.loads(found[text].text) for text in texts]

    def _key(self, text: str) -> RequestKey:
        model = str(getattr(self._embedder, "model", self.identity))
        return RequestKey(self.identity, 0, canonical_json({"model": model, "input": text}))


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
