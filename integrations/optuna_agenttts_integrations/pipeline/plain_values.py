"""Values of users' functions as types of JSON, and as short texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any


def plain(value: Any) -> Any:
    """Convert a value to types of JSON; what has no counterpart becomes its `repr`."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else repr(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted((plain(item) for item in value), key=repr)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return plain(value.tolist())
    return repr(value)


def value_text(value: Any, items: float = math.inf) -> str:
    """Return a value as text, with few quotes.

    Args:
        value: The value.
        items: Number of items of a sequence that are shown; of a longer one, the number is.
    """
    return _text(plain(value), items)


def _text(value: Any, items: float) -> str:
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {_text(item, items)}' for name, item in value.items())}}}"
    if isinstance(value, list):
        if len(value) > items:
            return f"{len(value)} items"
        return f"[{', '.join(_text(item, items) for item in value)}]"
    return str(value)
