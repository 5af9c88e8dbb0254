"""A Llama forward pass in numpy, for tiny models.

The architecture is that of `transformers.LlamaForCausalLM` (RMSNorm, rotary position embeddings,
SwiGLU, tied embeddings); weights are read from a folder in Hugging Face format. Computation is in
float64: results of different summation orders differ by 1e-15 instead of 1e-7, so that in practice
a sample depends neither on its batch nor on the machine.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_ROWS = 2048
"""Maximum number of samples per batch; bounds the memory of the KV cache. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer, transposed for ``x @ w`` and concatenated where inputs are shared."""

    attention_norm: Floats
    qkv: Floats
    output: Floats
    mlp_norm: Floats
    gate_up: Floats
    down: Floats


@dataclass(slots=True)
class _Cache:
    """Cached keys and values, each of shape (layers, rows, heads, length, head width)."""

    keys: Floats
    values: Floats

    def rows(self, kept: Ints) -> _Cache:
        """Return the caches of some rows, possibly repeated."""
        return _Cache(self.keys[:, kept], self.values[:, kept])


class Transformer:
    """A small Llama model.

    Args:
        embedding: Token embeddings, shape (vocabulary, width); also the output layer.
        layers: Weights of the layers.
        norm: Weights of the final norm, shape (width,).
        heads: Number of attention heads.
        epsilon: Epsilon of the norms.
        theta: Base of the rotary position embeddings.
        positions: Maximum sequence length, in tokens.
        parameters: Number of parameters.
    """

    def __init__(
        self,
        *,
        embedding: Floats,
        layers: Sequence[_Layer],
        norm: Floats,
        heads: int,
        epsilon: float,
        theta: float,
        positions: int,
        parameters: int,
    ) -> None:
        self.parameters, self.positions = parameters, positions
        self._embedding, self._layers, self._norm = embedding, layers, norm
        self._heads, self._epsilon = heads, epsilon
        self._head_width = embedding.shape[1] // heads
        frequencies = theta ** -(np.arange(0, self._head_width, 2) / self._head_width)
        angles = np.arange(positions)[:, None] * np.concatenate([frequencies, frequencies])
        self._cos, self._sin = np.cos(angles), np.sin(angles)

    @classmethod
    def load(cls, folder: Path) -> Transformer:
        """Load a model from ``config.json`` and ``model.safetensors``.

        Raises:
            ValueError: The folder has a model of another architecture.
        """
        config = json.loads((folder / "config.json").read_text())
        shared = config["num_key_value_heads"] == config["num_attention_heads"]
        if config["model_type"] != "llama" or not config["tie_word_embeddings"] or not shared:
            raise ValueError(
                f"{folder.name}: the model must be a Llama model with tied embeddings and as many "
                "key as query heads."
            )
        stored = load_file(folder / "model.safetensors")
        weights = {name: value.astype(np.float64) for name, value in stored.items()}
        layers = []
        for index in range(config["num_hidden_layers"]):
            own = {
                name.removeprefix(f"model.layers.{index}."): value
                for name, value in weights.items()
                if name.startswith(f"model.layers.{index}.")
            }
            attention = [own[f"self_attn.{part}_proj.weight"].T for part in "qkv"]
            mlp = [own[f"mlp.{part}_proj.weight"].T for part in ("gate", "up")]
            layers.append(
                _Layer(
                    attention_norm=own["input_layernorm.weight"],
                    qkv=np.concatenate(attention, axis=1),
                    output=own["self_attn.o_proj.weight"].T.copy(),
                    mlp_norm=own["post_attention_layernorm.weight"],
                    gate_up=np.concatenate(mlp, axis=1),
                    down=own["mlp.down_proj.weight"].T.copy(),
                )
            )
        rope = config.get("rope_parameters") or {}
        return cls(
            embedding=weights["model.embed_tokens.weight"],
            layers=layers,
            norm=weights["model.norm.weight"],
            heads=config["num_attention_heads"],
            epsilon=config["rms_norm_eps"],
            theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
            positions=config["max_position_embeddings"],
            parameters=sum(value.size for value in stored.values()),
        )

    def logits(self, tokens: Ints) -> Floats:
        """Compute the logits after every token.

        Args:
            tokens: Tokens, shape (rows, length).

        Returns:
            Logits, shape (rows, length, vocabulary).
        """
        hidden = self._forward(tokens, self._empty(tokens.shape[0], tokens.shape[1]), 0)
        logits: Floats = hidden @ self._embedding.T
        return logits

    def generate(
        self,
        requests: Sequence[tuple[Sequence[int], int]],
        *,
        temperature: float,
        max_new_tokens: int,
        stop_token: int,
    ) -> list[list[int]]:
        """Sample one reply for each request.

        Args:
            requests: Pairs of prompt tokens and seed. A reply is a function of its prompt and
                seed, not of the other requests. Equal prompts are processed once.
            temperature: Sampling temperature; 0 is greedy decoding.
            max_new_tokens: Maximum length of a reply, in tokens.
            stop_token: Token that ends a reply; it is not part of the result.

        Returns:
            The replies as tokens, in the order of the requests.

        Raises:
            ValueError: A prompt is empty, or too long for the model's positions.
        """
        longest = max((len(prompt) for prompt, _ in requests), default=1)
        if longest + max_new_tokens > self.positions or any(not p for p, _ in requests):
            raise ValueError(
                f"Prompts must have 1 to {self.positions - max_new_tokens} tokens ("
                f"{self.positions} positions less `max_new_tokens` {max_new_tokens}); got an "
                f"empty prompt or one of {longest} tokens."
            )
        by_length: defaultdict[int, list[int]] = defaultdict(list)
        for position, (prompt, _) in enumerate(requests):
            by_length[len(prompt)].append(position)
        replies: list[list[int]] = [[] for _ in requests]
        for positions in by_length.values():
            for start in range(0, len(positions), _ROWS):
                part = positions[start : start + _ROWS]
                chosen = [requests[position] for position in part]
                for position, reply in zip(
                    part, self._generate(chosen, temperature, max_new_tokens, stop_token)
                ):
                    replies[position] = reply
        return replies

    def _generate(
        self,
        requests: Sequence[tuple[Sequence[int], int]],
        temperature: float,
        max_new_tokens: int,
        stop_token: int,
    ) -> list[list[int]]:
        prompts, row_of = np.unique(
            np.array([prompt for prompt, _ in requests], dtype=np.int64),
            axis=0,
            return_inverse=True,
        )
        row_of = row_of.reshape(-1)
        length = prompts.shape[1]
        cache = self._empty(len(prompts), length + max_new_tokens)
        last = self._forward(prompts, cache, 0)[row_of, -1]
        cache = cache.rows(row_of)
        draws = np.stack([np.random.default_rng(s).random(max_new_tokens) for _, s in requests])
        written = np.full((len(requests), max_new_tokens), stop_token, dtype=np.int64)
        alive, done = np.arange(len(requests)), np.zeros(len(requests), dtype=bool)
        for step in range(max_new_tokens):
            tokens = _choose(last @ self._embedding.T, temperature, draws[alive, step])
            written[alive, step] = tokens
            done[alive] |= tokens == stop_token
            going = np.flatnonzero(~done[alive])
            if len(going) == 0 or step == max_new_tokens - 1:
                break
            # Dropping finished rows copies the caches: not worth it for a few (.7: by hand).
            if len(going) < 0.7 * len(alive):
                alive, tokens, cache = alive[going], tokens[going], cache.rows(going)
            last = self._forward(tokens[:, None], cache, length + step)[:, 0]
        return [
            row[: row.index(stop_token)] if stop_token in row else row for row in written.tolist()
        ]

    def _empty(self, rows: int, length: int) -> _Cache:
        shape = (len(self._layers), rows, self._heads, length, self._head_width)
        return _Cache(np.empty(shape), np.empty(shape))

    def _forward(self, tokens: Ints, cache: _Cache, start: int) -> Floats:
        """Return the hidden states after the final norm, and extend the cache from `start`."""
        rows, length = tokens.shape
        end = start + length
        cos, sin = self._cos[start:end], self._sin[start:end]
        hidden = self._embedding[tokens]
        # Causal mask; a single new token may attend to all earlier ones.
        future = None if length == 1 else np.triu(np.full((length, end), -np.inf), k=start + 1)
        for index, layer in enumerate(self._layers):
            qkv = self._normed(hidden, layer.attention_norm) @ layer.qkv
            qkv = qkv.reshape(rows, length, 3, self._heads, self._head_width)
            queries, keys, values = qkv.transpose(2, 0, 3, 1, 4)
            cache.keys[index, :, :, start:end] = _rotate(keys, cos, sin)
            cache.values[index, :, :, start:end] = values
            seen_keys = cache.keys[index, :, :, :end]
            scores = _rotate(queries, cos, sin) @ seen_keys.swapaxes(-1, -2)
            scores *= self._head_width**-0.5
            if future is not None:
                scores += future
            mixed = _softmax(scores) @ cache.values[index, :, :, :end]
            mixed = mixed.transpose(0, 2, 1, 3).reshape(rows, length, -1)
            hidden = hidden + mixed @ layer.output
            gate, up = np.split(self._normed(hidden, layer.mlp_norm) @ layer.gate_up, 2, axis=-1)
            hidden = hidden + (gate / (1 + np.exp(-gate)) * up) @ layer.down
        return self._normed(hidden, self._norm)

    def _normed(self, hidden: Floats, weight: Floats) -> Floats:
        square = np.einsum("...d,...d->...", hidden, hidden)[..., None] / hidden.shape[-1]
        normed: Floats = hidden / np.sqrt(square + self._epsilon) * weight
        return normed


def _rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    half = x.shape[-1] // 2
    turned = np.concatenate([-x[..., half:], x[..., :half]], axis=-1)
    return x * cos + turned * sin


def _softmax(scores: Floats) -> Floats:
    weights: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)
    return weights


def _choose(logits: Floats, temperature: float, draws: Floats) -> Ints:
    """Sample one token per row by inverting the CDF; the most likely one at temperature 0."""
    if temperature == 0:
        return np.asarray(np.argmax(logits, axis=-1))
    cumulative = np.cumsum(_softmax(logits / temperature), axis=-1)
    chosen = (cumulative < draws[:, None] * cumulative[:, -1:]).sum(axis=-1)
    return np.asarray(np.minimum(chosen, logits.shape[-1] - 1))
