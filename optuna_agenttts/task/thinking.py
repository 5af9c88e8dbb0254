"""Thinking efforts: how long a model thinks before it answers."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support.efforts import BUDGET_RATIO, EXPECTED_TOKENS, Effort, is_off
from optuna_agenttts.support.numbers import is_finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Thinking:
    """Thinking effort of a model that is one choice of a stage; see `efforts`.

    Args:
        model: Name of the model on its server, which its choices of other efforts share.
        effort: A word such as ``"low"``, or the largest number of tokens of the thoughts.
        tokens: Expected tokens of the thoughts of one sample, 0 or more. They order the efforts of
            a model.
        negotiated: Whether requests carry the effort in the form that the server reads, rather
            than in `Model.extra`.

    Raises:
        TaskError: An argument is invalid.
    """

    model: str
    effort: Effort
    tokens: float
    negotiated: bool = False

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.model, str) or not self.model:
            raise TaskError(f"Thinking: `model` must be a non-empty string, got {self.model!r}.")
        effort = checked_effort(f"Thinking of model {self.model!r}", self.effort)
        object.__setattr__(self, "effort", effort)
        if not (is_finite(self.tokens) and self.tokens >= 0):
            raise TaskError(
                f"Thinking of model {self.model!r}: `tokens` must be finite and 0 or more, got "
                f"{self.tokens!r}."
            )
        object.__setattr__(self, "tokens", float(self.tokens))

    @property
    def room(self) -> int:
        """Tokens that thoughts may take, in addition to `max_tokens` of an answer."""
        if isinstance(self.effort, int):
            return self.effort
        return round(BUDGET_RATIO * max(self.tokens, EXPECTED_TOKENS.get(self.effort, 0)))

    @property
    def label(self) -> str:
        """Effort in words, such as "low thinking"."""
        if is_off(self.effort):
            return "no thinking"
        if isinstance(self.effort, int):
            return f"{self.effort} thinking tokens"
        return "thinking" if self.effort == "on" else f"{self.effort} thinking"

    @property
    def brief_label(self) -> str:
        """Effort without the word "thinking", such as "off", "low" or "1024 tokens"."""
        if is_off(self.effort):
            return "off"
        return f"{self.effort} tokens" if isinstance(self.effort, int) else self.effort

    @property
    def choice(self) -> str:
        """Name of the choice: the model and its effort, such as "Qwen/Qwen3-8B, low thinking"."""
        return f"{self.model}, {self.label}"


_CHOICE = re.compile(r"(.+), (?:(\S+) thinking|(\d+) thinking tokens|thinking)")


def brief_choice(name: str) -> str:
    """Return the name of a choice with its effort in one word, such as "m, low"; else the name."""
    found = _CHOICE.fullmatch(name)
    if found is None:
        return name
    effort = found[2] or found[3] or "on"
    return f"{found[1]}, {'off' if effort == 'no' else effort}"


def checked_effort(owner: str, effort: object) -> Effort:
    """Return an effort: known words in lower case, and digits as a number of tokens.

    False and True, as YAML reads the words off and on, are these words.

    Raises:
        TaskError: It is neither a non-empty word nor a whole number of tokens, 0 or more.
    """
    if isinstance(effort, bool):
        return "on" if effort else "off"
    if isinstance(effort, (int, np.integer)) and effort >= 0:
        return int(effort)
    if isinstance(effort, str) and (word := effort.strip()):
        if word.isdecimal():
            return int(word)
        return word.lower() if word.lower() in EXPECTED_TOKENS else word
    raise TaskError(
        f"{owner}: a thinking effort must be a word such as 'low' or a number of tokens, 0 or "
        f"more, got {effort!r}."
    )


def expected_tokens(effort: Effort, before: float) -> float:
    """Return the expected tokens of the thoughts of one sample.

    Args:
        effort: The effort.
        before: Expected tokens of the effort that is listed before it; 0 if it is the first.
    """
    if isinstance(effort, int):
        return effort / BUDGET_RATIO
    known = EXPECTED_TOKENS.get(effort)
    # An unknown word: as much more as "medium" is than "low".
    return float(known) if known is not None else max(EXPECTED_TOKENS["low"], 4 * before)
