"""Expected scores by the settings of two stages (Insight 3)."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.planner.evidence import Floats, Ints
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.importances import importances_of
from optuna_agenttts.report.saturation import thinned
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.ranges import Ranges

_POINTS = 2400
"""Allocations of a map: some tenths of a second. Chosen by hand."""
_GRID = 16
"""Maximum numbers of samples of a stage in a map. Chosen by hand."""


@dataclass(frozen=True, slots=True)
class MapPanel:
    """Expected scores for one model in each of two stages.

    Args:
        earlier_model: Model of the earlier stage.
        later_model: Model of the later stage.
        values: Expected values, in units of the metric, shape (later samples, earlier samples);
            NaN over the budget, and where constraints of the study are likely to be violated.
        best_later: For each number of earlier samples the best number of later ones, of those
            with a value; None where there is none.
        trials: Numbers of the search's complete trials in the panel, with their earlier and later
            samples and value.
    """

    earlier_model: str
    later_model: str
    values: Floats
    best_later: tuple[int | None, ...]
    trials: tuple[tuple[int, int, int, float], ...]


@dataclass(frozen=True, slots=True)
class AllocationMap:
    """Expected scores by models and samples of two stages; other stages are as recommended.

    Args:
        earlier: Name of the earlier stage.
        later: Name of the later stage.
        earlier_samples: Numbers of samples of the earlier stage, increasing.
        later_samples: Numbers of samples of the later stage, increasing.
        panels: One panel for each pair of models, the later stage's model changing last.
    """

    earlier: str
    later: str
    earlier_samples: tuple[int, ...]
    later_samples: tuple[int, ...]
    panels: tuple[MapPanel, ...]


def map_of(view: StudyView, earlier: str | None = None, later: str | None = None) -> AllocationMap:
    """Return expected scores by the settings of two stages.

    Args:
        view: The study.
        earlier: Name of the earlier stage. Default: the one before `later`.
        later: Name of the later stage. Default: the one after `earlier`. Without both, the two
            stages of largest importance are shown.

    Raises:
        TaskError: The task has one stage, or `earlier` and `later` are not two of its stages in
            their order.
        NoTaskError: The study has other objectives than a score, or a score and then a cost.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    found, task = view.candidates, view.task
    one, two = _stages(view, earlier, later)
    ranges = found.evidence.ranges or Ranges.all_of(task.feasible)
    pairs = list(itertools.product(ranges.models[one], ranges.models[two]))
    size = max(2, min(_GRID, math.isqrt(_POINTS // len(pairs))))
    grids = [thinned(np.array(ranges.samples[stage]), size) for stage in (one, two)]
    pairs.sort(key=lambda pair: pair[1])
    settings = np.array(
        [
            (first, earlier_samples, second, later_samples)
            for first, second in pairs
            for later_samples in grids[1].tolist()
            for earlier_samples in grids[0].tolist()
        ],
        dtype=np.int64,
    )
    choices = np.repeat(np.array([view.best], dtype=np.int64), len(settings), axis=0)
    choices[:, one], choices[:, two] = settings[:, :2], settings[:, 2:]
    points = found.points_of(choices[..., 0], choices[..., 1])
    values = found.values(points, found.posterior.at(points).mean())
    costs = task.feasible.costs_of(choices[..., 0], choices[..., 1])
    values[~found.allowed(points, costs)] = np.nan
    shape = len(pairs), len(grids[1]), len(grids[0])
    models = [task.stages[stage].models for stage in (one, two)]
    return AllocationMap(
        earlier=task.stages[one].name,
        later=task.stages[two].name,
        earlier_samples=tuple(grids[0].tolist()),
        later_samples=tuple(grids[1].tolist()),
        panels=tuple(
            MapPanel(
                earlier_model=models[0][first].name,
                later_model=models[1][second].name,
                values=panel,
                best_later=_best_later(found.evidence.sign * panel, grids[1]),
                trials=_trials(found, (one, first), (two, second)),
            )
            for (first, second), panel in zip(pairs, values.reshape(shape))
        ),
    )


def _stages(view: StudyView, earlier: str | None, later: str | None) -> tuple[int, int]:
    """Return the positions of the two stages of a map; see `map_of` for arguments and errors."""
    names = [stage.name for stage in view.task.stages]
    if len(names) < 2:
        raise TaskError(
            f"Task {view.task.name!r} has one stage, and a map of allocations needs two: see "
            "the saturation of that stage instead."
        )
    for argument, name in (("earlier", earlier), ("later", later)):
        if name is not None and name not in names:
            raise TaskError(f"`{argument}` must be one of {', '.join(names)}, got {name!r}.")
    if earlier is None and later is None:
        one, two = range(2) if len(names) == 2 else _most_important(view)
    else:
        two = names.index(later) if later is not None else -1
        one = names.index(earlier) if earlier is not None else two - 1
        two = two if later is not None else one + 1
    if not 0 <= one < two < len(names):
        raise TaskError(
            f"`earlier` must be a stage before `later`, got {earlier!r} and {later!r}: the stages "
            f"are {', '.join(names)}."
        )
    return one, two


def _most_important(view: StudyView) -> list[int]:
    """Return the positions of the two stages whose settings matter most, in order."""
    shares = {stage.name: 0.0 for stage in view.task.stages}
    for importance in view.get(importances_of):
        shares[importance.stage] += importance.share
    ranked = sorted(enumerate(shares.values()), key=lambda pair: -pair[1])
    return sorted(stage for stage, _ in ranked[:2])


def _best_later(scores: Floats, later: Ints) -> tuple[int | None, ...]:
    """Return the best number of later samples for each number of earlier ones."""
    filled = np.where(np.isnan(scores), -np.inf, scores)
    best: list[int] = later[np.argmax(filled, axis=0)].tolist()
    found = zip(best, filled.T.tolist())
    return tuple(number if max(column) > -np.inf else None for number, column in found)


def _trials(
    found: Candidates, earlier: tuple[int, int], later: tuple[int, int]
) -> tuple[tuple[int, int, int, float], ...]:
    """Return the complete trials with one model in each of two stages."""
    (one, first), (two, second) = earlier, later
    return tuple(
        (trial.number, trial.choices[one][1], trial.choices[two][1], trial.value)
        for trial in found.completed
        if (trial.choices[one][0], trial.choices[two][0]) == (first, second)
    )
