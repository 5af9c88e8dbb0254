"""``agenttts store``: inspect, export, load and prune completion stores."""

from __future__ import annotations

import argparse
import math
import time
from contextlib import closing
from pathlib import Path

from optuna_agenttts import AgentTTSError
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.cli.parser import Commands, add_command

_DAY = 86_400.0


def add_store(commands: Commands) -> None:
    """Add ``agenttts store`` to the command line."""
    store = add_command(
        commands,
        "store",
        "inspect, export, load or prune completions",
        "A store is the file that `CompletionStore` was given: what models generated.",
    )
    actions = store.add_subparsers(required=True, metavar="ACTION")
    show = add_command(actions, "show", "what a store holds, by endpoint and model")
    show.set_defaults(run=_show)
    export = add_command(actions, "export", "write everything as JSON lines")
    export.add_argument("file", type=Path, help="what it held is lost")
    export.set_defaults(run=_export)
    load = add_command(
        actions, "load", "add what `export` wrote", "What the store holds already stays."
    )
    load.add_argument("file", type=Path, help="what `export` wrote")
    load.set_defaults(run=_load)
    prune = add_command(
        actions,
        "prune",
        "forget completions",
        "What is forgotten has to be paid for again. Options narrow it down together.",
    )
    prune.add_argument("--model", help="only those of this model")
    prune.add_argument("--endpoint", help="only those of this endpoint, as `show` names it")
    prune.add_argument(
        "--older-than-days", type=float, metavar="DAYS", help="only requests first made by then"
    )
    prune.add_argument(
        "--keep", type=int, metavar="N", help="keep the first N samples of each request"
    )
    prune.add_argument("--all", action="store_true", help="needed where nothing narrows it down")
    prune.set_defaults(run=_prune)
    for action in (show, export, load, prune):
        made = " (made if there is none)" if action is load else ""
        action.add_argument(
            "--path", type=Path, required=True, metavar="STORE", help=f"the store's file{made}"
        )


def _open(path: Path, *, create: bool = False) -> closing[CompletionStore]:
    if not create and not path.exists():
        raise AgentTTSError(f"`--path` is {str(path)!r}: there is no such file.")
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
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0


def _date(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d", time.localtime(seconds)) if seconds else "?"
    except (OverflowError, ValueError, OSError):
        # Whatever a file that was loaded says.
        return "?"


def _export(options: argparse.Namespace) -> int:
    with _open(options.path) as store:
        print(f"{store.export(options.file)} requests written to {options.file}")
    return 0


def _load(options: argparse.Namespace) -> int:
    if not options.file.exists():
        raise AgentTTSError(f"`file` is {str(options.file)!r}: there is no such file.")
    with _open(options.path, create=True) as store:
        print(f"{store.load(options.file)} requests loaded into {options.path}")
    return 0


def _prune(options: argparse.Namespace) -> int:
    days, keep = options.older_than_days, options.keep
    if days is not None and not (math.isfinite(days) and days > 0):
        raise AgentTTSError(f"`--older-than-days` is {days:g}: give a number of days above 0.")
    if keep is not None and keep < 0:
        raise AgentTTSError(f"`--keep` is {keep}: give a number of samples, 0 or more.")
    narrowed = keep or any(v is not None for v in (options.model, options.endpoint, days))
    if not (narrowed or options.all):
        raise AgentTTSError(
            "this would forget everything that was paid for: narrow it down, or say --all."
        )
    with _open(options.path) as store:
        gone = store.prune(
            model=options.model,
            endpoint=options.endpoint,
            older_than=None if days is None else days * _DAY,
            keep=keep or 0,
        )
        print(f"{gone} completions forgotten, {len(store)} are left")
    return 0
