"""What a task family makes of a data set: a task, a pipeline, and instances to run it on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from optuna_agenttts import Model, Task
from optuna_agenttts_integrations.calls.endpoints import Place, connect_endpoints
from optuna_agenttts_integrations.objective import MultiStageObjective
from optuna_agenttts_integrations.pipeline.stages import Pipeline

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
"""The paper's models (AgentTTS, section 5.1), with the sizes that its Theorem 1 counts with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A data set, ready to be searched on.

    Args:
        task: What is tuned: stages, models, token lengths and budget, as in the paper.
        pipeline: What is run.
        search: Instances to search on.
        held_out: Instances to score the winner on; none of them is among those to search on.
    """

    task: Task
    pipeline: Pipeline
    search: tuple[Any, ...]
    held_out: tuple[Any, ...]

    def objective(
        self, places: Place | Mapping[str, Place] = "hf", **options: Any
    ) -> MultiStageObjective:
        """The objective on the instances to search on.

        Args:
            places: Where the task's models live; see `connect_endpoints`.
            options: Further arguments of `MultiStageObjective`, such as ``store``.
        """
        return MultiStageObjective(
            self.pipeline,
            self.search,
            task=self.task,
            endpoints=connect_endpoints(self.task, places),
            **options,
        )
