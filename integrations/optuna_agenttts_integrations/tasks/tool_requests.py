"""Tool lists and requests in TaskBench's formats (arXiv 2311.18760)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks.records import Record, get_field
from optuna_agenttts_integrations.tasks.tool_calls import (
    Parameter,
    Tool,
    ToolCall,
    find_tool,
    index_tools,
    read_arguments,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A user's request with its gold solution.

    Args:
        id: The identifier.
        request: The request.
        steps: The gold steps; not needed by predictions.
        calls: The gold tool calls; not needed by predictions.
        tools: The available tools.
    """

    id: str
    request: str
    steps: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    tools: tuple[Tool, ...] = ()


def read_tools(tools: str | Path | Mapping[str, Any], *, named: bool) -> tuple[Tool, ...]:
    """Read a tool list in the format of TaskBench's ``tool_desc.json``.

    Args:
        tools: The file or its decoded content.
        named: Whether arguments have names. If so, tools have ``parameters``; otherwise they have
            ``input-type`` and ``output-type``.

    Raises:
        DataError: The tool list has another format, or two tools have the same name.
    """
    values: Any = tools
    if isinstance(tools, (str, Path)):
        try:
            values = json.loads(Path(tools).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"`tools` {str(tools)!r} cannot be read as JSON: {error}. Provide TaskBench's "
                "tool_desc.json of the domain."
            ) from error
    nodes = values.get("nodes") if isinstance(values, Mapping) else None
    if not isinstance(nodes, list) or not nodes:
        raise DataError(
            "`tools` must be an object with a non-empty list, such as "
            '{"nodes": [{"id": ..., "desc": ..., ...}]}.'
        )
    found = tuple(_tool(node, number, named) for number, node in enumerate(nodes))
    seen: list[Tool] = []
    for tool in found:
        if find_tool(index_tools(seen), tool.name):
            raise DataError(f"`tools` has two tools named {tool.name!r}. Names must be unique.")
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
            inputs=_types(node["input-type"]),
            outputs=_types(node["output-type"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        wanted = (
            "`parameters`, a list of {name, type, desc}"
            if named
            else "the lists of strings `input-type` and `output-type`"
        )
        raise DataError(
            f"`tools`: node {number} is malformed ({type(error).__name__}: {error}). It needs "
            f"`id`, `desc` and {wanted}. Check that `domain` is the domain of the list."
        ) from error


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{value!r} is not a non-empty string")
    return value.strip()


def _types(values: Any) -> tuple[str, ...]:
    if not isinstance(values, list):
        raise TypeError(f"{values!r} is not a list")
    return tuple(_text(value).lower() for value in values)


def read_requests(
    records: Sequence[Record], tools: tuple[Tool, ...], *, named: bool, skip_unusable: bool
) -> list[ToolRequest]:
    """Read requests in either of TaskBench's formats.

    Args:
        records: TaskBench's records with ``task_steps`` and ``task_nodes``, or ``tool_steps`` and
            ``tool_nodes``: lists, or JSON strings of lists as on the Hub.
        tools: The available tools.
        named: Whether arguments have names.
        skip_unusable: Whether to skip invalid records, with a warning.

    Raises:
        DataError: A record is invalid and `skip_unusable` is False, or all records are invalid.
    """
    index = index_tools(tools)
    found: list[ToolRequest] = []
    ids: set[str] = set()
    problems: list[str] = []
    for number, record in enumerate(records):
        name = str(record.get("id", number))
        try:
            request = ToolRequest(
                # TaskBench's ids are eight random digits, which can repeat.
                id=name if name not in ids else f"{name}#{number}",
                request=get_field(record, number, ("instruction", "user_request"), str),
                steps=_read_steps(record, number),
                calls=_read_calls(record, number, index, named),
                tools=tools,
            )
        except DataError as error:
            problems.append(str(error))
            if skip_unusable:
                continue
            raise DataError(
                f"{error} Correct the record, or skip invalid records with `skip_unusable=True`."
            ) from error
        ids.add(request.id)
        found.append(request)
    if not found:
        raise DataError(f"`source` has no valid record. The first error: {problems[0]}")
    if problems:
        _logger.warning(
            "Skipped %d of %d records of `source` because they are invalid. The first error: %s",
            len(problems),
            len(records),
            problems[0],
        )
    return found


def _read_steps(record: Record, number: int) -> tuple[str, ...]:
    name, steps = _decoded(record, number, ("task_steps", "tool_steps"))
    if not all(isinstance(step, str) and step.strip() for step in steps):
        raise DataError(f"Record {number}: `{name}` must be a list of non-empty strings.")
    return tuple(step.strip() for step in steps)


def _read_calls(
    record: Record, number: int, tools: Mapping[str, Tool], named: bool
) -> tuple[ToolCall, ...]:
    name, nodes = _decoded(record, number, ("task_nodes", "tool_nodes"))
    calls = []
    for position, node in enumerate(nodes):
        location = f"Record {number}: `{name}[{position}]`"
        if not isinstance(node, Mapping) or not isinstance(node.get("task"), str):
            raise DataError(f"{location} must be an object with a string in `task`.")
        tool = find_tool(tools, node["task"])
        if tool is None:
            raise DataError(
                f"{location} calls {node['task']!r}, which is not in `tools`. Provide the tool "
                "list of the records' domain."
            )
        try:
            arguments = read_arguments(node.get("arguments"), named=named)
        except ValueError as error:
            raise DataError(f"{location}: `arguments` {error}. Check `domain`.") from error
        calls.append(ToolCall(tool.name, arguments))
    return tuple(calls)


def _decoded(record: Record, number: int, names: tuple[str, str]) -> tuple[str, list[Any]]:
    """Return name and value of a field that is a list, or a JSON string of one as on the Hub."""
    for name in names:
        value = record.get(name)
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError as error:
                raise DataError(f"Record {number}: `{name}` is invalid JSON: {error}.") from error
        if isinstance(value, list) and value:
            return name, value
    raise DataError(
        f"Record {number}: field {names[0]!r} or {names[1]!r} must be a non-empty list, or JSON "
        f"of one; the record has the fields {', '.join(sorted(map(str, record)))}."
    )
