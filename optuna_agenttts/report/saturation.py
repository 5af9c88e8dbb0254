"""How scores saturate with the number of samples, for each stage and model (Insight 2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Evidence, Floats, Ints
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.ranges import Ranges

_ALL = 100
"""Numbers of samples up to which a curve has all; above, so many are spread evenly by ratio."""
_MARGIN = 0.01
"""Gain that counts as none, as a share of the metric's range. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class SaturationTrial:
    """Trial in the curve of a stage's model.

    Args:
        number: Number of the trial.
        samples: Its number of samples of the stage.
        value: Its value, in units of the metric.
        alike: Whether its other stages are as recommended, so that it is a point of the curve.
    """

    number: int
    samples: int
    value: float
    alike: bool


@dataclass(frozen=True, slots=True)
class SaturationCurve:
    """Expected score of one model of one stage by number of samples.

    The other stages are as recommended.

    Args:
        stage: Name of the stage.
        model: Name of the model.
        recommended: Whether the recommended allocation has this model.
        samples: Numbers of samples, increasing.
        values: Expected values, in units of the metric.
        intervals: Central 90 % intervals; see `Recommendation.interval`.
        costs: Costs of the whole allocations for one instance, in units of the task's cost model.
        affordable: Largest number of samples within the budget; 0 if one sample is over it.
        saturates_at: Smallest number of samples beyond which further ones within the budget are
            expected to gain less than the margin. None if `affordable` is 0.
        gain: What samples beyond `saturates_at` are expected to gain, in units of the metric; 0
            or more.
        trials: Complete trials with this model in this stage.
    """

    stage: str
    model: str
    recommended: bool
    samples: tuple[int, ...]
    values: tuple[float, ...]
    intervals: tuple[tuple[float, float] | None, ...]
    costs: tuple[float, ...]
    affordable: int
    saturates_at: int | None
    gain: float
    trials: tuple[SaturationTrial, ...]


@dataclass(frozen=True, slots=True)
class Saturation:
    """Saturation curves of all stages and models.

    Args:
        curves: The curves, in order of stage and model.
        margin: Gain that counts as none, in units of the metric.
    """

    curves: tuple[SaturationCurve, ...]
    margin: float


def saturation_of(view: StudyView) -> Saturation:
    """Return the saturation curves of all stages and models that the study can suggest.

    Raises:
        NoTaskError: The study has several objectives.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    found, task, best = view.candidates, view.task, view.best
    feasible, evidence = task.feasible, found.evidence
    ranges = evidence.ranges or Ranges.all_of(feasible)
    parts: list[tuple[int, int, int, Ints]] = []
    for stage, (own, samples) in enumerate(best):
        rest = feasible.cost(best) - float(feasible.costs[stage][own][samples - 1])
        for model in ranges.models[stage]:
            allowed = np.array(ranges.samples[stage])
            within = allowed[allowed <= feasible.max_samples(stage, model, rest)]
            affordable = int(within.max(initial=0))
            grid = _thinned(allowed, [affordable, samples, *_tried(evidence, stage, model)])
            parts.append((stage, model, affordable, grid))
    grids = [grid for *_, grid in parts]
    choices = np.repeat(np.array([best], dtype=np.int64), sum(map(len, grids)), axis=0)
    row = 0
    for stage, model, _, grid in parts:
        rows = slice(row, row := row + len(grid))
        choices[rows, stage, 0], choices[rows, stage, 1] = model, grid
    points = found.surrogate.points(choices[..., 0], choices[..., 1])
    values = found.values(points, found.posterior.at(points).mean())
    intervals = found.intervals(points, values, None)
    costs = feasible.costs_of(points.models, points.samples)
    margin = _MARGIN * found.scale.extent
    curves, row = [], 0
    for stage, model, affordable, grid in parts:
        rows = slice(row, row := row + len(grid))
        at, gain = _saturated(evidence.sign * values[rows], grid, affordable, margin)
        curves.append(
            SaturationCurve(
                stage=task.stages[stage].name,
                model=task.stages[stage].models[model].name,
                recommended=best[stage][0] == model,
                samples=tuple(grid.tolist()),
                values=tuple(values[rows].tolist()),
                intervals=tuple(intervals[rows]),
                costs=tuple(costs[rows].tolist()),
                affordable=affordable,
                saturates_at=at,
                gain=gain,
                trials=_trials(view, stage, model),
            )
        )
    return Saturation(tuple(curves), margin)


def _tried(evidence: Evidence, stage: int, model: int) -> list[int]:
    """Return the tried numbers of samples of a stage's model."""
    rows = evidence.models[:, stage] == model
    tried: list[int] = evidence.samples[rows, stage].tolist()
    return tried


def _thinned(samples: Ints, kept: list[int]) -> Ints:
    """Return numbers of samples, some of which are kept, evenly by ratio if there are many."""
    if len(samples) <= _ALL:
        return samples
    places = np.searchsorted(samples, np.geomspace(samples[0], samples[-1], _ALL))
    found: Ints = np.union1d(samples[places], np.intersect1d(samples, kept))
    return found


def _saturated(
    scores: Floats, grid: Ints, affordable: int, margin: float
) -> tuple[int | None, float]:
    """Return where a curve saturates, and what it gains beyond.

    Args:
        scores: Expected scores, higher ones being better.
        grid: Numbers of samples.
        affordable: Largest one within the budget; 0 if none is.
        margin: Gain that counts as none.
    """
    if not affordable:
        return None, 0.0
    within = scores[grid <= affordable]
    # The best that each number of samples leaves to gain.
    gains = np.maximum.accumulate(within[::-1])[::-1] - within
    first = int(np.argmax(gains <= margin))
    return int(grid[first]), float(gains[first])


def _trials(view: StudyView, stage: int, model: int) -> tuple[SaturationTrial, ...]:
    """Return the complete trials of a stage's model."""
    evidence, best = view.candidates.evidence, np.array(view.best)
    others = np.arange(len(best)) != stage
    chosen = np.stack([evidence.models, evidence.samples], axis=-1)
    alike = (chosen[:, others] == best[others]).all(axis=(1, 2))
    return tuple(
        SaturationTrial(
            number=evidence.numbers[row],
            samples=int(evidence.samples[row, stage]),
            value=float(evidence.sign * evidence.scores[row]),
            alike=bool(alike[row]),
        )
        for row in np.flatnonzero(evidence.models[:, stage] == model).tolist()
        if not evidence.stopped[row]
    )
