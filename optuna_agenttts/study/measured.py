"""Token lengths that were measured, in place of those that were declared.

What a stage's prompts and samples really measure is known after the first trials. From then on a
study tunes the same task with those lengths, so that its costs and its budget mean what they say.
The study's storage holds the task in force: every worker reads it there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.task.task import Task

Lengths = Mapping[str, tuple[float, float]]
"""For each stage's name, the mean length of a prompt and of a sample, in tokens."""


def with_lengths(task: Task, lengths: Lengths) -> Task:
    """The same task with other token lengths.

    A budget that is the default one (one sample of the dearest model everywhere) stays the default
    one; any other stays as it is.

    Args:
        task: The task.
        lengths: Lengths of some or all of its stages. What is not above 0 is left as declared.

    Raises:
        BudgetError: With these lengths, not even the cheapest allocation is within the budget.
    """
    stages = []
    for stage in task.stages:
        prompt, generation = lengths.get(stage.name, (0.0, 0.0))
        stages.append(
            replace(
                stage,
                prompt_tokens=prompt if prompt > 0 else stage.prompt_tokens,
                generation_tokens=generation if generation > 0 else stage.generation_tokens,
            )
        )
    default = sum(max(float(row[0]) for row in rows) for rows in task.feasible.costs)
    return Task(
        name=task.name,
        stages=stages,
        budget=None if math.isclose(task.budget, default) else task.budget,
        cost=task.cost_model,
        metric=task.metric,
        description=task.description,
    )


def task_in_force(study: Study, declared: Task, *, fresh: bool = False) -> Task:
    """The task that a study tunes: the declared one, or the same with lengths it measured.

    Args:
        study: The study.
        declared: The task as its user describes it.
        fresh: Whether to look into the storage, where another worker may have written, rather
            than at what this process saw there last.
    """
    text = None if fresh else storage.last_registered(study)
    if text is not None:
        return _measured(text, declared)
    values = storage.registered(study)
    if values is None:
        return declared
    text = json.dumps(values, sort_keys=True)
    found = _measured(text, declared)
    # By content: what is cached may be an equal task of another caller.
    if found == declared:
        return declared
    # Lengths that were declared before, and then declared anew, were not measured.
    if not storage.is_measured(study, text):
        return declared
    storage.register(study, text)
    return found


def put_in_force(study: Study, task: Task) -> None:
    """Write on a study that it tunes this task, whose lengths it measured, from now on."""
    storage.mark_measured(study, task.text)
    storage.register(study, task.text)


@lru_cache(maxsize=64)
def _measured(text: str, declared: Task) -> Task:
    """The declared task with a description's lengths if that is what is described, or as it is."""
    if text == declared.text:
        return declared
    try:
        told = Task.from_dict(json.loads(text))
        # Not `told` itself: of a cost model of the user's own it has the table only.
        found = with_lengths(
            declared, {s.name: (s.prompt_tokens, s.generation_tokens) for s in told.stages}
        )
    except TaskError:
        return declared
    return found if found.text == text else declared
