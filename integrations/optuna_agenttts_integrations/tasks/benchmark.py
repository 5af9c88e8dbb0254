"""A data set with its task, its pipeline and its split into instances."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from optuna_agenttts import Model, Task
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts_integrations.calls.endpoints import Place, connect_endpoints
from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.instances import shared_instances
from optuna_agenttts_integrations.objective import MultiStageObjective
from optuna_agenttts_integrations.pipeline.stages import Pipeline, StageProgram, Step
from optuna_agenttts_integrations.tasks.records import LeftOut

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
Temperature = float | Mapping[str, float] | None
"""Sampling temperature: of all stages, or by the name of a stage."""


def with_sampling(
    stages: Sequence[StageProgram | Step],
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
) -> list[StageProgram | Step]:
    """Return the stages of a pipeline with other maximum lengths of replies and temperatures.

    Stages without a value keep theirs. Fusion and repair keep their own temperatures.

    Args:
        stages: The stages.
        max_tokens: The lengths in tokens, thoughts included: positive integers. Those of the
            stages are chosen for models that do not think.
        temperature: The temperatures, 0 or more.

    Raises:
        DataError: A value is invalid, or a name is not that of a stage.
    """
    names = [stage.name for stage in stages if isinstance(stage, StageProgram)]
    options: dict[str, dict[str, Any]] = {name: {} for name in names}
    for option, given, kind, is_valid in (
        ("max_tokens", max_tokens, "positive integers", _is_length),
        ("temperature", temperature, "numbers of 0 or more", _is_temperature),
    ):
        by_stage = given if isinstance(given, Mapping) else dict.fromkeys(names, given)
        values = {name: value for name, value in by_stage.items() if value is not None}
        if not (set(by_stage) <= set(names) and all(map(is_valid, values.values()))):
            raise DataError(
                f"`{option}` must be {kind} by the stages {', '.join(names)}, or one for all, got "
                f"{given!r}."
            )
        for name, value in values.items():
            options[name][option] = value
    return [
        replace(stage, **options[stage.name]) if isinstance(stage, StageProgram) else stage
        for stage in stages
    ]


def _is_length(value: object) -> bool:
    return type(value) is int and value > 0


def _is_temperature(value: Any) -> bool:
    return is_finite(value) and value >= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """A data set prepared for a search.

    Args:
        task: The task: stages, models, token lengths and budget as in the paper.
        pipeline: The pipeline.
        search: Instances for the search.
        held_out: Instances for the final evaluation, disjoint from `search`.
        left_out: Numbers of records that were left out, by reason; see `skip_unusable` of the
            functions that create benchmarks.

    Raises:
        DataError: An instance is in both parts.
    """

    task: Task
    pipeline: Pipeline
    search: tuple[Any, ...]
    held_out: tuple[Any, ...]
    left_out: LeftOut = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        search, held_out = (
            {str(n): instance for n, instance in enumerate(part)}
            for part in (self.search, self.held_out)
        )
        if shared := shared_instances(search, held_out):
            held, searched = next(iter(shared.items()))
            raise DataError(
                f"`held_out` must not have instances of `search`, got {len(shared)} that are in "
                f"both, for example `held_out[{held}]`, which is `search[{searched}]`: their "
                "score would be biased."
            )

    def __repr__(self) -> str:
        left_out = "".join(f", {count} left out: {why}" for why, count in self.left_out.items())
        return (
            f"<Benchmark {self.task.name}: {len(self.search)} instances for the search, "
            f"{len(self.held_out)} held out{left_out}>"
        )

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
