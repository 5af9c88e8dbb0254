"""The playground's models behind HTTP: a stand-in for TGI, or for an OpenAI-compatible server.

It generates from the same seeds as in process; the rest is `serving`.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts.llm import ChatRefusedError, ChatRequest, Completion
from optuna_agenttts_integrations.calls.endpoints import BatchingChatModel
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground.pipeline import ANSWERERS, RETRIEVERS, PlaygroundModel
from optuna_agenttts_integrations.testing.serving import (
    FAULTS,
    Dialect,
    Fault,
    Faults,
    LoopbackServer,
    ServerLimits,
)

__all__ = ["FAULTS", "Dialect", "Fault", "Faults", "PlaygroundServer"]

_LIMITS = ServerLimits(max_input_tokens=95, max_total_tokens=128)
"""The models have 128 positions."""


class PlaygroundServer(LoopbackServer):
    """Serves models of the playground on loopback; start it with ``with``.

    Args:
        models: Names of the models. TGI serves one of them.
        dialect: ``"tgi"``: one model, whatever name is asked for; ``"openai"``: several, by name.
        port: The port; 0 for any that is free.
        faults: Whether and how to misbehave.
        served_as: The name that the server claims while its only model answers; see
            `LoopbackServer`.

    Raises:
        PipelineError: A name is unknown, or TGI is to serve several models.
    """

    kind = "playground"

    def __init__(
        self,
        models: Sequence[str] = (*RETRIEVERS, *ANSWERERS),
        *,
        dialect: Dialect = "openai",
        port: int = 0,
        faults: Faults | None = None,
        served_as: str | None = None,
    ) -> None:
        """See the class."""
        known = (*RETRIEVERS, *ANSWERERS)
        if unknown := [name for name in models if name not in known]:
            raise PipelineError(f"PlaygroundServer: {unknown!r} is none of {', '.join(known)}.")
        super().__init__(
            {name: BatchingChatModel(PlaygroundModel(name)) for name in models},
            dialect=dialect,
            port=port,
            faults=faults,
            limits=_LIMITS,
            served_as=served_as,
        )

    async def complete(self, model: str, request: ChatRequest, seed: int) -> Completion:
        """Generate one completion, as `PlaygroundModel` does in process."""
        if request.stop:
            raise ChatRefusedError("the playground's models end by themselves")
        return await super().complete(model, request, seed)

    def prompt_tokens(self, request: ChatRequest) -> int:
        """Words of the last message: all that these models read."""
        return self.limits.count(request.messages[-1].content)
