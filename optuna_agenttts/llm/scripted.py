"""Chat model with scripted replies, for tests, examples and dry runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.port import ChatRequest, Completion, Usage
from optuna_agenttts.llm.untrusted import estimated_tokens

Reply = str | Completion | Exception
_ESTIMATED = ("prompt_tokens", "completion_tokens")

Script = Callable[[ChatRequest], Reply]


class ScriptedChatModel:
    """In-process chat model that replies from a script.

    Args:
        script: The replies in order, or a function from a request to its reply. A reply is a
            text, a `Completion`, or an exception to raise.
        delay: Seconds that each reply takes.
        sleep: Coroutine function that waits for a number of seconds.

    Raises:
        AgentTTSError: `script` is a single string.

    Attributes:
        requests: The requests received so far.
    """

    model = "scripted"

    def __init__(
        self,
        script: Iterable[Reply] | Script,
        *,
        delay: float = 0.0,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """See the class."""
        if isinstance(script, str):
            raise AgentTTSError(
                "`script` must be a list of replies or a function, got a string: wrap it in a "
                "list."
            )
        self._function = script if callable(script) else None
        self._replies = [] if callable(script) else list(script)
        self._delay, self._sleep = delay, sleep
        self.requests: list[ChatRequest] = []

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Return the next reply; see `ChatModel.complete`.

        Raises:
            IndexError: The script has no more replies.
        """
        position = len(self.requests)
        self.requests.append(request)
        if self._delay:
            await self._sleep(self._delay)
        if self._function is not None:
            reply = self._function(request)
        elif position < len(self._replies):
            reply = self._replies[position]
        else:
            raise IndexError(
                f"`script` has {len(self._replies)} replies, got request {position + 1}: add "
                "replies, or pass a function."
            )
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Completion):
            return reply
        prompt = sum(estimated_tokens(message.content) for message in request.messages)
        usage = Usage(int(prompt), int(estimated_tokens(reply)), estimated=_ESTIMATED)
        return Completion(reply, usage)
