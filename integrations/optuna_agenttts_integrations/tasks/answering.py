"""A stage that answers a question from what an earlier stage chose."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from optuna_agenttts.llm import Message
from optuna_agenttts_integrations.pipeline.aggregation import Aggregation, normalized_vote
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.scoring.metrics import (
    contains_answer,
    exact_match,
    normalize_answer,
    token_f1,
)

ANSWER = re.compile(
    r"^(?:[^\w\n]|_)*(?:final\s)?answers?(?:[^\w\n:\uff1a]|_)*[:\uff1a]",
    re.IGNORECASE | re.MULTILINE,
)
"""Where an answer begins: "Answer:" at the start of a line, behind Markdown, quotes or a list's
dash, with the colon of ASCII or of full width."""

_FENCE = re.compile(r"`{3,}\w*|~{3,}\w*")
_MARKDOWN = "*_` \t"

METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact match": exact_match,
    "token F1": token_f1,
    "answer contained": contains_answer,
}
"""Scores of an answer against all accepted ones; see `metrics` for their normalization."""


def parse_answer(text: str, state: State) -> str | None:
    """Read the last line ``Answer: ...`` of a reply; None if there is none.

    An answer that begins on a line of its own is read too; Markdown around it is left out.
    """
    for head in reversed(list(ANSWER.finditer(text))):
        for line in text[head.end() :].splitlines():
            answer = "" if _FENCE.fullmatch(line.strip()) else line.strip().strip(_MARKDOWN)
            if answer:
                return answer
    return None


def join_answers(fusion: bool) -> Aggregation | LLMFusion:
    """How answers are joined: by the model, as in the paper, or by a vote after normalization."""
    vote = normalized_vote(normalize_answer)
    return LLMFusion(fallback=vote) if fusion else vote


def conversation(mark: str, ask: str) -> tuple[Message, Message]:
    """A prompt: what the stage is for, and what is asked."""
    return Message("system", mark), Message("user", ask)
