"""Tools and tool calls, from data sets and from replies."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NODE = re.compile(r"<node-(\d{1,4})>")
"""Reference to the output of another call, counted from 0."""
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
        outputs: Types of the outputs, if arguments have no names. Upper case counts only in
            TaskBench's own metrics.
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
            order, with empty names, or those that a model made up, which do not count;
            ``"<node-2>"`` denotes the output of call 2, from 0.
    """

    tool: str
    arguments: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Tools selected by a reply.

    Args:
        names: Their names, in the order of the tool list, so that equal selections compare equal.
        unknown: Number of dropped tools that are not in the tool list.
        unread: Number of parts of the reply that could not be read.
    """

    names: tuple[str, ...]
    unknown: int = field(default=0, compare=False)
    unread: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ToolPlan:
    """Tool calls of a reply.

    Args:
        calls: The calls.
        unknown: Number of dropped calls of tools that are not in the tool list.
        unread: Number of calls, arguments and ends of the reply that could not be read.
        written: All calls as the reply has them, with those of unknown tools.
        links: Pairs of the tools of a call and of a later one that depends on it, if the reply
            lists them; None if it does not.
    """

    calls: tuple[ToolCall, ...]
    unknown: int = field(default=0, compare=False)
    unread: int = field(default=0, compare=False)
    written: tuple[ToolCall, ...] = field(default=(), compare=False)
    links: tuple[tuple[str, str], ...] | None = field(default=None, compare=False)


def normalized_name(name: str) -> str:
    """Normalize the name of a tool, as `tool_metrics.node_f1` does."""
    return " ".join(name.replace("_", " ").casefold().split())


def index_tools(tools: Sequence[Tool]) -> dict[str, Tool]:
    """Return tools by their normalized names."""
    return {normalized_name(tool.name): tool for tool in tools}


def find_tool(tools: Mapping[str, Tool], name: str) -> Tool | None:
    """Return the tool of a name from an index of `index_tools`; None if there is none."""
    return tools.get(normalized_name(name))


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
            node = None if named else NODE.search(str(value))
            target = int(node[1]) if node else len(calls)
            if target == number:
                continue
            if target < len(calls):
                value = calls[target].tool
                tool = find_tool(tools, value)
                name = tool.outputs[0].lower() if tool and tool.outputs else "none"
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
