"""Split instances into those of a search's trials and fresh ones that confirm its best."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.study import Study

from optuna_agenttts import storage
from optuna_agenttts.confirmation.evaluation import SplittableObjective, name_instances
from optuna_agenttts.confirmation.limits import Limits
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.study.fresh import prepare_fresh, read_fresh
from optuna_agenttts.task.task import Task

_logger = logging.getLogger(__name__)

_FEWEST, _MOST = 20, 50
"""Instances of a trial, if the limit allows. Fewer choose at random, more leave too few trials.
Chosen by hand; the paper uses 50."""
_SHARE, _MOST_SHARE = 0.02, 0.05
"""Share of the limit that a trial takes, and at most takes to have `_FEWEST` instances: twenty and
eight trials in two fifths of the limit."""

_LEAST = 2
"""Instances of a trial if four trials' worth is affordable: a single outcome shows no noise."""


@dataclass(frozen=True, slots=True)
class Split:
    """Instances of a search's trials, and fresh ones, by name.

    Args:
        search: Instances of the trials, in order of step.
        fresh: The others.
    """

    search: Mapping[str, Any]
    fresh: Mapping[str, Any]


def instances_per_trial(task: Task, limits: Limits, available: int) -> int:
    """Return the number of instances of a search's trials.

    Args:
        task: The task.
        limits: Limits of search and confirmation.
        available: Number of all instances, 2 or more.
    """
    # Most allocations that a search tries cost nearly as much as the budget allows.
    evaluations = limits.instances([largest_cost(task)])
    wanted = max(_SHARE * evaluations, min(_FEWEST, _MOST_SHARE * evaluations))
    wanted = max(wanted, min(_LEAST, evaluations / 4))
    return int(max(1, min(_MOST, wanted, available // 2)))


def largest_cost(task: Task) -> float:
    """Return an upper bound of the cost of an allocation, for one instance."""
    dearest = sum(max(float(row.max()) for row in rows) for rows in task.feasible.costs)
    return min(task.budget, dearest)


def split_instances(
    study: Study,
    objective: SplittableObjective | None,
    instances: Sequence[Any] | Mapping[str, Any] | None,
    *,
    task: Task,
    limits: Limits,
    per_trial: int | None,
    seed: int,
) -> Split:
    """Split instances, or read how a resumed search has split them.

    Args:
        study: The study.
        objective: The objective; None for a function of the user.
        instances: The instances. Default: the objective's.
        task: The task.
        limits: Limits of search and confirmation.
        per_trial: Number of instances of the trials. Default: by the limits.
        seed: Seed of the split.

    Raises:
        TaskError: There are too few instances, or the study has trials of unknown instances.
    """
    named = _named(objective, instances)
    earlier = read_fresh(study)
    if earlier is not None and earlier.search is not None:
        names: Sequence[str] = earlier.search
        if missing := [name for name in names if name not in named]:
            raise TaskError(
                f"search: `instances` must include those of the study's trials, but "
                f"{len(missing)} are missing, for example {missing[0]!r}."
            )
    else:
        _check_new(study)
        if len(named) < 2:
            raise TaskError("search: `instances` must be 2 or more, got 1: none would be fresh.")
        count = per_trial or instances_per_trial(task, limits, len(named))
        if not 1 <= count < len(named):
            raise TaskError(
                f"search: `per_trial` must be 1 or more and leave fresh instances of "
                f"{len(named)}, got {count!r}."
            )
        if limits.instances([task.feasible.cheapest_cost]) < count:
            raise TaskError(
                f"search: the limit of {limits.text(task.cost_model.unit)} must cover a trial, "
                f"which runs on {count} instances: raise it, or pass a smaller `per_trial`."
            )
        names = list(named)
        if objective is None or instances is not None:
            random.Random(seed).shuffle(names)
        # The objective's own are shuffled already, and keep the steps that they have there.
        names = names[:count]
    chosen = set(names)
    search = {name: named[name] for name in names}
    fresh = {name: item for name, item in named.items() if name not in chosen}
    if objective is not None:
        fresh = dict(objective.on(search).fresh_instances(fresh, drop=True)) if fresh else {}
    prepare_fresh(study, list(fresh), search=list(search), beyond=len(named), seed=seed)
    if earlier is None:
        few = per_trial is None and len(search) < _FEWEST
        _logger.log(
            logging.WARNING if few else logging.INFO,
            "Study %r: trials run on %d of %d instances, and %d others confirm the best "
            "allocations%s. %s",
            *(study.study_name, len(search), len(named), len(fresh)),
            f" ({copies} copies of the former are left out)"
            if (copies := len(named) - len(search) - len(fresh))
            else "",
            _few_text(task, limits, len(named)) if few else "Pass `per_trial=` for another split.",
        )
    return Split(search, fresh)


def _few_text(task: Task, limits: Limits, available: int) -> str:
    """Return why trials run on few instances, and what to do."""
    start = f"Scores on fewer than {_FEWEST} instances are mostly chance: "
    if available < 2 * _FEWEST:
        return f"{start}pass {2 * _FEWEST} instances or more."
    needed = Limits(
        math.inf if limits.spend == math.inf else _FEWEST / _MOST_SHARE * largest_cost(task),
        math.inf if limits.evaluations == math.inf else round(_FEWEST / _MOST_SHARE),
    )
    return f"{start}raise the limit to {needed.text(task.cost_model.unit)} or more."


def _named(
    objective: SplittableObjective | None, instances: Sequence[Any] | Mapping[str, Any] | None
) -> Mapping[str, Any]:
    """Return the instances by name."""
    if objective is not None:
        return objective.instances if instances is None else objective.on(instances).instances
    if instances is None:
        raise TaskError("search: `instances` is needed, since `objective` is a function.")
    return name_instances(instances)


def _check_new(study: Study) -> None:
    """Raise if trials have run on instances that are not known.

    Raises:
        TaskError: Some have.
    """
    run = [trial for trial in storage.read_trials(study) if trial.state.is_finished()]
    if run:
        raise TaskError(
            f"search: study {study.study_name!r} has {len(run)} finished trials, and which "
            "instances they ran on is not known. Begin a new study, or call `confirm` with "
            "instances that they did not run on."
        )
