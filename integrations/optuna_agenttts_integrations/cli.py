"""``agenttts``: look at a study, check servers before a search, look after completion stores."""

from __future__ import annotations

import argparse
import importlib
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import optuna

from optuna_agenttts import AgentTTSError, guidelines, recommend, spend
from optuna_agenttts.llm import Report, examine
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.llm.secrets import one_line
from optuna_agenttts_integrations.check import chats_of
from optuna_agenttts_integrations.endpoints import connect_endpoints
from optuna_agenttts_integrations.objective import MultiStageObjective, close_chats
from optuna_agenttts_integrations.store import CompletionStore

_DAY = 86_400.0
_INTERRUPTED = 130
"""What shells give a program that Ctrl-C ended: 128 and the number of the signal."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="agenttts", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_report(commands)
    _add_doctor(commands)
    _add_store(commands)
    options = parser.parse_args(arguments)
    # Optuna announces every study that it opens.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return int(options.run(options))
    except AgentTTSError as error:
        print(f"agenttts: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _add_report(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    report = commands.add_parser("report", help="what a study recommends, and what it spent")
    report.add_argument("storage", help="such as sqlite:///quickstart.db")
    report.add_argument("--study", help="its name; default: the newest of the storage")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    try:
        names = optuna.get_all_study_names(options.storage)
    # Each kind of storage, and each database, has errors of its own.
    except Exception as error:
        raise AgentTTSError(
            f"`storage` is {options.storage!r}: it cannot be read ({one_line(str(error))})."
        ) from error
    if not names:
        print(f"agenttts: {options.storage} holds no study", file=sys.stderr)
        return 1
    if options.study is not None and options.study not in names:
        print(
            f"agenttts: there is no study {options.study!r}; there are {', '.join(names)}",
            file=sys.stderr,
        )
        return 1
    study = optuna.load_study(study_name=options.study or names[-1], storage=options.storage)
    finished = [trial for trial in study.trials if trial.state.is_finished()]
    print(f"Study {study.study_name!r}: {len(finished)} finished trials of {len(study.trials)}\n")
    print("Recommended")
    print(textwrap.indent(str(recommend(study)), "  ") + "\n")
    print(spend(study))
    written = guidelines(study)
    if written:
        print("\nThe agent's last guidelines")
        for line in written[-1].guidelines:
            print(f"  - {line}")
    return 0


def _add_doctor(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    doctor = commands.add_parser(
        "doctor",
        help="check servers, or an objective, before any money is spent",
        description="Checks the servers of models, or everything that an objective needs. Each "
        "server is asked a handful of requests for a token or a few each.",
    )
    doctor.add_argument(
        "what",
        help="'module:name' of a MultiStageObjective or of a function that returns one; or where "
        "models live: 'hf', 'hf:groq', or the URL of a server",
    )
    doctor.add_argument("models", nargs="*", help="names of the models, where servers are checked")
    doctor.add_argument("--concurrency", type=int, help="requests under way at once")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    if options.models or "://" in options.what or options.what.split(":")[0] == "hf":
        report = _check_servers(options.what, options.models, options.concurrency)
    else:
        with _objective(options.what) as objective:
            report = objective.check()
    print(report)
    return 0 if report.ok else 1


def _check_servers(place: str, models: Sequence[str], concurrency: int | None) -> Report:
    if not models:
        raise AgentTTSError(f"`{place}` is where models live: name the models to check, too.")
    endpoints = connect_endpoints(list(models), place, concurrency=concurrency)
    loop = LoopThread(lambda: close_chats(endpoints))
    findings = [
        finding
        for name, endpoint in endpoints.items()
        for subject, chat, there in chats_of(name, endpoint)
        for finding in loop.run(
            examine(chat, subject=subject, model=there, concurrency=endpoint.concurrency)
        )
    ]
    loop.close()
    return Report(tuple(findings))


def _objective(name: str) -> MultiStageObjective:
    module, _, attribute = name.partition(":")
    # The user's own modules, as `python -m` would find them.
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise AgentTTSError(
            f"{name!r} cannot be imported ({error}): give 'module:name' of an objective."
        ) from error
    finally:
        sys.path.remove(folder)
    objective = (
        found() if callable(found) and not isinstance(found, MultiStageObjective) else found
    )
    if not isinstance(objective, MultiStageObjective):
        raise AgentTTSError(
            f"{name!r} is of type {type(objective).__name__}: give a MultiStageObjective, or a "
            "function that returns one."
        )
    return objective


def _add_store(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    store = commands.add_parser("store", help="inspect, export, load or prune completions")
    actions = store.add_subparsers(required=True, metavar="ACTION")
    show = actions.add_parser("show", help="what a store holds, by endpoint and model")
    show.set_defaults(run=_show)
    export = actions.add_parser("export", help="write everything as JSON lines")
    export.add_argument("file", type=Path)
    export.set_defaults(run=_export)
    load = actions.add_parser("load", help="add what `export` wrote")
    load.add_argument("file", type=Path)
    load.set_defaults(run=_load)
    prune = actions.add_parser("prune", help="forget completions")
    prune.add_argument("--model", help="only those of this model")
    prune.add_argument("--endpoint", help="only those of this endpoint")
    prune.add_argument("--older-than-days", type=float, metavar="DAYS")
    prune.add_argument("--keep", type=int, default=0, help="samples of each request to keep")
    prune.add_argument("--all", action="store_true", help="needed where nothing narrows it down")
    prune.set_defaults(run=_prune)
    for action in (show, export, load, prune):
        action.add_argument("--path", type=Path, required=True, help="the store's file")


def _open(path: Path, *, create: bool = False) -> CompletionStore:
    if not create and not path.exists():
        raise AgentTTSError(f"`--path` is {str(path)!r}: there is no such file.")
    return CompletionStore(path)


def _show(options: argparse.Namespace) -> int:
    store = _open(options.path)
    rows: list[tuple[str, ...]] = [
        ("endpoint", "model", "requests", "samples", "prompt tokens", "generated", "since")
    ]
    for held in store.holdings():
        since = time.strftime("%Y-%m-%d", time.localtime(held.oldest)) if held.oldest else "?"
        numbers = (held.requests, held.samples, held.prompt_tokens, held.generated_tokens)
        rows.append((held.endpoint, held.model, *(f"{n:,}" for n in numbers), since))
    store.close()
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    return 0


def _export(options: argparse.Namespace) -> int:
    store = _open(options.path)
    print(f"{store.export(options.file)} requests written to {options.file}")
    store.close()
    return 0


def _load(options: argparse.Namespace) -> int:
    store = _open(options.path, create=True)
    print(f"{store.load(options.file)} requests loaded into {options.path}")
    store.close()
    return 0


def _prune(options: argparse.Namespace) -> int:
    narrowed = options.model or options.endpoint or options.older_than_days or options.keep
    if not (narrowed or options.all):
        raise AgentTTSError("This would forget everything that was paid for: say --all to do so.")
    store = _open(options.path)
    gone = store.prune(
        model=options.model,
        endpoint=options.endpoint,
        older_than=None if options.older_than_days is None else options.older_than_days * _DAY,
        keep=options.keep,
    )
    print(f"{gone} completions forgotten, {len(store)} are left")
    store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
