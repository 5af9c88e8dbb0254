"""Saturation of scores with the number of samples, for each stage and model (Insight 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Choices, Floats, Ints
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.text import count_text
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.ranges import Ranges

_ALL = 100
"""Numbers of samples up to which a curve has all; above, so many are spread evenly by ratio."""
_MARGIN = 0.02
"""Gain that counts as none, as a share of the metric's range (of the spread of observed scores, if
it is unknown). Chosen by hand: samples beyond truly gained at most twice as much on 67 to 97 % of
the recommended models' curves (docs/benchmarks.md); half the margin was exceeded more often."""
_DRAWS = 200
"""Draws from the posterior. Chosen by hand."""


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
        affordable: Largest number of samples within the budget, and likely to meet the
            constraints of the study; 0 if there is none.
        saturates_at: Smallest number of samples beyond which further affordable ones are expected
            to gain at most the margin. None if `affordable` is 0.
        saturates_between: Central 90 % interval of `saturates_at`; None if that is.
        gain: What affordable samples beyond `saturates_at` are expected to gain, in units of the
            metric; 0 or more.
        trials: Complete trials of the search with this model in this stage.
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
    saturates_between: tuple[int, int] | None
    gain: float
    trials: tuple[SaturationTrial, ...]

    @property
    def finding(self) -> str:
        """Text on where the curve saturates, without names."""
        if self.saturates_at is None or self.saturates_between is None:
            return "not even 1 sample is allowed"
        if self.affordable == 1:
            return "no more than 1 sample is allowed"
        low, high = self.saturates_between
        interval = f"90 % interval {low} to {high}"
        if self.saturates_at == self.affordable:
            return f"still gains at the most samples allowed, {self.affordable} ({interval})"
        at = count_text(self.saturates_at, "sample")
        return f"saturates at {at} ({interval}) of at most {self.affordable}"

    @property
    def brief_finding(self) -> str:
        """Number of samples at which the curve saturates, with its interval, for tables."""
        if self.saturates_between is None or self.affordable == 1:
            return "-"
        low, high = self.saturates_between
        at = "not yet" if self.saturates_at == self.affordable else str(self.saturates_at)
        return f"{at} ({low} to {high})"


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
        NoTaskError: The study has other objectives than a score, or a score and then a cost.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    found, task, best = view.candidates, view.task, view.best
    feasible, evidence = task.feasible, found.evidence
    ranges = evidence.ranges or Ranges.all_of(feasible)
    parts: list[tuple[int, int, Ints]] = []
    for stage, (_, samples) in enumerate(best):
        rest = feasible.cost_of_others(best, stage)
        for model in ranges.models[stage]:
            most = feasible.max_samples(stage, model, rest)
            allowed = np.array(ranges.samples[stage])
            kept = [samples, int(allowed[allowed <= most].max(initial=0))]
            tried = evidence.samples[evidence.models[:, stage] == model, stage]
            parts.append((stage, model, thinned(allowed, _ALL, [*kept, *tried.tolist()])))
    sizes = [len(grid) for *_, grid in parts]
    choices = np.repeat(np.array([best], dtype=np.int64), sum(sizes), axis=0)
    ends = np.cumsum(sizes)
    for (stage, model, grid), end in zip(parts, ends.tolist()):
        choices[end - len(grid) : end, stage] = np.stack([np.full_like(grid, model), grid], axis=1)
    points = found.points_of(choices[..., 0], choices[..., 1])
    values = found.values(points, found.posterior.at(points).mean())
    intervals = found.intervals(points, values, None)
    costs = feasible.costs_of(choices[..., 0], choices[..., 1])
    allowed, margin = found.allowed(points, costs), _MARGIN * found.scale.extent
    curves = []
    for (stage, model, grid), end in zip(parts, ends.tolist()):
        rows = np.arange(end - len(grid), end)
        inside = rows[allowed[rows]]
        at, between, gain = saturated(found, points.take(inside), values[inside], margin)
        numbers = choices[inside, stage, 1].tolist()
        curves.append(
            SaturationCurve(
                stage=task.stages[stage].name,
                model=task.stages[stage].models[model].name,
                recommended=best[stage][0] == model,
                samples=tuple(grid.tolist()),
                values=tuple(values[rows].tolist()),
                intervals=tuple(intervals[end - len(grid) : end]),
                costs=tuple(costs[rows].tolist()),
                affordable=max(numbers, default=0),
                saturates_at=numbers[at] if numbers else None,
                saturates_between=(numbers[between[0]], numbers[between[1]]) if numbers else None,
                gain=gain,
                trials=_trials(view, stage, model),
            )
        )
    return Saturation(tuple(curves), margin)


def thinned(samples: Ints, most: int, kept: Sequence[int] = ()) -> Ints:
    """Return numbers of samples, evenly by ratio if there are too many.

    Args:
        samples: The numbers, increasing.
        most: Number of them up to which all are returned.
        kept: Numbers that are returned in any case, if they are among the samples.
    """
    if len(samples) <= most:
        return samples
    places = np.searchsorted(samples, np.geomspace(samples[0], samples[-1], most))
    own = np.array(kept, dtype=np.int64)
    found: Ints = np.union1d(samples[places], np.intersect1d(samples, own))
    return found


def saturated(
    found: Candidates, points: Points, values: Floats, margin: float
) -> tuple[int, tuple[int, int], float]:
    """Return where a curve saturates, as positions, and what it gains beyond.

    Args:
        found: The candidates.
        points: The affordable allocations of the curve.
        values: Their values, in units of the metric.
        margin: Gain that counts as none.
    """
    if not len(points):
        return 0, (0, 0), 0.0
    gains = _gains(found.evidence.sign * values)
    first = int(np.argmax(gains <= margin))
    drawn = found.exact.at(points).draw(np.random.default_rng(0), _DRAWS)
    firsts = np.sort(np.argmax(_gains(drawn) * found.scale.span <= margin, axis=1))
    if not found.scale.informative:
        # Equal scores of an unknown range tell nothing, as wide as it is.
        return first, (0, len(points) - 1), 0.0
    tail = round(0.05 * _DRAWS)
    between = min(first, int(firsts[tail])), max(first, int(firsts[-1 - tail]))
    return first, between, float(gains[first])


def _gains(scores: Floats) -> Floats:
    """Return what further samples gain at best, shape (..., samples)."""
    best: Floats = np.maximum.accumulate(scores[..., ::-1], axis=-1)[..., ::-1]
    return best - scores


def _trials(view: StudyView, stage: int, model: int) -> tuple[SaturationTrial, ...]:
    """Return the complete trials of a stage's model."""

    def others(choices: Choices) -> Choices:
        return choices[:stage] + choices[stage + 1 :]

    return tuple(
        SaturationTrial(
            number=trial.number,
            samples=trial.choices[stage][1],
            value=trial.value,
            alike=others(trial.form) == others(view.best),
        )
        for trial in view.candidates.completed
        if trial.choices[stage][0] == model
    )
