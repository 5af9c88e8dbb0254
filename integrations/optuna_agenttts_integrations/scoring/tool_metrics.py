"""Score tool calls against the right ones."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from optuna_agenttts_integrations.scoring.metrics import require_collection, set_f1

_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_QUOTES = "\"'`"
_MAX_DEPTH = 64


def _name(text: str) -> str:
    return " ".join(text.replace("_", " ").casefold().split())


def node_f1(predicted: Iterable[str], gold: Iterable[str]) -> float:
    """F1 of two sets of tool names: the node F1 of one instance of TaskBench (arXiv 2311.18760).

    Names are compared with "_" as a blank, as TaskBench's own evaluation does, and regardless of
    case and of further white space. How often a tool is called makes no difference.

    Returns:
        0 to 1. Two empty sets make 1, one makes 0.

    Raises:
        ValueError: A text is given instead of a collection.
    """
    require_collection("predicted", predicted)
    require_collection("gold", gold)
    return set_f1({_name(tool) for tool in predicted}, {_name(tool) for tool in gold})


def _canonical(value: Any, depth: int = 0) -> Hashable:
    """What stands for a JSON value in comparisons; numbers and booleans never meet."""
    if depth > _MAX_DEPTH:
        raise ValueError("its values are nested too deeply")
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int):
        return "number", Decimal(int(value))
    if isinstance(value, float):
        number = Decimal(float.__repr__(value))
        # A NaN would differ from itself.
        return "number", number if number.is_finite() else str(number)
    if isinstance(value, str):
        return _canonical_text(value)
    if isinstance(value, Mapping):
        pairs = (_canonical(pair, depth + 1) for pair in value.items())
        return "mapping", frozenset(pairs)
    if isinstance(value, Sequence) and not isinstance(value, (bytes, bytearray)):
        return "list", tuple(_canonical(item, depth + 1) for item in value)
    raise ValueError(f"a {type(value).__name__} is no JSON value")


def _canonical_text(text: str) -> Hashable:
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
    """Name and value of each argument of a call; one nameless None for a call without any."""
    if arguments is None:
        arguments = ()
    if isinstance(arguments, str) or not isinstance(arguments, (Mapping, Sequence)):
        raise ValueError("its arguments are neither a mapping nor a list")
    if not arguments:
        yield "", None
    elif isinstance(arguments, Mapping):
        for name, value in arguments.items():
            if not isinstance(name, str):
                raise ValueError(f"its argument's name {name!r} is no text")
            yield _name(name), _canonical(value)
    else:
        for item in arguments:
            if isinstance(item, Mapping) and "name" in item and "value" in item:
                if not isinstance(item["name"], str):
                    raise ValueError(f"its argument's name {item['name']!r} is no text")
                yield _name(item["name"]), _canonical(item["value"])
            else:
                yield "", _canonical(item)


def _triples(which: str, calls: Iterable[Mapping[str, Any]]) -> set[tuple[str, str, Hashable]]:
    found: set[tuple[str, str, Hashable]] = set()
    for index, call in enumerate(calls):
        try:
            if not isinstance(call, Mapping):
                raise ValueError("it is no mapping")
            if not isinstance(call.get("tool"), str):
                raise ValueError("it has no text under 'tool'")
            tool = _name(call["tool"])
            found.update((tool, name, value) for name, value in _arguments(call.get("arguments")))
        except ValueError as error:
            raise ValueError(
                f"`{which}[{index}]` is {reprlib.repr(call)}, and {error}: give a call as "
                '{"tool": name, "arguments": mapping or list}.'
            ) from None
    return found


def argument_f1(
    predicted: Iterable[Mapping[str, Any]], gold: Iterable[Mapping[str, Any]]
) -> float:
    """F1 of two sets of (tool, argument's name, argument's value).

    After TaskBench's F1 of arguments and values (arXiv 2311.18760), with these differences: its
    evaluation compares values as they are printed, leaves out calls without arguments, and in
    the domains whose arguments have no names takes the type of each value for one.

    Names are compared as in `node_f1`. Of values, texts are compared regardless of case, white
    space around and between words, and quotes around them; numbers by value, where a text that
    is a number in JSON counts as one (2, 2.0 and "2" are equal, "007" is a text); true and false
    are no numbers; lists keep their order, mappings do not. A reference such as "<node-0>" is a
    text like any other: replace it by what it refers to if calls may come in another order.

    Args:
        predicted: Tool calls ``{"tool": name, "arguments": arguments}``, where arguments are a
            mapping, a list of ``{"name": ..., "value": ...}`` or a list of plain values, which
            have the empty name. A call without arguments has one, without name and value, so
            that choosing the tool counts.
        gold: The calls that are right.

    Returns:
        0 to 1. Two empty sets make 1, one makes 0.

    Raises:
        ValueError: A call is malformed; the message says which.
    """
    return set_f1(_triples("predicted", predicted), _triples("gold", gold))


def argument_name_f1(
    predicted: Iterable[Mapping[str, Any]], gold: Iterable[Mapping[str, Any]]
) -> float:
    """F1 of two sets of (tool, argument's name); see `argument_f1`.

    Returns:
        0 to 1. Two empty sets make 1, one makes 0.

    Raises:
        ValueError: A call is malformed; the message says which.
    """
    ours, theirs = _triples("predicted", predicted), _triples("gold", gold)
    return set_f1({triple[:2] for triple in ours}, {triple[:2] for triple in theirs})
