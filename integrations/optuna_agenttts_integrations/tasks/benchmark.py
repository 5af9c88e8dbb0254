"""A data set with its task, its pipeline and its split into instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna_agenttts import Model, Task
from optuna_agenttts_integrations.calls.endpoints import Place, connect_endpoints
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.objective import MultiStageObjective
from optuna_agenttts_integrations.pipeline.stages import Pipeline, StageProgram, Step

QWEN = (
    Model("Qwen/Qwen2.5-7B-Instruct", parameters=7e9),
    Model("Qwen/Qwen2.5-32B-Instruct", parameters=32e9),
    Model("Qwen/Qwen2.5-72B-Instruct", parameters=72e9),
)
LLAMA = (
    Model("meta-llama/Llama-3.2-3B-Instruct", parameters=3e9),
    Model("meta-llama/Llama-3.1-8B-Instruct", parameters=8e9),
    Model("meta-llama/Llama-3.1-70B-Instruct", parameters=70e9),
)
"""The models of AgentTTS, section 5.1, with the numbers of parameters of its cost model
(Theorem 1)."""


MaxTokens = int | Mapping[str, int] | None
"""Maximum length of replies in tokens: of all stages, or by the name of a stage."""


def with_max_tokens(
    stages: Sequence[StageProgram | Step], max_tokens: MaxTokens
) -> list[StageProgram | Step]:
    """Return the stages of a pipeline with other maximum lengths of replies.

    Args:
        stages: The stages.
        max_tokens: The lengths in tokens, thoughts included: positive integers. Stages without one
            keep theirs, which are chosen for models that do not think.

    Raises:
        DataError: A length is invalid, or a name is not that of a stage.
    """
    names = [stage.name for stage in stages if isinstance(stage, StageProgram)]
    given = max_tokens if isinstance(max_tokens, Mapping) else dict.fromkeys(names, max_tokens)
    limits = {name: limit for name, limit in given.items() if limit is not None}
    valid = all(type(limit) is int and limit > 0 for limit in limits.values())
    if not valid or not set(limits) <= set(names):
        raise DataError(
            f"`max_tokens` must be positive integers by the stages {', '.join(names)}, or one "
            f"for all, got {max_tokens!r}."
        )
    return [
        replace(stage, max_tokens=limits[stage.name])
        if isinstance(stage, StageProgram) and stage.name in limits
        else stage
        for stage in stages
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A data set prepared for a search.

    Args:
        task: The task: stages, models, token lengths and budget as in the paper.
        pipeline: The pipeline.
        search: Instances for the search.
        held_out: Instances for the final evaluation, disjoint from `search`.
    """

    task: Task
    pipeline: Pipeline
    search: tuple[Any, ...]
    held_out: tuple[Any, ...]

    def objective(
        self, places: Place | Mapping[str, Place] = "hf", **options: Any
    ) -> MultiStageObjective:
        """Create the objective on the instances for the search.

        Args:
            places: Where the task's models are served; see `connect_endpoints`.
            options: Further arguments of `MultiStageObjective`, such as ``store``.
        """
        return MultiStageObjective(
            self.pipeline,
            self.search,
            task=self.task,
            endpoints=connect_endpoints(self.task, places),
            **options,
        )
