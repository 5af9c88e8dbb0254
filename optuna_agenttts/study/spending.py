"""What a search has spent: its trials, and the agent that plans them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoTaskError, TaskError
from optuna_agenttts.study.rounds import Round, read_rounds
from optuna_agenttts.task.stage import Model, Stage, size_in_name
from optuna_agenttts.task.task import Task

_LEAST = 1e-9
"""Stands in for no tokens at all, which a stage does not allow."""


@dataclass(frozen=True, slots=True)
class Spend:
    """What a search has spent, in units of the task's cost model.

    Args:
        trials: Of the trials: what they generated over all instances where the objective says so
            (user attribute ``spend``, as `MultiStageObjective` writes it), else what their
            allocations cost for one instance.
        whole: Whether that is over all instances.
        agent: Of the agent's own tokens, as far as the cost model can price them.
        agent_tokens: Those tokens, prompts included.
        requests: The agent's requests.
        unit: The unit.
        limit: At which total the search is to stop, as `StopAtSpend` was told; None if nobody did.
    """

    trials: float
    whole: bool
    agent: float
    agent_tokens: int
    requests: int
    unit: str
    limit: float | None = None

    @property
    def total(self) -> float:
        """Trials and agent together."""
        return self.trials + self.agent

    def __str__(self) -> str:
        """A sentence for people and for the agent."""
        over = "" if self.whole else " for one instance of each"
        text = f"Spent so far: {self.trials:.5g} {self.unit} on trials{over}".rstrip()
        if self.requests:
            text += f"; {self.agent_tokens} tokens on planning"
            text += f" ({self.agent:.4g} {self.unit})".replace(" )", ")") if self.agent else ""
        if self.limit is not None:
            left = max(0.0, self.limit - self.total)
            text += f"; {left:.5g} of {self.limit:.5g} are left"
        return text + "."


def spend(study: Study, task: Task | None = None) -> Spend:
    """What a study has spent so far.

    Args:
        study: The study.
        task: The task that it tunes. Default: the one registered on the study.

    Raises:
        NoTaskError: The study does not say which task it tunes.
    """
    task = task or Task.registered(study)
    if task is None:
        raise NoTaskError(
            f"Study {study.study_name!r} does not say which task it tunes: pass `task=`."
        )
    trials = study._storage.get_all_trials(study._study_id, deepcopy=False)
    attributes = study._storage.get_study_system_attrs(study._study_id)
    return spend_of(task, trials, read_rounds(attributes), read_limit(attributes))


def read_limit(attributes: Mapping[str, Any]) -> float | None:
    """The limit of a search's spend, from its study's system attributes."""
    limit = attributes.get(storage.LIMIT)
    return float(limit) if isinstance(limit, (int, float)) else None


def spend_of(
    task: Task,
    trials: Sequence[FrozenTrial],
    rounds: Sequence[Round],
    limit: float | None = None,
) -> Spend:
    """What trials and rounds have spent; see `spend`."""
    said = [trial.user_attrs.get("spend") for trial in trials]
    stated = [float(value) for value in said if isinstance(value, (int, float))]
    total = sum(stated)
    if not stated:
        for trial in trials:
            known = task.choices_from_params(trial.params)
            if len(known) == len(task.stages):
                total += task.feasible.cost([known[i] for i in range(len(known))])
    return Spend(
        trials=total,
        whole=bool(stated),
        agent=sum(planned.cost or 0.0 for planned in rounds),
        agent_tokens=sum(p.prompt_tokens + p.completion_tokens for p in rounds),
        requests=sum(planned.requests for planned in rounds),
        unit=task.cost_model.unit,
        limit=limit,
    )


def cost_of_samples(
    task: Task,
    stage: str,
    model: str,
    samples: int,
    *,
    prompt_tokens: float,
    generation_tokens: float,
) -> float:
    """What samples cost with the lengths that they really had, in units of the task's cost model.

    Args:
        task: The task.
        stage: Name of the stage.
        model: Name of one of its models.
        samples: How many samples of one prompt, 1 or more.
        prompt_tokens: Length of the prompt.
        generation_tokens: Mean length of a sample.

    Raises:
        TaskError: The task has no such stage, or the stage no such model.
    """
    found = task.stages[task._stage_index(stage)]
    costing = found.models[task._choice(stage, (model, 1))[0]]
    measured = replace(
        found,
        prompt_tokens=max(prompt_tokens, _LEAST),
        generation_tokens=max(generation_tokens, _LEAST),
        max_samples=max(samples, found.max_samples),
    )
    cost = task.cost_model
    if getattr(cost, "fusion", False) and is_dataclass(cost) and not isinstance(cost, type):
        # A call that fuses is a sample of its own here.
        cost = replace(cost, fusion=False)
    return float(cost.stage_cost(measured, costing, np.array([samples]))[0])


def price_of(task: Task, name: str, prompt_tokens: int, completion_tokens: int) -> float | None:
    """What a call of the agent's model costs by the task's own cost model, as a stage would.

    The facts come from a model of that name in the task, or, of sizes, from the name itself
    ("Qwen2.5-72B"); where neither says enough, nobody can tell.
    """
    if prompt_tokens < 1 or completion_tokens < 1:
        return 0.0
    known = [m for stage in task.stages for m in stage.models if m.name == name.split(" at ")[0]]
    model = known[0] if known else Model(name or "agent", parameters=size_in_name(name))
    try:
        stage = Stage(
            "agent",
            models=[model],
            prompt_tokens=prompt_tokens,
            generation_tokens=completion_tokens,
        )
        return float(task.cost_model.stage_cost(stage, model, np.array([1]))[0])
    except (TaskError, KeyError, ValueError, TypeError):
        # A fact is missing, or a cost model of the user's own knows its own stages only.
        return None
