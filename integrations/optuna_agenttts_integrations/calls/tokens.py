"""Token counts of texts, estimated without a tokenizer."""

from __future__ import annotations

from collections.abc import Callable

TokenCounter = Callable[[str], float]
"""Function from a text to its number of tokens."""

CHARACTERS_PER_TOKEN = 4.0
"""Characters per token of English prose in the tokenizers of Llama 3 and Qwen 2.5, rounded."""


def estimated_tokens(text: str) -> float:
    """Return the estimated number of tokens of a text."""
    return len(text) / CHARACTERS_PER_TOKEN
