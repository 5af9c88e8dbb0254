"""Requests that `examine` sends, and what they took."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import cycle, islice

from optuna_agenttts.llm.outages import NO_QUOTA, REMEDIES
from optuna_agenttts.llm.port import (
    ChatError,
    ChatModel,
    ChatRefusedError,
    ChatRequest,
    Completion,
    Message,
)

SEED = 20_117
"""Seed of all requests except those that test other seeds; arbitrary."""
TEMPERATURE = 0.9
"""Temperature of requests whose replies should differ; chosen by hand."""
_ADDED_WORDS, _MAX_ADDED_CHARS = 64, 2000
"""Length of what is added to a prompt to see whether its count grows: well above the variation of
a count, far below the length of most prompts. Chosen by hand."""
_FILLER = "Answer in plain words, be brief, and do not repeat the question. "
_INSTRUCTION = Message("system", "Follow the instructions of the user.")
RANDOM_PROMPTS = (
    "Write a random number of 20 digits. Reply with its digits only.",
    "Write a sentence about the first thing that comes to your mind.",
)
"""Prompts with so many possible replies that equal ones are no coincidence. Models that are poor
at one of them count up, for example, but not at both."""
_REPLY_KINDS = {NO_QUOTA, "no JSON", "no text in reply", "reply too long"}
"""Kinds of failure, besides HTTP statuses, that prove that a server replied."""
_TOO_FEW = re.compile(
    r"could not finish the message|output limit was reached|(?:below|less than) minimum"
    r"|max\w*tokens\b.{0,60}(?:at least|greater than|>=)",
    re.I,
)
"""Words of servers about a `max_tokens` that is too small, as OpenAI's for thinking models."""
_DROPPED = {"ReadError", "RemoteProtocolError"}
"""Kinds of failure of a connection that the server has closed."""
_TEMPLATE_ERRORS = {"HTTP 400", "HTTP 500"}
"""Kinds of failure with which servers report errors of chat templates without naming the role."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Failed call: the error's kind and message, and whether the request was refused."""

    kind: str
    message: str
    refused: bool = False

    @property
    def answered(self) -> bool:
        """True if a server replied at all."""
        return self.kind.startswith("HTTP ") or self.kind in _REPLY_KINDS

    @property
    def needs_tokens(self) -> bool:
        """True if a larger `max_tokens` may lead to a text."""
        too_few = self.kind == "HTTP 400" and _TOO_FEW.search(self.message)
        return self.kind == "no text in reply" or bool(too_few)

    @property
    def may_be_template(self) -> bool:
        """True if a chat template that refuses system messages may be the cause."""
        return self.kind in _TEMPLATE_ERRORS


Outcome = Completion | Failure


@dataclass(kw_only=True)
class Prober:
    """Sender of the requests to one model.

    Args:
        chat: The chat model, without retries.
        model: Name of the model on its server.
        extra: Further fields of each request; see `ChatRequest.extra`.
        thinking: Thinking effort of each request; see `ChatRequest.thinking`.

    Attributes:
        calls: Number of requests sent.
        completions: The completions received.
        system: Whether requests may have system messages; set to False where they fail.
    """

    chat: ChatModel
    model: str
    extra: str | None = None
    thinking: str | int | None = None
    calls: int = 0
    completions: list[Completion] = field(default_factory=list)
    system: bool = True
    _failed: bool = False

    async def send(self, request: ChatRequest, *, seed: int = SEED) -> Outcome:
        """Send a request with the model's name and further fields."""
        outcome = await self._send(request, seed)
        if isinstance(outcome, Failure) and outcome.kind in _DROPPED and self._failed:
            # Some servers (uvicorn) close the connection after an error of status 500.
            outcome = await self._send(request, seed)
        self._failed = isinstance(outcome, Failure)
        return outcome

    async def _send(self, request: ChatRequest, seed: int) -> Outcome:
        self.calls += 1
        request = replace(request, model=self.model, extra=self.extra, thinking=self.thinking)
        try:
            found = await self.chat.complete(request, seed=seed)
        except ChatError as error:
            message = str(error).removeprefix(f"{getattr(self.chat, 'where', '')}: ")
            # The finding shows it in a line of its own.
            message = message.removesuffix(f". {REMEDIES.get(error.kind)}")
            return Failure(error.kind, message, isinstance(error, ChatRefusedError))
        # A user's chat model may raise anything; other exceptions than `ChatError` end a search.
        except Exception as error:
            message = f"raised {type(error).__name__}, which is not a `ChatError`"
            return Failure("no ChatError", message)
        self.completions.append(found)
        return found

    @property
    def thinks(self) -> bool:
        """True if a reply so far has thoughts."""
        return any(completion.thought_tokens for completion in self.completions)


def short_request(text: str, max_tokens: int = 1) -> ChatRequest:
    """Return a request for a short greedy reply."""
    messages = (Message("user", text),)
    return ChatRequest(model="", messages=messages, max_tokens=max_tokens, temperature=0.0)


def random_request(number: int, max_tokens: int, *, system: bool) -> ChatRequest:
    """Return a request for a random reply.

    Args:
        number: Position in `RANDOM_PROMPTS`.
        max_tokens: Maximum length of the reply.
        system: Whether it has a system message.
    """
    request = short_request(RANDOM_PROMPTS[number], max_tokens)
    messages = (*((_INSTRUCTION,) if system else ()), *request.messages)
    return replace(request, messages=messages, temperature=TEMPERATURE)


def count_chars(request: ChatRequest) -> int:
    """Return the number of characters in a request's messages."""
    return sum(len(message.content) for message in request.messages)


def lengthened(request: ChatRequest, *, system: bool) -> ChatRequest:
    """Return a request with some more words at the end of one of its messages.

    The words are some of the request's own, evenly spaced, so that they have about as many tokens
    per character and are known to a model that knows the request.

    Args:
        request: The request.
        system: Whether to lengthen the system message, which is added if there is none. Otherwise
            the last user message.
    """
    messages, role = list(request.messages), "system" if system else "user"
    if all(message.role != role for message in messages):
        messages.insert(0, Message("system" if system else "user", _FILLER))
    index = max(i for i, message in enumerate(messages) if message.role == role)
    content = messages[index].content
    texts = " ".join(message.content for message in request.messages)
    words = re.findall(r"\S+\s*", texts) or [_FILLER]
    spread = words[:: max(1, len(words) // _ADDED_WORDS)]
    added = " ".join(islice(cycle(spread), _ADDED_WORDS))[:_MAX_ADDED_CHARS]
    messages[index] = Message(messages[index].role, f"{content} {added}")
    return replace(request, messages=tuple(messages))
