"""Acquisition functions: expected improvement and knowledge gradient.

Both are in rates and are Bayesian model averages: computed for every component of the posterior's
mixture, then averaged with the components' weights.

Expected improvement measures how much better than the incumbent an allocation may be, as if its
rate could be observed without noise. The knowledge gradient measures how much one more noisy trial
is expected to raise the best posterior mean. A trial also moves the means of similar allocations,
so it can be valuable without becoming the incumbent itself.

Notation (C components, N allocations, k best incumbents):

    symbol     shape         unit   meaning
    a          (k+1, N)      rate   posterior means of the k best incumbents and of the allocation
    b          (k+1, N)      rate   change of `a` per standard deviation of the next score

References:
* D. R. Jones, M. Schonlau and W. J. Welch (1998). Efficient global optimization of expensive
  black-box functions. Journal of Global Optimization 13, pp. 455-492.
* P. Frazier, W. Powell and S. Dayanik (2009). The knowledge-gradient policy for correlated normal
  beliefs. INFORMS Journal on Computing 21, pp. 599-613.
* W. Scott, P. Frazier and W. Powell (2011). The correlated knowledge gradient for simulation
  optimization of continuous parameters using Gaussian process regression. SIAM Journal on
  Optimization 21, pp. 996-1026.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from optuna_agenttts.planner.evidence import Floats
from optuna_agenttts.planner.kernels import Points
from optuna_agenttts.planner.mixture import View
from optuna_agenttts.planner.posterior import Posterior

_BEST_OBSERVED = 16
"""Incumbents, best posterior means first, that a trial can turn into the recommendation besides
the tried one. Chosen by hand; the time of an ask grows with it."""


def normal_quadrature(count: int) -> tuple[Floats, Floats]:
    """Return nodes and weights of the trapezoidal rule for a standard normal variable.

    Less than 1e-6 of it lies outside of the nodes. The maximum of linear functions has kinks,
    where rules of higher order are no more accurate.

    Args:
        count: Number of nodes.
    """
    nodes = np.linspace(-5, 5, count)
    density = np.exp(-0.5 * nodes**2)
    return nodes, density / density.sum()


_NODES, _WEIGHTS = normal_quadrature(41)


def expected_improvement(view: View, incumbents: View) -> Floats:
    """Return the expected improvement of allocations over the incumbent.

    Args:
        view: The rates of the allocations.
        incumbents: The rates of the observed allocations that can be the incumbent.

    Returns:
        E[max(0, f(x) - f(incumbent))] in rates, shape (allocations,), where the incumbent of a
        component is the one with its largest posterior mean. It is uncertain, too: errors that
        both have in common cancel.
    """
    best = incumbents.moments().means.argmax(axis=1)
    return view.differences(incumbents, best).positive_part()


def knowledge_gradient(view: View, scores: View, incumbents: View) -> Floats:
    """Return the knowledge gradient of allocations.

    Args:
        view: The rates of the allocations.
        scores: Their next scores.
        incumbents: See `expected_improvement`.

    Returns:
        The expected increase of the best posterior mean, among the best incumbents and the tried
        allocation, after one more trial; in rates, shape (allocations,).
    """
    means, observed = view.moments().means, incumbents.moments().means
    top = np.argsort(-observed, axis=1, kind="stable")[:, :_BEST_OBSERVED]
    covariances = np.concatenate(
        [scores.joint(incumbents, top), scores.pairwise(view)[:, None]], axis=1
    )
    # Frazier et al. (2009), sigma tilde: Sigma e_x / sqrt(Sigma_xx + lambda_x).
    slopes = covariances / scores.moments().sds[:, None]
    total = np.zeros(len(view.points))
    for weight, own, best, b in zip(
        view.mixture.weights, means, np.take_along_axis(observed, top, axis=1), slopes
    ):
        repeated = np.broadcast_to(best[:, None], (len(best), len(own)))
        a = np.concatenate([repeated, own[None]])
        # E[max(a + b Z)], in h(a, b) of Frazier et al. (2009). The maximum is over the incumbents
        # and the tried allocation, as in the approximate knowledge gradient of Scott et al.
        # (2011). Only tried allocations are recommended, so the maximum before is the incumbents'.
        expected_max = sum(
            share * (a + node * b).max(axis=0) for node, share in zip(_NODES, _WEIGHTS)
        )
        total += weight * (expected_max - best.max())
    return total


class Acquisition(Protocol):
    """Acquisition functions of a search.

    Args:
        compared: Allocations of largest expected improvement for which one ask computes the
            knowledge gradient, which takes longer.
    """

    compared: int

    def shortfall(self, points: Points, means: Floats) -> Floats:
        """Return what ranks allocations by their posterior means, best first."""

    def expected(self, view: View) -> Floats:
        """Return the expected improvement of allocations, in rates."""

    def gradient(self, view: View) -> Floats:
        """Return the knowledge gradient of allocations, in rates."""

    def gain_text(self, gain: float, span: float) -> str:
        """Describe a knowledge gradient.

        Args:
            gain: The knowledge gradient, in rates.
            span: Units of the score for a rate of 1.
        """


class BestScore:
    """Acquisition functions of searches for the best score.

    Args:
        posterior: The posterior.
    """

    compared = 200
    """See `Acquisition`. Chosen by hand."""

    def __init__(self, posterior: Posterior) -> None:
        """See the class."""
        self._posterior = posterior

    def shortfall(self, points: Points, means: Floats) -> Floats:
        """Return how far rates are below 0."""
        return -means

    def expected(self, view: View) -> Floats:
        """Return `expected_improvement`."""
        return expected_improvement(view, self._posterior.incumbents)

    def gradient(self, view: View) -> Floats:
        """Return `knowledge_gradient`."""
        posterior = self._posterior
        return knowledge_gradient(view, posterior.next_scores(view), posterior.incumbents)

    def gain_text(self, gain: float, span: float) -> str:
        """Describe the expected improvement of the recommended score."""
        return f"expected to improve the recommendation by {gain * span:.2g}"
