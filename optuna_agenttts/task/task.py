"""A multi-stage task: stages, cost model and budget."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from optuna.study import Study
from optuna.trial import BaseTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import BudgetError, TaskError
from optuna_agenttts.support.efforts import Effort
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.task.allocation import (
    Allocation,
    AllocationLike,
    StageAllocation,
    choices_by_name,
    settings_of,
)
from optuna_agenttts.task.cost import CostModel, FlopsCost
from optuna_agenttts.task.cost_model import check_cost, cost_row
from optuna_agenttts.task.differences import differences
from optuna_agenttts.task.direction import warn_of_direction
from optuna_agenttts.task.encoding import decode_arguments, encode_arguments
from optuna_agenttts.task.feasible import Choice, FeasibleSet
from optuna_agenttts.task.from_pipeline import DataPipeline, describe_stages
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.overview import overview
from optuna_agenttts.task.resuming import register_task
from optuna_agenttts.task.stage import Stage, checked_range, checked_stages
from optuna_agenttts.task.suggestion import suggest_choices
from optuna_agenttts.task.texts import check_texts
from optuna_agenttts.task.values import read_stages


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Task:
    """Multi-stage task with a budget per instance; immutable, and compared by content.

    Args:
        name: Name of the task.
        stages: Stages in the order in which they run.
        budget: Upper bound on the cost of an allocation per instance, in units of `cost`, 0 or
            more. Default: the cost of one sample of the most expensive model in every stage, as
            in the paper; it changes if measured token lengths do, unlike a budget that is given.
        cost: Cost model. Default: `FlopsCost` (Theorem 1 of the paper), in reference samples: a
            cost of 50 is the work of a 3B model that writes 50 replies of 64 tokens.
        metric: Name of the objective's value, such as ``"exact match"``, for people and the agent.
        metric_range: Smallest and largest possible value of the metric, such as ``(0, 1)`` for an
            accuracy. Intervals stay within it, and values outside of it are ignored as outliers.
            Default: (0, 1) if all reported outcomes are 0 or 1, else unknown.
        description: Description of the task, for people and the agent.

    Raises:
        TaskError: An argument is invalid.
        MissingFactError: The cost model needs a fact that a model does not state.
        BudgetError: The cheapest allocation is over the budget.
    """

    name: str
    stages: tuple[Stage, ...]
    budget: float
    budget_given: bool
    cost_model: CostModel
    metric: str
    metric_range: tuple[float, float] | None
    description: str
    feasible: FeasibleSet
    text: str

    def __init__(
        self,
        *,
        name: str,
        stages: Sequence[Stage],
        budget: float | None = None,
        cost: CostModel | None = None,
        metric: str = "",
        metric_range: tuple[float, float] | None = None,
        description: str = "",
    ) -> None:
        """See the class."""
        check_texts("Task", name=name, metric=metric, description=description)
        owner = f"Task {name!r}"
        stages = checked_stages(owner, stages)
        cost_model: CostModel = FlopsCost() if cost is None else cost
        check_cost(owner, cost_model)
        table = [[cost_row(owner, cost_model, s, model) for model in s.models] for s in stages]
        given = budget is not None
        if budget is None:
            budget = float(sum(max(row[0] for row in rows) for rows in table))
        if not (is_finite(budget) and budget >= 0):
            raise TaskError(f"{owner}: `budget` must be finite and 0 or more, got {budget!r}.")
        feasible = FeasibleSet(table, float(budget))
        if not feasible.fits(feasible.complete({})):
            raise BudgetError(
                f"{owner}: `budget` is {budget:g}, but the cheapest allocation (one sample of the "
                f"cheapest model in each stage) costs {feasible.cheapest_cost:g} "
                f"{cost_model.unit} per instance: raise `budget` or add a cheaper model."
            )
        # Frozen: attributes cannot be set one by one.
        self.__dict__.update(
            name=name,
            stages=stages,
            budget=float(budget),
            budget_given=given,
            cost_model=cost_model,
            metric=metric,
            metric_range=checked_range(owner, metric_range),
            description=description,
            feasible=feasible,
        )
        self.__dict__["text"] = json.dumps(self.to_dict(), sort_keys=True)

    def __eq__(self, other: object) -> bool:
        """Compare by content."""
        return isinstance(other, Task) and self.text == other.text

    def __hash__(self) -> int:
        """Hash by content."""
        return hash(self.text)

    def __repr__(self) -> str:
        """Show name, stages and budget."""
        stages = ", ".join(f"{stage.name} ({len(stage.models)} models)" for stage in self.stages)
        budget = f"{self.budget:g} {self.cost_model.unit}".rstrip()
        return f"<Task {self.name!r}: {stages}; budget {budget}>"

    def _repr_html_(self) -> str:
        """Show budget, stages and models in a notebook."""
        about, unit = (self.name, self.description, self.metric), self.cost_model.unit
        return overview(*about, self.stages, self.feasible, unit)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments."""
        return partial(Task, **self._arguments()), ()

    def _arguments(self) -> dict[str, Any]:
        """Return the arguments that make an equal task."""
        names = ("name", "stages", "metric", "metric_range", "description")
        own = {name: getattr(self, name) for name in names}
        budget = self.budget if self.budget_given else None
        return {**own, "budget": budget, "cost": self.cost_model}

    def to_dict(self) -> dict[str, Any]:
        """Return the task as JSON-ready values, for `from_dict`."""
        return encode_arguments(self._arguments(), self.budget)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Build a task from the values of `to_dict`.

        Args:
            values: The values, as from JSON.

        Raises:
            TaskError: The values do not describe a task.
        """
        return cls(**decode_arguments(values))

    @classmethod
    def from_pipeline(
        cls,
        pipeline: DataPipeline,
        instances: Sequence[Any],
        *,
        models: Mapping[str, Sequence[str | Model]],
        name: str,
        describe: Callable[[str], Model] = Model,
        max_samples: int = 100,
        thinking: Sequence[Effort] | Mapping[str, Sequence[Effort]] = (),
        budget: float | None = None,
        cost: CostModel | None = None,
        metric: str = "",
        metric_range: tuple[float, float] | None = None,
        description: str = "",
    ) -> Task:
        """Build a task from a pipeline and its data.

        Token lengths are estimated from prompts that need no reply, until trials measure them.

        Args:
            pipeline: The pipeline, such as a `Pipeline` of the integrations.
            instances: Instances of its data.
            models: Models of each stage that calls one, or names that `describe` describes.
            name: See `Task`.
            describe: Function from a name to a `Model`, called once per name, such as
                `describe_model` (local checkpoints too) or ``Hub().describe`` (sizes and prices
                online). Default: the size is read from the name ("Qwen2.5-7B").
            max_samples: Maximum number of samples in each stage.
            thinking: Thinking efforts of every stage, or by stage; see `Stage`.
            budget: See `Task`.
            cost: See `Task`.
            metric: See `Task`.
            metric_range: See `Task`. Default: the pipeline's, if it has one.
            description: See `Task`.

        Raises:
            TaskError: `models` or `thinking` do not match the stages of the pipeline.
            MissingFactError: The cost needs a fact that is unknown for a model.
            BudgetError: Even the cheapest allocation exceeds the budget.
        """
        found = pipeline.lengths(instances)
        return cls(
            name=name,
            stages=describe_stages(found, models, describe, max_samples, thinking),
            budget=budget,
            cost=cost,
            metric=metric,
            metric_range=metric_range or getattr(pipeline, "metric_range", None),
            description=description,
        )

    def differences(self, other: Task) -> list[str]:
        """List the values that differ from another task's, one line each, this task's first.

        Args:
            other: The other task.
        """
        return differences(json.loads(self.text), json.loads(other.text))

    def cost(self, allocation: AllocationLike) -> float:
        """Return the cost of an allocation for one instance, in units of the cost model.

        Args:
            allocation: ``{"stage": (model, samples)}`` for every stage.

        Raises:
            TaskError: A stage, model or number of samples is unknown, or a stage is missing.
        """
        return self.feasible.cost(self.choices(allocation))

    def fits(self, allocation: AllocationLike) -> bool:
        """Return whether an allocation is within the budget.

        Args:
            allocation: ``{"stage": (model, samples)}`` for every stage.
        """
        return self.feasible.fits(self.choices(allocation))

    def count_allocations(self) -> int | float:
        """Count the allocations within the budget.

        Returns:
            The exact number as an integer up to 1e15 (up to about 1e13 if costs are no multiples
            of one unit), else a float; within .1 % for up to twelve stages.
        """
        return self.feasible.count()

    def allocations(self) -> Iterator[Allocation]:
        """Iterate lazily over the allocations within the budget."""
        for setting in self.feasible.walk([settings_of(stage) for stage in self.stages]):
            yield Allocation(zip((stage.name for stage in self.stages), setting))

    def project(self, allocation: AllocationLike) -> Allocation:
        """Return the nearest allocation within the budget.

        Samples are reduced first. Models are replaced only if one sample each is over the budget.

        Args:
            allocation: See `cost`.

        Raises:
            TaskError: See `cost`.
        """
        return self.allocation(self.feasible.project(self.choices(allocation)))

    def complete(self, partial: AllocationLike) -> Allocation:
        """Return the cheapest allocation that contains a partial one.

        Args:
            partial: ``{"stage": (model, samples)}`` for some of the stages.

        Raises:
            TaskError: A stage, model or number of samples is unknown.
            BudgetError: The cheapest completion is over the budget.
        """
        completion = self.feasible.complete(choices_by_name(self.stages, partial))
        allocation = self.allocation(completion)
        if not self.feasible.fits(completion):
            raise BudgetError(
                f"`partial` is {dict(partial)!r}, and its cheapest completion {allocation!r} "
                f"costs {self.feasible.cost(completion):g}, over the budget of {self.budget:g} "
                f"{self.cost_model.unit} per instance: lower its samples or raise `budget`."
            )
        return allocation

    def choices(self, allocation: AllocationLike) -> list[Choice]:
        """Return an allocation as (position of the model, number of samples) for each stage.

        Args:
            allocation: ``{"stage": (model, samples)}`` for every stage.

        Raises:
            TaskError: A stage, model or number of samples is unknown, or a stage is missing.
        """
        known = choices_by_name(self.stages, allocation)
        missing = [stage.name for stage in self.stages if stage.name not in allocation]
        if missing:
            raise TaskError(
                f"`allocation` lacks the stages {', '.join(missing)}, got {dict(allocation)!r}: "
                "add them, or use `Task.complete`."
            )
        return [known[position] for position in range(len(self.stages))]

    def allocation(self, choices: Sequence[Choice]) -> Allocation:
        """Return the allocation of positions and numbers, as from `choices`.

        Args:
            choices: Position of the model, from 0, and number of samples, for each stage.
        """
        return Allocation(
            (stage.name, StageAllocation(stage.models[model].name, int(samples)))
            for stage, (model, samples) in zip(self.stages, choices)
        )

    def params(self, allocation: AllocationLike) -> dict[str, Any]:
        """Return an allocation as Optuna parameters, ready for `Study.enqueue_trial`.

        Args:
            allocation: ``{"stage": (model, samples)}`` for every stage.
        """
        params: dict[str, Any] = {}
        for stage, (model, samples) in zip(self.stages, self.choices(allocation)):
            params[stage.model_parameter] = stage.models[model].name
            params[stage.samples_parameter] = samples
        return params

    def read(self, params: Mapping[str, Any]) -> tuple[Choice, ...] | None:
        """Return the allocation in a trial's parameters, as from `choices`.

        Args:
            params: Parameters by name.

        Returns:
            The allocation, or None if the task does not have a stage's model or samples.
        """
        known = read_stages(self.stages, params)
        return tuple(known.values()) if len(known) == len(self.stages) else None

    def choices_from_params(self, params: Mapping[str, Any]) -> dict[int, Choice]:
        """Return the part of an allocation that `read` finds in parameters, by stage.

        Args:
            params: Parameters by name.
        """
        return read_stages(self.stages, params)

    def suggest(self, trial: BaseTrial) -> Allocation:
        """Suggest an allocation within the budget, with any sampler.

        Models are suggested first, then the samples of each stage in order, from 1 to the most
        that the budget allows beside the earlier stages and one sample in each later one, so that
        all samples fit. The task is also registered, for `AgentTTSSampler()` and `recommend`.

        Args:
            trial: A running trial, or an `optuna.trial.FixedTrial`.

        Returns:
            The allocation.

        Raises:
            optuna.TrialPruned: One sample per stage, or enqueued values, are over the budget.
            TaskError: The trials of the study chose among other models.
        """
        if (study := storage.study_of(trial)) is not None:
            self.register(study)
        return self.allocation(suggest_choices(trial, self.stages, self.feasible, self.cost_model))

    def register(self, study: Study) -> None:
        """Register this task on a study; log changes to an earlier one and a wrong direction.

        `suggest` and `AgentTTSSampler` call this.

        Args:
            study: The study.

        Raises:
            TaskError: The trials of the study chose among other models.
        """
        warn_of_direction(study, self.metric)
        register_task(study, self)

    @classmethod
    def registered(cls, study: Study) -> Task | None:
        """Return the task registered on a study by `suggest`, a sampler or an objective, or None.

        Args:
            study: The study.

        Raises:
            TaskError: The stored task cannot be read by this version.
        """
        values = storage.registered(study)
        return None if values is None else cls.from_dict(values)
