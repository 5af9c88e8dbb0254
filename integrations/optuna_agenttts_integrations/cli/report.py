"""``agenttts report``: print what a study found, or write it to a file."""

from __future__ import annotations

import argparse
import csv
import json
import math
import platform
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import optuna

from optuna_agenttts import NoTaskError, __version__, frontier
from optuna_agenttts.report.dataframes import trial_rows
from optuna_agenttts.report.summary import summary_of
from optuna_agenttts.report.view import StudyView
from optuna_agenttts.support.encoding import json_ready
from optuna_agenttts_integrations.cli.parser import Commands, add_command
from optuna_agenttts_integrations.cli.storages import (
    add_study_arguments,
    dashboard_argument,
    name_without_secrets,
    open_study,
    storage_code,
)

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""First characters of texts that spreadsheets run as formulas."""

VERSION = 1
"""Version of the JSON: it changes only if a field is removed or means something else."""


def add_report(commands: Commands) -> None:
    """Add ``agenttts report`` to the command line."""
    report = add_command(
        commands,
        "report",
        "Without an option it prints text: what was tuned, what to use, how sure that is, what is "
        "as good for less, why, and what it cost. The study's storage is only read.",
    )
    add_study_arguments(report)
    report.add_argument(
        "--frontier", action="store_true", help="also print the allocations for smaller budgets"
    )
    report.add_argument("--json", action="store_true", help="print JSON instead, for programs")
    report.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="write a web page that needs no network, with figures if Plotly is installed "
        "(pip install 'optuna-agenttts[plot]')",
    )
    report.add_argument(
        "--csv",
        type=Path,
        metavar="FILE",
        help="write the trials as a table, one line each, with the columns of `trials_dataframe`; "
        "texts that a spreadsheet would run as formulas begin with an apostrophe",
    )
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    study = open_study(options.storage, options.study)
    try:
        view = StudyView(study)
    except NoTaskError as error:
        raise NoTaskError(
            f"No task is registered on study {study.study_name!r}: `task.suggest` and "
            "`AgentTTSSampler(task)` register one. Call `summarize(study, task)` in Python."
        ) from error
    # Standard output holds nothing but the JSON.
    written = sys.stderr if options.json else sys.stdout
    if options.csv is not None:
        _write_csv(options.csv, *trial_rows(study))
        print(options.csv, file=written)
    if options.html is not None:
        write_page(view, options.storage, options.html)
        print(options.html, file=written)
    if options.json:
        values = {"optuna-agenttts": "Summary", "version": VERSION}
        values |= json_ready(summary_of(view), _number) | {"task": view.task.to_dict()}
        print(json.dumps(values, indent=2, allow_nan=False))
    elif options.csv is None and options.html is None:
        print(summary_of(view))
        if options.frontier:
            print(f"\nFor smaller budgets\n{frontier(study)}")
        shown = shlex.quote(name_without_secrets(options.storage))
        which = f" --study {shlex.quote(options.study)}" if options.study else ""
        print(f"\nLook at it: agenttts report {shown}{which} --html report.html")
        print(f"        or: optuna-dashboard {shlex.quote(dashboard_argument(options.storage))}")
    return 0


def _write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file."""
    with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(map(_cell, columns))
        writer.writerows([_cell(row.get(name)) for name in columns] for row in rows)


def _cell(value: Any) -> Any:
    """Return a value that no spreadsheet runs as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_page(view: StudyView, storage: str, path: Path) -> None:
    """Write a study as a web page that needs no network.

    Args:
        view: The study.
        storage: URL or file of its storage.
        path: File to write.
    """
    # Figures take longer to import than all other parts of a report.
    from optuna_agenttts.explanation.webpage import web_page

    page = web_page(view, _about(storage), storage_code(storage))
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _about(storage: str) -> dict[str, str]:
    """Return facts about a report."""
    return {
        "storage": name_without_secrets(storage),
        "written": f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        "optuna-agenttts": __version__,
        "Optuna": optuna.__version__,
        "Python": platform.python_version(),
    }


def _number(value: float) -> float | None:
    """Return a number as JSON has it."""
    return value if math.isfinite(value) else None
