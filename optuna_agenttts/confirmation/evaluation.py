"""Evaluate allocations on instances with a user's function, and check what it returns."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Protocol, runtime_checkable

from typing_extensions import Self

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.study.fresh import own_id
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.task import Task


@runtime_checkable
class SplittableObjective(Protocol):
    """Objective that scores trials, and evaluates allocations on other instances as well.

    `MultiStageObjective` is one.
    """

    task: Task
    instances: Mapping[str, Any]

    @property
    def max_spend(self) -> float:
        """Limit on the spend of a study's trials; infinity for none."""

    def fresh_instances(
        self, instances: Sequence[Any] | Mapping[str, Any], *, drop: bool = False
    ) -> Mapping[str, Any]:
        """Name instances; raise if some are the objective's own, or drop these."""

    def on(self, instances: Sequence[Any] | Mapping[str, Any]) -> Self:
        """Return the objective on other instances."""

    def evaluate(
        self,
        allocation: Allocation,
        instances: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        max_spend: float | None = None,
        partial: bool = False,
    ) -> Any:
        """Score an allocation."""

    def __call__(self, trial: Any) -> float | tuple[float, float]:
        """Score a trial; in studies of two objectives, return its score and cost."""


Evaluate = Callable[[Allocation, list[Any]], object]
"""Function that runs an allocation on instances and returns their outcomes."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    """Outcomes of an allocation.

    Args:
        outcomes: Outcome of each instance, by name.
        spend: Metered spend, in units of the task's cost model; None if it is not known.
        metrics: Further metrics, by name.
        stage_spends: For each stage its spend, and what reused samples saved; empty if unknown.
    """

    outcomes: Mapping[str, float]
    spend: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    stage_spends: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def find_objective(evaluate: object) -> SplittableObjective | None:
    """Return the objective that is given itself, or as its method `evaluate`; else None."""
    owner = getattr(evaluate, "__self__", evaluate)
    if isinstance(owner, SplittableObjective) and evaluate in (owner, owner.evaluate):
        return owner
    return None


def name_instances(instances: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    """Index instances by name: text and integers themselves, else the ``id``, else the position.

    Raises:
        TaskError: There are none, or two share a name.
    """
    if isinstance(instances, (str, bytes)) or not hasattr(instances, "__len__"):
        raise TaskError(f"`instances` must be a list, tuple or mapping, got {instances!r}.")
    if len(instances) == 0:
        raise TaskError("`instances` must not be empty.")
    if isinstance(instances, Mapping):
        return {str(name): instance for name, instance in instances.items()}
    named: dict[str, Any] = {}
    for position, instance in enumerate(instances):
        name = _name_of(instance, position)
        if name in named:
            raise TaskError(f"`instances` must have unique names, got {name!r} twice.")
        named[name] = instance
    if len(named) != len(instances):
        # Of a data frame, these would be the names of its columns.
        raise TaskError(
            f"`instances` has the length {len(instances)}, but {len(named)} items: pass a list of "
            "its rows."
        )
    return named


def _name_of(instance: Any, position: int) -> str:
    if isinstance(instance, (str, Integral)):
        return str(instance)
    own = own_id(instance)
    return str(position if own is None else own)


def check_function(function: Any, argument: str) -> None:
    """Check that a function can be called with an allocation and instances.

    Args:
        function: The function.
        argument: Caller and name of the argument, such as "search: `objective`".

    Raises:
        TaskError: It cannot.
    """
    if not callable(function):
        raise TaskError(f"{argument} must be callable, got {function!r}.")
    try:
        inspect.signature(function).bind({}, [])
    except TypeError as error:
        raise TaskError(
            f"{argument} must accept two arguments, allocation and instances: {error}."
        ) from None
    except ValueError:
        # Functions written in C may have no signature.
        return


def evaluate_on(
    evaluate: Evaluate,
    allocation: Allocation,
    named: Mapping[str, Any],
    max_spend: float | None = None,
) -> Evaluated:
    """Evaluate an allocation on instances, and check the outcomes.

    Args:
        evaluate: The function, or an objective.
        allocation: The allocation.
        named: The instances, by name.
        max_spend: Hard limit on the spend of an objective; it then returns what it finished.
            None is that of the objective.

    Raises:
        TaskError: The function returned other things than one finite outcome for each instance.
    """
    objective = find_objective(evaluate)
    if objective is None:
        found = evaluate(allocation, list(named.values()))
    else:
        found = objective.evaluate(allocation, named, max_spend=max_spend, partial=True)
    spend: Any = getattr(found, "spend", None)
    metrics: Any = getattr(found, "metrics", None)
    return Evaluated(
        _outcomes(found, list(named), partial=objective is not None),
        float(spend) if is_finite(spend) and spend >= 0 else None,
        {k: float(v) for k, v in metrics.items() if is_finite(v)}
        if isinstance(metrics, Mapping)
        else {},
        {} if objective is None else getattr(found, "stage_spends", {}),
    )


def _outcomes(found: object, names: Sequence[str], *, partial: bool) -> dict[str, float]:
    """Return outcomes by name; see `evaluate_on` for errors."""
    values: Any = getattr(found, "outcomes", found)
    if isinstance(values, (Set, str, bytes)):
        # A set has no order, and a text is no numbers.
        values = None
    if isinstance(values, Mapping):
        values = {str(name): value for name, value in values.items()}
        missing = [name for name in names if name not in values]
        unknown = sorted(values.keys() - set(names))
        if unknown or (missing and not partial):
            what = f"lacks {missing[0]!r}" if missing else f"has the unknown {unknown[0]!r}"
            raise TaskError(
                f"`evaluate` must return an outcome for each of the {len(names)} instances: it "
                f"returned {len(values)} and {what}."
            )
        pairs = [(name, values[name]) for name in names if name in values]
    else:
        try:
            listed = list(values)
        except TypeError:
            raise TaskError(
                "`evaluate` must return the outcomes as a sequence in the order of the "
                f"instances, or as a mapping by name, got {found!r}."
            ) from None
        if len(listed) != len(names):
            raise TaskError(
                f"`evaluate` must return an outcome for each of the {len(names)} instances, got "
                f"{len(listed)}."
            )
        pairs = list(zip(names, listed))
    outcomes = {}
    for name, value in pairs:
        try:
            outcomes[name] = float(value)
        except (TypeError, ValueError):
            outcomes[name] = math.nan
        if not math.isfinite(outcomes[name]):
            raise TaskError(
                f"`evaluate` must return finite numbers, got {value!r} for instance {name!r}."
            )
    return outcomes
