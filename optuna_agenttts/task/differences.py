"""Differences between two tasks as JSON-ready values."""

from __future__ import annotations

from typing import Any


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """List the values that differ, one line each, ``path: ours -> theirs``.

    Args:
        ours: First value.
        theirs: Second value.
        path: Path of both, for the lines.
    """
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [*ours, *(key for key in theirs if key not in ours)]
        return [
            line
            for key in keys
            for line in differences(ours.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))
        ]
    if isinstance(ours, list) and isinstance(theirs, list):
        # Stages and models are matched by name, so that an added one does not make the others
        # look changed.
        named = [
            {
                str(item["name"]): item
                for item in items
                if isinstance(item, dict) and "name" in item
            }
            for items in (ours, theirs)
        ]
        if len(named[0]) == len(ours) and len(named[1]) == len(theirs):
            # The order of stages matters, that of a stage's models does not.
            order: type = set if path.endswith(".models") else list
            if order(named[0]) != order(named[1]):
                return [f"{path}: {list(named[0])} -> {list(named[1])}"]
            return differences(named[0], named[1], path)
    return [] if ours == theirs else [f"{path}: {ours!r} -> {theirs!r}"]
