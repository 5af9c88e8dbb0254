"""Vocabularies of the playground's models; a token is a word."""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts_integrations.playground.problems import (
    CONCEPTS,
    DIGITS,
    END,
    LETTERS,
    OPERATORS,
    TITLES,
)


class Vocabulary:
    """Mapping between words and tokens.

    Args:
        words: All words in the order of their tokens; the first one is the padding.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        """Return the number of words."""
        return len(self.words)

    @property
    def end(self) -> int:
        """The end token."""
        return self._numbers[END]

    def encode(self, text: str) -> list[int]:
        """Convert a text into tokens.

        Raises:
            ValueError: A word is unknown.
        """
        try:
            return [self._numbers[word] for word in text.split()]
        except KeyError as error:
            raise ValueError(
                f"`text` contains the unknown word {error.args[0]!r}; the words that the "
                "playground's models know are in `playground.problems`."
            ) from None

    def decode(self, tokens: Sequence[int]) -> str:
        """Convert tokens into a text."""
        return " ".join(self.words[token] for token in tokens)


RETRIEVAL = Vocabulary(["_", END, "?", *DIGITS, *TITLES, *CONCEPTS])
ANSWER = Vocabulary(["_", END, "?", "=", ";", *OPERATORS, *DIGITS, *LETTERS])
