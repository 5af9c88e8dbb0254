"""The words that the playground's models know; a token is a word."""

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
    """Words and their numbers.

    Args:
        words: All words; the first one pads.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(words)
        self._numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        """The number of words."""
        return len(self.words)

    @property
    def end(self) -> int:
        """The token that ends a reply."""
        return self._numbers[END]

    def encode(self, text: str) -> list[int]:
        """Turn text into tokens.

        Raises:
            ValueError: A word is unknown.
        """
        try:
            return [self._numbers[word] for word in text.split()]
        except KeyError as error:
            raise ValueError(
                f"`text` has the word {error.args[0]!r}, which these models never saw: they "
                "speak only the playground's language (see `playground.problems`)."
            ) from None

    def decode(self, tokens: Sequence[int]) -> str:
        """Turn tokens into text."""
        return " ".join(self.words[token] for token in tokens)


RETRIEVAL = Vocabulary(["_", END, "?", *DIGITS, *TITLES, *CONCEPTS])
ANSWER = Vocabulary(["_", END, "?", "=", ";", *OPERATORS, *DIGITS, *LETTERS])
