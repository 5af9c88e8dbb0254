"""Spend of a search: its trials, and the agent that plans them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass, replace
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.study.rounds import Round, read_rounds
from optuna_agenttts.study.stopped import outcomes_of
from optuna_agenttts.study.tasks import require_task
from optuna_agenttts.support.numbers import is_finite
from optuna_agenttts.support.plain import amount_text
from optuna_agenttts.task.allocation import choices_by_name
from optuna_agenttts.task.cost import TableCost
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.sizes import size_in_name
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.task import Task

_LEAST = 1e-9
"""Tokens, in place of 0, which `Stage` does not allow. Only a call that reported no tokens has 0.
"""
_MAX_SPEND = 1e300
"""Maximum absolute spend of a trial, in any unit: sums of many of them stay finite."""
INSTANCES = "instances"
"""User attribute of a trial: number of the instances that it was to run on."""


@dataclass(frozen=True, slots=True)
class Spend:
    """Spend of a search, in units of the task's cost model.

    Args:
        trials: Spend of the trials: the cost of all generated samples over all instances if the
            objective reports it (user attribute ``spend``, which `MultiStageObjective` writes),
            else the cost of the allocations for one instance each.
        whole: Whether `trials` covers all instances.
        agent: Spend of the agent, as far as the cost model can price its tokens: retries
            included, and the prompts of requests without a reply.
        agent_tokens: Tokens of the agent, prompts included.
        requests: Requests of the agent.
        unit: Unit of the cost model.
        limit: Total at which `StopAtSpend` or `search` stops; None without a limit.
        unpriced: Tokens of the agent that are not in `agent`, because the cost model lacks a fact
            about its model.
        confirmation: The part of `trials` that confirms allocations on fresh instances. It always
            covers all instances.
    """

    trials: float
    whole: bool
    agent: float
    agent_tokens: int
    requests: int
    unit: str
    limit: float | None = None
    unpriced: int = 0
    confirmation: float = 0.0

    @property
    def total(self) -> float:
        """Spend of trials and agent."""
        return self.trials + self.agent

    def __str__(self) -> str:
        """Describe the spend in one sentence, for people and for the agent."""
        over = ", over all instances" if self.trials else ""
        if not self.whole and self.trials:
            over = ", over one instance per trial, as the objective does not report its spend"
        unit = self.unit or "units of the task's cost"
        text = f"Spent so far: {amount_text(self.trials, unit)} on trials{over}"
        if self.confirmation:
            text += f" ({amount_text(self.confirmation, unit)} of it on their confirmation)"
        if self.requests:
            text += f"; {self.agent_tokens:,} tokens on planning"
            text += f" ({amount_text(self.agent, unit)})" if self.agent else ""
            if 0 < self.unpriced < self.agent_tokens:
                text += f", {self.unpriced:,} of them of unknown cost"
            elif self.unpriced:
                text += ", of unknown cost"
        if self.limit is not None:
            left, limit = max(0.0, self.limit - self.total), amount_text(self.limit)
            text += f"; {amount_text(left, unit)} of {limit} are left for the search"
        return text + "."


def spend(study: Study, task: Task | None = None) -> Spend:
    """Return the spend of a study so far.

    Args:
        study: The study.
        task: Task that it tunes. Default: the one registered on the study, else one recognized
            from the names of its parameters.

    Raises:
        NoTaskError: The study has no task.
    """
    task = require_task(study, task)
    trials = storage.read_trials(study)
    attributes = storage.attributes_of(study)
    return spend_of(task, trials, read_rounds(attributes), read_limit(attributes))


def read_limit(attributes: Mapping[str, Any]) -> float | None:
    """Read the limit of a search's spend from its study's system attributes, or None."""
    limit = attributes.get(storage.LIMIT)
    return float(limit) if isinstance(limit, (int, float)) else None


def spend_of(
    task: Task,
    trials: Sequence[FrozenTrial],
    rounds: Sequence[Round],
    limit: float | None = None,
) -> Spend:
    """Return the spend of trials and rounds; see `spend`."""
    confirmations = [trial for trial in trials if storage.confirmation_block(trial)]
    searching = [trial for trial in trials if not storage.confirmation_block(trial)]
    values = map(stated_spend, searching)
    stated = [value for value in values if value is not None]
    total = sum(stated)
    if not stated:
        total = sum(spend_of_trial(task, trial, 1) for trial in searching)
    confirmation = sum(
        spend_of_trial(task, trial, evaluations_of(trial)) for trial in confirmations
    )
    return Spend(
        trials=total + confirmation,
        whole=bool(stated) or not searching,
        confirmation=confirmation,
        agent=sum(planned.cost or 0.0 for planned in rounds),
        agent_tokens=sum(p.prompt_tokens + p.completion_tokens for p in rounds),
        unpriced=sum(p.prompt_tokens + p.completion_tokens for p in rounds if p.cost is None),
        requests=sum(planned.requests for planned in rounds),
        unit=task.cost_model.unit,
        limit=limit,
    )


def stated_spend(trial: FrozenTrial) -> float | None:
    """Return the spend that a trial reports, or None, also if it is not a finite number.

    Numbers above 1e300, of which two may have no finite sum, are not read either.

    It is exact, unless other code has written the user attribute since.
    """
    stated, exact = trial.user_attrs.get("spend"), trial.system_attrs.get(storage.SPEND)
    if isinstance(exact, float) and stated == rounded(exact):
        return exact
    return float(stated) if is_finite(stated) and abs(stated) <= _MAX_SPEND else None


def rounded(value: float) -> float:
    """Round to four significant digits, as in user attributes."""
    return float(f"{value:.4g}")


def stage_spends(trial: FrozenTrial) -> dict[str, tuple[float, float]]:
    """Return a trial's spend by stage, and what reused samples saved there, as it reports them."""
    reported = storage.read_trial_fact(trial, storage.STAGES)
    if not isinstance(reported, Mapping):
        return {}
    return {name: (float(spent), float(saved)) for name, (spent, saved) in reported.items()}


def spend_of_trial(task: Task, trial: FrozenTrial, evaluations: int) -> float:
    """Return the spend that a trial reports, else the cost of its allocation.

    Args:
        task: The task.
        trial: The trial.
        evaluations: Number of instances to count the allocation's cost for.
    """
    stated = stated_spend(trial)
    if stated is not None:
        return stated
    choices = task.read(trial.params)
    return 0.0 if choices is None else evaluations * task.feasible.cost(choices)


def evaluations_of(trial: FrozenTrial) -> int:
    """Return the number of instances that a confirmation trial ran on; a failed one, on all."""
    return len(outcomes_of(trial)) or int(trial.user_attrs.get(INSTANCES, 0))


def cost_of_samples(
    task: Task,
    stage: str,
    model: str,
    samples: int,
    *,
    prompt_tokens: float,
    generation_tokens: float,
    cached_tokens: float = 0.0,
) -> float:
    """Return the cost of samples at their measured lengths, in units of the task's cost model.

    Args:
        task: The task.
        stage: Name of the stage.
        model: Name of one of its models.
        samples: Number of samples of one prompt, 1 or more. More than a table lists, since calls
            were repeated, are priced in several parts.
        prompt_tokens: Length of the prompt, in tokens.
        generation_tokens: Mean length of a sample, in tokens.
        cached_tokens: Mean number of the prompt's tokens that the server has cached.

    Raises:
        TaskError: The task has no such stage, or the stage no such model.
    """
    ((position, (chosen, _)),) = choices_by_name(task.stages, {stage: (model, 1)}).items()
    found = task.stages[position]
    length = max(generation_tokens, _LEAST)
    costing = _billed(found.models[chosen], prompt_tokens, cached_tokens)
    if costing.generation_tokens is not None or costing.thinking is not None:
        costing = replace(costing, generation_tokens=length)
    measured = replace(
        found,
        prompt_tokens=max(prompt_tokens, _LEAST),
        generation_tokens=length,
        max_samples=max(samples, found.max_samples),
    )
    cost = task.cost_model
    if getattr(cost, "fusion", False) and is_dataclass(cost) and not isinstance(cost, type):
        # A fusion call is counted as a sample itself.
        cost = replace(cost, fusion=False)

    def price(count: int) -> float:
        return float(cost.stage_cost(measured, costing, np.array([count]))[0])

    most = found.max_samples if isinstance(cost, TableCost) else samples
    parts, rest = divmod(samples, most)
    return float(parts * price(most) + (price(rest) if rest else 0.0))


def _billed(model: Model, prompt_tokens: float, cached_tokens: float) -> Model:
    """Return a model with one price for all tokens of prompts of which some were cached."""
    if model.cached_price is None or model.input_price is None:
        return model
    share = min(1.0, cached_tokens / max(prompt_tokens, _LEAST))
    price = share * model.cached_price + (1 - share) * model.input_price
    return replace(model, input_price=price, cached_price=None)


def price_of(
    task: Task,
    agent: str | Model,
    prompt_tokens: int,
    completion_tokens: int,
    cached_tokens: int = 0,
) -> float | None:
    """Return the cost of a call of the agent's model, priced as one sample of a stage.

    Facts about a model given by name are those of the task's model of that name, at any thinking
    effort, else its size from the name ("Qwen2.5-72B").

    Returns:
        The cost in units of the task's cost model, or None if a fact is missing.
    """
    if prompt_tokens + completion_tokens < 1:
        return 0.0
    if isinstance(agent, str):
        name, models = agent.split(" at ")[0], (m for stage in task.stages for m in stage.models)
        unknown = Model(agent or "agent", parameters=size_in_name(agent))
        agent = next(
            (model for model in models if name in (model.name, model.served_name)), unknown
        )
    length = max(1, completion_tokens)
    model = replace(
        _billed(agent, prompt_tokens, cached_tokens), thinking=None, generation_tokens=length
    )
    try:
        stage = Stage(
            "agent",
            models=[model],
            # A request without a reply has been read, and a reply has at least its last token.
            prompt_tokens=max(1, prompt_tokens),
            generation_tokens=length,
        )
        return float(task.cost_model.stage_cost(stage, model, np.array([1]))[0])
    except (TaskError, KeyError, ValueError, TypeError):
        # A fact is missing, or a user-defined cost model does not know this stage.
        return None
