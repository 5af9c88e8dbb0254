"""``agenttts report``: show what a study recommends and what it spent."""

from __future__ import annotations

import argparse
import os
import textwrap

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy import create_engine, inspect
from sqlalchemy.engine import URL, make_url

from optuna_agenttts import AgentTTSError, NoTaskError, Task, guidelines, recommend, spend
from optuna_agenttts.llm.secrets import one_line
from optuna_agenttts.study.claims import contradictions, summary
from optuna_agenttts_integrations.cli.parser import Commands, add_command


def add_report(commands: Commands) -> None:
    """Add ``agenttts report`` to the command line."""
    report = add_command(
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
