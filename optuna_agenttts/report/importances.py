"""Which settings of an allocation matter for the score, by the posterior."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Importance:
    """Importance of one setting of one stage.

    Args:
        stage: Name of the stage.
        setting: ``"model"`` or ``"samples"``.
        parameter: Name of the Optuna parameter.
        share: Share of the variance of expected scores among the allocations within the budget
            that changing this setting alone explains, from 0 to 1; shares add up to 1.
        interval: 5 % and 95 % quantiles of the share over draws from the posterior.
        loss: Mean loss, in units of the metric, if this setting of the recommended allocation is
            replaced by a random one within the budget; 0 or more.
    """

    stage: str
    setting: str
    parameter: str
    share: float
    interval: tuple[float, float]
    loss: float
