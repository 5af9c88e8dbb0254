"""Tool lists and requests in TaskBench's formats (arXiv 2311.18760)."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks.records import (
    LeftOut,
    Record,
    Source,
    get_field,
    nested,
    question_key,
    read_each,
    with_distinct_ids,
)
from optuna_agenttts_integrations.tasks.tool_calls import (
    NODE,
    Parameter,
    Tool,
    ToolCall,
    find_tool,
    index_tools,
    normalized_name,
)
from optuna_agenttts_integrations.tasks.tool_replies import read_arguments, read_links

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
        links: Pairs of the tools of a gold call and of one that depends on it; not needed by
            predictions.
        renumbered: Whether the references of the gold calls counted calls from 1.
    """

    id: str
    request: str
    steps: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    tools: tuple[Tool, ...] = ()
    links: tuple[tuple[str, str], ...] = ()
    renumbered: bool = field(default=False, compare=False)

    @property
    def overlap_key(self) -> str:
        """Key that is equal for the same request in different typography."""
        return question_key(self.request)


def read_tools(
    tools: str | Path | Mapping[str, Any] | Sequence[Mapping[str, Any]], *, named: bool
) -> tuple[Tool, ...]:
    """Read a tool list in the format of TaskBench's ``tool_desc.json``.

    Args:
        tools: The file, its decoded content, or the list in it.
        named: Whether arguments have names. If so, tools have ``parameters``; otherwise they have
            ``input-type`` and ``output-type``.

    Raises:
        DataError: The tool list has another format, or two tools have the same name.
    """
    values: Any = tools
    if isinstance(tools, (str, Path)):
        try:
            values = json.loads(Path(tools).read_text(encoding="utf-8-sig"))
        except (OSError, ValueError) as error:
            raise DataError(
                f"`tools` {str(tools)!r} cannot be read as JSON: {error}. Provide TaskBench's "
                "tool_desc.json of the domain."
            ) from error
    nodes = values.get("nodes") if isinstance(values, Mapping) else values
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
    return tuple(map(_text, values))


def read_requests(
    records: Sequence[Any],
    tools: tuple[Tool, ...],
    *,
    named: bool,
    source: Source,
    skip_unusable: bool,
) -> tuple[list[ToolRequest], LeftOut]:
    """Read requests in either of TaskBench's formats.

    References of calls to each other count calls from 0. Some of TaskBench's records count them
    from 1: those whose links, or whose references to themselves and beyond the last call, show
    it are corrected, and their number is logged.

    Args:
        records: TaskBench's records with ``task_steps``, ``task_nodes`` and ``task_links``, or
            ``tool_steps``, ``tool_nodes`` and ``tool_links``: lists, or JSON strings of lists as
            on the Hub.
        tools: The available tools.
        named: Whether arguments have names.
        source: Where the records are from, for messages.
        skip_unusable: Whether to leave out invalid records; see `read_each`.

    Raises:
        DataError: Records are invalid; see `read_each`.
    """
    read = partial(_read_request, index_tools(tools), tools, named)
    found, left_out = read_each(
        records,
        read,
        source=source,
        skip_unusable=skip_unusable,
        expected="TaskBench's data.json of the domain",
    )
    # TaskBench's ids are eight random digits, which can repeat.
    found = with_distinct_ids(found, "{id}#{number}")
    renumbered = sum(request.renumbered for request in found)
    if renumbered:
        _logger.info(
            "The calls of %d of %d records of `source` refer to each other by numbers from 1; "
            "they are read as numbers from 0.",
            renumbered,
            len(found),
        )
    return found, left_out


def _read_request(
    index: Mapping[str, Tool], tools: tuple[Tool, ...], named: bool, record: Record, number: int
) -> ToolRequest:
    request = get_field(record, number, ("instruction", "user_request"), str)
    steps = _read_steps(record, number)
    calls = _read_calls(record, number, index, named)
    links = _read_links(record, number)
    mended = None if named else _counted_from_one(calls, links)
    return ToolRequest(
        id=str(record.get("id", number)),
        request=request,
        steps=steps,
        calls=calls if mended is None else mended,
        tools=tools,
        links=links,
        renumbered=mended is not None,
    )


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
                f"{location} calls a tool that is not in `tools`, got {node['task']!r}. Provide "
                "the tool list of the records' domain."
            )
        arguments, problems = read_arguments(node.get("arguments"), named=named)
        if problems:
            raise DataError(f"{location}: `arguments` {problems[0]}. Check `domain`.")
        calls.append(ToolCall(tool.name, arguments))
    return tuple(calls)


def _read_links(record: Record, number: int) -> tuple[tuple[str, str], ...]:
    names = ("task_links", "tool_links")
    if not any(nested(record.get(name)) for name in names):
        return ()
    name, values = _decoded(record, number, names)
    links = read_links(values)
    if links is None:
        raise DataError(
            f"Record {number}: `{name}` must be a list of objects with strings in `source` and "
            "`target`."
        )
    return links


def _decoded(record: Record, number: int, names: tuple[str, str]) -> tuple[str, list[Any]]:
    """Return name and value of a field that is a list, or a JSON string of one as on the Hub."""
    for name in names:
        value = nested(record.get(name))
        if isinstance(value, list) and value:
            return name, value
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            raise DataError(f"Record {number}: `{name}` is invalid JSON.")
    raise DataError(
        f"Record {number}: field {names[0]!r} or {names[1]!r} must be a non-empty list, or JSON "
        f"of one; the record has the fields {', '.join(sorted(map(str, record)))}."
    )


def _counted_from_one(
    calls: tuple[ToolCall, ...], links: tuple[tuple[str, str], ...]
) -> tuple[ToolCall, ...] | None:
    """Return calls whose references count from 1 with references from 0; None for all others."""
    references = [
        (int(node), position)
        for position, call in enumerate(calls)
        for _, value in call.arguments
        for node in NODE.findall(str(value))
    ]
    known = {(normalized_name(source), normalized_name(target)) for source, target in links}

    def agreeing(first: int) -> int:
        """Count the references that agree with the links, or that are possible without links."""
        possible = [
            (node - first, position)
            for node, position in references
            if 0 <= node - first < len(calls) and node - first != position
        ]
        if not known:
            return len(possible)
        names = [normalized_name(call.tool) for call in calls]
        return sum((names[node], names[position]) in known for node, position in possible)

    if any(node == 0 for node, _ in references) or agreeing(1) <= agreeing(0):
        return None

    def renumbered(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return NODE.sub(lambda node: f"<node-{int(node[1]) - 1}>", value)

    return tuple(
        replace(call, arguments=tuple((name, renumbered(value)) for name, value in call.arguments))
        for call in calls
    )
