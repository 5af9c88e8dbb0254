"""Names of the reference, their docstrings, and commands; needs no Sphinx."""

from __future__ import annotations

import argparse
import inspect
import re
from functools import cache
from importlib import import_module
from typing import Any

from optuna_agenttts_integrations.cli.parser import COMMANDS
from optuna_agenttts_integrations.playground.__main__ import make_parser

PUBLIC_MODULES = (
    "optuna_agenttts",
    "optuna_agenttts.llm",
    "optuna_agenttts.visualization",
    "optuna_agenttts_integrations",
    "optuna_agenttts_integrations.calls.embeddings",
    "optuna_agenttts_integrations.cli",
    "optuna_agenttts_integrations.playground",
    "optuna_agenttts_integrations.playground.grid",
    "optuna_agenttts_integrations.scoring.code_metrics",
    "optuna_agenttts_integrations.scoring.metrics",
    "optuna_agenttts_integrations.scoring.sandbox",
    "optuna_agenttts_integrations.scoring.tool_metrics",
    "optuna_agenttts_integrations.tasks",
    "optuna_agenttts_integrations.tasks.records",
    "optuna_agenttts_integrations.testing.serving",
    "optuna_agenttts_integrations.testing.serving_http",
    "optuna_agenttts_integrations.testing.simulation",
)
"""Modules to import from."""

_ARGUMENTS = re.compile(r"^Args:\n(?:(?: .*)?\n)*", re.MULTILINE)


_SEE = re.compile(r"[Ss]ee `(\w+)\.(\w+)`")


def documentation(owner: type | None, name: str, value: Any) -> str:
    """Return a docstring, with the arguments of the method that it overrides or refers to.

    Args:
        owner: The class of a method; None for anything else.
        name: Name of the method.
        value: The object.
    """
    text = inspect.getdoc(value) or ""
    if owner is None or "Args:\n" in text:
        return text
    described = [vars(base).get(name) for base in owner.__mro__[1:]]
    # Protocols are implemented without a base: "see `ChatModel.complete`".
    described += [
        getattr(_classes().get(found[1]), found[2], None) for found in _SEE.finditer(text)
    ]
    for method in described:
        if arguments := _ARGUMENTS.search(f"{inspect.getdoc(method) or ''}\n"):
            return f"{text}\n\n{arguments[0].rstrip()}\n"
    return text


@cache
def _classes() -> dict[str, type]:
    """Return the public classes by name."""
    values = (
        getattr(import_module(n.rpartition(".")[0]), n.rpartition(".")[2]) for n in public_names()
    )
    return {value.__name__: value for value in values if isinstance(value, type)}


def public_names() -> list[str]:
    """Return the qualified names in `__all__` of the public modules, without the version."""
    return [
        f"{module}.{name}"
        for module in PUBLIC_MODULES
        for name in getattr(import_module(module), "__all__", ())
        if name != "__version__"
    ]


def command_parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of all commands by their names."""
    parsers: dict[str, argparse.ArgumentParser] = {}
    for name in COMMANDS:
        commands = argparse.ArgumentParser(prog="agenttts").add_subparsers()
        module = import_module(f"optuna_agenttts_integrations.cli.{name}")
        getattr(module, f"add_{name}")(commands)
        parsers |= {f"agenttts {name}": parser for name, parser in commands.choices.items()}
    playground = make_parser()
    parsers |= {f"{playground.prog} {n}": p for n, p in subparsers(playground).items()}
    return parsers


def subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a command's actions."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}
