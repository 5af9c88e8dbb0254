"""Tools and tool calls, from data sets and from replies.

Replies are data: parsed, validated, bounded and never executed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from optuna_agenttts.llm.untrusted import json_in_reply

# Limits chosen by hand, far above what the data sets contain.
_MAX_ITEMS = 64
_MAX_STEP_CHARACTERS = 1000
_MAX_DEPTH = 8
_NODE = re.compile(r"<node-(\d{1,4})>")
_MEDIA_TYPES = {
    "image": r"jpe?g|png|gif|bmp|tiff|svg|ico",
    "audio": r"mp3|wav|wma|ogg|aac|flac|aiff|au",
    "video": r"mp4|avi|mov|flv|wmv|mkv|webm|m4v|mpe?g",
}
"""File extensions by media type, as in TaskBench's evaluation; all other values are text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a tool whose arguments have names.

    Args:
        name: Name of the argument.
        type: Its type, as text for the prompt.
        description: What it means, as text for the prompt.
    """

    name: str
    type: str = ""
    description: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """Tool that a model can call.

    Args:
        name: The name.
        description: The description.
        parameters: The parameters, if arguments have names.
        inputs: Types of the arguments, if they have no names: text, image, audio, video, url.
        outputs: Types of the outputs, if arguments have no names.
    """

    name: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Call of a tool with its arguments.

    Args:
        tool: The tool's name.
        arguments: Pairs of name and value, sorted by name. If arguments have no names: pairs in
            order, with empty names; ``"<node-2>"`` denotes the output of call 2, from 0.
    """

    tool: str
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Tools selected by a reply.

    Args:
        names: Their names, in the order of the tool list, so that equal selections compare equal.
        unknown: Number of dropped tools that are not in the tool list.
    """

    names: tuple[str, ...]
    unknown: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """Tool calls of a reply.

    Args:
        calls: The calls.
        unknown: Number of dropped calls of tools that are not in the tool list.
    """

    calls: tuple[ToolCall, ...]
    unknown: int = field(default=0, compare=False)


def _key(name: str) -> str:
    """Normalize the name of a tool, as `tool_metrics.node_f1` does."""
    return " ".join(name.replace("_", " ").casefold().split())


def index_tools(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Return tools by their normalized names."""
    return {_key(tool.name): tool for tool in tools}


def find_tool(tools: Mapping[str, Tool], name: str) -> Tool | None:
    """Return the tool of a name from an index of `index_tools`; None if there is none."""
    return tools.get(_key(name))


def read_arguments(values: Any, *, named: bool) -> tuple[tuple[str, Any], ...]:
    """Parse the arguments of a call.

    Args:
        values: If named: an object, or a list of ``{"name": ..., "value": ...}``. Otherwise: a
            string, number or boolean, or a list of those. None: no arguments.
        named: Whether arguments have names.

    Returns:
        The arguments as in `ToolCall`.

    Raises:
        ValueError: The values have another form or are nested more than 8 levels deep. The message
            continues a sentence that starts with the name of the field.
    """
    if values is None:
        return ()
    if not named:
        plain = values if isinstance(values, list) else [values]
        if not all(isinstance(value, (str, int, float)) for value in plain):
            raise ValueError("must be a list of strings and numbers")
        return tuple(("", value) for value in plain)
    pairs: list[tuple[str, Any]]
    try:
        pairs = (
            list(values.items())
            if isinstance(values, Mapping)
            else [(item["name"], item["value"]) for item in values]
        )
    except (KeyError, TypeError):
        raise ValueError("must be an object or a list of {name, value}") from None
    if not all(isinstance(name, str) and name for name, _ in pairs):
        raise ValueError("must have non-empty strings as names")
    if not all(_shallow(value) for _, value in pairs):
        raise ValueError(f"must not be nested more than {_MAX_DEPTH} levels deep")
    return tuple(sorted(pairs, key=lambda pair: pair[0]))


def _shallow(value: Any, depth: int = 0) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return depth < _MAX_DEPTH and all(_shallow(item, depth + 1) for item in value)


def parse_steps(text: str) -> tuple[str, ...] | None:
    """Parse the steps of a reply, ``{"steps": ["...", ...]}``; None if it is malformed."""
    items = _read_list(text, "steps")
    if items is None or not all(isinstance(item, str) for item in items):
        return None
    steps = tuple(item.strip() for item in items if item.strip())
    return None if any(len(step) > _MAX_STEP_CHARACTERS for step in steps) else steps


def parse_choice(text: str, tools: Sequence[Tool]) -> ToolChoice | None:
    """Parse the tools of a reply, ``{"tools": ["...", ...]}``; None if it is malformed."""
    items = _read_list(text, "tools")
    if items is None or not all(isinstance(item, str) for item in items):
        return None
    index = index_tools(tools)
    chosen = [find_tool(index, item) for item in items]
    names = tuple(tool.name for tool in tools if tool in chosen)
    return ToolChoice(names, chosen.count(None))


def parse_plan(text: str, tools: Sequence[Tool], *, named: bool) -> ToolPlan | None:
    """Parse the calls of a reply: ``{"calls": [{"tool": ..., "arguments": ...}, ...]}``.

    Calls of unknown tools are dropped, and references to later calls are renumbered.

    Args:
        text: The reply.
        tools: The tool list.
        named: Whether arguments have names.

    Returns:
        The plan; None if a call is malformed.
    """
    items = _read_list(text, "calls")
    if items is None:
        return None
    index = index_tools(tools)
    calls: list[ToolCall] = []
    positions: dict[str, int] = {}
    for number, item in enumerate(items):
        if not isinstance(item, Mapping) or not isinstance(item.get("tool"), str):
            return None
        try:
            arguments = read_arguments(item.get("arguments"), named=named)
        except ValueError:
            return None
        tool = find_tool(index, item["tool"])
        if tool is not None:
            positions[str(number)] = len(calls)
            calls.append(ToolCall(tool.name, arguments))
    unknown = len(items) - len(calls)
    if unknown and not named:
        calls = [_renumbered(call, positions) for call in calls]
    return ToolPlan(tuple(calls), unknown)


def _renumbered(call: ToolCall, positions: Mapping[str, int]) -> ToolCall:
    def renumber(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return _NODE.sub(lambda found: f"<node-{positions.get(found[1], 'dropped')}>", value)

    return ToolCall(call.tool, tuple((name, renumber(value)) for name, value in call.arguments))


def _read_list(text: str, key: str) -> list[Any] | None:
    """Return the list under a key of the JSON object in a reply, or the reply's own list."""
    values = json_in_reply(text, key, lists=True)
    if isinstance(values, Mapping):
        values = values.get(key)
    return values if isinstance(values, list) and len(values) <= _MAX_ITEMS else None


def comparable_calls(
    calls: Sequence[ToolCall], tools: Mapping[str, Tool], *, named: bool
) -> list[dict[str, Any]]:
    """Return calls in the form that `tool_metrics.argument_f1` compares, in any order.

    If arguments have no names, the media type of each value serves as its name, and a reference to
    another call is replaced by the name of its tool, as in TaskBench's evaluation (arXiv
    2311.18760). References of a call to itself are dropped; those to missing calls are text.

    Args:
        calls: The calls.
        tools: The tools; see `index_tools`.
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
                name = _media_type(str(value))
            pairs.append({"name": name, "value": value})
        found.append({"tool": call.tool, "arguments": pairs})
    return found


def _media_type(value: str) -> str:
    for media_type, extensions in _MEDIA_TYPES.items():
        if re.search(rf"\.(?:{extensions})\b", value, re.IGNORECASE):
            return media_type
    return "text"
