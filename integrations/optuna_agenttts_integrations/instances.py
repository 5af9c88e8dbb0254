"""Instances: their names, and whether two sets of them share any."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from optuna_agenttts_integrations.exceptions import PipelineError

InstanceId = Callable[[Any], Any]


def named_instances(
    instances: Sequence[Any], instance_id: InstanceId | None = None
) -> dict[str, Any]:
    """Instances by name.

    Args:
        instances: The instances.
        instance_id: Names one. Default: its attribute or key ``id``, or else its position.

    Raises:
        PipelineError: There are none, or two of one name.
    """
    if len(instances) == 0:
        raise PipelineError("`instances` is empty: give one instance or more.")
    named: dict[str, Any] = {}
    for position, instance in enumerate(instances):
        own = (instance_id or _own_id)(instance)
        name = str(position if own is None else own)
        if name in named:
            raise PipelineError(
                f"`instances` has two named {name!r}: name each once, or give `instance_id`."
            )
        named[name] = instance
    return named


def refuse_overlap(search: Mapping[str, Any], held_out: Mapping[str, Any]) -> None:
    """See to it that held-out instances are others than those searched on.

    Instances are the same if their contents are, ids left aside.

    Raises:
        PipelineError: Some are the same.
    """
    seen = {_content(instance): name for name, instance in search.items()}
    twins = {name: seen.get(_content(instance)) for name, instance in held_out.items()}
    shared = [name for name, twin in twins.items() if twin is not None]
    if shared:
        first, twin = shared[0], twins[shared[0]]
        raise PipelineError(
            f"`instances` holds {len(shared)} that the search has seen, such as {first!r} (there "
            f"{twin!r}): a score on them says nothing about new ones. Hold out others, or leave "
            "`instances` out to score on those of the search."
        )


def _own_id(instance: Any) -> Any:
    if isinstance(instance, Mapping):
        return instance.get("id")
    return getattr(instance, "id", None)


def _content(instance: Any) -> str:
    values = _values(instance)
    if values is not None:
        # Where there is nothing but an id, that is the content.
        values = {key: value for key, value in values.items() if key != "id"} or values
    content = instance if values is None else values
    try:
        return json.dumps(_plain(content))
    except RecursionError:
        # It holds itself.
        return repr(content)


def _values(instance: Any) -> dict[str, Any] | None:
    """What an instance holds by name; None for what has no names."""
    if is_dataclass(instance) and not isinstance(instance, type):
        return {f.name: getattr(instance, f.name) for f in fields(instance)}
    if isinstance(instance, Mapping):
        return {str(key): value for key, value in instance.items()}
    if isinstance(instance, tuple) and hasattr(instance, "_asdict"):
        return dict(instance._asdict())
    # Objects that print as their address, or name themselves, hold what their attributes do.
    if (
        getattr(type(instance), "__repr__", None) is object.__repr__
        or _own_id(instance) is not None
    ):
        return dict(getattr(instance, "__dict__", {})) or None
    return None


def _plain(value: Any) -> Any:
    """A value that is the same JSON for the same content."""
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, Mapping):
        return {name: _plain(item) for name, item in sorted((_values(value) or {}).items())}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(json.dumps(_plain(item)) for item in value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        # Arrays: long ones print as their ends only.
        return _plain(value.tolist())
    return repr(value)
