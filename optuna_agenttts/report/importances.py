"""Importance of the settings of an allocation for the score, by the posterior.

Allocations are drawn at random within the budget: models evenly, and numbers of samples evenly by
ratio (log-uniformly). The importance of a setting is the expected variance of the score if this
setting is drawn again and the others are kept: its total effect (T. Homma and A. Saltelli 1996,
Reliability Engineering and System Safety 52, pp. 1-17; estimated as by M. Jansen 1999, Computer
Physics Communications 117, pp. 35-43). Unlike those of Optuna, which are fitted to the trials that
a search chose, it is about all allocations within the budget.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Bools, Floats, Ints
from optuna_agenttts.planner.posterior import Z90
from optuna_agenttts.report.saturation import Saturation, SaturationCurve, saturation_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.task.feasible import FeasibleSet
from optuna_agenttts.task.model import Model
from optuna_agenttts.task.ranges import Ranges

_POINTS = 640
"""Allocations that are drawn, some tenths of a second. Chosen by hand."""
_FEWEST = 3
"""Different allocations below which shares would be those of the prior. Chosen by hand."""
_SWEEPS = 20
"""Times that each setting of an allocation is drawn before it counts as random. Chosen by hand."""
_DRAWS = 200
"""Draws from the posterior. Chosen by hand."""
_ROUNDING = 1e-12
"""Variances up to this, in rates squared, are rounding errors."""
_EXACT = 1e-9
"""Differences up to this share of a score are rounding errors."""
_HALF = 1.25 * Z90
"""Half the width of an interval in standard deviations, on the arcsine scale of proportions: on
development landscapes 90 % of the true shares were within 1.6 to 2.2 (docs/benchmarks.md)."""


@dataclass(frozen=True, slots=True)
class Importance:
    """Importance of one setting of one stage.

    Args:
        stage: Name of the stage.
        setting: ``"model"`` or ``"samples"``; in stages whose models have thinking efforts also
            ``"thinking"``, and ``"model"`` is then the model at the effort that is nearest.
        parameter: Name of the Optuna parameter.
        share: Variance of the expected score if this setting alone is drawn again, as a share of
            the sum over all settings; from 0 to 1. Shares add up to 1, or are all 0 if no setting
            changes the score.
        interval: Central 90 % interval of the share.
        loss: Mean loss, in units of the metric, if this setting of the recommended allocation is
            replaced by a random one within the budget; 0 or more.
    """

    stage: str
    setting: str
    parameter: str
    share: float
    interval: tuple[float, float]
    loss: float


def importances_of(view: StudyView) -> tuple[Importance, ...]:
    """Return the importance of the settings of each stage, in order of stage.

    Returns:
        The importances; none as long as fewer than three different allocations were tried, or
        scores cannot be told apart.

    Raises:
        NoTaskError: The study has other objectives than a score, or a score and then a cost.
        NoEvidenceError: No trial is complete, or none meets the constraints of the study.
    """
    found, stages = view.candidates, view.task.stages
    tried = set(found.evidence.choices)
    if len(tried) < _FEWEST or not found.scale.informative:
        return ()
    ranges = found.evidence.ranges or Ranges.all_of(view.task.feasible)
    rng = np.random.default_rng(0)
    masks = [
        _masks([stage.models[model] for model in models])
        for stage, models in zip(stages, ranges.models)
    ]
    settings = [(s, name) for s, own in enumerate(masks) for name in (*own, "samples")]
    count = _POINTS // (1 + len(settings))
    sets = _redrawn(ranges.table(view.task.feasible), rng, count, masks)
    models, samples = (
        np.concatenate(arrays) for arrays in zip(*itertools.starmap(ranges.decode, sets))
    )
    points, places = found.distinct_points(models, samples)
    at = found.posterior.at(points)
    shares = _shares(at.mean()[None, places], len(sets))[0]
    # The arcsine of a root has the same error for all proportions.
    centers = np.arcsin(np.sqrt(shares))
    errors = _HALF * np.arcsin(np.sqrt(_shares(at.draw(rng, _DRAWS)[:, places], len(sets)))).std(
        axis=0
    )
    lows = np.sin(np.maximum(centers - errors, 0)) ** 2
    highs = np.sin(np.minimum(centers + errors, np.pi / 2)) ** 2
    saturation = view.get(saturation_of)
    importances = []
    for position, ((index, setting), share) in enumerate(zip(settings, shares.tolist())):
        stage = stages[index]
        samples_only = setting == "samples"
        importances.append(
            Importance(
                stage=stage.name,
                setting=setting,
                parameter=stage.samples_parameter if samples_only else stage.model_parameter,
                share=share,
                interval=(float(lows[position]), float(highs[position])),
                loss=_loss(view, saturation, index, setting),
            )
        )
    return tuple(importances)


def _shares(rates: Floats, sets: int) -> Floats:
    """Return the shares of settings in the variance, shape (functions, settings).

    Args:
        rates: Rates of the allocations of `_redrawn`, shape (functions, allocations).
        sets: Number of its sets.
    """
    base, *others = np.split(rates, sets, axis=1)
    effects = np.stack([((base - other) ** 2).mean(axis=1) for other in others], axis=1)
    total = effects.sum(axis=1, keepdims=True)
    # Rounding is no effect.
    shares: Floats = np.where(total > _ROUNDING, effects / np.maximum(total, _ROUNDING), 0.0)
    return np.clip(shares, 0.0, 1.0)


def _masks(models: Sequence[Model]) -> dict[str, Bools]:
    """Return the choices that replace each choice if a setting is drawn again.

    Args:
        models: The choices of a stage.

    Returns:
        By setting, whether the second choice can replace the first, shape (choices, choices).
    """
    count = len(models)
    if all(model.thinking is None for model in models):
        return {"model": np.ones((count, count), dtype=bool)}
    bases = np.array([m.name if m.thinking is None else m.thinking.model for m in models])
    tokens = np.log1p([0.0 if m.thinking is None else m.thinking.tokens for m in models])
    same = bases[:, None] == bases
    apart = np.abs(tokens[:, None] - tokens)
    model = np.zeros((count, count), dtype=bool)
    for base in np.unique(bases):
        own = np.flatnonzero(bases == base)
        model[np.arange(count), own[np.argmin(apart[:, own], axis=1)]] = True
    return {"model": model, "thinking": same}


def _redrawn(
    table: FeasibleSet, rng: np.random.Generator, count: int, masks: Sequence[Mapping[str, Bools]]
) -> list[tuple[Ints, Ints]]:
    """Draw allocations, and for each setting the same ones with this setting drawn again.

    Args:
        table: The allocations within the budget.
        rng: Random number generator.
        count: Number of allocations to draw.
        masks: Result of `_masks` for each stage.

    Returns:
        Positions of models and numbers of samples, both of shape (allocations, stages): the
        drawn ones, then for each stage those with another model (and those with another effort),
        and those with other samples.
    """
    tables = [np.stack(rows) for rows in table.costs]
    weights = np.cumsum(1.0 / np.arange(1, max(map(len, itertools.chain(*table.costs))) + 1))
    start = table.complete({})
    models = np.tile([model for model, _ in start], (count, 1))
    samples = np.tile([number for _, number in start], (count, 1))

    def room(stage: int) -> Floats:
        own = tables[stage][models[:, stage], samples[:, stage] - 1]
        left: Floats = table.limit - (table.costs_of(models, samples) - own)
        return left

    def draw_model(stage: int, mask: Bools | None = None) -> Ints:
        fits = room(stage)[:, None] >= tables[stage][:, samples[:, stage] - 1].T
        if mask is not None:
            fits &= mask[models[:, stage]]
        # The present one fits, up to rounding.
        fits[np.arange(count), models[:, stage]] = True
        return np.asarray(np.argmax(np.where(fits, rng.random(fits.shape), -1.0), axis=1))

    def draw_samples(stage: int) -> Ints:
        left = room(stage)
        fits = np.stack([np.searchsorted(row, left, side="right") for row in tables[stage]])
        most = np.maximum(fits[models[:, stage], np.arange(count)], samples[:, stage])
        # A number of samples n has a weight of 1 / n.
        sums = weights[: most.max()]
        found = 1 + np.searchsorted(sums, rng.random(count) * sums[most - 1])
        return np.asarray(np.minimum(found, most))

    for _ in range(_SWEEPS):
        for stage in range(len(tables)):
            models[:, stage] = draw_model(stage)
            samples[:, stage] = draw_samples(stage)
    found = [(models, samples)]
    for stage, own in enumerate(masks):
        for mask in own.values():
            redrawn = models.copy()
            redrawn[:, stage] = draw_model(stage, mask)
            found.append((redrawn, samples))
        redrawn = samples.copy()
        redrawn[:, stage] = draw_samples(stage)
        found.append((models, redrawn))
    return found


def _loss(view: StudyView, saturation: Saturation, position: int, setting: str) -> float:
    """Return the mean loss if a setting of the recommended allocation is drawn again."""
    stage = view.task.stages[position].name
    curves = [curve for curve in saturation.curves if curve.stage == stage]
    own = next(curve for curve in curves if curve.recommended)
    samples = view.task.allocation(view.best)[stage].samples
    expected = own.values[own.samples.index(samples)]
    if setting != "samples":
        models = {model.name: model for model in view.task.stages[position].models}
        mask = _masks([models[curve.model] for curve in curves])[setting][curves.index(own)]
        found = [
            curve.values[curve.samples.index(samples)]
            for curve, replaces in zip(curves, mask.tolist())
            if replaces and samples <= curve.affordable
        ]
        mean = float(np.mean(found or [expected]))
    else:
        mean = _mean_by_ratio(own, expected)
    loss = view.candidates.evidence.sign * (expected - mean)
    return float(loss) if loss > _EXACT * abs(expected) else 0.0


def _mean_by_ratio(curve: SaturationCurve, default: float) -> float:
    """Return the mean value of a curve within the budget, samples weighing evenly by ratio."""
    within = [i for i, samples in enumerate(curve.samples) if samples <= curve.affordable]
    if not within:
        return default
    ends = [
        curve.samples[i + 1] if i + 1 < len(curve.samples) else curve.samples[i] + 1
        for i in within
    ]
    weights = [np.log(end / curve.samples[i]) for i, end in zip(within, ends)]
    return float(np.average([curve.values[i] for i in within], weights=weights))
