"""How scores saturate with the number of samples, for each stage and model (Insight 2)."""

from __future__ import annotations

from dataclasses import dataclass


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
        trials: Trials with this model in this stage.
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
