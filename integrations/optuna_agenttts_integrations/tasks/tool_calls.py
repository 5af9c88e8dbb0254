"""Tools and calls of them, as data sets describe them and as models write them.

What a model writes is data: read, checked, bounded, never executed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import json_repair

_LONGEST = 60_000
"""Characters of a reply that are read; 2048 tokens have some 8,000."""
_BRACKETS = 1000
"""Opening brackets in a reply that is mended: 50,000 of them take json-repair three seconds."""
_ITEMS, _STEP = 64, 1000
_DEPTH = 8
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)
_NODE = re.compile(r"<node-(\d{1,4})>")
_KINDS = {
    "image": r"jpe?g|png|gif|bmp|tiff|svg|ico",
    "audio": r"mp3|wav|wma|ogg|aac|flac|aiff|au",
    "video": r"mp4|avi|mov|flv|wmv|mkv|webm|m4v|mpe?g",
}
"""Names of files by what is in them, as TaskBench's evaluation takes them; all else is text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a tool whose arguments have names."""

    name: str
    type: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A tool.

    Args:
        name: Its name.
        description: What it does.
        parameters: Its parameters, where arguments have names.
        inputs: Kinds of its arguments where they have none: text, image, audio, video, url.
        outputs: Kinds of what it gives.
    """

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool.

    Args:
        tool: The tool's name.
        arguments: Name and value of each argument, sorted by name, or in order and with an empty
            name where arguments have none. There, ``"<node-2>"`` is what call 2 gives, from 0.
    """

    tool: str
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Tools that a reply chooses.

    Args:
        names: Their names, in the order of the tool list, so that equal choices are equal.
        unknown: How many others, which are not in the tool list, were dropped.
    """

    names: tuple[str, ...]
    unknown: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """Calls that a reply makes.

    Args:
        calls: The calls.
        unknown: How many others, of tools that are not in the tool list, were dropped.
    """

    calls: tuple[ToolCall, ...]
    unknown: int = field(default=0, compare=False)


def _key(name: str) -> str:
    """What names of tools are compared by, as in `metrics.node_f1`."""
    return " ".join(name.replace("_", " ").casefold().split())


def by_key(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Tools by what their names are compared by."""
    return {_key(tool.name): tool for tool in tools}


def find_tool(tools: Mapping[str, Tool], name: str) -> Tool | None:
    """The tool of a name, among those of `by_key`."""
    return tools.get(_key(name))


def read_arguments(values: Any, *, named: bool) -> tuple[tuple[str, Any], ...]:
    """Read the arguments of a call.

    Args:
        values: With names: an object, or a list of ``{"name": ..., "value": ...}``. Without: a
            list of texts, numbers and booleans, or one of them. None: there are none.
        named: Whether arguments have names.

    Raises:
        ValueError: They are not of that form, or nested too deeply.
    """
    if values is None:
        return ()
    if not named:
        plain = values if isinstance(values, list) else [values]
        if not all(isinstance(value, (str, int, float)) for value in plain):
            raise ValueError("are no list of texts and numbers")
        return tuple(("", value) for value in plain)
    pairs: list[tuple[str, Any]]
    try:
        pairs = (
            list(values.items())
            if isinstance(values, Mapping)
            else [(item["name"], item["value"]) for item in values]
        )
    except (KeyError, TypeError):
        raise ValueError("are neither an object nor a list of {name, value}") from None
    if not all(isinstance(name, str) and name for name, _ in pairs):
        raise ValueError("have a name that is no text")
    if not all(_shallow(value) for _, value in pairs):
        raise ValueError("are nested too deeply")
    return tuple(sorted(pairs, key=lambda pair: pair[0]))


def _shallow(value: Any, depth: int = 0) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return depth < _DEPTH and all(_shallow(item, depth + 1) for item in value)


def parse_steps(text: str) -> tuple[str, ...] | None:
    """Read the steps of a reply: ``{"steps": ["...", ...]}``; None if there are none to read."""
    items = _read_list(text, "steps")
    if items is None or not all(isinstance(item, str) for item in items):
        return None
    steps = tuple(item.strip() for item in items if item.strip())
    return None if any(len(step) > _STEP for step in steps) else steps


def parse_choice(text: str, tools: Sequence[Tool]) -> ToolChoice | None:
    """Read the tools that a reply chooses: ``{"tools": ["...", ...]}``; None if it cannot be."""
    items = _read_list(text, "tools")
    if items is None or not all(isinstance(item, str) for item in items):
        return None
    known = by_key(tools)
    chosen = [find_tool(known, item) for item in items]
    names = tuple(tool.name for tool in tools if tool in chosen)
    return ToolChoice(names, chosen.count(None))


def parse_plan(text: str, tools: Sequence[Tool], *, named: bool) -> ToolPlan | None:
    """Read the calls of a reply: ``{"calls": [{"tool": ..., "arguments": ...}, ...]}``.

    References to calls that follow a dropped one are renumbered.

    Returns:
        The plan, or None if one of the calls cannot be read.
    """
    items = _read_list(text, "calls")
    if items is None:
        return None
    known = by_key(tools)
    calls: list[ToolCall] = []
    places: dict[str, int] = {}
    for number, item in enumerate(items):
        if not isinstance(item, Mapping) or not isinstance(item.get("tool"), str):
            return None
        try:
            arguments = read_arguments(item.get("arguments"), named=named)
        except ValueError:
            return None
        tool = find_tool(known, item["tool"])
        if tool is not None:
            places[str(number)] = len(calls)
            calls.append(ToolCall(tool.name, arguments))
    unknown = len(items) - len(calls)
    if unknown and not named:
        calls = [_renumbered(call, places) for call in calls]
    return ToolPlan(tuple(calls), unknown)


def _renumbered(call: ToolCall, places: Mapping[str, int]) -> ToolCall:
    def moved(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return _NODE.sub(lambda found: f"<node-{places.get(found[1], 'dropped')}>", value)

    return ToolCall(call.tool, tuple((name, moved(value)) for name, value in call.arguments))


def _read_list(text: str, key: str) -> list[Any] | None:
    """The list under a key of the JSON object in a reply, or the list that the reply is."""
    values = _decode(text)
    if isinstance(values, list):
        # Several values: the answer is the last that looks like one.
        objects = [value for value in values if isinstance(value, Mapping) and key in value]
        values = objects[-1] if objects else values
    if isinstance(values, Mapping):
        values = values.get(key)
    return values if isinstance(values, list) and len(values) <= _ITEMS else None


def _decode(text: str) -> Any:
    text = _THOUGHTS.sub("", text[-_LONGEST:] if "</think>" in text else text[:_LONGEST]).strip()
    # What opens first is the whole; what is around it may be prose.
    spans = sorted((text.find(start), text.rfind(end) + 1) for start, end in ("{}", "[]"))
    spans = [(start, end) for start, end in spans if start >= 0]
    for start, end in [(0, len(text)), *spans]:
        try:
            return json.loads(text[start:end])
        except (ValueError, RecursionError):
            continue
    if not spans or text.count("{") + text.count("[") > _BRACKETS:
        return None
    try:
        return json_repair.loads(text[spans[0][0] :])
    # A library that reads arbitrary text may fail in any way.
    except Exception:
        return None


def compared(
    calls: Sequence[ToolCall], tools: Mapping[str, Tool], *, named: bool
) -> list[dict[str, Any]]:
    """Calls as `metrics.argument_f1` compares them, whatever order they are in.

    Where arguments have no names, the kind of each value is its name, and a reference to a call
    becomes the name of the tool called, as in TaskBench's evaluation (arXiv 2311.18760); a call's
    reference to itself is left out, and one to no call is a text like any other.

    Args:
        calls: The calls.
        tools: The tools, as `by_key` has them.
        named: Whether arguments have names.
    """
    found = []
    for number, call in enumerate(calls):
        pairs = []
        for name, value in call.arguments:
            node = None if named else _NODE.search(str(value))
            target = int(node[1]) if node else len(calls)
            if target == number:
                continue
            if target < len(calls):
                value = calls[target].tool
                tool = find_tool(tools, value)
                name = tool.outputs[0] if tool and tool.outputs else "none"
            elif not named:
                name = _kind(str(value))
            pairs.append({"name": name, "value": value})
        found.append({"tool": call.tool, "arguments": pairs})
    return found


def _kind(value: str) -> str:
    for kind, endings in _KINDS.items():
        if re.search(rf"\.(?:{endings})\b", value, re.IGNORECASE):
            return kind
    return "text"
