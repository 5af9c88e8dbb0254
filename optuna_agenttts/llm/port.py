"""Interface to language models: one async method and its errors.

Both the agent and the tuned pipelines call models through this interface. Adapters implement it
for servers; the playground implements it in process.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast, runtime_checkable

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts.llm.untrusted import estimated_tokens


class ChatError(AgentTTSError):
    """A call produced no usable completion.

    Args:
        message: What happened, without secrets.
        kind: Short constant label, used for counting: ``"HTTP 429"``, ``"timeout"``.
        retry_after: Seconds that the server asks clients to wait, if it sent any.
        usage: Tokens that the call is known to have consumed; None if it consumed none.
        lost: Whether the reply was lost, so that the call may have generated up to `max_tokens`
            tokens that are not in `usage`.
        permanent: Whether waiting does not mend it: no credit, an unknown host, a closed port.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: str = "error",
        retry_after: float | None = None,
        usage: Usage | None = None,
        lost: bool = False,
        permanent: bool = False,
    ) -> None:
        """See the class."""
        super().__init__(message)
        self.kind, self.retry_after, self.usage, self.lost = kind, retry_after, usage, lost
        self.permanent = permanent


class ChatUnavailableError(ChatError):
    """The model is unreachable, overloaded or too slow; a later call may succeed.

    If it is `permanent`, only a call to another server may.
    """


class ChatRefusedError(ChatError):
    """The request was refused (unknown model, wrong key, too long); do not retry it."""


@dataclass(frozen=True, slots=True)
class Message:
    """Message of a conversation.

    Args:
        role: Role of its author.
        content: Its text.
    """

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """Request for one completion.

    Args:
        model: Name of the model on its server; empty for the chat model's default.
        messages: The conversation so far.
        max_tokens: Maximum number of tokens to generate.
        temperature: Sampling temperature; 0 is greedy.
        stop: Strings that end the generation.
        schema: JSON schema, as JSON text, for the reply. Servers with constrained generation
            enforce it; others may ignore it.
        extra: Further fields of the request's body, as JSON text of an object; see `Model`.
        thinking: Thinking effort, sent in the form that the server reads: a word such as
            ``"low"``, or the largest number of tokens of the thoughts. Default: the server's own.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    stop: tuple[str, ...] = ()
    schema: str | None = None
    extra: str | None = None
    thinking: str | int | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Numbers of tokens of a call.

    Args:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the completion, thoughts included.
        thought_tokens: Tokens of the thoughts in it; 0 if the server does not count them, see
            `Completion.thought_tokens`.
        cached_tokens: Tokens of the prompt that the server had cached, for the bill of the call.
        estimated: Names of the counts that are estimates, because the server reports none.
    """

    prompt_tokens: int
    completion_tokens: int
    thought_tokens: int = field(default=0, compare=False)
    cached_tokens: int = field(default=0, compare=False)
    estimated: tuple[str, ...] = field(default=(), compare=False)


def prompt_usage(request: ChatRequest) -> Usage:
    """Estimate the tokens of a request's prompt, of a call whose reply was lost."""
    tokens = sum(estimated_tokens(message.content) for message in request.messages)
    return Usage(max(1, int(tokens)), 0)


repeated_call: ContextVar[Callable[[ChatError], None] | None] = ContextVar(
    "repeated_call", default=None
)
"""Function that is called with the error of each failed call before it is repeated, to count its
tokens; it may raise, so that the call is not repeated."""


def count_repeated(error: ChatError) -> None:
    """Report a failed call that is about to be repeated; see `repeated_call`."""
    if (report := repeated_call.get()) is not None:
        report(error)


FAILED_REASONS = (
    *("abort", "aborted", "cancel", "cancelled", "canceled", "error", "failed", "timeout"),
    *("insufficient_system_resource", "modelunloaded", "network_error", "server_error"),
    *("internal_error", "interrupted", "preempted", "shutdown"),
)
"""Finish reasons, in lower case, of replies that a failing server cut off (vLLM and SGLang,
OpenRouter and Mistral, DeepSeek, LM Studio, Zhipu)."""
_REASONS = {
    "stop": (
        *("eos", "eos_token", "stop_sequence", "stop_token", "end_turn", "complete", "completed"),
    ),
    "length": (
        *("max_tokens", "max_output_tokens", "max_length", "model_length"),
        "model_context_window_exceeded",
    ),
    "content_filter": (
        *("safety", "sensitive", "prohibited_content", "recitation", "blocklist", "spii"),
        *("content_filtered", "guardrail_intervened"),
    ),
}
"""Names that servers use instead of OpenAI's (TGI and Together, xAI, Cohere; Anthropic, Gemini,
Mistral, Zhipu; Gemini, Zhipu, Bedrock)."""
_USUAL_REASONS = {other: usual for usual, others in _REASONS.items() for other in (usual, *others)}
_USUAL_REASONS |= {reason: reason for reason in (*FAILED_REASONS, "tool_calls", "refusal")}


def usual_reason(reason: str) -> str:
    """Return OpenAI's name of a finish reason; other reasons are returned unchanged."""
    return _USUAL_REASONS.get(reason.lower(), reason)


MAX_CHARACTERS = 1_000_000
"""Characters of a reply, and of its thoughts: twice those of the longest replies that providers
allow (128,000 tokens). All that reads replies takes less than .1 s for as many."""


@dataclass(frozen=True, slots=True)
class Completion:
    """Reply of a model.

    Args:
        text: The generated text. Thoughts in it are moved to `thoughts`. A text of more than a
            million characters is cut there, with the finish reason ``"length"``.
        usage: Numbers of tokens.
        finish_reason: ``"stop"``, ``"length"``, ``"content_filter"``, or another reason that the
            server reports; see `usual_reason`.
        thoughts: What the model thought before the text.
        model: Name of the model in the reply; empty if there is none.
    """

    text: str
    usage: Usage
    finish_reason: str = "stop"
    thoughts: str = ""
    model: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Separate the thoughts from the text, and use the usual name of the finish reason."""
        if max(len(self.text), len(self.thoughts)) > MAX_CHARACTERS:
            object.__setattr__(self, "text", self.text[:MAX_CHARACTERS])
            object.__setattr__(self, "thoughts", self.thoughts[:MAX_CHARACTERS])
            object.__setattr__(self, "finish_reason", "length")
        text, thoughts = split_thoughts(self.text)
        # Some servers send the same thoughts in the text and in a field.
        every = [self.thoughts, thoughts if thoughts != self.thoughts.strip() else ""]
        object.__setattr__(self, "text", text)
        object.__setattr__(self, "thoughts", "\n".join(filter(None, every)))
        object.__setattr__(self, "finish_reason", usual_reason(self.finish_reason))

    @property
    def thought_tokens(self) -> int:
        """Tokens of the thoughts, estimated from their share of the reply if not counted."""
        share = len(self.thoughts) / max(1, len(self.thoughts) + len(self.text))
        if self.finish_reason == "length" and not self.text.strip():
            # Servers may withhold thoughts.
            share = 1
        counted = self.usage.thought_tokens or round(share * self.usage.completion_tokens)
        return min(counted, self.usage.completion_tokens)

    @property
    def ended_in_thoughts(self) -> bool:
        """True if thoughts are all that the model wrote."""
        return not self.text.strip() and self.thought_tokens > 0

    @property
    def is_missing(self) -> bool:
        """True if there is no text because of thoughts, a filter, a refusal or a tool call."""
        return not self.text.strip() and (self.thought_tokens > 0 or self.finish_reason != "stop")

    @property
    def failed(self) -> bool:
        """True if the server failed before the reply was complete."""
        return self.finish_reason in FAILED_REASONS


@runtime_checkable
class ChatModel(Protocol):
    """Interface of chat models."""

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion.

        Args:
            request: The request.
            seed: Integer from 1 to 2**31 - 1. The same request and seed give the same completion
                if the server honors seeds.

        Returns:
            The completion.

        Raises:
            ChatUnavailableError: A later call may succeed.
            ChatRefusedError: The request was refused; do not retry it.
        """


async def close_chat(chat: ChatModel) -> None:
    """Close a chat model's connections on the running event loop, if it has any."""
    close = getattr(chat, "aclose", None)
    if close is not None:
        await close()


def servers_behind(chat: ChatModel) -> tuple[tuple[ChatModel, str], ...]:
    """Return the chat model of each server that a chat model calls, without retries.

    Wrappers answer with their method `servers_behind`.

    Returns:
        Pairs of a chat model and the name that it is asked for; empty for the request's.
    """
    find = getattr(chat, "servers_behind", None)
    return tuple(find()) if find is not None else ((chat, ""),)


def without_retries(chat: ChatModel) -> ChatModel:
    """Return a chat model that calls the same servers without retries.

    Wrappers answer with their method `without_retries`.
    """
    find = getattr(chat, "without_retries", None)
    return chat if find is None else cast(ChatModel, find())
