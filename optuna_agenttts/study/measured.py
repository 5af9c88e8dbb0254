"""Replace declared token lengths by measured ones.

The first trials measure the lengths of prompts and samples. From then on the study tunes the same
task with these lengths, so that costs are real costs. The effective task is in the study's
storage, where every worker reads it. Choices with lengths of their own, such as thinking efforts,
are measured one by one, and again when more of them were tried.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from types import MappingProxyType

from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.study.choice_lengths import has_own_lengths
from optuna_agenttts.support.logs import is_first
from optuna_agenttts.support.plain import listed
from optuna_agenttts.task.resuming import check_models
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)

Lengths = Mapping[str, tuple[float, float]]
"""Mean tokens of a prompt and of a sample, by name of the stage."""
Choices = Mapping[str, Mapping[str, float]]
"""Mean tokens of a sample by names of the stage and of the model, of models with own lengths."""

_LISTED = 4
"""Choices whose lengths a line of the log lists, by stage. Chosen by hand."""
_LARGE_CHANGE = 1.5
"""Factor between default budgets above which the change is a warning. Chosen by hand."""


def with_lengths(task: Task, lengths: Lengths, choices: Choices = MappingProxyType({})) -> Task:
    """Return the task with other token lengths.

    A budget that was given is kept. The default one (one sample of the most expensive model in
    every stage) is computed again.

    Args:
        task: The task.
        lengths: Lengths of some or all of its stages. Values of 0 or less are ignored.
        choices: Lengths of samples of some or all models that have lengths of their own.

    Raises:
        BudgetError: With these lengths, the cheapest allocation is over the budget.
    """
    stages = []
    for stage in task.stages:
        prompt, generation = lengths.get(stage.name, (0.0, 0.0))
        own = choices.get(stage.name, {})
        stages.append(
            replace(
                stage,
                prompt_tokens=prompt if prompt > 0 else stage.prompt_tokens,
                generation_tokens=generation if generation > 0 else stage.generation_tokens,
                models=[
                    replace(model, generation_tokens=own[model.name])
                    if own.get(model.name, 0) > 0
                    else model
                    for model in stage.models
                ],
            )
        )
    return Task(**{**task._arguments(), "stages": stages})


def effective_task(study: Study, declared: Task, *, fresh: bool = False) -> Task:
    """Return the declared task, with measured lengths if the study has some.

    Args:
        study: The study.
        declared: Task as the user declares it.
        fresh: Whether to read the storage, where another worker may have written, instead of
            what this process read or wrote last.
    """
    text = None if fresh else storage.last_registered(study)
    if text is not None:
        return _measured(text, declared)
    values = storage.registered(study)
    if values is None:
        return declared
    text = json.dumps(values, sort_keys=True)
    found = _measured(text, declared)
    # The cache may hold an equal task of another caller.
    if found == declared:
        return declared
    # Lengths that another declaration registered were not measured.
    if not storage.is_measured(study, text):
        return declared
    storage.register(study, text)
    log_lengths(study, declared, found, "earlier")
    return found


def readable_task(study: Study) -> Task | None:
    """Return the task registered on a study; None if there is none that can be read."""
    try:
        return Task.registered(study)
    except TaskError:
        return None


def set_effective_task(study: Study, task: Task) -> None:
    """Register a task with measured lengths on a study.

    Raises:
        TaskError: The trials of the study chose among other models.
    """
    if (earlier := readable_task(study)) is not None:
        check_models(study, earlier.stages, task.stages)
    storage.mark_measured(study, task.text)
    storage.register(study, task.text)


def log_lengths(study: Study, declared: Task, measured: Task, when: str) -> None:
    """Log the changes of lengths and budget, once for each study.

    The level is WARNING if a budget that was not given changes by a factor of more than 1.5.

    Args:
        study: The study.
        declared: The task as the user declared it, or with the lengths measured before.
        measured: The task with measured lengths.
        when: Time of the measurement, as an adverb.
    """
    if not is_first(study, measured.text):
        return
    lengths = "; ".join(
        f"{old.name} {old.prompt_tokens:g} -> {new.prompt_tokens:g} tokens of a prompt and "
        f"{old.generation_tokens:g} -> {new.generation_tokens:g} of {_sample(old, new)}"
        for old, new in zip(declared.stages, measured.stages)
        if old != new
    )
    unit = f"{measured.cost_model.unit} per instance"
    given = measured.budget_given
    ratio = measured.budget / declared.budget
    large = not given and not 1 / _LARGE_CHANGE <= ratio <= _LARGE_CHANGE
    _logger.log(
        logging.WARNING if large else logging.INFO,
        "Study %r now uses token lengths measured %s, and costs follow: %s. %s",
        study.study_name,
        when,
        lengths,
        f"The budget that was given stays {measured.budget:g} {unit}."
        if given
        else f"The budget was not given: it changes from {declared.budget:g} to "
        f"{measured.budget:g} {unit}. Give `budget=` to keep one.",
    )


def _sample(old: Stage, new: Stage) -> str:
    """Return what a stage's generated tokens are those of, and the lengths of its choices."""
    if not has_own_lengths(new):
        return "a sample"
    changed = [
        f"{old.sample_tokens(before):g} -> {new.sample_tokens(model):g} of {model.name!r}"
        for before, model in zip(old.models, new.models)
        if old.sample_tokens(before) != new.sample_tokens(model)
    ]
    return f"an answer, with thoughts {listed(changed, _LISTED)}" if changed else "an answer"


@lru_cache(maxsize=64)
def _measured(text: str, declared: Task) -> Task:
    """Return the declared task with a description's lengths, if they differ in nothing else."""
    if text == declared.text:
        return declared
    try:
        described = Task.from_dict(json.loads(text))
        # Not `described`: it has a table in place of a user-defined cost model.
        found = with_lengths(
            declared,
            {s.name: (s.prompt_tokens, s.generation_tokens) for s in described.stages},
            {
                s.name: {m.name: m.generation_tokens or 0 for m in s.models}
                for s in described.stages
            },
        )
    except TaskError:
        return declared
    # The order of models may differ.
    return declared if found.differences(described) else found
