"""``agenttts``: look at a study, check servers before a search, look after completion stores."""

from __future__ import annotations

import argparse
import importlib
import io
import math
import os
import sys
import textwrap
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeAlias

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import URL, make_url

from optuna_agenttts import AgentTTSError, NoTaskError, Task, guidelines, recommend, spend
from optuna_agenttts.llm import ChatRequest, Finding, Message, Report, examine
from optuna_agenttts.llm.loop import LoopThread
from optuna_agenttts.llm.secrets import one_line, redact
from optuna_agenttts.study.claims import contradictions, summary
from optuna_agenttts_integrations.calls.endpoints import connect_endpoints
from optuna_agenttts_integrations.calls.store import CompletionStore
from optuna_agenttts_integrations.check import chats_of
from optuna_agenttts_integrations.objective import MultiStageObjective, close_chats

_DAY = 86_400.0
_INTERRUPTED = 130
"""What shells make of a program that Ctrl-C ended: 128 and the signal's number."""

_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


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
    _add_report(commands)
    _add_doctor(commands)
    _add_store(commands)
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


def _add(
    commands: _Commands, name: str, says: str, more: str = "", **options: Any
) -> argparse.ArgumentParser:
    """A command whose own help begins with what the list of commands says of it."""
    about = f"{says[0].upper()}{says[1:]}. {more}".strip()
    return commands.add_parser(name, help=says, description=about, **options)


def _add_report(commands: _Commands) -> None:
    report = _add(
        commands,
        "report",
        "what a study recommends, and what it spent",
        "Reads the study's storage and changes nothing.",
    )
    report.add_argument(
        "storage",
        help="where Optuna keeps the study: a URL such as sqlite:///quickstart.db, or the file of "
        "an SQLite database or of a JournalStorage",
    )
    report.add_argument("--study", metavar="NAME", help="default: the newest of the storage")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    storage, shown = _open_storage(options.storage)
    studies = [] if storage is None else storage.get_all_studies()
    if storage is None or not studies:
        raise AgentTTSError(f"`storage` is {shown!r}: it holds no study.")
    names = [study.study_name for study in studies]
    if options.study is not None and options.study not in names:
        raise AgentTTSError(
            f"there is no study {options.study!r} in {shown}; there are {', '.join(names)}"
        )
    study = optuna.load_study(study_name=options.study or names[-1], storage=storage)
    try:
        recommended = recommend(study)
    except NoTaskError as error:
        if len(study.directions) > 1:
            raise
        raise AgentTTSError(
            f"Study {study.study_name!r} does not say which task it tunes, as those do whose "
            "objective calls `task.suggest`, or whose sampler is `AgentTTSSampler(task)`: call "
            "`recommend(study, task=...)` in Python."
        ) from error
    finished = sum(trial.state.is_finished() for trial in study.trials)
    print(f"Study {study.study_name!r}: {finished} finished trials of {len(study.trials)}\n")
    print("Recommended")
    print(textwrap.indent(str(recommended), "  "))
    # Of a task that was recognised from parameters' names nobody knows what it costs.
    if Task.registered(study) is not None:
        print(f"\n{spend(study)}")
    if written := [planned for planned in guidelines(study) if planned.guidelines]:
        print("\nThe agent's last guidelines")
        for line in written[-1].guidelines:
            print(f"  - {line}")
        if checked := summary(written[-1].verdicts):
            print(f"  {checked}")
        for verdict in contradictions(written[-1].verdicts):
            print(f"  - {verdict.text}")
    return 0


def _open_storage(given: str) -> tuple[BaseStorage | None, str]:
    """Open a storage without creating any: None for a database without studies, and its name.

    Raises:
        AgentTTSError: There is none, or it cannot be read; what may be secret is not told.
    """
    shown, secrets = given.rpartition("@")[2].partition("?")[0], []
    try:
        if "://" not in given and os.path.isfile(given):
            with open(given, "rb") as file:
                if file.read(15) != b"SQLite format 3":
                    return JournalStorage(JournalFileBackend(given)), given
            given = f"sqlite:///{given}"
        url = make_url(given)
        shown = url.set(query={}).render_as_string()
        secrets = [str(secret) for secret in (url.password, *url.query.values()) if secret]
        # Opening it would write Optuna's tables into it.
        return (RDBStorage(given) if _has_studies(url) else None), shown
    # Each kind of storage, and each database's driver, has errors of its own.
    except Exception as error:
        reason = str(error).split("(Background on")[0]
        for secret in secrets:
            reason = reason.replace(secret, "***")
        raise AgentTTSError(
            f"`storage` is {shown!r}: it cannot be read ({one_line(reason, 300)}): give the URL "
            "of a storage, such as 'sqlite:///study.db'."
        ) from error


def _has_studies(url: URL) -> bool:
    """Whether Optuna ever wrote into a database.

    Raises:
        FileNotFoundError: There is no such file, which SQLite would create.
    """
    file = url.database or ""
    if url.get_backend_name() == "sqlite" and file and not file.startswith((":", "file:")):
        os.stat(file)
    engine = create_engine(url)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()


def _add_doctor(commands: _Commands) -> None:
    doctor = _add(
        commands,
        "doctor",
        "check servers, or an objective, before any money is spent",
        "Each model is asked a\nhandful of requests for a token or a few each. A table says what "
        "is wrong (FAIL), what may\nbe (WARN), and what to do.",
        epilog="examples:\n"
        "  agenttts doctor http://127.0.0.1:8080 Qwen/Qwen2.5-7B-Instruct\n"
        "  agenttts doctor hf:groq meta-llama/Llama-3.1-8B-Instruct\n"
        "  agenttts doctor my_module:objective\n\n"
        "my_module is imported, from this folder too: a search that it starts should be under\n"
        "`if __name__ == '__main__':`, or it starts now.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    doctor.add_argument(
        "what",
        help="where models live: the URL of a server, 'hf' for Hugging Face Inference Providers "
        "or 'hf:groq' for one of them; or 'module:name' of a MultiStageObjective, or of a "
        "function without arguments that returns one",
    )
    doctor.add_argument("models", nargs="*", help="names of models; not with 'module:name'")
    servers = doctor.add_argument_group("for servers (an objective has its own)")
    servers.add_argument(
        "--concurrency", type=int, metavar="N", help="requests under way at once in your search"
    )
    servers.add_argument(
        "--prompt", metavar="TEXT", help="what to ask, such as your longest; default: a short one"
    )
    servers.add_argument("--timeout", type=float, metavar="SECONDS", help="default: 300")
    servers.add_argument(
        "--api-key-env",
        metavar="VARIABLE",
        help="environment variable that holds the servers' key; default: your Hugging Face "
        "token, for Hugging Face only",
    )
    servers.add_argument("--bill-to", metavar="ORG", help="organization of the Hub that pays")
    doctor.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    if options.models or "://" in options.what or options.what.split(":")[0] == "hf":
        report = _check_servers(options)
    else:
        for option in ("concurrency", "prompt", "timeout", "api_key_env", "bill_to"):
            if getattr(options, option) is not None:
                raise AgentTTSError(
                    f"`--{option.replace('_', '-')}` is for servers and {options.what!r} names "
                    "none: an objective's endpoints have their own."
                )
        with _objective(options.what) as objective:
            report = objective.check()
    print(report)
    return 0 if report.ok else 1


def _check_servers(options: argparse.Namespace) -> Report:
    if not options.models or not all(options.models):
        raise AgentTTSError("`what` says where models live: name the models to check, too.")
    more = {} if options.timeout is None else {"timeout": options.timeout}
    endpoints = connect_endpoints(
        options.models,
        options.what,
        concurrency=options.concurrency,
        api_key=_key(options.api_key_env),
        bill_to=options.bill_to,
        **more,
    )
    longest = None
    if options.prompt is not None:
        asked = (Message("user", options.prompt),)
        longest = ChatRequest(model="", messages=asked, max_tokens=16, temperature=0.0)
    findings: list[Finding] = []
    with closing(LoopThread(lambda: close_chats(endpoints))) as loop:
        for name, endpoint in endpoints.items():
            for subject, chat, there in chats_of(name, endpoint):
                dead = [f for f in findings if f.check == "reachable" and f.level == "error"]
                if dead:
                    # All of them live at one place.
                    says = f"not asked: out of reach, as {dead[0].subject} was there"
                    findings.append(Finding(subject, "reachable", "error", says, dead[0].remedy))
                    continue
                found = examine(
                    chat,
                    subject=subject,
                    model=there,
                    longest=longest,
                    concurrency=endpoint.concurrency,
                )
                # What a task would be told of sizes is not known here.
                findings += [finding for finding in loop.run(found) if finding.check != "size"]
    return Report(tuple(findings))


def _key(variable: str | None) -> str | None:
    if variable is not None and not os.environ.get(variable):
        # Whoever gives the key itself does not want to see it here.
        raise AgentTTSError(
            "`--api-key-env` names no environment variable, or an empty one: give the name of "
            "one that holds the key, not the key."
        )
    return None if variable is None else os.environ[variable]


@contextmanager
def _objective(name: str) -> Iterator[MultiStageObjective]:
    """The objective of that name; this folder's modules can be imported while it is used.

    Raises:
        AgentTTSError: There is none.
    """
    module, _, attribute = name.partition(":")
    parts = f"{module}.{attribute}".split(".")
    if module.endswith(".py") or not all(part.isidentifier() for part in parts):
        raise AgentTTSError(
            f"{name!r} is neither a place ('hf', or a URL such as 'http://127.0.0.1:8080') nor "
            "'module:name' of an objective, where the module is as `import` takes it: without "
            "'.py', with dots between folders."
        )
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        with _reported(f"importing {module!r}"):
            imported = importlib.import_module(module)
        try:
            found = attrgetter(attribute)(imported)
        except AttributeError as error:
            raise AgentTTSError(f"{name!r} cannot be had: {error}.") from error
        if callable(found) and not isinstance(found, MultiStageObjective):
            with _reported(f"calling {name!r} without arguments"):
                found = found()
        if not isinstance(found, MultiStageObjective):
            raise AgentTTSError(
                f"{name!r} is of type {type(found).__name__}: give a MultiStageObjective, or a "
                "function that returns one."
            )
        with found:
            yield found
    finally:
        sys.path[:] = before


@contextmanager
def _reported(doing: str) -> Iterator[None]:
    """Say in one line what somebody else's code raises, and where."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = [
            f" (in {frame.filename}, line {frame.lineno})"
            for frame in frames
            if not frame.filename.startswith((__file__, str(importlib.__file__), "<frozen"))
        ]
        raise AgentTTSError(
            f"{doing} raised {type(error).__name__}: {error}{where[-1] if where else ''}"
        ) from error


def _add_store(commands: _Commands) -> None:
    store = _add(
        commands,
        "store",
        "inspect, export, load or prune completions",
        "A store is the file that `CompletionStore` was given: what models generated.",
    )
    actions = store.add_subparsers(required=True, metavar="ACTION")
    show = _add(actions, "show", "what a store holds, by endpoint and model")
    show.set_defaults(run=_show)
    export = _add(actions, "export", "write everything as JSON lines")
    export.add_argument("file", type=Path, help="what it held is lost")
    export.set_defaults(run=_export)
    load = _add(actions, "load", "add what `export` wrote", "What the store holds already stays.")
    load.add_argument("file", type=Path, help="what `export` wrote")
    load.set_defaults(run=_load)
    prune = _add(
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


if __name__ == "__main__":
    sys.exit(main())
