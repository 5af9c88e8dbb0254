"""Parsers of commands."""

from __future__ import annotations

import argparse
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

COMMANDS = {
    "quickstart": "tune a pipeline of tiny models that come with the package, in about a minute",
    "report": "print what a study found, or write it as a web page, JSON or CSV",
    "studies": "list the studies of a storage",
    "plot": "write a figure of a study to a file",
    "show": "show outcomes, prompts and replies of a trial",
    "doctor": "check servers, or an objective, before a search spends money",
    "store": "inspect, export, load or prune a completion store",
}
"""Summary of each command, in the order of the help; the command `x` is in `cli/x.py`."""


def add_command(
    commands: Commands, name: str, details: str = "", *, summary: str = "", **options: Any
) -> argparse.ArgumentParser:
    """Add a command, and return its parser.

    Args:
        commands: The commands to add it to.
        name: Name of the command.
        details: Further sentences for the command's own help.
        summary: What it does, in lower case and without a period, for the list of commands.
            Default: that of `COMMANDS`.
        **options: Arguments for `argparse.ArgumentParser`.
    """
    summary = summary or COMMANDS[name]
    description = f"{summary[0].upper()}{summary[1:]}. {details}".strip()
    return commands.add_parser(name, help=summary, description=description, **options)
