"""Load balancing over several servers of one model."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container, Sequence

from optuna_agenttts.llm import (
    ChatModel,
    ChatRequest,
    ChatUnavailableError,
    CircuitBreaker,
    Completion,
)
from optuna_agenttts.llm.port import close_chat, count_repeated, servers_behind, without_retries
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.support.resetting import Resetting
from optuna_agenttts_integrations.exceptions import PipelineError

_logger = logging.getLogger(__name__)

_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 1.0, 30.0
"""Seconds without calls after a server's first failure, and at most. Chosen by hand: a restart
takes minutes."""


class ReplicatedChatModel(Resetting):
    """Chat model that distributes its calls over several servers.

    Each call goes to the server with the fewest calls in progress. If a server is unavailable, the
    call is repeated with the same seed at the next one, and the server is avoided for 1 s, a time
    that doubles with each further failure up to 30 s.

    Args:
        replicas: Chat models of the servers.
        clock: Function that returns a monotonic time in seconds.

    Raises:
        PipelineError: There are no replicas.
    """

    _unpickled = ("_in_progress", "_breakers", "_logged")

    def __init__(
        self, replicas: Sequence[ChatModel], *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """See the class."""
        if not replicas:
            raise PipelineError("ReplicatedChatModel: `replicas` is empty: give one or more.")
        self.replicas = tuple(replicas)
        self._clock = clock
        self._reset()

    def _reset(self) -> None:
        """Set the state of all servers to idle and available."""
        self._in_progress = [0] * len(self.replicas)
        self._breakers = [
            CircuitBreaker(
                threshold=1,
                pause=_BACKOFF_SECONDS,
                longest=_MAX_BACKOFF_SECONDS,
                clock=self._clock,
            )
            for _ in self.replicas
        ]
        self._logged: set[int] = set()
        # Calls in progress are not those of a forked process.
        on_fork(self, ReplicatedChatModel._reset)

    async def complete(self, request: ChatRequest, *, seed: int) -> Completion:
        """Generate one completion; see `ChatModel.complete`."""
        errors: dict[int, ChatUnavailableError] = {}
        while True:
            chosen = self._choose(errors)
            self._in_progress[chosen] += 1
            try:
                completion = await self.replicas[chosen].complete(request, seed=seed)
            except ChatUnavailableError as error:
                self._breakers[chosen].record(error)
                errors[chosen] = error
                if len(errors) == len(self.replicas):
                    # One server that may come back is worth another call.
                    raise min(reversed(errors.values()), key=lambda e: e.permanent) from None
                if chosen not in self._logged:
                    self._logged.add(chosen)
                    _logger.warning(
                        "A server is unavailable: %s. Its calls go to the other servers of the "
                        "model until it answers. Further failures of it are not logged.",
                        one_line(str(error)),
                    )
                count_repeated(error)
            else:
                self._breakers[chosen].record(None)
                return completion
            finally:
                self._in_progress[chosen] -= 1

    def _choose(self, tried: Container[int]) -> int:
        """Return the index of the best server that was not tried."""
        return min(
            (index for index in range(len(self.replicas)) if index not in tried),
            key=lambda i: (self._breakers[i].is_open, self._in_progress[i], i),
        )

    def servers_behind(self) -> list[tuple[ChatModel, str]]:
        """Return the servers of all replicas; see `port.servers_behind`."""
        return [server for replica in self.replicas for server in servers_behind(replica)]

    def without_retries(self) -> ReplicatedChatModel:
        """Return the same servers, called without retries of their own."""
        return ReplicatedChatModel([without_retries(r) for r in self.replicas], clock=self._clock)

    async def aclose(self) -> None:
        """Close the replicas' connections of the running event loop."""
        for replica in self.replicas:
            await close_chat(replica)
