"""Blocks of a prompt about the task: its stages, its cost model, and what allocations cost."""

from __future__ import annotations

import numpy as np

from optuna_agenttts.agent.prompts.data import amount, block, quote, sections, table
from optuna_agenttts.agent.prompts.prompt_data import PromptData
from optuna_agenttts.planner.evidence import Floats
from optuna_agenttts.task.allocation import Allocation
from optuna_agenttts.task.cost import FlopsCost, LatencyCost, PriceCost
from optuna_agenttts.task.stage import has_efforts
from optuna_agenttts.task.task import Task

_CHOICES = (
    'A name such as "m, low thinking" is model m at a thinking effort: each is one choice of '
    "`model`, to be copied in full."
)
_SHORT = (
    "`short` is the model's name in the tables below, where an allocation lists its stages in "
    "order; replies have the full names."
)


def task_block(data: PromptData) -> str:
    """Describe the task and its stages."""
    task, maximize = data.task, data.evidence.sign > 0
    lines = [
        f"name: {quote(task.name)}",
        *([f"description: {quote(task.description)}"] if task.description else []),
        f"metric: {quote(task.metric or 'value')}, {'higher' if maximize else 'lower'} is better",
        *_goal(data),
        f"stages, in order: {', '.join(quote(stage.name) for stage in task.stages)}",
    ]
    for stage in task.stages:
        about = f"; {quote(stage.description)}" if stage.description else ""
        without = " without thoughts" if has_efforts([stage]) else ""
        lines.append(
            f"stage {quote(stage.name)}: prompt of {stage.prompt_tokens:g} tokens, samples of "
            f"{stage.generation_tokens:g} tokens{without}, 1 to {stage.max_samples} samples{about}"
        )
    return block("task", lines)


def _goal(data: PromptData) -> list[str]:
    """Describe what is searched for, unless it is the best score."""
    cost = "measured cost" if data.measures_cost else "cost"
    if data.floor is not None:
        least = "at least" if data.evidence.sign > 0 else "at most"
        return [
            f"goal: the allocation of the lowest {cost} whose value is {least} {data.floor:g}; "
            "what is better than that gains nothing more"
        ]
    if not data.evidence.frontier:
        return []
    other = (
        "; the measured cost is what trials report, such as a latency, and the budget limits the "
        "cost that is computed below"
        if data.measures_cost
        else ""
    )
    return [
        f"goal: two objectives, the value and the {cost}, which is minimized: the best value at "
        f"every {cost}, not only at the budget{other}"
    ]


def spent_block(data: PromptData) -> str:
    """Return the description of the spending so far, and of what is left."""
    left = (
        ""
        if data.left is None
        else (f"{data.left} trials are left for the search, after those that run or are queued.")
    )
    return " ".join(filter(None, (data.spent, left)))


def _rule(task: Task) -> str:
    """Describe the cost model and the budget in words."""
    cost = task.cost_model
    words = {
        FlopsCost: "The cost of a stage is the computation of its model: proportional to its "
        "size, and to the tokens that it reads and writes",
        PriceCost: "The cost of a stage is what its provider charges for the tokens that its "
        "model reads and writes",
        LatencyCost: "The cost of a stage is the time that its model takes to read the prompt "
        "and to write the samples",
    }.get(type(cost), "The cost of a stage depends on its model and its number of samples")
    if isinstance(cost, (FlopsCost, PriceCost, LatencyCost)):
        words += (
            ". The prompt is paid once for all samples of a stage"
            if cost.prefix_sharing
            else ". The prompt is paid again for each sample"
        )
        if cost.fusion:
            words += "; more than one sample costs one more call, which puts them together"
    return (
        f"{words}. An allocation costs the sum over its stages, for one instance, in "
        f"{task.cost_model.unit or 'units'}. It must not cost more than the budget of "
        f"{amount(task.budget)}."
    )


def costs_block(data: PromptData) -> str:
    """Return the cost model in words, the table of costs, and examples."""
    task = data.task
    feasible, thinking = task.feasible, has_efforts(task.stages)
    rows = []
    for index, stage in enumerate(task.stages):
        cheapest = min(float(row[0]) for row in feasible.costs[index])
        for position, model in enumerate(stage.models):
            row = feasible.costs[index][position]
            most = feasible.max_samples(index, position, feasible.cheapest_cost - cheapest)
            further = _further(np.diff(row))
            size = _size(model.parameters)
            one = amount(float(row[0]))
            many = str(most) if most else "does not fit"
            length = [f"{stage.sample_tokens(model):.4g}"] * thinking
            names = quote(stage.name), quote(model.name), data.names[model.name]
            rows.append((*names, size, *length, one, further, many))
    header = (
        "stage",
        "model",
        "short",
        "parameters",
        *["tokens of a sample with its thoughts"] * thinking,
        "cost of one sample",
        "of one more",
        "most samples beside the cheapest rest",
    )
    examples = ["Examples:"]
    for choices in _examples(task):
        allocation = task.allocation(choices)
        cost = feasible.cost(choices)
        fits = "fits" if feasible.fits(choices) else "does not fit"
        examples.append(f"{_whole_line(allocation)} costs {amount(cost)}: {fits}")
    rule = " ".join([_rule(task), *[_CHOICES] * thinking, _SHORT])
    return sections([rule, block("costs", [*table(header, rows), *examples])])


def _further(steps: Floats) -> str:
    """Format the costs of further samples; a first step may differ, as one that is partly free."""
    if not len(steps):
        return "-"
    first, last = float(steps[0]), float(steps[-1])
    # Rounding errors are no difference.
    later = "" if np.isclose(first, last, rtol=0.001, atol=0) else f", of the last {amount(last)}"
    return f"{amount(first)}{later}"


def _whole_line(allocation: Allocation) -> str:
    """Format an allocation on one line, with the names of stages and models."""
    return ", ".join(
        f"{quote(stage)}: {quote(setting.model)} x {setting.samples}"
        for stage, setting in allocation.items()
    )


def _size(parameters: float | None) -> str:
    """Format a number of parameters, such as 7B or 350M."""
    if parameters is None:
        return "unknown"
    for unit, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if parameters >= unit:
            return f"{parameters / unit:.3g}{suffix}"
    return f"{parameters:.3g}"


def _examples(task: Task) -> list[list[tuple[int, int]]]:
    """Return examples: the cheapest allocation, the most expensive models, one over the budget."""
    feasible = task.feasible
    cheapest = feasible.complete({})
    costliest = [
        (max(range(len(rows)), key=lambda m: float(rows[m][0])), 1) for rows in feasible.costs
    ]
    many, samples = costliest, 1
    while feasible.fits(many) and samples < max(stage.max_samples for stage in task.stages):
        samples *= 2
        many = [
            (m, min(samples, stage.max_samples)) for (m, _), stage in zip(costliest, task.stages)
        ]
    found: list[list[tuple[int, int]]] = []
    for choices in (cheapest, costliest, many):
        if list(choices) not in found:
            found.append(list(choices))
    return found
