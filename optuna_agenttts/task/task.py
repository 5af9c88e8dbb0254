"""What is being tuned: a task, and an allocation of compute to its stages."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple, Protocol

import numpy as np
import optuna
from optuna.study import Study
from optuna.trial import BaseTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import BudgetError, TaskError
from optuna_agenttts.models.hub import Hub, describe_stages
from optuna_agenttts.task.cost import CostModel, FlopsCost, cost_from_dict, cost_row, cost_to_dict
from optuna_agenttts.task.differences import differences
from optuna_agenttts.task.feasible import Choice, FeasibleSet
from optuna_agenttts.task.stage import Model, Stage, is_finite

_logger = logging.getLogger(__name__)


class StageAllocation(NamedTuple):
    """What one stage gets: a model, and how many samples of it."""

    model: str
    samples: int


Allocation = dict[str, StageAllocation]
"""What every stage gets, by the stage's name. Plain ``{"stage": ("model", 3)}`` is accepted
wherever an allocation is an argument."""

AllocationLike = Mapping[str, "StageAllocation | tuple[str, int] | Sequence[Any]"]


class DataPipeline(Protocol):
    """A pipeline that can tell its token lengths from data."""

    def lengths(self, instances: Sequence[Any]) -> Mapping[str, tuple[float, float]]:
        """For each stage that asks a model, the mean tokens of a prompt and of a sample."""


class Task:
    """A multi-stage task and the budget for one instance of it. A value: equal by content.

    Args:
        name: The task's name.
        stages: Its stages, in the order in which they run.
        budget: The most that an allocation may cost per instance, in units of `cost`. Default:
            what one sample of the dearest model in every stage costs, as in the paper.
        cost: The cost model. Default: `FlopsCost`, Theorem 1 of the paper.
        metric: What the objective returns, such as ``"exact match"``, for people and the agent.
        description: What the task is about, for people and the agent.

    Raises:
        TaskError: A value makes no sense.
        MissingFactError: The cost needs a fact that a model does not state.
        BudgetError: Not even the cheapest allocation is within the budget.
    """

    __slots__ = (
        "budget",
        "cost_model",
        "description",
        "feasible",
        "metric",
        "name",
        "stages",
        "text",
    )

    name: str
    stages: tuple[Stage, ...]
    budget: float
    cost_model: CostModel
    metric: str
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
        description: str = "",
    ) -> None:
        """See the class."""
        if not isinstance(name, str) or not name:
            raise TaskError(f"Task: `name` is {name!r}: give a non-empty string.")
        owner = f"Task {name!r}"
        stages = tuple(stages) if isinstance(stages, Iterable) else ()
        if not stages or not all(isinstance(stage, Stage) for stage in stages):
            raise TaskError(f"{owner}: `stages` is {stages!r}: give one `Stage` or more.")
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise TaskError(f"{owner}: `stages` names {names!r}: name each stage once.")
        parameters = [p for s in stages for p in (s.model_parameter, s.samples_parameter)]
        if len(set(parameters)) < len(parameters):
            raise TaskError(f"{owner}: its stages use the parameters {parameters!r}: none twice.")
        cost_model: CostModel = FlopsCost() if cost is None else cost
        if not isinstance(cost_model, CostModel):
            raise TaskError(f"{owner}: `cost` is {cost!r}: give a `CostModel`.")
        table = [
            [cost_row(owner, cost_model, stage, model) for model in stage.models]
            for stage in stages
        ]
        if budget is None:
            budget = float(sum(max(row[0] for row in rows) for rows in table))
        if not (is_finite(budget) and budget >= 0):
            raise TaskError(f"{owner}: `budget` is {budget!r}: give a finite number, 0 or more.")
        feasible = FeasibleSet(table, float(budget))
        if not feasible.fits(feasible.complete({})):
            raise BudgetError(
                f"{owner}: `budget` is {budget:g}, and the cheapest allocation, one sample of the "
                f"cheapest model everywhere, costs {feasible.cheapest_cost:g}: raise `budget`, or "
                "add a cheaper model."
            )
        values = {
            "name": name,
            "stages": stages,
            "budget": float(budget),
            "cost_model": cost_model,
            "metric": metric,
            "description": description,
            "feasible": feasible,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "text", json.dumps(self.to_dict(), sort_keys=True))

    def __setattr__(self, name: str, value: object) -> None:
        """Refuse: a task is a value."""
        raise AttributeError(f"Task is immutable: build another one with another `{name}`.")

    def __delattr__(self, name: str) -> None:
        """Refuse: a task is a value."""
        raise AttributeError("Task is immutable.")

    def __eq__(self, other: object) -> bool:
        """Whether the contents are the same."""
        return isinstance(other, Task) and self.text == other.text

    def __hash__(self) -> int:
        """Hash of the contents."""
        return hash(self.text)

    def __repr__(self) -> str:
        """Name, stages and budget."""
        stages = ", ".join(f"{stage.name} ({len(stage.models)} models)" for stage in self.stages)
        budget = f"{self.budget:g} {self.cost_model.unit}".rstrip()
        return f"<Task {self.name!r}: {stages}; budget {budget}>"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments."""
        return _rebuild, (
            self.name,
            self.stages,
            self.budget,
            self.cost_model,
            self.metric,
            self.description,
        )

    def to_dict(self) -> dict[str, Any]:
        """Turn the task into JSON-ready values; `from_dict` undoes it."""
        return {
            "name": self.name,
            "stages": [
                {**asdict(s), "models": [asdict(m) for m in s.models]} for s in self.stages
            ],
            "budget": self.budget,
            "cost": cost_to_dict(self.cost_model, self.stages),
            "metric": self.metric,
            "description": self.description,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Task:
        """Undo `to_dict`.

        Raises:
            TaskError: The values do not describe a task.
        """
        try:
            stages = [
                Stage(**{**stage, "models": [Model(**model) for model in stage["models"]]})
                for stage in values["stages"]
            ]
            return cls(
                name=values["name"],
                stages=stages,
                budget=values["budget"],
                cost=cost_from_dict(values["cost"]),
                metric=values.get("metric", ""),
                description=values.get("description", ""),
            )
        except (KeyError, TypeError) as error:
            raise TaskError(
                f"Task.from_dict: `values` do not describe a task: {error!r}"
            ) from error

    @classmethod
    def from_pipeline(
        cls,
        pipeline: DataPipeline,
        instances: Sequence[Any],
        *,
        models: Mapping[str, Sequence[str | Model]],
        name: str,
        hub: Hub | None = None,
        max_samples: int = 100,
        budget: float | None = None,
        cost: CostModel | None = None,
        metric: str = "",
        description: str = "",
    ) -> Task:
        """Describe the task that a pipeline and its data already tell.

        Token lengths come from the data, as far as prompts can be written without any reply, and
        are replaced by measured ones after the first trials of a search. Sizes and prices of
        models come from a local folder, from the Hub where `hub` is given, or, of sizes, from the
        models' names ("Qwen2.5-7B").

        Args:
            pipeline: The pipeline, such as a `Pipeline` of the integrations.
            instances: Instances of its data.
            models: For each of its stages that ask a model, the models to choose from.
            name: See `Task`.
            hub: Where to look facts up. Default: nothing is looked up online.
            max_samples: The most samples to consider in each stage.
            budget: See `Task`.
            cost: See `Task`.
            metric: See `Task`.
            description: See `Task`.

        Raises:
            TaskError: `models` lacks a stage or names one that the pipeline has not.
            MissingFactError: The cost needs a fact that nobody tells.
            BudgetError: Not even the cheapest allocation is within the budget.
        """
        return cls(
            name=name,
            stages=describe_stages(pipeline.lengths(instances), models, hub, max_samples),
            budget=budget,
            cost=cost,
            metric=metric,
            description=description,
        )

    def differences(self, other: Task) -> list[str]:
        """What another task says differently: one line for each fact, this task's first."""
        return differences(json.loads(self.text), json.loads(other.text))

    def cost(self, allocation: AllocationLike) -> float:
        """What an allocation costs for one instance, in units of the cost model.

        Args:
            allocation: ``{"stage": (model, samples)}`` for every stage.

        Raises:
            TaskError: A stage, model or number of samples is unknown, or a stage is missing.
        """
        return self.feasible.cost(self.choices(allocation))

    def fits(self, allocation: AllocationLike) -> bool:
        """Whether an allocation is within the budget."""
        return self.feasible.fits(self.choices(allocation))

    def count_allocations(self) -> int:
        """How many allocations are within the budget."""
        return self.feasible.count()

    def allocations(self) -> Iterator[Allocation]:
        """Walk through the allocations that are within the budget, lazily."""
        names = [stage.name for stage in self.stages]
        settings = [
            [
                [StageAllocation(model.name, samples + 1) for samples in range(stage.max_samples)]
                for model in stage.models
            ]
            for stage in self.stages
        ]
        for setting in self.feasible.walk(settings):
            yield dict(zip(names, setting))

    def project(self, allocation: AllocationLike) -> Allocation:
        """The allocation within the budget that is nearest to this one.

        Samples are reduced first; models are replaced only where they do not fit with one
        sample each.

        Raises:
            TaskError: A stage, model or number of samples is unknown, or a stage is missing.
        """
        return self.allocation(self.feasible.project(self.choices(allocation)))

    def complete(self, partial: AllocationLike) -> Allocation:
        """The cheapest allocation that contains a partial one.

        Args:
            partial: ``{"stage": (model, samples)}`` for some of the stages.

        Raises:
            TaskError: A stage, model or number of samples is unknown.
            BudgetError: Even the cheapest completion is over the budget.
        """
        known = {self._stage_index(name): self._choice(name, partial[name]) for name in partial}
        completion = self.feasible.complete(known)
        allocation = self.allocation(completion)
        if not self.feasible.fits(completion):
            raise BudgetError(
                f"`partial` is {dict(partial)!r}: its cheapest completion {allocation!r} costs "
                f"{self.feasible.cost(completion):g}, over the budget of {self.budget:g}: lower "
                "its samples, or raise `budget`."
            )
        return allocation

    def choices(self, allocation: AllocationLike) -> list[Choice]:
        """An allocation as positions of models and numbers of samples, by stage.

        Raises:
            TaskError: A stage, model or number of samples is unknown, or a stage is missing.
        """
        for name in allocation:
            self._stage_index(name)
        missing = [stage.name for stage in self.stages if stage.name not in allocation]
        if missing:
            raise TaskError(
                f"`allocation` is {dict(allocation)!r}: it lacks {', '.join(missing)}; see "
                "`Task.complete` for partial ones."
            )
        return [self._choice(stage.name, allocation[stage.name]) for stage in self.stages]

    def allocation(self, choices: Sequence[Choice]) -> Allocation:
        """Undo `choices`."""
        return {
            stage.name: StageAllocation(stage.models[model].name, int(samples))
            for stage, (model, samples) in zip(self.stages, choices)
        }

    def params(self, allocation: AllocationLike) -> dict[str, Any]:
        """An allocation as Optuna parameters, ready for `Study.enqueue_trial`."""
        params: dict[str, Any] = {}
        for stage, (model, samples) in zip(self.stages, self.choices(allocation)):
            params[stage.model_parameter] = stage.models[model].name
            params[stage.samples_parameter] = samples
        return params

    def choices_from_params(self, params: Mapping[str, Any]) -> dict[int, Choice]:
        """Of each stage that a trial's parameters settle completely, what they say.

        Values that are no model of the stage, or no number of samples within its range, are left
        out: a study may hold trials of an earlier version of the task.
        """
        known: dict[int, Choice] = {}
        for index, stage in enumerate(self.stages):
            model = params.get(stage.model_parameter)
            samples = params.get(stage.samples_parameter)
            names = [m.name for m in stage.models]
            if model in names and samples is not None and 1 <= samples <= stage.max_samples:
                known[index] = (names.index(model), int(samples))
        return known

    def suggest(self, trial: BaseTrial) -> Allocation:
        """Let a trial choose an allocation within the budget, whatever the study's sampler.

        Models are suggested first. Then each stage's samples, in order, from 1 to what the budget
        leaves beside the stages before it and one sample in each stage after it: no sampler
        wastes a trial on samples that do not fit. The study also learns which task it tunes, so
        that `AgentTTSSampler()` and `recommend` need not be told.

        Args:
            trial: A running trial, or an `optuna.trial.FixedTrial`.

        Returns:
            The allocation.

        Raises:
            optuna.TrialPruned: The models do not fit with one sample each, or enqueued values
                are over the budget. Nothing has been spent.
        """
        study = getattr(trial, "study", None)
        if isinstance(study, Study):
            self.register(study)
        models = []
        for stage in self.stages:
            names = [model.name for model in stage.models]
            chosen = trial.suggest_categorical(stage.model_parameter, names)
            models.append(names.index(chosen))
        choices: list[Choice] = [(model, 1) for model in models]
        if not self.feasible.fits(choices):
            raise self._over_budget(trial, choices)
        for index, (stage, model) in enumerate(zip(self.stages, models)):
            others = self.feasible.cost(choices) - float(self.feasible.costs[index][model][0])
            most = max(1, self.feasible.max_samples(index, model, others))
            samples = trial.suggest_int(stage.samples_parameter, 1, most)
            # Samplers keep to the range; Optuna lets enqueued values pass with a warning.
            if not 1 <= samples <= most:
                raise optuna.TrialPruned(
                    f"Trial {trial.number} was pruned before it ran: `{stage.samples_parameter}` "
                    f"is {samples}, and beside the other stages the budget of {self.budget:g} "
                    f"and `max_samples` leave 1 to {most}."
                )
            choices[index] = (model, samples)
        return self.allocation(choices)

    def _over_budget(self, trial: BaseTrial, choices: Sequence[Choice]) -> optuna.TrialPruned:
        return optuna.TrialPruned(
            f"Trial {trial.number} was pruned before it ran: {self.allocation(choices)!r} costs "
            f"{self.feasible.cost(choices):g} or more, over the budget of {self.budget:g}."
        )

    def register(self, study: Study) -> None:
        """Write on a study which task it tunes, and log what differs from an earlier one.

        Done by `suggest` and by `AgentTTSSampler` themselves.
        """
        earlier = storage.register(study, self.text)
        if earlier is None:
            return
        try:
            changes = Task.from_dict(earlier).differences(self)
        except TaskError as error:
            changes = [str(error)]
        _logger.warning(
            "Study %r tuned another task before; its trials still count as evidence. Before and "
            "now: %s",
            study.study_name,
            "; ".join(changes),
        )

    @classmethod
    def registered(cls, study: Study) -> Task | None:
        """The task that a study tunes, if `suggest`, a sampler or an objective registered one.

        Raises:
            TaskError: What is stored is not a task that this version can read.
        """
        values = storage.registered(study)
        return None if values is None else cls.from_dict(values)

    def _stage_index(self, name: str) -> int:
        names = [stage.name for stage in self.stages]
        if name not in names:
            raise TaskError(f"Stage {name!r} is unknown: the task has {', '.join(names)}.")
        return names.index(name)

    def _choice(self, name: str, setting: Sequence[Any]) -> Choice:
        stage = self.stages[self._stage_index(name)]
        try:
            model, samples = setting
        except (TypeError, ValueError):
            raise TaskError(
                f"Stage {name!r} is given {setting!r}: give (model, samples)."
            ) from None
        names = [m.name for m in stage.models]
        if model not in names:
            raise TaskError(
                f"Model {model!r} is unknown in stage {name!r}: it has {', '.join(names)}."
            )
        if isinstance(samples, bool) or not isinstance(samples, (int, np.integer)):
            raise TaskError(f"Stage {name!r}: `samples` is {samples!r}: give an integer.")
        if not 1 <= samples <= stage.max_samples:
            raise TaskError(
                f"Stage {name!r}: `samples` is {samples}: give 1 to {stage.max_samples}, or raise "
                "the stage's `max_samples`."
            )
        return names.index(model), int(samples)


def _rebuild(
    name: str,
    stages: Sequence[Stage],
    budget: float,
    cost: CostModel,
    metric: str,
    description: str,
) -> Task:
    return Task(
        name=name, stages=stages, budget=budget, cost=cost, metric=metric, description=description
    )
