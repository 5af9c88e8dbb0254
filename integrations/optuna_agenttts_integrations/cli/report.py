"""``agenttts report``: print the recommendation and the spend of a study."""

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
from optuna_agenttts.report.trials import count_states, stopped_trials
from optuna_agenttts.study.claims import contradictions, summary
from optuna_agenttts_integrations.cli.parser import Commands, add_command

_MAX_REASON = 300
"""Maximum length of a database's error in a message, in characters. Chosen by hand."""


def add_report(commands: Commands) -> None:
    """Add ``agenttts report`` to the command line."""
    report = add_command(
        commands,
        "report",
        "print the recommendation and the spend of a study",
        "The study's storage is only read.",
    )
    report.add_argument(
        "storage",
        help="Optuna storage of the study: a URL such as sqlite:///quickstart.db, or the file of "
        "an SQLite database or a JournalStorage",
    )
    report.add_argument("--study", metavar="NAME", help="default: the newest study in the storage")
    report.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    storage, shown = _open_storage(options.storage)
    studies = [] if storage is None else storage.get_all_studies()
    if storage is None or not studies:
        raise AgentTTSError(f"`storage` must contain a study, but {shown!r} has none.")
    names = [study.study_name for study in studies]
    if options.study is not None and options.study not in names:
        raise AgentTTSError(
            f"`--study` must be one of {', '.join(names)} in {shown}, got {options.study!r}."
        )
    study = optuna.load_study(study_name=options.study or names[-1], storage=storage)
    try:
        recommended = recommend(study)
    except NoTaskError as error:
        if len(study.directions) > 1:
            raise
        raise AgentTTSError(
            f"No task is registered on study {study.study_name!r}: `task.suggest` and "
            "`AgentTTSSampler(task)` register one. Call `recommend(study, task=...)` in Python."
        ) from error
    trials = study.get_trials(deepcopy=False)
    finished = sum(trial.state.is_finished() for trial in trials)
    print(
        f"Study {study.study_name!r}: {finished} finished trials of {len(trials)} "
        f"({count_states(trials)})"
    )
    if stopped := stopped_trials(trials):
        print(f"Pruned, with the mean of what each saw: {stopped}")
    print()
    print("Recommended")
    print(textwrap.indent(str(recommended), "  "))
    # A task that was inferred from parameter names has no costs.
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
    """Open an existing storage.

    Args:
        given: URL or file of the storage.

    Returns:
        The storage, or None for a database without studies, and its name without secrets.

    Raises:
        AgentTTSError: The storage does not exist or cannot be read; the message has no secrets.
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
        # `RDBStorage` would write Optuna's tables into a database without them.
        return (RDBStorage(given) if _has_studies(url) else None), shown
    # Every kind of storage and every database driver has its own exceptions.
    except Exception as error:
        reason = str(error).split("(Background on")[0]
        for secret in secrets:
            reason = reason.replace(secret, "***")
        raise AgentTTSError(
            f"`storage` {shown!r} cannot be read: {one_line(reason, _MAX_REASON)}. Pass the URL "
            "of an Optuna storage, for example 'sqlite:///study.db'."
        ) from error


def _has_studies(url: URL) -> bool:
    """Return whether a database has Optuna's tables.

    Raises:
        FileNotFoundError: The file does not exist; SQLite would create it.
    """
    file = url.database or ""
    if url.get_backend_name() == "sqlite" and file and not file.startswith((":", "file:")):
        os.stat(file)
    engine = create_engine(url)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()
