"""Values that planners read and return.

`study/archive.py` turns an Optuna study into `Evidence`, a planner turns evidence into a
`Candidate`, and `sampler.py` hands the candidate to a trial. Nothing here depends on Optuna.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from optuna_agenttts.planner.scale import UNIT_SCALE, Scale
from optuna_agenttts.planner.scale import Bools as Bools
from optuna_agenttts.planner.scale import Floats as Floats
from optuna_agenttts.task.equivalence import Choices as Choices
from optuna_agenttts.task.ranges import Ranges
from optuna_agenttts.task.task import Task

Ints = NDArray[np.int64]
Origin = Literal["opening", "agent", "numerical", "fallback"]


def choices_of(models: Ints, samples: Ints) -> list[Choices]:
    """Convert arrays of shape (allocations, stages) to choices."""
    return [tuple(zip(m, s)) for m, s in zip(models.tolist(), samples.tolist(), strict=True)]


@dataclass(frozen=True, slots=True)
class Odds:
    """Probability that each model, and each octave of samples, is the best of a stage.

    Args:
        models: Probabilities of the models for each stage, shape (models,). Those that cannot be
            the best, because they do not fit, have 0.
        samples: Probabilities of 1, 2 to 3, 4 to 7, ... samples for each stage, likewise.
    """

    models: tuple[Floats, ...]
    samples: tuple[Floats, ...]

    def cells(self) -> tuple[Floats, ...]:
        """Return the probabilities of the models of each stage, then of its samples."""
        return *self.models, *self.samples


@dataclass(frozen=True, slots=True)
class Evidence:
    """Trials of a study. Scores are oriented so that higher is better.

    Args:
        task: The task that is tuned.
        models: Positions of the models of each observed trial, shape (trials, stages).
        samples: Numbers of samples, shape (trials, stages).
        scores: Observed scores, shape (trials,), finite.
        shares: Fraction of the instances that each score averages over, in (0, 1], shape
            (trials,).
        pending: Allocations of running trials and of trials enqueued by the user.
        visited: Allocations not to propose: tried or pending ones, and failed ones for a while.
            Like `tried` and `failed`, it contains those of equal outcomes (`task/equivalence.py`).
        concurrent: Number of running trials with a lower number that have not published their
            allocation yet.
        sign: 1 if the study's values are the scores, -1 if they are negated because the study
            minimizes.
        numbers: Optuna's number of each observed trial.
        origins: Origin of each observed trial's allocation; empty string if not recorded.
        expected: Score that the planner expected of each observed trial of the agent; NaN if it is
            not recorded. Rows without an entry are likewise.
        outcomes: For each observed trial, finite outcomes by instance in the study's own sign,
            whose mean is the score. A mapping is empty if the trial reported none.
        stopped: Whether each observed trial was stopped before it saw all instances (pruned). Its
            score is the mean of what it saw.
        blocks: Block of fresh instances of each observed trial that confirms an allocation, from
            1; 0 for trials of the search. Rows without an entry are trials of the search.
        tried: Allocations that were tried or are pending, without those that only failed.
        failed: Allocations that only failed, too often to be tried again.
        ranges: Ranges that the study's trials suggest values from; None if they are the task's.
        scale: What scores count as rates of 0 and 1; in force wherever these trials are weighed.
        outliers: Number and value of each trial whose value is an outlier, such as a penalty for
            a run that went wrong. They are among the tried allocations, but not observed.
        constraints: Allocation and constraint values of each trial whose feasibility is known; a
            value above 0 is a violation. Empty if no trial of the study has constraints.
        odds: Odds of the agent's rounds, latest last. They weigh what is tried next, and nothing
            else; see `odds.py`.
        frontier: Whether good scores at every cost are searched for, not only the best one.
        measured: Second value of each observed trial, a cost; NaN if it is not finite. Empty in
            studies of one objective.
    """

    task: Task
    models: Ints
    samples: Ints
    scores: Floats
    shares: Floats
    pending: tuple[Choices, ...] = ()
    visited: frozenset[Choices] = frozenset()
    concurrent: int = 0
    sign: float = 1.0
    numbers: tuple[int, ...] = ()
    origins: tuple[str, ...] = ()
    expected: tuple[float, ...] = ()
    outcomes: tuple[Mapping[int, float], ...] = ()
    stopped: tuple[bool, ...] = ()
    blocks: tuple[int, ...] = ()
    tried: frozenset[Choices] = frozenset()
    failed: frozenset[Choices] = frozenset()
    ranges: Ranges | None = None
    scale: Scale = UNIT_SCALE
    outliers: tuple[tuple[int, float], ...] = ()
    constraints: tuple[tuple[Choices, Mapping[str, float]], ...] = ()
    odds: tuple[Odds, ...] = ()
    frontier: bool = False
    measured: tuple[float, ...] = ()

    @property
    def choices(self) -> list[Choices]:
        """Allocations of the observed trials."""
        return choices_of(self.models, self.samples)

    def block_of_rows(self) -> Ints:
        """Return the block of each row, shape (trials,); see `blocks`."""
        blocks = np.zeros(len(self.scores), dtype=np.int64)
        blocks[: len(self.blocks)] = self.blocks
        return blocks

    def take(self, rows: Ints) -> Evidence:
        """Return the evidence with only some of the observed trials, by position."""
        taken: dict[str, Any] = {}
        for name in ("models", "samples", "scores", "shares"):
            taken[name] = getattr(self, name)[rows]
        listed = ("numbers", "origins", "expected", "outcomes", "stopped", "blocks", "measured")
        for name in listed:
            values = getattr(self, name)
            taken[name] = tuple(values[row] for row in rows.tolist() if row < len(values))
        return replace(self, **taken)

    @classmethod
    def empty(cls, task: Task) -> Evidence:
        """Return the evidence of a study without trials."""
        none = np.zeros((0, len(task.stages)), dtype=np.int64)
        return cls(task, none, none, np.zeros(0), np.zeros(0))


@dataclass(frozen=True, slots=True)
class EarlierTrials:
    """Trials of earlier studies in terms of the current task. Higher scores are better.

    Args:
        models: Positions of models, shape (trials, stages).
        samples: Numbers of samples, shape (trials, stages).
        scores: Scores, shape (trials,).
        studies: Index of the study of each trial, shape (trials,).
    """

    models: Ints
    samples: Ints
    scores: Floats
    studies: Ints


@dataclass(frozen=True, slots=True)
class Constraint:
    """Allocations that a trial can still take.

    Args:
        ranges: Allowed values, where the trial has suggested or enqueued values or asks for a
            parameter of a certain range. None allows all.
        fixed: Whether the trial has values already; then it is not part of the opening.
    """

    ranges: Ranges | None = None
    fixed: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """An allocation proposed for a trial.

    Args:
        choices: The allocation.
        origin: The part of the sampler that proposed it.
        reason: One sentence that explains the proposal.
        proposed: What became of the agent's candidate for the trial, as `study.fates` reads it;
            None without one.
    """

    choices: Choices
    origin: Origin
    reason: str
    proposed: Mapping[str, Any] | None = field(default=None, compare=False)
