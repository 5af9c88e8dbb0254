"""Earlier studies of similar tasks, as evidence.

Data sets differ in difficulty, so scores of another study hardly predict the level of this one;
the ranking of allocations carries over. The planner therefore weighs an earlier trial as a
fraction of a new one, and shifts its score to the level of the new ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts import storage
from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.planner.evidence import EarlierTrials
from optuna_agenttts.planner.scale import find_outliers
from optuna_agenttts.study.archive import is_maximized
from optuna_agenttts.study.fates import guidelines
from optuna_agenttts.study.measured import readable_task
from optuna_agenttts.study.objectives import has_cost
from optuna_agenttts.task.task import Task


@dataclass(frozen=True, slots=True)
class Experience:
    """Trials and conclusions of an earlier study.

    Args:
        name: Name of the study.
        metric: Metric of its task; may be empty.
        maximize: Whether higher values are better.
        params: Parameters of its complete trials, without outliers.
        values: Values of these trials.
        guidelines: Latest guidelines of its agent.
    """

    name: str
    metric: str
    maximize: bool
    params: tuple[Mapping[str, Any], ...]
    values: tuple[float, ...]
    guidelines: tuple[str, ...]


def read_experience(studies: Sequence[Study]) -> tuple[Experience, ...]:
    """Read earlier studies, once: later changes to them have no effect.

    Raises:
        TaskError: An item is not a study of a score, or of a score and then a cost.
    """
    found = []
    for study in studies:
        if not isinstance(study, Study) or not (len(study.directions) == 1 or has_cost(study)):
            raise TaskError(
                "AgentTTSSampler: `experience` must hold studies of a score, or of a score and "
                f"then a cost to minimize, got {study!r}."
            )
        trials = [
            trial
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.values is not None
            and math.isfinite(trial.values[0])
            # Its instances differ, and trials of the search have its allocation.
            and not storage.confirmation_block(trial)
        ]
        sign = 1.0 if is_maximized(study.directions) else -1.0
        scores = sign * np.array([float(trial.values[0]) for trial in trials])
        outliers = find_outliers(scores, None, sign).tolist()
        trials = [trial for trial, outlier in zip(trials, outliers) if not outlier]
        task = readable_task(study)
        written = [planned.guidelines for planned in guidelines(study) if planned.guidelines]
        found.append(
            Experience(
                name=study.study_name,
                metric="" if task is None else task.metric,
                maximize=is_maximized(study.directions),
                params=tuple(dict(trial.params) for trial in trials),
                values=tuple(float(trial.values[0]) for trial in trials),
                guidelines=written[-1] if written else (),
            )
        )
    return tuple(found)


def earlier_trials(experience: Sequence[Experience], task: Task) -> EarlierTrials | None:
    """Return the earlier trials that have the task's stages and models, or None."""
    models, samples, scores, studies = [], [], [], []
    for index, earlier in enumerate(experience):
        sign = 1.0 if earlier.maximize else -1.0
        for params, value in zip(earlier.params, earlier.values):
            choices = task.read(params)
            if choices is not None:
                models.append([model for model, _ in choices])
                samples.append([count for _, count in choices])
                scores.append(sign * value)
                studies.append(index)
    if not scores:
        return None
    return EarlierTrials(
        np.array(models, dtype=np.int64),
        np.array(samples, dtype=np.int64),
        np.array(scores),
        np.array(studies, dtype=np.int64),
    )
