"""Read the constraints of Optuna's trials."""

from __future__ import annotations

from collections.abc import Mapping

from optuna.trial import FrozenTrial

_KEY = "constraints"
"""System attribute of a trial: a list of values written for `constraints_func`. Each value of
`Trial.set_constraint` (Optuna 5) has an attribute ``"constraints:<key>"``."""


def constraints_of(trial: FrozenTrial) -> dict[str, float]:
    """Return the constraint values of a trial by key, as `FrozenTrial.constraints` of Optuna 5.

    A constraint is met if its value is zero or less.

    Args:
        trial: The trial. It may have been written by Optuna 4 or 5.

    Returns:
        The values; empty if the trial has no constraints or `constraints_func` failed on it.
    """
    attributes = trial.system_attrs
    values = {str(index): value for index, value in enumerate(attributes.get(_KEY) or ())}
    for name, value in attributes.items():
        kind, separator, key = name.partition(":")
        if kind == _KEY and separator:
            values[key] = value
    return {key: float(value) for key, value in values.items()}


def violations(values: Mapping[str, float]) -> dict[str, float]:
    """Return the constraints that are violated with their values."""
    return {key: value for key, value in values.items() if not value <= 0}
