"""HTTP server of the playground's models, with the API of TGI or of OpenAI-compatible servers.

Completions are those of the same seeds in process.
"""

from __future__ import annotations

from collections.abc import Sequence

from optuna_agenttts.llm import ChatRefusedError, ChatRequest, Completion
from optuna_agenttts_integrations.calls.batching import BatchingChatModel
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.playground.pipeline import MODELS, PlaygroundModel
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
"""The models have 128 positions; 33 remain for the reply of the longest prompt."""


class PlaygroundServer(LoopbackServer):
    """Server of playground models on 127.0.0.1, to be used as a context manager.

    Args:
        models: Names of the models. TGI serves exactly one.
        dialect: ``"tgi"``: one model, which answers requests for any name. ``"openai"``: several
            models, by name.
        port: The port; 0 selects a free one.
        faults: Injected faults. Default: none.
        served_as: The name under which the only model is listed; see `LoopbackServer`.

    Raises:
        PipelineError: A name is unknown, or `dialect` is ``"tgi"`` with several models.
    """

    kind = "playground"

    def __init__(
        self,
        models: Sequence[str] = MODELS,
        *,
        dialect: Dialect = "openai",
        port: int = 0,
        faults: Faults | None = None,
        served_as: str | None = None,
    ) -> None:
        if unknown := [name for name in models if name not in MODELS]:
            raise PipelineError(
                f"PlaygroundServer: `models` must be among {', '.join(MODELS)}; got {unknown!r}."
            )
        super().__init__(
            {name: BatchingChatModel(PlaygroundModel(name)) for name in models},
            dialect=dialect,
            port=port,
            faults=faults,
            limits=_LIMITS,
            served_as=served_as,
        )

    async def complete(self, model: str, request: ChatRequest, seed: int) -> Completion:
        """Generate one completion with `PlaygroundModel`.

        Raises:
            ChatRefusedError: The request has stop strings, which these models do not support.
        """
        if request.stop:
            raise ChatRefusedError("`stop` is not supported by the playground's models")
        return await super().complete(model, request, seed)

    def prompt_tokens(self, request: ChatRequest) -> int:
        """Return the number of words in the last message; these models ignore the others."""
        return self.limits.count(request.messages[-1].content)
