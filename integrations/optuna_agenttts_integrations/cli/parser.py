"""Build the parser of a command."""

from __future__ import annotations

import argparse
from typing import Any, TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(
    commands: Commands, name: str, says: str, more: str = "", **options: Any
) -> argparse.ArgumentParser:
    """A command whose own help begins with what the list of commands says of it."""
    about = f"{says[0].upper()}{says[1:]}. {more}".strip()
    return commands.add_parser(name, help=says, description=about, **options)
