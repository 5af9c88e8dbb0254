"""Begin a study with the trials of another, for a task with other models."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial

from optuna_agenttts import storage as attributes
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.sampler import AgentTTSSampler
from optuna_agenttts.study.fresh import instances_of, read_fresh
from optuna_agenttts.study.measured import readable_task
from optuna_agenttts.support.names import LONGEST_KEY
from optuna_agenttts.task.parameters import parameters_of
from optuna_agenttts.task.task import Task
from optuna_agenttts.task.texts import check_texts

_logger = logging.getLogger(__name__)


def carry_over(
    study: Study,
    task: Task,
    *,
    storage: str | BaseStorage | None = None,
    study_name: str | None = None,
    sampler: BaseSampler | None = None,
) -> Study:
    """Begin a study of a task with the trials of an earlier study that the task still allows.

    Optuna fixes the models that a study chooses from. With models added or removed, a search goes
    on in a new study. It begins with the finished trials whose stages, models and numbers of
    samples the task has: with their values, outcomes and all other attributes, spend included.
    Trials that confirm allocations are taken over with the steps of their instances.
    The others are left out and counted, in the log and in the new study's user attribute
    ``agenttts:carried``. Rounds of the agent stay in the earlier study.

    Args:
        study: The earlier study; it is not changed.
        task: Task of the new study.
        storage: Storage of the new study, as for `optuna.create_study`. Default: memory.
        study_name: Name of the new study. Default: generated.
        sampler: Sampler of the new study. Default: ``AgentTTSSampler(task)``.

    Returns:
        The new study.

    Raises:
        TaskError: `study` is not a study, `task` is not a task, or `study_name` cannot be stored.
    """
    if not isinstance(study, Study) or not isinstance(task, Task):
        raise TaskError(
            f"carry_over: `study` must be a study and `task` a `Task`, got {study!r} and {task!r}."
        )
    if study_name is not None:
        check_texts("carry_over", LONGEST_KEY, study_name=study_name)
    names = {
        name for known in (task, readable_task(study)) if known for name in parameters_of(known)
    }
    # A trial without parameters failed before it had an allocation.
    known = (trial for trial in attributes.read_trials(study) if trial.params)
    finished = [trial for trial in known if trial.state.is_finished()]
    found = [_carried(trial, task, names) for trial in finished]
    trials = [trial for trial in found if trial is not None]
    new = optuna.create_study(
        storage=storage,
        study_name=study_name,
        directions=study.directions,
        sampler=AgentTTSSampler(task) if sampler is None else sampler,
    )
    task.register(new)
    attributes.write_carried(new, study, len(trials), len(finished) - len(trials))
    new.add_trials(trials)
    if (fresh := read_fresh(study)) is not None:
        attributes.write_fresh(new, fresh.base, fresh.names, fresh.search)
    attributes.write_instances(new, instances_of(study))
    _logger.info(
        "Study %r begins with %d of %d finished trials of study %r. %d are left out, because task "
        "%r does not have their stages, models or numbers of samples.",
        new.study_name,
        len(trials),
        len(finished),
        study.study_name,
        len(finished) - len(trials),
        task.name,
    )
    return new


def _carried(trial: FrozenTrial, task: Task, names: Collection[str]) -> FrozenTrial | None:
    """Return a trial with the task's choices, or None if the task lacks its allocation.

    Args:
        trial: The trial.
        task: The task.
        names: Parameters of this and the earlier task.
    """
    choices = task.read(trial.params)
    others = {name: value for name, value in trial.params.items() if name not in names}
    if choices is None or len(others) + 2 * len(choices) < len(trial.params):
        return None
    distributions: dict[str, BaseDistribution] = {n: trial.distributions[n] for n in others}
    for stage in task.stages:
        models = [model.name for model in stage.models]
        distributions[stage.model_parameter] = CategoricalDistribution(models)
        distributions[stage.samples_parameter] = IntDistribution(1, stage.max_samples)
    carried = copy.deepcopy(trial)
    allocation = task.allocation([choices[index] for index in range(len(choices))])
    carried.params = {**task.params(allocation), **others}
    carried.distributions = distributions
    return carried
