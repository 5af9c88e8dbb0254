"""Steps, choices of tools and tool calls in replies, in the forms in which models write them.

Replies are data: parsed, validated, bounded and never executed. A reply that can be read in part
is used in part, and what could not be read is counted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from optuna_agenttts.llm.thoughts import split_thoughts
from optuna_agenttts.llm.untrusted import decode_json, json_in_reply
from optuna_agenttts_integrations.tasks.tool_calls import (
    NODE,
    Tool,
    ToolCall,
    ToolChoice,
    ToolPlan,
    find_tool,
    index_tools,
)

# Limits chosen by hand, far above what the data sets contain.
_MAX_ITEMS = 64
_MAX_STEP_CHARACTERS = 1000
_MAX_DEPTH = 8
_MAX_MALFORMED = 100
"""Braces that begin no JSON object, after which a reply is not searched for further ones."""

# Keys by which models name the parts of a reply, those of the prompts first. The others are those
# of TaskBench's prompts and data, and of the function calls of chat servers.
_STEPS = ("steps", "task_steps", "tool_steps")
_TOOLS = ("tools", "selected_tools", "task_nodes", "tool_nodes", "calls", "tool_calls", "nodes")
_CALLS = ("calls", "task_nodes", "tool_nodes", "tool_calls", "nodes")
_LINKS = ("links", "task_links", "tool_links")
_STEP = ("step", "task", "description", "step_name", "action", "text", "id")
_TOOL = ("tool", "task", "function", "name", "tool_name", "action", "id")  # 3 alone are calls
_ARGUMENTS = (
    *("arguments", "parameters", "args", "input", "inputs", "params", "kwargs"),
    *("tool_input", "action_input"),
)
_NAME = ("name", "key", "parameter", "argument")
_DECLARED = {"name", "type", "desc", "description"}
# An argument as text, and what models write in place of "<node-0>".
_PAIR = re.compile(r"([a-z_]\w*)\s*[=:]\s*(.+)", re.DOTALL)
_REFERENCE = re.compile(r"<?node[-_ ]?(\d{1,4})>?", re.IGNORECASE)
_NO_LETTER = re.compile(r"[\W_]+")
_AFTER_NAME = re.compile(r"[:(]")
# Lines of a list without JSON; those of steps keep "Step 1:".
_STEP_LINE = re.compile(r"\s*(?:[-*\u2022]|\d{1,2}[.)]|(?=step\s?\d))\s*(.+?)\s*", re.IGNORECASE)
_ENTRY = re.compile(r"\s*(?:[-*\u2022]|\d{1,2}[.)])?\s*(.+?)\s*")


def read_arguments(values: Any, *, named: bool) -> tuple[tuple[tuple[str, Any], ...], list[str]]:
    """Read the arguments of a call, in a data set or in a reply.

    Args:
        values: An object of names and values, ``{"name": ..., "value": ...}``, a value, or a list
            of those; JSON text of an object or a list. None: no arguments. Values without names
            can be read only if arguments have no names.
        named: Whether arguments have names.

    Returns:
        The arguments as in `ToolCall`, and a description of each value that could not be read. It
        continues a sentence that starts with the name of the field.
    """
    if isinstance(values, str) and values.strip()[:1] in ("{", "["):
        decoded = decode_json(values)
        values = values if decoded is None else decoded
    found: list[tuple[str, Any]] = []
    problems: list[str] = []
    items = [] if values is None else values if isinstance(values, list) else [values]
    for item in items:
        for name, value in _pairs(item, named, isinstance(values, list)):
            problem = _problem(name, value, named)
            if problem:
                problems.append(problem)
            else:
                found.append((name, value))
    # A stable order of names makes equal calls compare equal.
    return tuple(sorted(found, key=lambda pair: pair[0]) if named else found), problems


def _pairs(item: Any, named: bool, listed: bool) -> Iterator[tuple[Any, Any]]:
    """Yield name and value of each argument in an entry of a list of arguments."""
    if not isinstance(item, Mapping):
        written = _PAIR.fullmatch(item) if named and isinstance(item, str) else None
        pairs = [written.groups() if written else (None if named else "", item)]
    elif "value" in item and (key := next((k for k in _NAME if isinstance(item.get(k), str)), "")):
        pairs = [(item[key], item["value"])]
    elif named and listed and "name" in item and set(item) <= _DECLARED:
        pairs = [(None, item)]  # the declaration of a parameter, without a value
    else:
        pairs = [(name if named else "", value) for name, value in item.items()]
    for name, value in pairs:
        if named:
            yield name, value
        elif value == "" and name:
            yield "", name  # models that need no name write the value there
        else:
            yield from ((name, part) for part in (value if isinstance(value, list) else [value]))


def _problem(name: Any, value: Any, named: bool) -> str:
    """Describe why an argument cannot be read; empty if it can."""
    if not named:
        return "" if isinstance(value, (str, int, float)) else "must be strings and numbers"
    if name is None:
        return "must be an object or a list of {name, value}"
    if not isinstance(name, str) or not name:
        return "must have non-empty strings as names"
    return "" if _shallow(value) else f"must not be nested more than {_MAX_DEPTH} levels deep"


def _shallow(value: Any, depth: int = 0) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    if not isinstance(value, list):
        return True
    return depth < _MAX_DEPTH and all(_shallow(item, depth + 1) for item in value)


def parse_steps(text: str) -> tuple[str, ...] | None:
    """Parse the steps of a reply, ``{"steps": ["...", ...]}``; None if it is malformed.

    Steps may be objects, such as ``{"step": 1, "description": "..."}``.
    """
    items, _, _ = _read_items(text, _STEPS)
    if items is None:
        items = _lines(text, _STEP_LINE)
    if items is None:
        return None
    texts = [_text(item, _STEP) for item in items]
    steps = tuple(step for step in (text.strip() for text in texts if text) if step)
    malformed = None in texts or any(len(step) > _MAX_STEP_CHARACTERS for step in steps)
    return None if malformed else steps


def parse_choice(text: str, tools: Sequence[Tool]) -> ToolChoice | None:
    """Parse the tools of a reply, ``{"tools": ["...", ...]}``; None if it is malformed.

    Tools may be objects, such as calls.
    """
    index = index_tools(tools)
    items, _, unread = _read_items(text, _TOOLS)
    if items is None:
        items = _lines(text, _ENTRY)
        if not items or not all(_find(index, item) for item in items):
            return None
    texts = [_text(item, _TOOL) for item in items]
    names = [name for name in texts if name is not None]
    if items and not names:
        return None
    chosen = [_find(index, name) for name in names]
    return ToolChoice(
        tuple(tool.name for tool in tools if tool in chosen),
        chosen.count(None),
        unread + len(items) - len(names),
    )


def parse_plan(text: str, tools: Sequence[Tool], *, named: bool) -> ToolPlan | None:
    """Parse the calls of a reply: ``{"calls": [{"tool": ..., "arguments": ...}, ...]}``.

    TaskBench's ``task_nodes`` with ``task``, function calls of chat servers, and calls that follow
    each other without a list are read, too; see `read_arguments` for arguments. Calls of unknown
    tools and unreadable calls are dropped and counted, and references to later calls are
    renumbered.

    Args:
        text: The reply.
        tools: The tool list.
        named: Whether arguments have names.

    Returns:
        The plan; None if there is no list of calls, or none of them can be read.
    """
    index = index_tools(tools)
    items, reply, unread = _read_items(text, _CALLS, index)
    if items is None:
        return None
    calls: list[ToolCall] = []
    written: list[ToolCall] = []
    positions: dict[str, int] = {}
    for number, item in enumerate(items):
        call = _function(_keyed(item, index))
        name = _text(call, _TOOL) if isinstance(call, Mapping) else None
        if name is None:
            unread += 1
            continue
        tool = _find(index, name)
        values = _first(call, _ARGUMENTS)
        if tool is not None and not any(key in call for key in _ARGUMENTS):
            parameters = [parameter.name for parameter in tool.parameters]
            values = {key: call[key] for key in parameters if call.get(key, name) != name}
        arguments, problems = read_arguments(values, named=named)
        unread += len(problems)
        written.append(ToolCall(name, arguments))
        if tool is not None:
            positions[str(number)] = len(calls)
            calls.append(ToolCall(tool.name, arguments if named else _with_references(arguments)))
    if items and not written:
        return None
    unknown = len(written) - len(calls)
    if len(calls) < len(items) and not named:
        calls = [_renumbered(call, positions) for call in calls]
    links = read_links(_first(reply, _LINKS)) if isinstance(reply, Mapping) else None
    return ToolPlan(tuple(calls), unknown, unread, tuple(written), links)


def read_links(values: Any) -> tuple[tuple[str, str], ...] | None:
    """Return the links ``{"source": ..., "target": ...}`` of a list; None if it has others."""
    if not isinstance(values, list):
        return None
    links = [
        (link["source"], link["target"])
        for link in values
        if isinstance(link, Mapping)
        and isinstance(link.get("source"), str)
        and isinstance(link.get("target"), str)
    ]
    return tuple(links) if len(links) == len(values) else None


def _find(tools: Mapping[str, Tool], name: str) -> Tool | None:
    """Return the tool of a name, also in other spelling or with a description; None for others."""
    if tool := find_tool(tools, name):
        return tool
    key = _AFTER_NAME.split(name.rsplit(".", 1)[-1])[0].casefold()
    found = [tools[n] for n in tools if _NO_LETTER.sub("", n) == _NO_LETTER.sub("", key)]
    return found[0] if len(found) == 1 else None


def _keyed(item: Any, tools: Mapping[str, Tool]) -> Any:
    """Return a call written as ``{"name of a tool": arguments}`` like others; else the item."""
    if isinstance(item, Mapping) and len(item) == 1:
        ((name, values),) = item.items()
        if isinstance(name, str) and isinstance(values, (Mapping, list)) and _find(tools, name):
            return {"tool": name, "arguments": values}
    return item


def _with_references(arguments: Sequence[tuple[str, Any]]) -> tuple[tuple[str, Any], ...]:
    """Return arguments with "node 0", "node_0" and the like as ``<node-0>``."""
    texts = [(name, value, _REFERENCE.fullmatch(str(value).strip())) for name, value in arguments]
    return tuple((name, f"<node-{found[1]}>" if found else value) for name, value, found in texts)


def _lines(text: str, pattern: re.Pattern[str]) -> list[str] | None:
    """Return the items of a reply without JSON: its lines that match, or one line with commas."""
    text = split_thoughts(text)[0].replace("**", "").replace("`", "").strip()
    if "{" in text or "[" in text:
        return None
    lines = text.splitlines() if "\n" in text or pattern is _STEP_LINE else text.split(",")
    found = [match[1] for line in lines if (match := pattern.fullmatch(line))]
    return found[:_MAX_ITEMS] or None


def _renumbered(call: ToolCall, positions: Mapping[str, int]) -> ToolCall:
    def renumber(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return NODE.sub(lambda found: f"<node-{positions.get(found[1], 'dropped')}>", value)

    return ToolCall(call.tool, tuple((name, renumber(value)) for name, value in call.arguments))


def _first(values: Mapping[str, Any], keys: Sequence[str]) -> Any:
    """Return the value of the first key that is present; None if there is none."""
    return next((values[key] for key in keys if key in values), None)


def _text(value: Any, keys: Sequence[str]) -> str | None:
    """Return a text, or the first text of an object under one of the keys."""
    value = _function(value)
    if isinstance(value, Mapping):
        value = next((value[key] for key in keys if isinstance(value.get(key), str)), None)
    return value if isinstance(value, str) else None


def _is_call(value: Mapping[str, Any]) -> bool:
    """Return whether an object outside of a list is a call: other objects have names, too."""
    named = any(key in value for key in (*_ARGUMENTS, *_TOOL[:3]))
    return named and _text(value, _TOOL) is not None


def _function(value: Any) -> Any:
    """Return the function of a call in the form of chat servers; other values unchanged."""
    function = value.get("function") if isinstance(value, Mapping) else None
    return function if isinstance(function, Mapping) else value


def _read_items(
    text: str, keys: Sequence[str], tools: Mapping[str, Tool] | None = None
) -> tuple[list[Any] | None, Any, int]:
    """Find the list under one of the keys in a reply, or the reply's own list.

    Returns:
        The list, or None if there is none of at most 64 items; the value that it is in; and 1 if
        the reply ends inside of it, else 0.
    """
    # Models that write Markdown escape underscores, which JSON does not allow.
    text = split_thoughts(text)[0].replace("\\_", "_")
    objects, rest = _objects(text)
    inner = [part for value in objects for part in value.values() if isinstance(part, Mapping)]
    candidates = [value for value in (*inner, *objects) if any(key in value for key in keys)]
    calls = keys is not _STEPS and not rest and all(map(_is_call, objects))
    reply: Any
    if candidates:
        reply = candidates[-1]  # of several, the latest
    elif objects and calls:
        reply = objects
    else:
        key = next((key for key in keys if f'"{key}"' in text), keys[0])
        reply = json_in_reply(rest or text, key, lists=True)
        if isinstance(reply, Mapping) and _is_call(reply):
            reply = list(filter(_is_call, objects)) or [reply]  # of a list whose end is missing
    items = _first(reply, keys) if isinstance(reply, Mapping) else reply
    if items is None and isinstance(reply, Mapping):
        items = _unnamed(reply, keys, tools or {})
    if keys is _STEPS and isinstance(items, Mapping):
        items = list(items.values())
    if isinstance(items, Mapping) and _is_call(items):
        items = [items]
    elif items is reply and items and all(isinstance(item, list) for item in items):
        items = items[-1]  # several lists, of which the last is the latest
    if not isinstance(items, list) or len(items) > _MAX_ITEMS:
        return None, None, 0
    cut = any(text.count(left) > text.count(right) for left, right in ("{}", "[]"))
    return items, reply, int(cut)


def _unnamed(reply: Mapping[str, Any], keys: Sequence[str], tools: Mapping[str, Tool]) -> Any:
    """Return the items of an object under another key: its only list, or calls by their tools."""
    if tools and reply and all(_find(tools, name) for name in reply):
        return [{"tool": name, "arguments": values} for name, values in reply.items()]
    if keys is _STEPS and all(map(_STEP_LINE.match, reply)):
        return list(reply.values())
    lists = [value for value in reply.values() if isinstance(value, list) and value]
    kind = (str, Mapping) if keys is _STEPS else Mapping
    is_meant = len(lists) == 1 and keys is not _TOOLS
    return lists[0] if is_meant and all(isinstance(item, kind) for item in lists[0]) else None


def _objects(text: str) -> tuple[list[Mapping[str, Any]], str]:
    """Return the JSON objects in a text, and the rest of it, which begins with a malformed one.

    Calls before the malformed one, which can be in a list with it, are in the rest, too.
    """
    decoder = json.JSONDecoder()
    found: list[Mapping[str, Any]] = []
    rest, malformed = "", 0
    start = text.find("{")
    while start >= 0 and malformed < _MAX_MALFORMED:
        try:
            value, end = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            rest = rest or (text if any(map(_is_call, found)) else text[start:])
            malformed += 1
            end = start + 1
        else:
            found.append(value)
        start = text.find("{", end)
    return found, rest
