"""Values as JSON has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np


def json_ready(value: Any, number: Callable[[float], float | str | None]) -> Any:
    """Return a value as JSON-ready ones: dataclasses and named tuples as objects.

    Args:
        value: The value.
        number: Function of each float, since JSON has neither infinity nor NaN.
    """
    if is_dataclass(value):
        return {
            field.name: json_ready(getattr(value, field.name), number) for field in fields(value)
        }
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        return {str(key): json_ready(item, number) for key, item in value.items()}
    if isinstance(value, (np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (tuple, list)):
        return [json_ready(item, number) for item in value]
    return number(value) if isinstance(value, float) else value
