"""Earlier studies of similar tasks, as evidence: in words for the agent, else in figures.

Data sets differ in how hard they are, so another study's scores say little of this one's level.
What carries over is which allocations are better than which. The planner therefore counts an
earlier trial as a fraction of a trial of its own, shifted to where its own trials lie.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import TrialState

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.planner.evidence import Recalled
from optuna_agenttts.study.archive import is_maximized
from optuna_agenttts.study.rounds import guidelines
from optuna_agenttts.task.task import Task


@dataclass(frozen=True, slots=True)
class Experience:
    """What an earlier study leaves.

    Args:
        name: Its name.
        metric: What it measured, in its task's words; may be empty.
        maximize: Whether higher values were better.
        params: Parameters of its finished trials.
        values: Their values.
        guidelines: The agent's latest guidelines there.
    """

    name: str
    metric: str
    maximize: bool
    params: tuple[Mapping[str, Any], ...]
    values: tuple[float, ...]
    guidelines: tuple[str, ...]


def read_experience(studies: Sequence[Study]) -> tuple[Experience, ...]:
    """Read studies; what is read stays as it is, whatever becomes of them.

    Raises:
        TaskError: One of them is no study of one objective.
    """
    found = []
    for study in studies:
        if not isinstance(study, Study) or len(study.directions) != 1:
            raise TaskError(
                f"AgentTTSSampler: `experience` holds {study!r}: give studies of one objective."
            )
        trials = [
            trial
            for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if trial.values is not None and math.isfinite(trial.values[0])
        ]
        try:
            task = Task.registered(study)
        except TaskError:
            task = None
        told = [planned.guidelines for planned in guidelines(study) if planned.guidelines]
        found.append(
            Experience(
                name=study.study_name,
                metric="" if task is None else task.metric,
                maximize=is_maximized(study.directions),
                params=tuple(dict(trial.params) for trial in trials),
                values=tuple(float(trial.values[0]) for trial in trials),
                guidelines=told[-1] if told else (),
            )
        )
    return tuple(found)


def recall(experience: Sequence[Experience], task: Task) -> Recalled | None:
    """What earlier trials say of a task's allocations: those of the same stages and models."""
    models, samples, scores, studies = [], [], [], []
    for index, earlier in enumerate(experience):
        sign = 1.0 if earlier.maximize else -1.0
        for params, value in zip(earlier.params, earlier.values):
            known = task.choices_from_params(params)
            if len(known) == len(task.stages):
                models.append([known[i][0] for i in range(len(known))])
                samples.append([known[i][1] for i in range(len(known))])
                scores.append(sign * value)
                studies.append(index)
    if not scores:
        return None
    return Recalled(
        np.array(models, dtype=np.int64),
        np.array(samples, dtype=np.int64),
        np.array(scores),
        np.array(studies, dtype=np.int64),
    )
