"""A chat model that says what it was told to: for tests, examples and dry runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from optuna_agenttts.exceptions import AgentTTSError
from optuna_agenttts.llm.port import ChatRequest, Completion, Usage

Reply = str | Completion | Exception
Script = Callable[[ChatRequest], Reply]


class ScriptedChatModel:
    """Answers from a script, in process.

    Args:
        script: The replies, in order; or a function from each request to its reply. A reply is a
            text, a `Completion`, or an exception to raise.
        delay: Seconds that each reply takes.
        sleep: Waits for some seconds.

    Raises:
        AgentTTSError: The script is a single string.

    Attributes:
        requests: What was asked so far.
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
            raise AgentTTSError("ScriptedChatModel: `script` is a string: give a list of replies.")
        self._function = script if callable(script) else None
        self._replies = [] if callable(script) else list(script)
        self._delay, self._sleep = delay, sleep
        self.requests: list[ChatRequest] = []

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Give the next reply; see `ChatModel.complete`.

        Raises:
            IndexError: The script has ended.
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
                f"ScriptedChatModel: the script has {len(self._replies)} replies, and request "
                f"{position + 1} came: write more of them, or give a function."
            )
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, Completion):
            return reply
        # Tokens are guessed at four characters each, as no tokenizer is involved.
        prompt = sum(len(message.content) for message in request.messages)
        return Completion(reply, Usage(prompt // 4, len(reply) // 4))
