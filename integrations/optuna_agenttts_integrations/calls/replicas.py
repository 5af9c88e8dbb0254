"""One model behind several servers that share the load."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from optuna_agenttts.llm import ChatModel, ChatRequest, ChatUnavailableError, Completion
from optuna_agenttts.llm.port import close_chat
from optuna_agenttts_integrations.exceptions import PipelineError

_PAUSE = 1.0
_LONGEST_PAUSE = 30.0


class ReplicatedChatModel:
    """A chat model that several servers serve.

    Each call goes to the server that has the fewest under way. One that fails is spared for a
    while that doubles with each failure, and the call is made again at the next one; seeds go
    along, so that it does not matter who answers.

    Args:
        replicas: The servers' chat models.
        clock: Seconds, as from `time.monotonic`.

    Raises:
        PipelineError: There are no replicas.
    """

    def __init__(
        self, replicas: Sequence[ChatModel], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """See the class."""
        if not replicas:
            raise PipelineError("ReplicatedChatModel: `replicas` is empty: give one or more.")
        self.replicas = tuple(replicas)
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._under_way = [0] * len(self.replicas)
        self._pause = [_PAUSE] * len(self.replicas)
        self._spared_until = [float("-inf")] * len(self.replicas)

    def __getstate__(self) -> dict[str, Any]:
        """Leave behind what is under way, and who is spared: clocks differ between machines."""
        return {"replicas": self.replicas, "_clock": self._clock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`."""
        self.__dict__.update(state)
        self._forget()

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""
        tried: set[int] = set()
        while True:
            chosen = self._choose(tried)
            tried.add(chosen)
            self._under_way[chosen] += 1
            try:
                completion = await self.replicas[chosen].complete(request, seed=seed)
            except ChatUnavailableError:
                self._spare(chosen)
                if len(tried) == len(self.replicas):
                    raise
            else:
                self._pause[chosen] = _PAUSE
                return completion
            finally:
                self._under_way[chosen] -= 1

    def _choose(self, tried: set[int]) -> int:
        now = self._clock()
        return min(
            (index for index in range(len(self.replicas)) if index not in tried),
            key=lambda i: (self._spared_until[i] > now, self._under_way[i], i),
        )

    def _spare(self, index: int) -> None:
        # Calls that were under way when it broke down tell of the same breakdown.
        if self._spared_until[index] > self._clock():
            return
        self._spared_until[index] = self._clock() + self._pause[index]
        self._pause[index] = min(_LONGEST_PAUSE, 2 * self._pause[index])

    async def aclose(self) -> None:
        """Close the replicas' connections of the running event loop."""
        for replica in self.replicas:
            await close_chat(replica)
