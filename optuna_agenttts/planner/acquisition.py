"""Acquisition functions: expected improvement and knowledge gradient.

Both are in rates and are Bayesian model averages: computed for every component of the posterior's
mixture, then averaged with the components' weights.

Expected improvement measures how much better than the incumbent an allocation may be, as if its
rate could be observed without noise. The knowledge gradient measures how much one more noisy trial
is expected to raise the best posterior mean. A trial also moves the means of similar allocations,
so it can be valuable without becoming the incumbent itself.

Notation (C components, N allocations, k best observed allocations):

    symbol     shape       unit   meaning
    w          (C,)        1      posterior weights of the components
    delta      (C, N)      rate   posterior mean of the rate minus that of the incumbent's
    s          (C, N)      rate   posterior standard deviation of that difference
    a          (k+1, N)    rate   posterior means of the k best observed and of the allocation
    b          (k+1, N)    rate   change of `a` per standard deviation of the next score

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

import math

import numpy as np

from optuna_agenttts.planner.evidence import Floats
from optuna_agenttts.planner.posterior import View

_BEST_OBSERVED = 16
"""Observed allocations, best posterior means first, that a trial can turn into the recommendation
besides the tried one. Chosen by hand; the time of an ask grows with it."""
_NODES = np.linspace(-5, 5, 41)
"""Nodes of the quadrature, in standard deviations: less than 1e-6 of a normal lies outside."""
_WEIGHTS = np.exp(-0.5 * _NODES**2) / np.exp(-0.5 * _NODES**2).sum()
"""Their weights for a standard normal variable: trapezoidal rule with a step of .25. The maximum
of linear functions has kinks, where rules of higher order are no more accurate."""


def expected_improvement(view: View) -> Floats:
    """Return the expected improvement of allocations over the incumbent.

    Args:
        view: The posterior at the allocations.

    Returns:
        E[max(0, f(x) - f(incumbent))] in rates, shape (allocations,), where the incumbent of a
        component is the observed allocation with its largest posterior mean.
    """
    w, delta, s = view.improvement_moments()
    # Jones et al. (1998), Eq. 15, p. 473, of an incumbent that is uncertain too.
    z = delta / s
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    improvement: Floats = w @ (s * (z * normal_cdf(z) + density))
    return improvement


def knowledge_gradient(view: View) -> Floats:
    """Return the knowledge gradient of allocations.

    Args:
        view: The posterior at the allocations.

    Returns:
        The expected increase of the best posterior mean, among the best observed allocations and
        the tried one, after one more trial; in rates, shape (allocations,).
    """
    total = np.zeros(len(view.points))
    for lookahead in view.lookahead(_BEST_OBSERVED):
        observed = lookahead.observed_means
        repeated = np.broadcast_to(observed[:, None], (len(observed), len(total)))
        a, b = np.concatenate([repeated, lookahead.means[None]]), lookahead.sigma_tilde
        # E[max(a + b Z)], in h(a, b) of Frazier et al. (2009). The maximum is over the observed
        # allocations and the tried one, as in the approximate knowledge gradient of Scott et al.
        # (2011). Only tried allocations are recommended, so the maximum before is the observed's.
        expected_max = sum(
            weight * (a + node * b).max(axis=0) for node, weight in zip(_NODES, _WEIGHTS)
        )
        total += lookahead.weight * (expected_max - observed.max())
    return total


def normal_cdf(z: Floats) -> Floats:
    """Return the standard normal distribution function, exact to rounding."""
    # numpy has no erf. Complementary, so that the lower tail does not cancel to zero; a plain map
    # over floats is faster than np.vectorize and costs an ask less than a millisecond.
    arguments = (z * -math.sqrt(0.5)).ravel().tolist()
    return 0.5 * np.fromiter(map(math.erfc, arguments), np.float64, z.size).reshape(z.shape)
