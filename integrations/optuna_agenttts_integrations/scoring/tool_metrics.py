"""Metrics of tool calls, for one instance each."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from optuna_agenttts_integrations.scoring.metrics import require_collection, set_f1

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_QUOTES = "\"'`"
_CALL = '{"tool": name, "arguments": mapping or list}'

_MAX_DEPTH = 64
"""Maximum nesting of a value. Chosen by hand, far below Python's recursion limit."""


def _name(text: str) -> str:
    """Normalize a name: lower case, blanks for underscores, single blanks."""
    return " ".join(text.replace("_", " ").casefold().split())


def node_f1(predicted: Iterable[str], gold: Iterable[str]) -> float:
    """Compute the F1 of two sets of tool names, TaskBench's node F1 (arXiv 2311.18760).

    Underscores count as blanks, as in TaskBench's evaluation; case and further whitespace are
    ignored, and so are repeated calls of a tool.

    Args:
        predicted: Names of the tools that were called.
        gold: Names of the right tools.

    Returns:
        0 to 1: 1 if both sets are empty, 0 if only one is.

    Raises:
        ValueError: An argument is a string.
    """
    require_collection("predicted", predicted)
    require_collection("gold", gold)
    return set_f1({_name(tool) for tool in predicted}, {_name(tool) for tool in gold})


def _canonical(value: Any, depth: int = 0) -> Hashable:
    """Convert a JSON value to a hashable form that distinguishes numbers from booleans."""
    if depth > _MAX_DEPTH:
        raise ValueError(f"its values are nested deeper than {_MAX_DEPTH} levels")
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int):
        return "number", Decimal(int(value))
    if isinstance(value, float):
        number = Decimal(float.__repr__(value))
        # Decimal("NaN") differs from itself, its text does not.
        return "number", number if number.is_finite() else str(number)
    if isinstance(value, str):
        return _canonical_text(value)
    if isinstance(value, Mapping):
        pairs = (_canonical(pair, depth + 1) for pair in value.items())
        return "mapping", frozenset(pairs)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return "list", tuple(_canonical(item, depth + 1) for item in value)
    raise ValueError(f"a {type(value).__name__} is not a JSON value")


def _canonical_text(text: str) -> Hashable:
    """Convert a text to a number if it is one in JSON, else to its normalized form."""
    text = text.strip()
    while len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES:
        text = text[1:-1].strip()
    if _JSON_NUMBER.fullmatch(text):
        try:
            return "number", Decimal(text)
        except InvalidOperation:  # an exponent beyond 10**18
            pass
    return "text", " ".join(text.casefold().split())


def _arguments(arguments: Any) -> Iterator[tuple[str, Hashable]]:
    """Yield name and value of each argument of a call; ``("", None)`` if it has none."""
    if arguments is None:
        arguments = ()
    if isinstance(arguments, str) or not isinstance(arguments, (Mapping, Sequence)):
        raise ValueError("its arguments are neither a mapping nor a list")
    if not arguments:
        yield "", None
    elif isinstance(arguments, Mapping):
        for name, value in arguments.items():
            if not isinstance(name, str):
                raise ValueError(f"its argument name {name!r} is not a string")
            yield _name(name), _canonical(value)
    else:
        for item in arguments:
            if isinstance(item, Mapping) and "name" in item and "value" in item:
                if not isinstance(item["name"], str):
                    raise ValueError(f"its argument name {item['name']!r} is not a string")
                yield _name(item["name"]), _canonical(item["value"])
            else:
                yield "", _canonical(item)


def _triples(which: str, calls: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, Hashable]]:
    """Convert calls to triples of tool, argument name and argument value."""
    found: set[tuple[str, str, Hashable]] = set()
    for index, call in enumerate(calls):
        try:
            if not isinstance(call, Mapping):
                raise ValueError("it is not a mapping")
            if not isinstance(call.get("tool"), str):
                raise ValueError("its 'tool' is not a string")
            tool = _name(call["tool"])
            found.update((tool, name, value) for name, value in _arguments(call.get("arguments")))
        except ValueError as error:
            raise ValueError(
                f"`{which}[{index}]` must be a call {_CALL}, got {reprlib.repr(call)}: {error}."
            ) from None
    return found


def argument_f1(
    predicted: Iterable[Mapping[str, Any]], gold: Iterable[Mapping[str, Any]]
) -> float:
    """Compute the F1 of two sets of (tool, argument name, argument value).

    This follows TaskBench's F1 of arguments and values (arXiv 2311.18760), except that TaskBench
    compares printed values, leaves out calls without arguments, and uses the type of a value as
    its name in domains whose arguments have no names.

    Names are compared as in `node_f1`. Texts are compared regardless of case, whitespace and
    enclosing quotes, and numbers by value. A text that is a JSON number counts as a number (2, 2.0
    and "2" are equal, "007" is a text); booleans do not. The order matters in lists, but not in
    mappings. A reference such as "<node-0>" is compared as text: replace it by its target if the
    order of calls may differ.

    Args:
        predicted: Tool calls ``{"tool": name, "arguments": arguments}``, where arguments are a
            mapping, a list of ``{"name": ..., "value": ...}``, or a list of plain values, whose
            name is empty. A call without arguments gives one triple with an empty name and no
            value, so that choosing the tool counts.
        gold: Correct calls.

    Returns:
        0 to 1: 1 if both sets are empty, 0 if only one is.

    Raises:
        ValueError: A call is malformed; the message gives its position.
    """
    return set_f1(_triples("predicted", predicted), _triples("gold", gold))


def argument_name_f1(
    predicted: Iterable[Mapping[str, Any]], gold: Iterable[Mapping[str, Any]]
) -> float:
    """Compute the F1 of two sets of (tool, argument name); see `argument_f1`.

    Args:
        predicted: The calls.
        gold: The right calls.

    Returns:
        0 to 1: 1 if both sets are empty, 0 if only one is.

    Raises:
        ValueError: A call is malformed; the message gives its position.
    """
    left, right = _triples("predicted", predicted), _triples("gold", gold)
    return set_f1({triple[:2] for triple in left}, {triple[:2] for triple in right})
