"""IDs of instances, and overlap between two sets of instances."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from optuna_agenttts.study.fresh import own_id
from optuna_agenttts.support.names import name_problem
from optuna_agenttts_integrations.exceptions import PipelineError
from optuna_agenttts_integrations.pipeline.plain_values import plain

InstanceId = Callable[[Any], Any]
"""Function that returns the ID of an instance, or None for its position."""


def named_instances(
    instances: Sequence[Any] | Mapping[str, Any], instance_id: InstanceId | None = None
) -> dict[str, Any]:
    """Index instances by ID.

    Args:
        instances: The instances; if a mapping, by ID.
        instance_id: Function that returns the ID of an instance. Default: the attribute or key
            ``id``, or else the position.

    Returns:
        Instances by ID, in the given order.

    Raises:
        PipelineError: There are no instances, two share an ID, or an ID cannot be stored.
    """
    if len(instances) == 0:
        raise PipelineError("`instances` must not be empty.")
    named: dict[str, Any] = {}
    if isinstance(instances, Mapping):
        pairs = [(str(name), instance) for name, instance in instances.items()]
    else:
        ids = map(instance_id or own_id, instances)
        pairs = [
            (str(position if name is None else name), instance)
            for position, (name, instance) in enumerate(zip(ids, instances))
        ]
    for name, instance in pairs:
        if (problem := name_problem(name, longest=None)) is not None:
            raise PipelineError(f"`instances`: the ID of instance {len(named)} {problem}.")
        if name in named:
            raise PipelineError(
                f"`instances` must have unique IDs, got {name!r} twice: change the data, or pass "
                "`instance_id`."
            )
        named[name] = instance
    return named


def check_disjoint(search: Mapping[str, Any], held_out: Mapping[str, Any]) -> None:
    """Raise if held-out instances also occur in the search.

    Two instances are the same if their contents are equal, regardless of their IDs. The content is
    the attribute ``overlap_key`` of an instance, if it has one, such as the normalized text of a
    question, or else all its fields.

    Args:
        search: Instances of the search, by ID.
        held_out: Held-out instances, by ID.

    Raises:
        PipelineError: Some instances are in both.
    """
    shared = shared_instances(search, held_out)
    if shared:
        first, twin = next(iter(shared.items()))
        raise PipelineError(
            f"`instances` must not occur in the search, got {len(shared)} that do, for example "
            f"{first!r} ({twin!r} in the search): their score would be biased. "
            "Pass other instances, or omit `instances` to score on those of the search."
        )


def shared_instances(search: Mapping[str, Any], held_out: Mapping[str, Any]) -> dict[str, str]:
    """Return the held-out instances that occur in the search, with their IDs there."""
    seen = {_content(instance): name for name, instance in search.items()}
    twins = {name: seen.get(_content(instance)) for name, instance in held_out.items()}
    return {name: twin for name, twin in twins.items() if twin is not None}


def _content(instance: Any) -> str:
    """Serialize what identifies an instance apart from its ID."""
    key = getattr(instance, "overlap_key", None)
    if isinstance(key, str):
        return f"overlap_key: {key}"
    values = _values(instance)
    if values is not None:
        # An instance that has only an ID is compared by it.
        values = {key: value for key, value in values.items() if key != "id"} or values
    content = instance if values is None else values
    try:
        return json.dumps(plain(content), sort_keys=True)
    except RecursionError:
        # The instance contains itself.
        return repr(content)


def _values(instance: Any) -> dict[str, Any] | None:
    """Return an instance's fields by name; None if it has none."""
    if is_dataclass(instance) and not isinstance(instance, type):
        return {f.name: getattr(instance, f.name) for f in fields(instance)}
    if isinstance(instance, Mapping):
        return {str(key): value for key, value in instance.items()}
    if isinstance(instance, tuple) and hasattr(instance, "_asdict"):
        return dict(instance._asdict())
    # Objects without a `repr`, or with an ID, are compared by their attributes.
    if (
        getattr(type(instance), "__repr__", None) is object.__repr__
        or own_id(instance) is not None
    ):
        return dict(getattr(instance, "__dict__", {})) or None
    return None
