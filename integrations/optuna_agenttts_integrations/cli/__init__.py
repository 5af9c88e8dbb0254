"""``agenttts``: try a search, read studies and replies, check servers, manage stores."""

from __future__ import annotations

import argparse
import io
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import optuna

from optuna_agenttts import AgentTTSError, __version__
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.support.plain import one_line
from optuna_agenttts_integrations.cli.parser import COMMANDS

_INTERRUPTED = 130
"""Exit code of shells for a program stopped by Ctrl-C: 128 + SIGINT (2)."""

_MAX_ERROR = 1000
"""Maximum length of an error message, in characters. Chosen by hand."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Arguments after the program's name. Default: those of this process.

    Returns:
        The exit code: 0 on success, 1 if a check or a command failed, 130 after Ctrl-C.

    Raises:
        SystemExit: Help was requested (code 0), or the arguments are invalid (code 2).
    """
    parser = argparse.ArgumentParser(
        prog="agenttts",
        description=__doc__.replace("``", "") if __doc__ else None,
        epilog="Exit code: 0 on success, 1 if a check or command failed, 2 if options are "
        "unknown or malformed.",
    )
    python, ours = platform.python_version(), f"optuna-agenttts {__version__}"
    versions = f"{ours}, Optuna {optuna.__version__}, Python {python}"
    parser.add_argument("--version", action="version", version=versions)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    given = sys.argv[1:] if arguments is None else list(arguments)
    for name, summary in COMMANDS.items():
        # Only the command that runs is imported: all of them take longer than Optuna.
        if given[:1] == [name]:
            module = import_module(f"optuna_agenttts_integrations.cli.{name}")
            getattr(module, f"add_{name}")(commands)
        else:
            commands.add_parser(name, help=summary)
    options = parser.parse_args(given)
    try:
        with _printing():
            return int(options.run(options))
    except KeyboardInterrupt:
        print("agenttts: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader, for example `head`, closed the pipe. Python flushes once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (AgentTTSError, OSError) as error:
        print(f"agenttts: {one_line(redact(str(error), ()), _MAX_ERROR)}", file=sys.stderr)
        return 1


@contextmanager
def _printing() -> Iterator[None]:
    """Hide Optuna's info log, and escape characters that the terminal cannot encode."""
    verbosity, out = optuna.logging.get_verbosity(), sys.stdout
    optuna.logging.set_verbosity(max(verbosity, optuna.logging.WARNING))
    try:
        if isinstance(out, io.TextIOWrapper):
            out.reconfigure(errors="backslashreplace")
        yield
        if out is not None:
            # It is None if the caller closed it.
            out.flush()
    finally:
        optuna.logging.set_verbosity(verbosity)
