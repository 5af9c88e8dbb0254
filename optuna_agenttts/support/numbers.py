"""Numbers that users give."""

from __future__ import annotations

import math
from typing import TypeGuard

import numpy as np


def is_finite(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite Python or numpy number, and not a bool."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        # An integer above all floats.
        return False
