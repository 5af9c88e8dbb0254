"""Posterior over the rates of allocations, given the trials of a study.

Trials of equal allocations, and of similar ones if there are many, are merged into observed rates.
`noise.py` estimates the covariance of their errors from outcomes of single instances, and
`mixture.py` conditions the prior on them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from optuna_agenttts.planner.evidence import Bools, Evidence, Floats
from optuna_agenttts.planner.kernels import Points, Surrogate
from optuna_agenttts.planner.mixture import Mixture, View
from optuna_agenttts.planner.noise import Outcomes
from optuna_agenttts.planner.observations import eligible_groups, merge_trials

_NOISE_SDS = (0.02, 0.035, 0.06, 0.12)
"""Standard deviations of the noise to average over, in rates, for trials without outcomes. They
span the noise of means over 50 instances on development landscapes. Chosen by hand; without the
last one, two runs that went wrong and scored 0 often spoiled the recommendation."""
LIKELIHOOD_POWER = 0.5
"""Exponent of the likelihood of scores with outcomes (power or tempered likelihood, generalized
posterior): a normal likelihood to the power of 1/2 is one with twice the covariance. No component
is the truth, and a posterior with an exponent below 1 is more robust to misspecification
(P. Grünwald and T. van Ommen 2017, Bayesian Analysis 12, pp. 1069-1103). On development
landscapes it took the mean regret of recommendations from .269 to .258. It improves posterior
means; intervals would be too wide, so they use the noise as it is (exponent 1)."""
_JITTER = 1e-6
"""Added to the diagonal of K for groups with outcomes, in rates squared, so that K can be
factored: a standard deviation of .001, far below that of a score. Chosen by hand."""
_SIMILARITY_LENGTH = 1
"""Position in `LENGTH_SCALES` of the length by which allocations share their noise."""
Z90 = 1.6448536269514722
"""Half the width of the central 90 % of a normal distribution, in standard deviations; also its
one-sided 95 % quantile."""


class Posterior:
    """Rates of allocations given the evidence.

    Args:
        surrogate: The prior.
        evidence: The evidence.
        power: Exponent of the likelihood of scores with outcomes; see `LIKELIHOOD_POWER`.
        eligible: Whether each observed trial can be the incumbent, shape (trials,). Default: all;
            also if none can.
    """

    def __init__(
        self,
        surrogate: Surrogate,
        evidence: Evidence,
        *,
        power: float = LIKELIHOOD_POWER,
        eligible: Bools | None = None,
    ) -> None:
        """See the class."""
        self.scale, self.power = evidence.scale, power
        models, samples, rates, counts, group = merge_trials(
            evidence.models,
            evidence.samples,
            self.scale.rates(evidence.scores),
            evidence.shares,
            eligible,
            evidence.block_of_rows(),
        )
        self.observed = surrogate.points(models, samples)
        residuals = surrogate.residual_kernels(self.observed, self.observed)
        outcomes = Outcomes.from_evidence(evidence, group, len(rates))
        self.noise = outcomes.fit(residuals[_SIMILARITY_LENGTH])
        has_outcomes = self.noise.has_outcomes
        y = np.where(outcomes.complete, self.noise.means, rates) + self.noise.corrections
        errors = self.noise.covariance / power
        # If all groups have outcomes, the noise level has no effect on K: one suffices.
        levels = _NOISE_SDS[: 1 if has_outcomes.all() else None]
        noises = [
            (sd, errors + np.diag(np.where(has_outcomes, _JITTER, sd**2 / counts)))
            for sd in levels
        ]
        self.mixture = Mixture.condition(surrogate, self.observed, y, noises, residuals)
        every = np.arange(len(rates))
        # Confirmed allocations were tried by the search, too.
        able = eligible_groups(group, len(rates), eligible) & ~outcomes.fresh
        found = np.flatnonzero(able)
        observed = View(self.mixture, self.observed, residuals, every)
        self.incumbents = observed.take(found if len(found) else every)
        """Rates of the observed allocations that can be the incumbent."""

    def at(self, points: Points, residuals: Sequence[Floats] | None = None) -> View:
        """Return the rates of some allocations.

        Args:
            points: The allocations.
            residuals: Their residual kernels with the observed allocations for each of
                `LENGTH_SCALES`. Default: computed.
        """
        if residuals is None:
            residuals = self.mixture.surrogate.residual_kernels(points, self.observed)
        return View(self.mixture, points, residuals)

    def fresh_noise(self, view: View) -> Floats:
        """Return the noise of outcomes on one fresh instance; see `Noise.of_fresh_instance`."""
        kernels = self.mixture.surrogate.residual_kernels(view.points, view.points)
        return self.noise.of_fresh_instance(kernels[_SIMILARITY_LENGTH])

    def next_scores(self, view: View) -> View:
        """Return the scores of trials of some allocations that run on the search's instances.

        Their noise is correlated with that of the search's scores: all share the instances, and
        similar allocations most of their samples.
        """
        variance, errors = self.noise.of_next_trial(view.residuals[_SIMILARITY_LENGTH])
        variances = [
            variance / self.power or component.noise**2 for component in self.mixture.components
        ]
        return view.next_scores(np.array(variances), errors / self.power)
