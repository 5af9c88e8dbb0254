"""The port through which language models are called: one async method, and its errors.

Both the agent that plans a search and the pipelines that are tuned call models through it. What
implements it lives elsewhere: servers in adapters, the playground's models in process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from optuna_agenttts.exceptions import AgentTTSError


class ChatError(AgentTTSError):
    """A call gave no usable completion.

    Args:
        message: What happened, without secrets.
        kind: The same in a word or two that do not vary, to be counted: ``"HTTP 429"``,
            ``"timeout"``.
        retry_after: Seconds after which the server asks to be called again, if it said so.
    """

    def __init__(
        self, message: str, *, kind: str = "error", retry_after: float | None = None
    ) -> None:
        """See the class."""
        super().__init__(message)
        self.kind, self.retry_after = kind, retry_after


class ChatUnavailableError(ChatError):
    """The model was out of reach, overloaded or too slow; a later call may succeed."""


class ChatRefusedError(ChatError):
    """The request itself was refused (unknown model, wrong key, too long); repeating is no use."""


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """What is asked of a model.

    Args:
        model: The model's name, as its server calls it.
        messages: The conversation so far.
        max_tokens: The most tokens to generate.
        temperature: Sampling temperature; 0 is greedy.
        stop: Strings that end the generation.
        schema: A JSON schema, as JSON text, that the reply should follow. Servers that can
            constrain generation do; from others the reply may be anything.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float
    stop: tuple[str, ...] = ()
    schema: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that a call used: of the prompt, and generated."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Completion:
    """What a model answered.

    Args:
        text: The answer.
        usage: Tokens used.
        finish_reason: ``"stop"``, ``"length"``, or what else the server says.
    """

    text: str
    usage: Usage
    finish_reason: str = "stop"


@runtime_checkable
class ChatModel(Protocol):
    """Anything that answers chat requests."""

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion.

        Args:
            request: What is asked.
            seed: 1 to 2**31 - 1. The same request and seed give the same completion wherever the
                server honours seeds.

        Raises:
            ChatUnavailableError: A later call may succeed.
            ChatRefusedError: Repeating the call is no use.
        """


async def close_chat(chat: ChatModel) -> None:
    """Close the connections that a chat model holds on the running event loop, if it has any."""
    close = getattr(chat, "aclose", None)
    if close is not None:
        await close()
