"""Course of a search: its trials, and the recommendation after them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from weakref import WeakKeyDictionary

import numpy as np
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial

from optuna_agenttts import storage
from optuna_agenttts.exceptions import NoEvidenceError, NoTaskError
from optuna_agenttts.report.candidates import Candidates
from optuna_agenttts.report.trials import STATE_NAMES, value_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.allocation import Allocation

_MOST = 30
"""Maximum number of points. Chosen by hand: each takes some tenths of a second."""
_Points = dict[tuple[int, str, int, datetime | None], "ProgressPoint | None"]
_points: WeakKeyDictionary[BaseStorage, _Points] = WeakKeyDictionary()
"""Points after finished trials, which do not change, by study, task, number of trials, and when
the last one ended: a database gives a new study the number of one that was deleted."""


@dataclass(frozen=True, slots=True)
class ProgressPoint:
    """Recommendation after a number of trials.

    Args:
        number: Number of the last trial that it is based on.
        allocation: The allocation.
        value: Expected value, in units of the metric.
        interval: Central 90 % interval; see `Recommendation.interval`.
        cost: Cost for one instance, in units of the task's cost model.
    """

    number: int
    allocation: Allocation
    value: float
    interval: tuple[float, float] | None
    cost: float


@dataclass(frozen=True, slots=True)
class SearchTrial:
    """Trial of a search.

    Args:
        number: Number of the trial.
        value: Its value, or the mean of what it saw if it was stopped; None without one.
        state: ``"complete"``, ``"pruned"``, ``"failed"``, ``"running"`` or ``"waiting"``.
        origin: Where its allocation came from, such as "opening", "numerical" or "agent"; empty if
            the sampler does not write it down.
        confirms: Whether it confirms an allocation on fresh instances.
    """

    number: int
    value: float | None
    state: str
    origin: str
    confirms: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """Course of a search.

    Args:
        points: Recommendations, at most 30 numbers of trials, the last one included.
        trials: All trials.
    """

    points: tuple[ProgressPoint, ...]
    trials: tuple[SearchTrial, ...]


def progress_of(view: StudyView) -> Progress:
    """Return how the recommendation of a study changed from trial to trial."""
    points = (_point(view, count) for count in _counts(len(view.trials)))
    return Progress(
        points=tuple(point for point in points if point is not None),
        trials=tuple(map(_search_trial, view.trials)),
    )


def _counts(trials: int) -> list[int]:
    """Return the numbers of trials to recommend after: ten for each factor of ten, and the last.

    They do not depend on the number of trials, so that earlier points are computed once.
    """
    steps = range(round(10 * math.log10(trials)) + 1) if trials else ()
    counts = {round(10 ** (step / 10)) for step in steps}
    return sorted({*(count for count in counts if count < trials), *({trials} - {0})})[-_MOST:]


def _point(view: StudyView, count: int) -> ProgressPoint | None:
    """Return the recommendation after a number of trials; None if there is none."""
    trials = view.trials[:count]
    known = _points.setdefault(view.study._storage, {})
    key = view.study._study_id, view.task.text, count, trials[-1].datetime_complete
    if key in known:
        return known[key]
    try:
        last = count == len(view.trials)
        found = view.candidates if last else Candidates(view.study, view.task, "recommend", trials)
    except (NoEvidenceError, NoTaskError):
        point = None
    else:
        best = np.array([found.best(np.arange(len(found.keys)))])
        values = found.values(found.points.take(best), found.mean[best])
        point = ProgressPoint(
            number=trials[-1].number,
            allocation=found.task.allocation(found.keys[best[0]]),
            value=float(values[0]),
            interval=found.intervals(found.points.take(best), values, None)[0],
            cost=float(found.costs[best[0]]),
        )
    if all(trial.state.is_finished() for trial in trials):
        known[key] = point
    return point


def _search_trial(trial: FrozenTrial) -> SearchTrial:
    return SearchTrial(
        number=trial.number,
        value=value_of(trial),
        state=STATE_NAMES[trial.state],
        origin=str(trial.user_attrs.get(storage.ORIGIN, "")),
        confirms=storage.confirmation_block(trial) > 0,
    )
