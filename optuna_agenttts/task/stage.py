"""Stages of a pipeline."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import index
from typing import Any

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support.efforts import Effort
from optuna_agenttts.support.names import LONGEST_KEY
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.efforts import with_efforts
from optuna_agenttts.task.model import Model, check_positive
from optuna_agenttts.task.texts import check_texts


@dataclass(frozen=True, slots=True)
class Stage:
    """Stage of a pipeline (a subtask in the paper).

    Args:
        name: Name without a dot, because parameters are called ``<stage>.model`` and
            ``<stage>.samples``.
        models: Models to choose from, in any order, at least one.
        prompt_tokens: Mean prompt length of one call, in tokens (Np).
        generation_tokens: Mean length of one sample, in tokens (Nd); of models at a thinking
            effort, without thoughts.
        max_samples: Upper bound on the number of samples, 1 or more.
        description: One sentence on the purpose of the stage, for people and the agent.
        model_parameter: Name of the Optuna parameter of the model, for a pipeline with other
            names. Default: ``<stage>.model``.
        samples_parameter: Name of the Optuna parameter of the number of samples. Default:
            ``<stage>.samples``.
        equal_samples: Groups of consecutive numbers of samples that always give equal outcomes,
            such as ``[(1, 2)]`` for a majority vote whose ties go to the first vote. Only one of
            each is tried. `MultiStageObjective` finds this out by itself.
        chooses_among: Name of the stage whose samples this stage chooses among, and nothing else.
            Where that one has one sample, model and samples of this stage have no effect.
        thinking: Thinking efforts to choose from, such as ``("off", "low", "high")`` or numbers
            of tokens, ``(0, 1024, 8192)``: `models` then holds each model that can think at each
            effort, and this argument is empty. See `efforts`.

    Raises:
        TaskError: An argument is invalid.
    """

    name: str
    models: Sequence[Model] = field(kw_only=True)
    prompt_tokens: float = field(kw_only=True)
    generation_tokens: float = field(kw_only=True)
    max_samples: int = field(default=100, kw_only=True)
    description: str = field(default="", kw_only=True)
    model_parameter: str = field(default="", kw_only=True)
    samples_parameter: str = field(default="", kw_only=True)
    equal_samples: Sequence[Sequence[int]] = field(default=(), kw_only=True)
    chooses_among: str = field(default="", kw_only=True)
    thinking: Sequence[Effort] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        """Check the values and fill in the names of the parameters."""
        if not isinstance(self.name, str) or not self.name or "." in self.name:
            raise TaskError(
                f"Stage: `name` must be a non-empty string without a dot, got {self.name!r}: "
                "parameters are called '<stage>.model' and '<stage>.samples'."
            )
        check_texts("Stage", LONGEST_KEY, name=self.name)
        owner = f"Stage {self.name!r}"
        models = tuple(self.models) if isinstance(self.models, Iterable) else ()
        if not models or not all(isinstance(model, Model) for model in models):
            raise TaskError(
                f"{owner}: `models` must hold at least one `Model`, got {self.models!r}."
            )
        models = with_efforts(models, self.thinking, owner)
        object.__setattr__(self, "thinking", ())
        names = [model.name for model in models]
        if len(set(names)) < len(names):
            raise TaskError(f"{owner}: names of `models` must be unique, got {names!r}.")
        check_positive(owner, "prompt_tokens", self.prompt_tokens)
        check_positive(owner, "generation_tokens", self.generation_tokens)
        most = self.max_samples
        if not is_finite(most) or most != int(most) or most < 1:
            raise TaskError(
                f"{owner}: `max_samples` must be an integer, 1 or more, got {self.max_samples!r}."
            )
        object.__setattr__(self, "models", models)
        object.__setattr__(self, "prompt_tokens", float(self.prompt_tokens))
        object.__setattr__(self, "generation_tokens", float(self.generation_tokens))
        object.__setattr__(self, "max_samples", int(self.max_samples))
        object.__setattr__(self, "model_parameter", self.model_parameter or f"{self.name}.model")
        object.__setattr__(
            self, "samples_parameter", self.samples_parameter or f"{self.name}.samples"
        )
        check_texts(owner, LONGEST_KEY, model_parameter=self.model_parameter)
        check_texts(owner, LONGEST_KEY, samples_parameter=self.samples_parameter)
        check_texts(owner, description=self.description, chooses_among=self.chooses_among)
        object.__setattr__(self, "equal_samples", checked_groups(owner, self.equal_samples))

    def sample_tokens(self, model: Model) -> float:
        """Return the mean length of one sample of a model, thoughts included, in tokens.

        Args:
            model: One of the stage's models.
        """
        if model.generation_tokens is not None:
            return model.generation_tokens
        return self.generation_tokens + (0 if model.thinking is None else model.thinking.tokens)


def has_efforts(stages: Iterable[Stage]) -> bool:
    """Return whether a model of some stages is at a thinking effort."""
    return any(model.thinking is not None for stage in stages for model in stage.models)


def checked_groups(owner: str, given: Any) -> tuple[tuple[int, ...], ...]:
    """Return groups of numbers of samples as tuples in ascending order.

    Raises:
        TaskError: They are not groups of consecutive numbers without one in common.
    """
    try:
        groups = tuple(tuple(sorted(map(index, group))) for group in given)
    except TypeError:
        groups = ((),)
    listed = [number for group in groups for number in group]
    if not all(
        group and group[0] >= 1 and len(group) == group[-1] - group[0] + 1 for group in groups
    ) or len(set(listed)) < len(listed):
        raise TaskError(
            f"{owner}: `equal_samples` must be groups of consecutive numbers of samples without "
            f"one in common, such as [(1, 2)], got {given!r}."
        )
    return groups


def checked_range(owner: str, given: object) -> tuple[float, float] | None:
    """Return the range of a metric as two floats, or None if there is none.

    Raises:
        TaskError: It is not a pair of finite numbers, the smaller one first.
    """
    if given is None:
        return None
    pair = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else ()
    if len(pair) != 2 or not all(map(is_finite, pair)) or not pair[0] < pair[1]:
        raise TaskError(
            f"{owner}: `metric_range` must be a pair of finite numbers, the smaller one first, "
            f"such as (0, 1), got {given!r}."
        )
    return float(pair[0]), float(pair[1])


def checked_stages(owner: str, stages: Sequence[Stage]) -> tuple[Stage, ...]:
    """Return the stages of a task as a tuple.

    Raises:
        TaskError: There is no stage, stages share a name or a parameter, or one chooses among the
            samples of no other stage.
    """
    stages = tuple(stages) if isinstance(stages, Iterable) else ()
    if not stages or not all(isinstance(stage, Stage) for stage in stages):
        raise TaskError(f"{owner}: `stages` must hold at least one `Stage`, got {stages!r}.")
    names = [stage.name for stage in stages]
    if len(set(names)) < len(names):
        raise TaskError(f"{owner}: names of `stages` must be unique, got {names!r}.")
    choosing = {stage.name for stage in stages if stage.chooses_among}
    for stage in stages:
        source = stage.chooses_among
        if source and (source not in names or source in choosing):
            raise TaskError(
                f"{owner}: `chooses_among` of stage {stage.name!r} must be another stage, which "
                f"does not choose itself, got {source!r}."
            )
    parameters = [p for s in stages for p in (s.model_parameter, s.samples_parameter)]
    if len(set(parameters)) < len(parameters):
        raise TaskError(
            f"{owner}: parameters of `stages` must be unique, got {parameters!r}: change "
            "`model_parameter` or `samples_parameter` of a stage."
        )
    return stages
