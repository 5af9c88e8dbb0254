"""``agenttts``: report on studies, show replies, check servers, manage completion stores."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import optuna

from optuna_agenttts import AgentTTSError
from optuna_agenttts.llm.secrets import redact
from optuna_agenttts.llm.untrusted import one_line
from optuna_agenttts_integrations.cli.doctor import add_doctor
from optuna_agenttts_integrations.cli.report import add_report
from optuna_agenttts_integrations.cli.show import add_show
from optuna_agenttts_integrations.cli.store import add_store

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
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_report(commands)
    add_show(commands)
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
        out.flush()
    finally:
        optuna.logging.set_verbosity(verbosity)
