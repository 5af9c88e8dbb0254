"""Prompts, parsing, aggregation and metrics of stages that answer a question."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from optuna_agenttts.llm import Message
from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts_integrations.pipeline.aggregation import Aggregation, normalized_vote
from optuna_agenttts_integrations.pipeline.fusion import LLMFusion
from optuna_agenttts_integrations.pipeline.stages import State
from optuna_agenttts_integrations.scoring.metrics import (
    contains_answer,
    exact_match,
    normalize_answer,
    token_f1,
)

ANSWER_HEADER = re.compile(
    r"^(?:[^\w\n]|_)*(?:\d{1,2}[.)]\s)?"
    r"(?:the\s(?:final\s|correct\s)?answers?\s(?:is|are)|(?:final\s)?answers?)"
    r"(?:[^\w\n:\uff1a]|_)*(?:[:\uff1a]|$)",
    re.IGNORECASE | re.MULTILINE,
)
"""Start of an answer: "Answer:" or "The answer is:" at the start of a line, after optional
Markdown, quotes or a list marker, or a heading "Answer". The colon is ASCII or full-width."""

_BOX = r"\\boxed\s?\{((?:[^{}\\\n]|\\.|\{[^{}\n]*\})*)\}"
_BOXES = re.compile(rf"{_BOX}(?:[\s$,;&]{{0,5}}(?:and)?[\s$]{{0,5}}{_BOX})*")
_LATEX_TEXT = re.compile(r"\\(?:text|textbf|mathrm|mathbf)\s?\{([^{}]*)\}")

_FENCE = re.compile(r"`{3,}\w*|~{3,}\w*")
_MARKDOWN = "*_` \t"
_MAX_ANSWER = 200_000
"""Characters at the end of a reply that are searched. Chosen by hand, so that it takes less than
.1 s."""

METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "exact match": exact_match,
    "token F1": token_f1,
    "answer contained": contains_answer,
}
"""Scores of an answer against all accepted answers, 0 to 1; `scoring.metrics` normalizes both."""


def parse_answer(text: str, state: State) -> str | None:
    """Return the answer after the last ``Answer:`` of a reply; None if there is none.

    The answer can also stand on one of the following lines. Markdown around it is stripped.
    """
    text = answer_text(text, _MAX_ANSWER)
    for head in reversed(list(ANSWER_HEADER.finditer(text))):
        for line in text[head.end() :].splitlines():
            answer = "" if _FENCE.fullmatch(line.strip()) else line.strip().strip(_MARKDOWN)
            if answer:
                return answer
    return None


def answer_text(text: str, length: int) -> str:
    """Return the end of a reply, without thoughts and with LaTeX's boxed x as a line "Answer: x".

    Args:
        text: The reply.
        length: Maximum length in characters.
    """
    return _BOXES.sub(_box_line, split_thoughts(text)[0][-length:])


def _box_line(boxes: re.Match[str]) -> str:
    inner = ", ".join(box[1].strip() for box in re.finditer(_BOX, boxes[0]))
    text = _LATEX_TEXT.sub(r"\1", inner)
    return f"\nAnswer: {ANSWER_HEADER.sub('', text).strip()}\n"


def answer_aggregation(fusion: bool) -> Aggregation | LLMFusion:
    """Return the aggregation of answers: fusion by the model, or a vote on normalized answers."""
    vote = normalized_vote(normalize_answer)
    return LLMFusion(fallback=vote) if fusion else vote


def prompt_messages(system: str, user: str) -> tuple[Message, Message]:
    """Return a prompt of a system and a user message."""
    return Message("system", system), Message("user", user)
