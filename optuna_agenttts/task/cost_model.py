"""Protocol of cost models, and checks of what they return: users write their own."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from numbers import Real
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support.plain import one_line
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.texts import check_texts

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GIVEN = "optuna_agenttts.task.cost"
"""Module of the given cost models, which read the length of a model's samples themselves."""
_SHOWN = 80
"""Characters of a refused result that an error shows; chosen by hand."""


@runtime_checkable
class CostModel(Protocol):
    """Protocol of cost models: any object with `stage_cost` and `unit`.

    Costs must be finite, 0 or more, and must not fall as samples are added: feasible allocations
    are found by bisection. `Task` checks this when it is constructed.
    """

    @property
    def unit(self) -> str:
        """Unit shown to people, such as ``"USD"`` or ``"s"``."""

    def stage_cost(self, stage: Stage, model: Model, samples: Ints) -> Floats:
        """Return the cost of samples of a model in a stage, for one instance.

        Args:
            stage: The stage, with its prompt and generation lengths in tokens, the latter that of
                samples of this model.
            model: One of the stage's models.
            samples: Numbers of samples, each 1 or more, any shape.

        Returns:
            Costs, in the shape of `samples`.

        Raises:
            MissingFactError: The model does not state a fact that this cost needs.
        """


def check_cost(owner: str, cost: CostModel) -> None:
    """Check that an object is a cost model, and its unit a text.

    Args:
        owner: Prefix of error messages, such as the name of the task.
        cost: The object.

    Raises:
        TaskError: It is not one.
    """
    try:
        missing = [name for name in ("unit", "stage_cost") if not hasattr(cost, name)]
        unit = None if missing else cost.unit
    except Exception as error:
        raise TaskError(f"{owner}: `unit` of `cost` raised {_text(error)}") from error
    if missing or isinstance(cost, type) or not callable(cost.stage_cost):
        raise TaskError(
            f"{owner}: `cost` must be a `CostModel`, an object with `unit` and `stage_cost`, got "
            f"{cost!r}."
        )
    check_texts(f"{owner}, `cost`", unit=unit)


def cost_row(owner: str, cost: CostModel, stage: Stage, model: Model) -> Floats:
    """Return the checked costs of 1, 2, ..., `max_samples` samples of a model in a stage.

    Args:
        owner: Prefix of error messages, such as the name of the task.
        cost: The cost model.
        stage: The stage.
        model: One of its models.

    Raises:
        TaskError: The cost model raises an error, or returns no numbers, another shape, or costs
            that are not finite, negative or falling.
    """
    where = f"{owner}: `cost` of model {model.name!r} in stage {stage.name!r}"
    length, charged = stage.sample_tokens(model), stage
    if type(cost).__module__ != _GIVEN and length != stage.generation_tokens:
        # A user-defined cost model reads the length of samples from the stage.
        model = replace(model, generation_tokens=length)
        charged = replace(stage, models=[model], generation_tokens=length)
    try:
        given = cost.stage_cost(charged, model, np.arange(1, stage.max_samples + 1))
    except TaskError:
        raise
    except Exception as error:
        raise TaskError(f"{where}: `stage_cost` raised {_text(error)}") from error
    row = _numbers(where, given)
    if row.shape != (stage.max_samples,):
        raise TaskError(
            f"{where} has shape {row.shape}: `stage_cost` must return the shape of `samples`, "
            f"({stage.max_samples},)."
        )
    if not np.isfinite(row).all() or (row < 0).any():
        raise TaskError(f"{where} must be finite and 0 or more, got {row.min()} to {row.max()}.")
    if (np.diff(row) < 0).any():
        fall = int(np.argmax(np.diff(row) < 0))
        raise TaskError(
            f"{where} must not fall as samples are added, got {row[fall]:g} for {fall + 1} and "
            f"{row[fall + 1]:g} for {fall + 2} samples."
        )
    row.flags.writeable = False
    return row


def _numbers(where: str, given: object) -> Floats:
    """Return what a cost model returned as a new array of floats.

    numpy alone would read texts as numbers, None as NaN, and leave out imaginary parts.

    Raises:
        TaskError: It is not an array of real numbers.
    """
    cause: Exception | None = None
    try:
        found = np.asarray(given)
        # Such as `Fraction` and `Decimal`.
        real = found.dtype.kind == "O" and all(
            isinstance(value, (Real, Decimal)) and not isinstance(value, bool)
            for value in found.flat
        )
        if real or found.dtype.kind in "iuf":
            return np.array(found, dtype=np.float64)
    # Lists of different lengths, integers above all floats, objects that cannot be converted.
    except Exception as error:
        cause = error
    raise TaskError(
        f"{where}: `stage_cost` must return an array of numbers, got "
        f"{type(given).__name__} {one_line(_shown(given), _SHOWN)}."
    ) from cause


def _shown(value: object) -> str:
    """Return the `repr` of a user's object, which may fail, too."""
    try:
        return repr(value)
    except Exception as error:
        return f"without a repr ({type(error).__name__})"


def _text(error: Exception) -> str:
    """Return the type and the message of a user's error, on one line."""
    return one_line(f"{type(error).__name__}: {error}")
