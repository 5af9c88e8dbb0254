"""``agenttts store``: inspect, export, load and prune completion stores."""

from __future__ import annotations

import argparse
import math
import time
from contextlib import closing
from pathlib import Path

from optuna_agenttts import AgentTTSError
from optuna_agenttts.report.text import table
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.calls.store_targets import store_exists
from optuna_agenttts_integrations.cli.parser import Commands, add_command

_DAY = 86_400.0  # seconds


def add_store(commands: Commands) -> None:
    """Add ``agenttts store`` to the command line."""
    store = add_command(
        commands,
        "store",
        "A `CompletionStore` keeps the models' replies, in a file or a PostgreSQL database.",
    )
    actions = store.add_subparsers(required=True, metavar="ACTION")
    show = add_command(actions, "show", summary="list the contents by endpoint and model")
    show.set_defaults(run=_show)
    export = add_command(actions, "export", summary="write all completions as JSON lines")
    export.add_argument("file", type=Path, help="file to write; an existing file is overwritten")
    export.set_defaults(run=_export)
    load = add_command(
        actions,
        "load",
        "Existing completions are kept.",
        summary="add completions written by `export`",
    )
    load.add_argument("file", type=Path, help="file written by `export`")
    load.set_defaults(run=_load)
    prune = add_command(
        actions,
        "prune",
        "Deleted completions must be paid for again. Only completions that match all options are "
        "deleted.",
        summary="delete completions",
    )
    prune.add_argument("--model", help="only completions of this model")
    prune.add_argument("--endpoint", help="only completions of this endpoint, named as by `show`")
    prune.add_argument(
        "--older-than-days",
        type=float,
        metavar="DAYS",
        help="only requests first sent more than DAYS ago",
    )
    prune.add_argument(
        "--keep", type=int, metavar="N", help="keep the first N samples of each request"
    )
    prune.add_argument("--all", action="store_true", help="required if no other option is given")
    prune.set_defaults(run=_prune)
    for action in (show, export, load, prune):
        created = "; created if missing" if action is load else ""
        action.add_argument(
            "--path",
            required=True,
            metavar="STORE",
            help=f"file of the store, or postgresql://USER@HOST/DATABASE{created}",
        )


def _open(path: str, *, create: bool = False) -> closing[CompletionStore]:
    if not create and not store_exists(path):
        raise AgentTTSError(f"`--path` {path.rpartition('@')[2]!r} does not exist.")
    return closing(CompletionStore(path))


def _show(options: argparse.Namespace) -> int:
    rows: list[tuple[str, ...]] = [
        ("endpoint", "model", "requests", "samples", "prompt tokens", "generated", "since")
    ]
    with _open(options.path) as store:
        for held in store.holdings():
            numbers = (held.requests, held.samples, held.prompt_tokens, held.generated_tokens)
            counts = (f"{number:,}" for number in numbers)
            rows.append((held.endpoint, held.model, *counts, _date(held.oldest)))
        unreadable = store.quarantined()
    print("\n".join(table(rows)))
    if unreadable:
        print(
            f"{unreadable} rows could not be read, and are kept in the table `quarantine`: their "
            "samples are generated again when needed"
        )
    return 0


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.localtime(seconds)) if seconds else "?"
    except (OverflowError, ValueError, OSError):
        # Times from a loaded file may be outside of the calendar.
        return "?"


def _export(options: argparse.Namespace) -> int:
    with _open(options.path) as store:
        print(f"{store.export(options.file)} requests written to {options.file}")
    return 0


def _load(options: argparse.Namespace) -> int:
    if not options.file.exists():
        raise AgentTTSError(f"`file` {str(options.file)!r} does not exist.")
    with _open(options.path, create=True) as store:
        print(f"{store.load(options.file)} requests loaded into {store.path}")
    return 0


def _prune(options: argparse.Namespace) -> int:
    days, keep = options.older_than_days, options.keep
    if days is not None and not (math.isfinite(days) and days > 0):
        raise AgentTTSError(f"`--older-than-days` must be positive and finite, got {days:g}.")
    if keep is not None and keep < 0:
        raise AgentTTSError(f"`--keep` must not be negative, got {keep}.")
    narrowed = keep or any(v is not None for v in (options.model, options.endpoint, days))
    if not (narrowed or options.all):
        raise AgentTTSError(
            "This would delete all completions: add options that select some, or `--all`."
        )
    with _open(options.path) as store:
        deleted = store.prune(
            model=options.model,
            endpoint=options.endpoint,
            older_than=None if days is None else days * _DAY,
            keep=keep or 0,
        )
        print(f"{deleted} completions deleted, {len(store)} left")
    return 0
