"""Choices of a stage that are one model at several thinking efforts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support.efforts import Effort, is_off
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.thinking import (
    Thinking,
    checked_effort,
    expected_tokens,
)


def efforts(
    model: Model,
    *,
    tokens: Mapping[str, float] | None = None,
    **fields: Mapping[str, Any] | None,
) -> list[Model]:
    """Return a model at several thinking efforts, each a choice of a stage.

    ``Stage(models=[*efforts(Model("Qwen/Qwen3-8B"), off={...}, low={...}), ...])`` has the choices
    "Qwen/Qwen3-8B, no thinking" and "Qwen/Qwen3-8B, low thinking". See also `Stage.thinking`.

    Args:
        model: The model. Its `generation_tokens`, if given, is the length of an answer without
            thoughts.
        tokens: Expected tokens of the thoughts of one sample, by effort. Default: 0 for ``off``
            and ``none``, 128 for ``minimal``, 512 for ``low``, 2,048 for ``medium`` and ``on``,
            8,192 for ``high``, 16,384 for ``xhigh`` and ``max``; another word expects four times
            as many as the one before it.
        fields: By effort, from the least to the most, the fields of requests that ask for it,
            such as ``{"chat_template_kwargs": {"enable_thinking": False}}``: they are added to
            `Model.extra`. None sends the effort in the form that the server reads, as
            `Stage.thinking` does. A number of tokens is written as ``**{"1024": {...}}``.

    Returns:
        The choices, in the order given.

    Raises:
        TaskError: No effort is given, two are the same, fields are not a dict of values that JSON
            can hold, or `tokens` has an effort that is not given or a value that is not 0 or more.
    """
    if not isinstance(model, Model):
        raise TaskError(f"efforts: `model` must be a `Model`, got {model!r}.")
    owner = f"efforts of model {model.name!r}"
    if not isinstance(tokens or {}, Mapping):
        raise TaskError(f"{owner}: `tokens` must be a dict by effort, got {tokens!r}.")
    if not fields:
        raise TaskError(f"{owner}: give at least one effort, such as `low={{...}}`.")
    listed = _checked(owner, fields)
    given = {checked_effort(owner, effort): value for effort, value in (tokens or {}).items()}
    if unknown := [effort for effort in given if effort not in listed]:
        raise TaskError(f"{owner}: `tokens` has {unknown[0]!r}, which is not among the efforts.")
    return _choices(model, listed, given, dict(zip(listed, fields.values())))


def with_efforts(models: Sequence[Model], given: Any, owner: str) -> tuple[Model, ...]:
    """Return the choices of a stage: each model that can think at each effort.

    Args:
        models: The models. Those with ``thinks=False`` and those that are at an effort already
            stay as they are.
        given: The efforts.
        owner: Prefix of error messages.

    Raises:
        TaskError: The efforts are invalid or not unique, or all models are at an effort already.
    """
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TaskError(
            f"{owner}: `thinking` must be a sequence of efforts, such as ('off', 'low', 'high') "
            f"or (0, 1024, 8192), got {given!r}."
        )
    listed = _checked(f"{owner}: `thinking`", given)
    if listed and all(model.thinking is not None for model in models):
        raise TaskError(
            f"{owner}: `thinking` has no effect, as each of the models is at an effort already: "
            "give `models` without efforts."
        )
    choices: list[Model] = []
    for model in models:
        fixed = not listed or model.thinks is False or model.thinking is not None
        choices += [model] if fixed else _choices(model, listed, {}, {})
    return tuple(choices)


def _checked(owner: str, given: Iterable[Any]) -> list[Effort]:
    """Return efforts, each of which is another one."""
    listed = [checked_effort(owner, effort) for effort in given]
    if len({"off" if is_off(effort) else effort for effort in listed}) < len(listed):
        raise TaskError(
            f"{owner}: efforts must be unique ('off', 'none' and 0 are one), got {listed!r}."
        )
    return listed


def _choices(
    model: Model,
    listed: Sequence[Effort],
    tokens: Mapping[Any, float],
    fields: Mapping[Any, Mapping[str, Any] | None],
) -> list[Model]:
    """Return a model at each effort."""
    if model.thinking is not None:
        raise TaskError(
            f"Model {model.name!r} is at a thinking effort already: give `{model.thinking.model}`."
        )
    choices = []
    before = 0.0
    for effort in listed:
        before = tokens.get(effort, expected_tokens(effort, before))
        more = fields.get(effort)
        thinking = Thinking(
            model=model.name, effort=effort, tokens=before, negotiated=more is None
        )
        if more is not None and not isinstance(more, Mapping):
            raise TaskError(f"{thinking.choice}: fields of requests must be a dict, got {more!r}.")
        extra = dict(model.extra or {})
        for name, value in (more or {}).items():
            own = extra.get(name)
            if isinstance(own, Mapping) and isinstance(value, Mapping):
                value = {**own, **value}
            extra[name] = value
        length = model.generation_tokens
        choices.append(
            replace(
                model,
                name=thinking.choice,
                thinking=thinking,
                extra=extra or None,
                generation_tokens=None if length is None else length + thinking.tokens,
            )
        )
    return choices


def efforts_by_model(models: Sequence[Model]) -> dict[str, list[int]]:
    """Return the choices that are one model at thinking efforts, by the model's name.

    Returns:
        Their positions, from the least effort to the most; empty if no model is at an effort.
    """
    found: dict[str, list[tuple[float, int]]] = {}
    for position, model in enumerate(models):
        if model.thinking is not None:
            found.setdefault(model.thinking.model, []).append((model.thinking.tokens, position))
    return {name: [position for _, position in sorted(pairs)] for name, pairs in found.items()}
