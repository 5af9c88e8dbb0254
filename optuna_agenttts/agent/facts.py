"""What the evidence says in figures: the part of a prompt that is computed, not remembered.

Three tables, one for each insight of the paper: how far each model of a stage falls behind the
best, where its samples saturate, and how the rest of the allocation should follow it. All of
them come from the posterior (`planner/posterior.py`), so they hold what is uncertain too; paired
comparisons of trials, which need no model, stand beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Evidence, Floats, Ints
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.numerical import NumericalPlanner
from optuna_agenttts.planner.posterior import Z90, Posterior

_GRID_SIZE = 16
_SATURATION_TOLERANCE = 0.1
"""Samples saturate where all but this share of what they can gain has been gained."""


@dataclass(frozen=True, slots=True)
class ModelFact:
    """What is known of a model in a stage. Values are in the study's own units.

    Args:
        stage: Position of the stage.
        model: Position of the model.
        trials: How many trials used it there.
        expected: Expected value of the best allocation that uses it there.
        behind: How much worse that is than the best of all, 0 or more.
        behind_sd: Standard deviation of that difference.
        companion: That best allocation.
        saturation: Number of samples at which it saturates there, beside that allocation.
        saturation_range: The fewest and the most samples that cannot be told from the peak: the
            central 90 % of the difference holds zero.
        gain: How much better that number of samples is than one.
        gain_sd: Standard deviation of that difference.
        most: The most samples that fit the budget beside that allocation.
    """

    stage: int
    model: int
    trials: int
    expected: float
    behind: float
    behind_sd: float
    companion: Choices
    saturation: int
    saturation_range: tuple[int, int]
    gain: float
    gain_sd: float
    most: int

    @property
    def excluded(self) -> bool:
        """Whether it is surely not the best: zero is outside the central 90 % of `behind`."""
        return self.behind > Z90 * self.behind_sd


@dataclass(frozen=True, slots=True)
class PairedFact:
    """Two trials compared instance by instance: the best with one model, and with another.

    Args:
        stage: Position of the stage in which they use different models.
        numbers: The trials' numbers, the better one first.
        models: Positions of their models.
        difference: Mean difference of outcomes, 0 or more.
        error: Its standard error.
        instances: How many instances both saw.
    """

    stage: int
    numbers: tuple[int, int]
    models: tuple[int, int]
    difference: float
    error: float
    instances: int


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that is computed from the evidence."""

    models: tuple[ModelFact, ...] = ()
    paired: tuple[PairedFact, ...] = ()


def fit_facts(planner: NumericalPlanner, evidence: Evidence) -> Facts:
    """Work the facts out; none before the first score."""
    if len(evidence.scores) == 0:
        return Facts()
    posterior = Posterior(planner.surrogate, evidence)
    pool = planner.pool
    mean = posterior.at(pool).mean()
    pairs = [
        (stage, int(model))
        for stage in range(len(evidence.task.stages))
        for model in np.unique(pool.models[:, stage])
    ]
    best = int(np.argmax(mean))
    holders = []
    for stage, model in pairs:
        with_model = np.flatnonzero(pool.models[:, stage] == model)
        holders.append(int(with_model[np.argmax(mean[with_model])]))
    compared = pool.take(np.array([best, *holders]))
    behind_sd = posterior.at(compared).difference_sd(0)[1:]
    span = posterior.scale.span
    facts = []
    for (stage, model), holder, sd in zip(pairs, holders, behind_sd):
        point = pool.take(np.array([holder]))
        most = _most_samples(planner, point, stage)
        number, interval, gain, gain_sd = _saturation(planner, posterior, point, stage, most)
        facts.append(
            ModelFact(
                stage=stage,
                model=model,
                trials=int((evidence.models[:, stage] == model).sum()),
                expected=float(evidence.sign * posterior.scale.scores(mean[holder])),
                behind=float(mean[best] - mean[holder]) * span,
                behind_sd=float(sd) * span,
                companion=tuple(zip(point.models[0].tolist(), point.samples[0].tolist())),
                saturation=number,
                saturation_range=interval,
                gain=gain * span,
                gain_sd=gain_sd * span,
                most=most,
            )
        )
    return Facts(tuple(facts), tuple(_paired(evidence)))


def _most_samples(planner: NumericalPlanner, point: Points, stage: int) -> int:
    """The most samples of one stage beside the rest of an allocation."""
    feasible = planner.task.feasible
    choices = list(zip(point.models[0].tolist(), point.samples[0].tolist()))
    model, samples = choices[stage]
    others = feasible.cost(choices) - float(feasible.costs[stage][model][samples - 1])
    return max(1, feasible.max_samples(stage, model, others))


def _saturation(
    planner: NumericalPlanner, posterior: Posterior, point: Points, stage: int, most: int
) -> tuple[int, tuple[int, int], float, float]:
    """Vary one stage's samples: where they saturate, the range of that, the gain and its sd."""
    grid: Ints = np.unique(np.geomspace(1, most, _GRID_SIZE).round().astype(np.int64))
    samples = np.repeat(point.samples, len(grid), axis=0)
    samples[:, stage] = grid
    along = planner.surrogate.points(np.repeat(point.models, len(grid), axis=0), samples)
    view = posterior.at(along)
    curve = view.mean()
    at, peak = _knee(curve), int(np.argmax(curve))
    close = curve[peak] - curve <= Z90 * view.difference_sd(peak) + 1e-12
    alike = np.flatnonzero(close)
    sd = view.difference_sd(0)[at]
    interval = (int(grid[min(alike[0], at)]), int(grid[max(alike[-1], at)]))
    return int(grid[at]), interval, float(curve[at] - curve[0]), float(sd)


def _knee(curve: Floats) -> int:
    top = float(curve.max())
    enough = top - _SATURATION_TOLERANCE * (top - float(curve[0]))
    return int(np.argmax(curve >= enough - 1e-12))


def _paired(evidence: Evidence) -> list[PairedFact]:
    found = []
    for stage in range(len(evidence.task.stages)):
        best: dict[int, int] = {}
        for row in np.argsort(-evidence.scores, kind="stable").tolist():
            best.setdefault(int(evidence.models[row, stage]), row)
        ranked = sorted(best.values(), key=lambda row: -evidence.scores[row])
        for row in ranked[1:]:
            pair = _pair(evidence, ranked[0], row, stage)
            if pair is not None:
                found.append(pair)
    return found


def _pair(evidence: Evidence, better: int, other: int, stage: int) -> PairedFact | None:
    if not evidence.outcomes:
        return None
    ours, theirs = evidence.outcomes[better], evidence.outcomes[other]
    shared = [step for step in ours if step in theirs]
    if len(shared) < 5:
        return None
    gaps = evidence.sign * np.array([ours[step] - theirs[step] for step in shared])
    gaps = gaps[np.isfinite(gaps)]
    if len(gaps) < 5:
        return None
    return PairedFact(
        stage=stage,
        numbers=(evidence.numbers[better], evidence.numbers[other]),
        models=(int(evidence.models[better, stage]), int(evidence.models[other, stage])),
        difference=float(gaps.mean()),
        error=float(gaps.std(ddof=1) / np.sqrt(len(gaps))),
        instances=len(gaps),
    )
