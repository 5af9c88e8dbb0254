"""Models of a resumed study: Optuna fixes the choices of a parameter, and their order."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.task.encoding import LaterVersionError
from optuna_agenttts.task.stage import Stage
from optuna_agenttts.task.values import read_model

_logger = logging.getLogger(__name__)

_LENGTH = re.compile(r"\.(prompt|generation)_tokens: ")
"""Differences of tasks that are lengths of prompts or samples."""


def choices_of_models(study: Study | None, stage: Stage) -> dict[Any, int]:
    """Map the choices of a stage's model to positions of its models, in the order to suggest.

    Args:
        study: The study, whose trials give the order; None if there is none.
        stage: The stage.

    Raises:
        TaskError: The trials of the study chose among other models.
    """
    fixed = None if study is None else storage.read_choices(study, stage.model_parameter)
    if study is None or fixed is None:
        return {model.name: position for position, model in enumerate(stage.models)}
    positions = {choice: read_model(stage, choice) for choice in fixed}
    found = {choice: at for choice, at in positions.items() if at is not None}
    if sorted(found.values()) == list(range(len(stage.models))) and len(found) == len(fixed):
        return found
    raise TaskError(
        f"Study {study.study_name!r} cannot be resumed with other models: its trials chose "
        f"`{stage.model_parameter}` from {list(fixed)!r}, and the task has "
        f"{[model.name for model in stage.models]!r}. Optuna does not allow other choices in one "
        "study. Begin a new one: `carry_over(study, task)` takes over the trials whose "
        "allocations the task still has, and `AgentTTSSampler(task, experience=[study])` uses "
        "them as evidence of less weight."
    )


def check_models(study: Study, earlier: Sequence[Stage], stages: Sequence[Stage]) -> None:
    """Check that a study can be resumed with a task's models.

    Only choices that came from the earlier task are checked: an objective that suggests models
    itself may leave some out.

    Args:
        study: The study.
        earlier: Stages of the task that is registered on it.
        stages: Stages of the task that is about to be registered.

    Raises:
        TaskError: The trials of the study chose among other models.
    """
    names = {s.model_parameter: {model.name for model in s.models} for s in earlier}
    for stage in stages:
        fixed = storage.read_choices(study, stage.model_parameter)
        if fixed is not None and set(fixed) == names.get(stage.model_parameter):
            choices_of_models(study, stage)


def register_task(study: Study, task: Any) -> None:
    """Register a task on a study, and log changes to an earlier one.

    Args:
        study: The study.
        task: The `Task`, whose module imports this one.

    Raises:
        TaskError: The trials of the study chose among other models, or a later version of this
            package has registered a task, which must not be replaced.
    """
    changes: list[str] = []

    def keep(values: Mapping[str, Any]) -> bool:
        try:
            earlier = task.from_dict(values)
        except LaterVersionError as error:
            raise LaterVersionError(f"Study {study.study_name!r}: {error}") from error
        except TaskError as error:
            changes.append(str(error))
            return False
        check_models(study, earlier.stages, task.stages)
        changes.extend(earlier.differences(task))
        if storage.is_measured(study, earlier.text):
            if storage.is_measured(study, task.text):
                # They were measured again while a trial with earlier lengths was about to begin.
                return True
            # Declared lengths take the place of measured ones until these are measured again.
            others = [line for line in changes if not _LENGTH.search(line)]
            changes[:] = others or changes
        return not changes

    if storage.register(study, task.text, keep) is not None:
        _logger.warning(
            "Study %r was registered with another task before. Its trials still count as "
            "evidence. Changes (before -> now; the budget is in %s per instance): %s",
            study.study_name,
            task.cost_model.unit,
            "; ".join(changes),
        )


def check_choices(study: Study, parameter: str, distribution: CategoricalDistribution) -> None:
    """Check choices that an objective suggests itself.

    Raises:
        TaskError: The study's trials chose among others, or in another order.
    """
    fixed = storage.read_choices(study, parameter)
    if fixed is not None and fixed != distribution.choices:
        raise TaskError(
            f"Study {study.study_name!r} cannot be resumed with other choices: its trials chose "
            f"`{parameter}` from {list(fixed)!r}, and this trial from "
            f"{list(distribution.choices)!r}. Suggest the same ones in the same order, as "
            "`task.suggest(trial)` does, or begin a new study with `carry_over(study, task)` or "
            "`AgentTTSSampler(task, experience=[study])`."
        )
