"""Cholesky factors of covariances, and triangular systems."""

from __future__ import annotations

import numpy as np

from optuna_agenttts.planner.evidence import Floats

_JITTERS = (0.0, 1e-10, 1e-8, 1e-6, 1e-4, 1e-2)
"""Added in turn to the diagonal of a covariance that cannot be factored, as shares of its mean
diagonal: rounding can make a covariance of nearly equal allocations indefinite."""


def solve_lower(lower: Floats, right: Floats) -> Floats:
    """Solve triangular systems by forward substitution, all at once.

    Args:
        lower: Lower triangular matrices, shape (systems, n, n).
        right: Right-hand sides, shape (systems, n).
    """
    # A general solver would factor the matrices again, which takes as long as factoring them did.
    solved = np.zeros_like(right)
    for i in range(right.shape[1]):
        known = np.einsum("sn,sn->s", lower[:, i, :i], solved[:, :i])
        solved[:, i] = (right[:, i] - known) / lower[:, i, i]
    return solved


def factor(covariances: Floats) -> Floats:
    """Return the lower Cholesky factors of covariances, shape (..., n, n).

    A covariance that rounding makes indefinite is repaired by the least jitter that helps.

    Raises:
        numpy.linalg.LinAlgError: A covariance is not finite, or far from positive definite.
    """
    # Of values that are not finite LAPACK makes factors of NaN, without an error.
    if not np.isfinite(covariances).all():
        raise np.linalg.LinAlgError("A covariance is not finite.")
    size = np.diagonal(covariances, axis1=-2, axis2=-1).mean() or 1.0
    for jitter in _JITTERS:
        try:
            repaired = covariances + jitter * size * np.eye(covariances.shape[-1])
            return np.asarray(np.linalg.cholesky(repaired))
        except np.linalg.LinAlgError:
            if covariances.ndim > 2:
                return np.stack([factor(covariance) for covariance in covariances])
    raise np.linalg.LinAlgError("A covariance is far from positive definite.")
