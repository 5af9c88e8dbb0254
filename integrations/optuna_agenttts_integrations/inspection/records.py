"""Records of what a stage sent, received and computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from optuna_agenttts.llm import Message

Purpose = Literal["samples", "repair", "fusion"]
Status = Literal["ran", "skipped", "failed", "not reached"]


@dataclass(frozen=True, slots=True)
class InspectedReply:
    """Reply of a model.

    Args:
        index: Index of the sample.
        text: The reply; None if it is missing from the store.
        value: What `parse` returned for it; None if it is malformed or missing.
        finish_reason: Why the reply ended, such as ``"stop"`` or ``"length"``.
        prompt_tokens: Tokens of the prompt.
        generated_tokens: Tokens of the reply.
        stored: Whether it was in the store already.
        thoughts: What the model thought before it.
    """

    index: int
    text: str | None = None
    value: Any = None
    finish_reason: str | None = None
    prompt_tokens: int = 0
    generated_tokens: int = 0
    stored: bool = False
    thoughts: str = ""

    @property
    def ended_in_thoughts(self) -> bool:
        """True if the model wrote thoughts only."""
        text = self.text or ""
        return not text.strip() and bool(self.thoughts or self.finish_reason == "length")


@dataclass(frozen=True, slots=True)
class InspectedRequest:
    """Request to a model, and its replies.

    Args:
        purpose: ``"samples"`` for the stage's own request, ``"repair"`` or ``"fusion"``.
        messages: The prompt.
        replies: Replies in order of their index, missing ones included.
    """

    purpose: Purpose
    messages: tuple[Message, ...]
    replies: tuple[InspectedReply, ...]


@dataclass(frozen=True, slots=True)
class InspectedStage:
    """Stage of a pipeline on one instance.

    Args:
        name: Name of the stage.
        status: Whether it ran.
        model: Its model; None for a `Step`.
        samples: Number of samples that the allocation asks for; 0 for a `Step`.
        requests: Its requests, the stage's own first.
        result: Its result: the joined samples.
        joined_by: Name of the aggregation; empty for a `Step`.
    """

    name: str
    status: Status
    model: str | None = None
    samples: int = 0
    requests: tuple[InspectedRequest, ...] = ()
    result: Any = None
    joined_by: str = ""

    @property
    def missing(self) -> int:
        """Number of replies that are not in the store."""
        return sum(reply.text is None for each in self.requests for reply in each.replies)
