"""``agenttts``: look at a study, check servers before a search, look after completion stores."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm.secrets import one_line, redact
from optuna_agenttts_integrations.cli.doctor import add_doctor
from optuna_agenttts_integrations.cli.report import add_report
from optuna_agenttts_integrations.cli.store import add_store

_INTERRUPTED = 130
"""What shells make of a program that Ctrl-C ended: 128 and the signal's number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code.

    Args:
        arguments: What follows the program's name. Default: what this process was given.

    Returns:
        0 if all is well, 1 if something is not, 130 after Ctrl-C.

    Raises:
        SystemExit: Help was asked for (code 0), or the arguments are no command (code 2).
    """
    parser = argparse.ArgumentParser(
        prog="agenttts",
        description=__doc__.replace("``", "") if __doc__ else None,
        epilog="Exit code: 0 if all is well, 1 if something is not, 2 if this is no command.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_report(commands)
    add_doctor(commands)
    add_store(commands)
    options = parser.parse_args(arguments)
    try:
        with _printing():
            return int(options.run(options))
    except KeyboardInterrupt:
        print("agenttts: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # Whoever read this, such as `head`, has seen enough. Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (AgentTTSError, OSError) as error:
        print(f"agenttts: {one_line(redact(str(error), ()), 1000)}", file=sys.stderr)
        return 1


@contextmanager
def _printing() -> Iterator[None]:
    """Keep Optuna's log out of what is printed, and escape what a terminal cannot show."""
    verbosity, out = optuna.logging.get_verbosity(), sys.stdout
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    try:
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="backslashreplace")
        yield
        out.flush()
    finally:
        optuna.logging.set_verbosity(verbosity)
