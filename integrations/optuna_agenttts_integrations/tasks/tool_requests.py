"""Requests that calls of tools carry out, and tool lists, in TaskBench's forms (2311.18760)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks.records import Record, field
from optuna_agenttts_integrations.tasks.tool_calls import (
    Parameter,
    Tool,
    ToolCall,
    by_key,
    find_tool,
    read_arguments,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A request that calls of tools carry out.

    Args:
        id: Its name.
        request: What the user asks for.
        steps: The steps that are right.
        calls: The calls that are right.
        tools: The tools that may be called.
    """

    id: str
    request: str
    steps: tuple[str, ...]
    calls: tuple[ToolCall, ...]
    tools: tuple[Tool, ...]


def read_tools(tools: str | Path | Mapping[str, Any], *, named: bool) -> tuple[Tool, ...]:
    """Read a tool list in the form of TaskBench's ``tool_desc.json``.

    Args:
        tools: A file, or what it holds.
        named: Whether arguments have names, so that each tool has ``parameters``; otherwise it
            has ``input-type`` and ``output-type``.

    Raises:
        DataError: It is not of that form, or two tools have one name.
    """
    values: Any = tools
    if isinstance(tools, (str, Path)):
        try:
            values = json.loads(Path(tools).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"`tools` is {str(tools)!r}: it cannot be read as JSON ({error}): give "
                "TaskBench's tool_desc.json of the domain."
            ) from error
    nodes = values.get("nodes") if isinstance(values, Mapping) else None
    if not isinstance(nodes, list) or not nodes:
        raise DataError(
            "`tools` has no list in 'nodes': give an object such as "
            '{"nodes": [{"id": ..., "desc": ..., ...}]}.'
        )
    found = tuple(_tool(node, number, named) for number, node in enumerate(nodes))
    seen: list[Tool] = []
    for tool in found:
        if find_tool(by_key(seen), tool.name):
            raise DataError(f"`tools` has two tools named {tool.name!r}: name each once.")
        seen.append(tool)
    return found


def _tool(node: Any, number: int, named: bool) -> Tool:
    try:
        tool = Tool(name=_text(node["id"]), description=_text(node["desc"]))
        if named:
            parameters = tuple(
                Parameter(
                    name=_text(parameter["name"]),
                    type=str(parameter.get("type", "")),
                    description=str(parameter.get("desc", "")),
                )
                for parameter in node["parameters"]
            )
            return Tool(name=tool.name, description=tool.description, parameters=parameters)
        return Tool(
            name=tool.name,
            description=tool.description,
            inputs=_kinds(node["input-type"]),
            outputs=_kinds(node["output-type"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        wanted = (
            "`parameters`, a list of {name, type, desc}"
            if named
            else "the lists of texts `input-type` and `output-type`"
        )
        raise DataError(
            f"`tools`: node {number} is malformed ({type(error).__name__}: {error}): give it "
            f"`id`, `desc` and {wanted}, or choose the `domain` that the list is of."
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is no text")
    return value.strip()


def _kinds(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is no list")
    return tuple(_text(value).lower() for value in values)


def read_requests(
    records: Sequence[Record], tools: tuple[Tool, ...], *, named: bool, skip_unusable: bool
) -> list[ToolRequest]:
    """Read requests in either of TaskBench's forms.

    Args:
        records: Its records: ``task_steps`` and ``task_nodes``, or ``tool_steps`` and
            ``tool_nodes``; lists, or JSON of them as on the Hub.
        tools: The tools that may be called.
        named: Whether arguments have names.
        skip_unusable: Whether to leave out records that cannot be used.

    Raises:
        DataError: A record cannot be used, or none can.
    """
    known = by_key(tools)
    found: list[ToolRequest] = []
    ids: set[str] = set()
    problems: list[str] = []
    for number, record in enumerate(records):
        name = str(record.get("id", number))
        try:
            request = ToolRequest(
                # Eight random digits, as TaskBench has them, may come up twice.
                id=name if name not in ids else f"{name}#{number}",
                request=field(record, number, ("instruction", "user_request"), str),
                steps=_read_steps(record, number),
                calls=_read_calls(record, number, known, named),
                tools=tools,
            )
        except DataError as error:
            problems.append(str(error))
            if skip_unusable:
                continue
            raise DataError(
                f"{error} Mend the record, or leave out what cannot be used with "
                "`skip_unusable=True`."
            ) from error
        ids.add(request.id)
        found.append(request)
    if not found:
        raise DataError(f"`source` has no record that can be used. The first: {problems[0]}")
    if problems:
        _logger.warning(
            "%d of %d records cannot be used and are left out. The first: %s",
            len(problems),
            len(records),
            problems[0],
        )
    return found


def _read_steps(record: Record, number: int) -> tuple[str, ...]:
    name, steps = _decoded(record, number, ("task_steps", "tool_steps"))
    if not all(isinstance(step, str) and step.strip() for step in steps):
        raise DataError(f"Record {number}: `{name}` holds something that is no text.")
    return tuple(step.strip() for step in steps)


def _read_calls(
    record: Record, number: int, tools: Mapping[str, Tool], named: bool
) -> tuple[ToolCall, ...]:
    name, nodes = _decoded(record, number, ("task_nodes", "tool_nodes"))
    calls = []
    for position, node in enumerate(nodes):
        place = f"Record {number}: `{name}[{position}]`"
        if not isinstance(node, Mapping) or not isinstance(node.get("task"), str):
            raise DataError(f"{place} has no text in 'task'.")
        tool = find_tool(tools, node["task"])
        if tool is None:
            raise DataError(
                f"{place} calls {node['task']!r}, which is not in `tools`: give the tool list of "
                "the records' domain."
            )
        try:
            arguments = read_arguments(node.get("arguments"), named=named)
        except ValueError as error:
            raise DataError(f"{place}: its 'arguments' {error}: check `domain`.") from error
        calls.append(ToolCall(tool.name, arguments))
    return tuple(calls)


def _decoded(record: Record, number: int, names: tuple[str, str]) -> tuple[str, list[Any]]:
    """The name and values of a field that is a list, or JSON of one as on the Hub."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise DataError(f"Record {number}: `{name}` is no JSON ({error}).") from error
        if isinstance(value, list) and value:
            return name, value
    raise DataError(
        f"Record {number} has no list, or JSON of one, in {names[0]!r} or {names[1]!r}; it has "
        f"the fields {', '.join(sorted(map(str, record)))}."
    )
