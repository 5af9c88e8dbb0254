"""Noise of trials, in units of the decision: which differences the next trials can tell."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from optuna_agenttts.planner.posterior import Z90, Posterior


@dataclass(frozen=True, slots=True)
class NoiseFact:
    """Errors of scores, in the units of the study's values.

    Args:
        trial: Standard deviation of a trial's score.
        instances: Number of instances that it is the mean over; 0 if trials report no outcomes.
        common: Correlation of the errors of two trials, whatever their allocations.
        similar: Correlation of the errors of two trials of similar allocations.
    """

    trial: float
    instances: int
    common: float
    similar: float

    @property
    def difference(self) -> float:
        """Standard deviation of the difference between the scores of two trials."""
        return self.trial * math.sqrt(2 * (1 - self.common))

    @property
    def similar_difference(self) -> float:
        """Standard deviation of the difference between trials of similar allocations."""
        return self.trial * math.sqrt(2 * (1 - self.similar))

    def resolution(self, trials: float, *, similar: bool = False) -> float:
        """Return the smallest difference that trials can tell from none, at 90 % (two-sided).

        Args:
            trials: Number of trials, half of them on each side.
            similar: Whether their allocations are similar.
        """
        error = self.similar_difference if similar else self.difference
        return Z90 * error / math.sqrt(max(trials / 2, 1))


def fit_noise(posterior: Posterior) -> NoiseFact:
    """Return the noise that a posterior has estimated."""
    noise, span = posterior.noise, posterior.scale.span
    if not noise.instances:
        mixture = posterior.mixture
        sd = mixture.weights @ np.array([component.noise for component in mixture.components])
        return NoiseFact(float(sd) * span, 0, 0.0, 0.0)
    common, similar = noise.rho_common, noise.rho_common + noise.rho_similar
    sd = noise.typical * span / math.sqrt(noise.instances)
    return NoiseFact(float(sd), noise.instances, common, similar)
