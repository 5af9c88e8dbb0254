"""Who proposes the next trials: planners, and what they see and say.

Nothing in here knows Optuna's studies. `archive.py` turns a study into `Evidence`; a planner
turns evidence into candidates; `sampler.py` hands them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.task.feasible import Choice
from optuna_agenttts.task.task import Task

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Choices = tuple[Choice, ...]
Origin = Literal["opening", "agent", "numerical", "fallback"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """A study's trials, as a planner sees them. Scores are such that higher is better.

    Args:
        task: The task that is tuned.
        models: Positions of the models of each observed trial, shape (trials, stages).
        samples: Numbers of samples, shape (trials, stages).
        scores: Observed scores, shape (trials,), finite.
        shares: Of each trial, which share of the instances its score is the mean of, in (0, 1].
        pending: Allocations that are running, or queued by the user.
        visited: Every allocation tried or pending, whatever came of it.
        unannounced: How many trials with lower numbers are choosing an allocation right now.
        sign: 1 if the study's values are the scores, -1 if they were turned to be maximized.
        numbers: Of each observed trial, its number.
        origins: Of each observed trial, who proposed it; empty where nobody said.
        outcomes: Of each observed trial, scores by instance, with its own sign; may be empty.
    """

    task: Task
    models: Ints
    samples: Ints
    scores: Floats
    shares: Floats
    pending: tuple[Choices, ...] = ()
    visited: frozenset[Choices] = frozenset()
    unannounced: int = 0
    sign: float = 1.0
    numbers: tuple[int, ...] = ()
    origins: tuple[str, ...] = ()
    outcomes: tuple[Mapping[int, float], ...] = ()

    @classmethod
    def empty(cls, task: Task) -> Evidence:
        """Nothing known yet."""
        none = np.zeros((0, len(task.stages)), dtype=np.int64)
        return cls(task, none, none, np.zeros(0), np.zeros(0))


@dataclass(frozen=True, slots=True)
class Recalled:
    """Trials of earlier studies, in terms of this task. Scores are such that higher is better.

    Args:
        models: Positions of models, shape (trials, stages).
        samples: Numbers of samples, shape (trials, stages).
        scores: Scores, shape (trials,).
        studies: Of each trial, which study it belongs to.
    """

    models: Ints
    samples: Ints
    scores: Floats
    studies: Ints


@dataclass(frozen=True, slots=True)
class Constraint:
    """What a trial has settled already, by stage: enqueued values, or a pipeline's own choice."""

    models: Mapping[int, int] = field(default_factory=dict)
    samples: Mapping[int, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether anything is settled."""
        return bool(self.models or self.samples)

    def met_by(self, choices: Choices) -> bool:
        """Whether an allocation agrees with what is settled."""
        return all(choices[stage][0] == model for stage, model in self.models.items()) and all(
            choices[stage][1] == samples for stage, samples in self.samples.items()
        )


@dataclass(frozen=True, slots=True)
class Candidate:
    """An allocation proposed for a trial.

    Args:
        choices: The allocation, as positions of models and numbers of samples.
        origin: Who proposed it.
        reason: Why, in a sentence.
    """

    choices: Choices
    origin: Origin
    reason: str
