"""Embeddings of texts, for scores of outputs that have no single right answer.

Vectors are stored like completions, so that each text is embedded only once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, runtime_checkable

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm import Completion, RetryPolicy, Usage
from optuna_agenttts.llm.retry import with_retries
from optuna_agenttts.llm.untrusted import estimated_tokens
from optuna_agenttts_integrations.calls.completions import DEFAULT_RETRY_POLICY
from optuna_agenttts_integrations.calls.huggingface_embedder import HuggingFaceEmbedder
from optuna_agenttts_integrations.calls.sharing import Claim, Polls, release
from optuna_agenttts_integrations.calls.store import CompletionStore, RequestKey, canonical_json
from optuna_agenttts_integrations.exceptions import PipelineError, StoreError

__all__ = ["Embedder", "HashingEmbedder", "HuggingFaceEmbedder", "StoredEmbedder"]

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


@runtime_checkable
class Embedder(Protocol):
    """Interface of embedding models."""

    @property
    def identity(self) -> str:
        """Name that distinguishes its vectors from those of other embedders."""

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text, in order and all of one length.

        Args:
            texts: The texts.

        Raises:
            ChatUnavailableError: The call failed; a later one may succeed.
            ChatRefusedError: The call failed, and repeating it would fail again.
        """


class StoredEmbedder:
    """Embedder that stores the vectors of another embedder, and retries its failed calls.

    Args:
        embedder: Embedder of the texts that the store lacks.
        store: Store of the vectors; it may be the store of the completions.
        policy: Retries of failed calls.
        rng: Random number generator for the jitter of waits between attempts. Default: seed 0.
        sleep: Function that waits for a number of seconds.
        replay: Whether to raise an error instead of embedding texts.
    """

    def __init__(
        self,
        embedder: Embedder,
        store: CompletionStore,
        *,
        policy: RetryPolicy = DEFAULT_RETRY_POLICY,
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
        """Identity of the wrapped embedder."""
        return self._embedder.identity

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text; see `Embedder.embed`.

        Raises:
            ChatError: The error of the last attempt, if all fail.
            StoreError: The store cannot be read or written, or lacks a vector to be replayed.
            PipelineError: The wrapped embedder does not return one vector per text.
        """
        keys = {text: self._key(text) for text in texts}
        found = await self._stored(keys)
        missing = [text for text in keys if text not in found]
        if missing and self._replay:
            raise StoreError(
                f"The store {self._store.path!r} lacks the vectors of {len(missing)} texts by "
                f"{self.identity}: replay with the texts of the study, or do not set `replay`."
            )
        polls = Polls(self._rng, self._sleep)
        while missing:
            claims = {text: Claim(self._store, keys[text].digest, [0]) for text in missing}
            try:
                granted = {text: claims[text] for text in missing if await claims[text].granted()}
                found.update(await self._generate(granted, keys))
            finally:
                await release(
                    self._store, {keys[text].digest: claims[text].end() for text in claims}
                )
            missing = [text for text in missing if text not in found]
            if missing:
                # Other workers are embedding these texts.
                await polls.wait()
                found.update(await self._stored({text: keys[text] for text in missing}))
                missing = [text for text in missing if text not in found]
        return [json.loads(found[text].text) for text in texts]

    async def _stored(self, keys: Mapping[str, RequestKey]) -> dict[str, Completion]:
        """Return the stored vectors among those of texts, by text."""
        found = {}
        for text, key in keys.items():
            for completion in (await self._store.run(self._store.get, key.digest, 1)).values():
                found[text] = completion
        return found

    async def _generate(
        self, claims: Mapping[str, Claim], keys: Mapping[str, RequestKey]
    ) -> dict[str, Completion]:
        """Embed claimed texts, and return their vectors as stored: the first writer's are kept."""
        if not claims:
            return {}
        vectors = await with_retries(
            lambda: self._embedder.embed(list(claims)),
            policy=self._policy,
            rng=self._rng,
            sleep=self._sleep,
        )
        if len(vectors) != len(claims):
            raise PipelineError(
                f"{type(self._embedder).__name__} ({self.identity}) must return one vector "
                f"for each of {len(claims)} texts, got {len(vectors)}: correct its `embed`."
            )
        found = {}
        for (text, claim), vector in zip(claims.items(), vectors):
            reply = Completion(json.dumps(vector), Usage(round(estimated_tokens(text)), 0))
            found[text] = (await claim.put(keys[text], {0: reply}))[0]
        return found

    def _key(self, text: str) -> RequestKey:
        """Return the key of a text in the store."""
        model = str(getattr(self._embedder, "model", self.identity))
        return RequestKey(self.identity, 0, canonical_json({"model": model, "input": text}))


class HashingEmbedder:
    """Embedder that counts hashed words, for tests and offline examples.

    Each word, or part of an identifier (``wordCount``, ``word_count``), adds 1 to the entry that
    the hash of its lower case selects; the vector is then normalized to unit length. The
    similarity of two texts measures their common words, not their meaning.

    Args:
        dimensions: Length of the vectors. The default is chosen by hand.

    Raises:
        AgentTTSError: `dimensions` is below 1.
    """

    def __init__(self, dimensions: int = 256) -> None:
        """See the class."""
        if dimensions < 1:
            raise AgentTTSError(
                f"HashingEmbedder: `dimensions` must be at least 1, got {dimensions!r}."
            )
        self._dimensions = dimensions
        self.identity = f"hashing {dimensions}"

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Return one vector per text, zero for one without words; see `Embedder.embed`."""
        return [self._embed_text(text) for text in texts]

    def _embed_text(self, text: str) -> list[float]:
        """Return the vector of a text."""
        vector = [0.0] * self._dimensions
        for word in _WORD.findall(text):
            digest = hashlib.blake2b(word.lower().encode("utf-8", "replace"), digest_size=8)
            vector[int.from_bytes(digest.digest(), "big") % self._dimensions] += 1
        norm = math.hypot(*vector)
        return [entry / norm for entry in vector] if norm else vector
