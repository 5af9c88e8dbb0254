"""What is believed before the first trial: curves that embody the paper's three insights.

A curve gives every allocation a rate, the expected score on a scale from 0 to 1. It is a chain of
stages on the logit scale. Stage i, with its model's size relative to the stage's largest (d, in
decades, 0 or less) and x = ln(samples), adds to the quality of the pipeline::

    quality_i = slope_i * d + effect_i(model)
                + gain_i * (1 - widening_i * d) * min(x, peak_i)
                - decline_i * (1 - widening_i * d) * max(x - peak_i, 0)
                + influence_i * quality_(i-1)
    rate = sigmoid(level + quality_last)

* Insight 1 (stages prefer different models): each stage has a slope of its own, and each of its
  models may be off it.
* Insight 2 (samples saturate, and small models fall more): gain up to a peak, then decline.
* Insight 3 (earlier spend moves later optima): better earlier stages lift the later ones and
  bring their peaks forward.

The planner uses curves only through the mean and the covariance of many draws, as one structure
among several that the evidence weighs (`surrogate.py`). The `broad` variant keeps the chain and
drops the beliefs about signs.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.evidence import Floats, Ints
from optuna_agenttts.task.task import Task

_PART = 64


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of the models of each stage, in decades relative to the stage's largest."""

    decades: tuple[Floats, ...]

    @classmethod
    def of(cls, task: Task) -> Sizes:
        """Take the sizes from a task; where a stage lacks some, what one sample costs instead."""
        decades = []
        for stage, rows in zip(task.stages, task.feasible.costs):
            sizes = [model.parameters for model in stage.models]
            if any(size is None for size in sizes):
                sizes = [float(row[0]) for row in rows]
            if any(not size for size in sizes):
                sizes = [1.0 for _ in sizes]
            logs = np.array([math.log10(float(size or 1.0)) for size in sizes])
            decades.append(logs - logs.max())
        return cls(tuple(decades))


@dataclass(frozen=True, slots=True)
class Curves:
    """Draws of the chain prior.

    Fields have shape (draws, stages), `level` (draws,), and `effects` for each stage (draws,
    models).
    """

    sizes: Sizes
    level: Floats
    effects: tuple[Floats, ...]
    slope: Floats
    gain: Floats
    peak: Floats
    decline: Floats
    widening: Floats
    influence: Floats
    advance: Floats

    def rates(self, models: Ints, samples: Ints) -> Floats:
        """Rates of allocations under each draw, shape (draws, allocations)."""
        rates = np.empty((len(self.level), len(models)))
        # In parts that stay in a processor's cache: three times as fast as all at once.
        for part in range(0, len(models), _PART):
            rows = slice(part, part + _PART)
            rates[:, rows] = self._rates(models[rows], samples[rows])
        return rates

    def _rates(self, models: Ints, samples: Ints) -> Floats:
        quality = np.zeros((len(self.level), len(models)))
        x = np.log(samples)
        for stage, decades in enumerate(self.sizes.decades):
            size = decades[models[:, stage]]
            column = slice(stage, stage + 1)
            peak = np.maximum(self.peak[:, column] - self.advance[:, column] * quality, 0.0)
            wide = 1 - self.widening[:, column] * size
            rise = np.minimum(x[:, stage], peak)
            quality = (
                self.influence[:, column] * quality
                + self.slope[:, column] * size
                + self.effects[stage][:, models[:, stage]]
                + self.gain[:, column] * wide * rise
                - self.decline[:, column] * wide * (x[:, stage] - rise)
            )
        rates: Floats = 1 / (1 + np.exp(-(self.level[:, None] + quality)))
        return rates


def draw_curves(
    task: Task,
    rng: np.random.Generator,
    *,
    draws: int = 800,
    broad: bool = False,
    insights: Collection[int] = (1, 2, 3),
) -> Curves:
    """Draw curves from the prior.

    Args:
        task: The task.
        rng: Source of randomness.
        draws: How many curves.
        broad: Drop the beliefs about the signs of slopes, gains and declines.
        insights: Which insights to believe in; without one, its terms are gone.
    """
    shape = (draws, len(task.stages))

    def normal(mean: float, sd: float) -> Floats:
        return rng.normal(mean, sd, shape)

    if broad:
        slope, gain, decline = normal(0.0, 1.0), normal(0.1, 0.3), normal(0.05, 0.2)
    else:
        slope = np.abs(normal(0.5, 0.6))
        gain, decline = np.abs(normal(0.2, 0.2)), np.abs(normal(0.1, 0.15))
    peak, widening = normal(math.log(20), 1.2), rng.uniform(0.0, 0.6, shape)
    influence, advance = normal(0.6, 0.4), np.abs(normal(0.0, 0.3))
    level = rng.normal(0.3, 1.5, draws)
    effects = tuple(rng.normal(0.0, 0.2, (draws, len(stage.models))) for stage in task.stages)
    if 1 not in insights:
        slope = np.repeat(slope[:, :1], shape[1], axis=1)
        effects = tuple(np.zeros_like(effect) for effect in effects)
    if 2 not in insights:
        peak, decline = np.full(shape, np.inf), np.zeros(shape)
    if 3 not in insights:
        influence, advance = np.ones(shape), np.zeros(shape)
    return Curves(
        sizes=Sizes.of(task),
        level=level,
        effects=effects,
        slope=slope,
        gain=gain,
        peak=np.maximum(peak, 0.0),
        decline=decline,
        widening=widening,
        influence=influence,
        advance=advance,
    )
