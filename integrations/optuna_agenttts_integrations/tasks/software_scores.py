"""Scores of programs, by their requirement, their text and their run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

from optuna_agenttts_integrations.calls.embeddings import StoredEmbedder
from optuna_agenttts_integrations.pipeline.stages import Score, State
from optuna_agenttts_integrations.scoring.chatdev_metrics import (
    chatdev_code_text,
    chatdev_completeness,
)
from optuna_agenttts_integrations.scoring.metrics import cosine
from optuna_agenttts_integrations.tasks.programs import Program, Run, completeness, program_code

STAGES = ("coding", "static_review", "dynamic_test")
LAST_RUN, CONSISTENCY = "last execution", "consistency"
"""Names of the steps whose results are scored."""


def program_scores(has_embedder: bool, has_sandbox: bool) -> dict[str, Score]:
    """Return the available scores by name.

    - ``"completeness"``: 1 if no Python file has a placeholder or fails to parse, else 0.
    - ``"consistency"``: cosine similarity, at least 0, between the embeddings of the description
      and of the code without comments and docstrings. Needs an embedder.
    - ``"executability"``: 1 if the program exits with 0 or is still running at the sandbox's time
      limit, as a game would, else 0. Needs a sandbox.
    - ``"quality"``: the product of the available ones.
    - ``"ChatDev completeness"``, ``"ChatDev consistency"``, ``"ChatDev executability"``: those of
      ChatDev's script, with the same needs; see `chatdev_completeness`, `chatdev_code_text` and
      `chatdev_executability`. A negative cosine is 0.
    - ``"ChatDev quality"``: their product.

    Args:
        has_embedder: Whether the step `CONSISTENCY` is in the pipeline.
        has_sandbox: Whether the step `LAST_RUN` is in the pipeline.
    """
    own: dict[str, Callable[[State], float]] = {"completeness": _completeness}
    chatdev = {"ChatDev completeness": _chatdev_completeness}
    if has_embedder:
        own["consistency"] = partial(_consistency, 0)
        chatdev["ChatDev consistency"] = partial(_consistency, 1)
    if has_sandbox:
        own["executability"] = _executability
        chatdev["ChatDev executability"] = _chatdev_executability
    return {
        **own,
        "quality": partial(_quality, tuple(own.values())),
        **chatdev,
        "ChatDev quality": partial(_quality, tuple(chatdev.values())),
    }


def _completeness(state: State) -> float:
    return completeness(current_program(state))


def _chatdev_completeness(state: State) -> float:
    return chatdev_completeness(current_program(state).python)


def _consistency(which: int, state: State) -> float:
    return cast("tuple[float, float]", state[CONSISTENCY])[which]


def _executability(state: State) -> float:
    return float(cast(Run, state[LAST_RUN]).succeeded)


def _chatdev_executability(state: State) -> float:
    return float(not cast(Run, state[LAST_RUN]).traceback)


def _quality(parts: Sequence[Callable[[State], float]], state: State) -> float:
    return math.prod(part(state) for part in parts)


def latest_program(state: State) -> Program | None:
    """Return the program of the last stage that has one; None if there is none."""
    for name in reversed(STAGES):
        program = state.results.get(name)
        if program is not None:
            return cast(Program, program)
    return None


def current_program(state: State) -> Program:
    """Return the latest program; the coding stage fails instances without one."""
    return cast(Program, latest_program(state))


async def measure_consistency(embedder: StoredEmbedder, state: State) -> tuple[float, float]:
    """Return the consistency, and that of ChatDev's script.

    Args:
        embedder: Model that embeds texts.
        state: The state of an instance with a program.
    """
    program = current_program(state)
    # Embedding servers refuse empty texts.
    texts = [chatdev_code_text(program.python), *filter(None, [program_code(program)])]
    wanted, chatdev, *own = await embedder.embed([state.instance.description, *texts])
    consistency = max(0.0, cosine(wanted, own[0])) if own else 0.0
    return consistency, max(0.0, cosine(wanted, chatdev))
