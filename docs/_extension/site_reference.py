"""Reference pages: parameters of overridden methods, and the command line from its parsers."""

from __future__ import annotations

import argparse
import inspect
import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from site_names import command_parsers, documentation, subparsers
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


def complete_docstring(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """Describe the arguments of overridden methods."""
    owner = _owner(value) if what == "method" else None
    if owner is not None:
        lines[:] = documentation(owner, name.rpartition(".")[2], value).splitlines()


def state_types(
    app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    """State the types of a constructor's arguments where attributes of those names differ."""
    if what != "class":
        return
    attributes = vars(value).get("__annotations__", {})
    arguments = getattr(value.__init__, "__annotations__", {})
    for argument, stated in arguments.items():
        described = next((line for line in lines if line.startswith(f":param {argument}:")), None)
        if described and argument in attributes and attributes[argument] != stated:
            lines.insert(lines.index(described), f":type {argument}: {stated}")


def _owner(method: Any) -> type | None:
    """Return the class that defines a method."""
    function = inspect.unwrap(getattr(method, "__func__", method))
    value: Any = inspect.getmodule(function)
    for part in getattr(function, "__qualname__", "").split(".")[:-1]:
        value = getattr(value, part, None)
    return value if isinstance(value, type) else None


def _described(name: str, parser: argparse.ArgumentParser) -> list[str]:
    """Return a command and its actions as Markdown."""
    parser.formatter_class = argparse.HelpFormatter
    usage = " ".join(parser.format_usage().removeprefix("usage: ").split())
    lines = ["```text", *_wrapped(usage), "```", "", parser.description or "", ""]
    lines += [f"```{{program}} {name}", "```", ""]
    for action in parser._actions:
        if isinstance(action, (argparse._HelpAction, argparse._SubParsersAction)):
            continue
        value = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        value = value if isinstance(value, str) else " ".join(value)
        if action.choices is not None:
            value = "{" + ",".join(map(str, action.choices)) + "}"
        shown = [f"{option} {value}".strip() for option in action.option_strings]
        help_text = (action.help or "") % {**vars(action), "prog": parser.prog}
        help_text = re.sub(r"(?<![`\w])--[\w-]+", r"`\g<0>`", help_text)
        if action.default not in (None, False, argparse.SUPPRESS) and "default" not in help_text:
            help_text += f" (default: {action.default})"
        lines += [f"````{{option}} {', '.join(shown) or action.dest}", help_text, "````", ""]
    for action_name, child in subparsers(parser).items():
        full = f"{name} {action_name}"
        lines += [f"```{{rubric}} `{full}`", "```", "", *_described(full, child)]
    return lines


def _wrapped(usage: str, width: int = 88) -> list[str]:
    """Return the usage of a command on lines of a page."""
    lines = [""]
    for part in re.findall(r"\[[^]]*\]|\S+", usage):
        if lines[-1] and len(lines[-1]) + len(part) >= width:
            lines.append("   ")
        lines[-1] += f"{' ' if lines[-1] else ''}{part}"
    return lines


class Command(SphinxDirective):
    """Describe a command: ``{command} agenttts report``."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Return the usage, the description and the options."""
        name = self.arguments[0]
        lines = _described(name, command_parsers()[name])
        container = nodes.Element()
        self.state.nested_parse(StringList(lines, source=name), 0, container)
        return container.children


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive and the hook."""
    app.add_directive("command", Command)
    # Before napoleon, which reads the sections.
    app.connect("autodoc-process-docstring", complete_docstring, priority=400)
    app.connect("autodoc-process-docstring", state_types, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
