"""Stages of a task, built from a pipeline's token lengths and descriptions of its models."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support.efforts import Effort
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.stage import Stage


class DataPipeline(Protocol):
    """Pipeline that can measure its token lengths on data."""

    def lengths(self, instances: Sequence[Any]) -> Mapping[str, tuple[float, float]]:
        """Return mean tokens of a prompt and of a sample, for each stage that calls a model."""


def describe_stages(
    lengths: Mapping[str, tuple[float, float]],
    models: Mapping[str, Sequence[str | Model]],
    describe: Callable[[str], Model],
    max_samples: int,
    thinking: Sequence[Effort] | Mapping[str, Sequence[Effort]] = (),
) -> list[Stage]:
    """Build the stages of a task; see `Task.from_pipeline`.

    Args:
        lengths: Mean tokens of a prompt and of a sample, by stage.
        models: Models or names of models, by stage.
        describe: Function from a name to a model, called once per name.
        max_samples: Maximum number of samples in each stage.
        thinking: Thinking efforts of every stage, or by stage.

    Returns:
        The stages, in the order of `lengths`.

    Raises:
        TaskError: `models` lacks a stage, has an unknown one, or is not a list for one, or
            `thinking` has an unknown stage or is no efforts.
    """
    if not isinstance(models, Mapping) or set(models) != set(lengths):
        given = list(models) if isinstance(models, Mapping) else models
        raise TaskError(
            f"`models` must have the pipeline's stages {list(lengths)!r} as keys, got {given!r}."
        )
    by_stage = thinking if isinstance(thinking, Mapping) else dict.fromkeys(lengths, thinking)
    if unknown := sorted(set(by_stage) - set(lengths)):
        raise TaskError(
            f"`thinking` has {unknown[0]!r}, which is none of the pipeline's stages "
            f"{list(lengths)!r}."
        )
    described: dict[str, Model] = {}

    def to_model(model: str | Model) -> Model:
        if isinstance(model, Model):
            return model
        # An invalid name may not be hashable; `describe` raises an error for it.
        if not isinstance(model, str) or model not in described:
            described[model] = describe(model)
        return described[model]

    for stage, choices in models.items():
        if isinstance(choices, str) or not isinstance(choices, Iterable):
            raise TaskError(
                f"`models` must have a list of models or names for stage {stage!r}, got "
                f"{choices!r}."
            )
    return [
        Stage(
            stage,
            models=[to_model(model) for model in models[stage]],
            prompt_tokens=prompt,
            generation_tokens=generation,
            max_samples=max_samples,
            thinking=by_stage.get(stage, ()),
        )
        for stage, (prompt, generation) in lengths.items()
    ]
