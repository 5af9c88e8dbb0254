"""Storages and studies that users name."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from optuna_agenttts import AgentTTSError
from optuna_agenttts.support.plain import one_line

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_MAX_REASON = 300
"""Maximum length of a database's error in a message, in characters. Chosen by hand."""


def add_storage_argument(command: argparse.ArgumentParser) -> None:
    """Add the argument that names a storage."""
    command.add_argument(
        "storage",
        help="Optuna storage: a URL such as sqlite:///quickstart.db, or the file of an SQLite "
        "database or a JournalStorage",
    )


def add_study_arguments(command: argparse.ArgumentParser) -> None:
    """Add the arguments that name a study."""
    add_storage_argument(command)
    command.add_argument(
        "--study", metavar="NAME", help="default: the newest study in the storage"
    )


def open_study(given: str, name: str | None) -> optuna.Study:
    """Open a study; its storage is only read.

    Args:
        given: URL or file of the storage.
        name: Name of the study. Default: the newest in the storage.

    Raises:
        AgentTTSError: The storage cannot be read, or has no such study.
    """
    storage, names, shown = open_storage(given)
    return optuna.load_study(study_name=selected(names, name, shown)[-1], storage=storage)


def selected(names: list[str], name: str | None, shown: str) -> list[str]:
    """Return the study of a name, or all if no name is given.

    Args:
        names: Names of the studies of a storage.
        name: The name, or None.
        shown: Name of the storage without secrets.

    Raises:
        AgentTTSError: There is no such study.
    """
    if name is not None and name not in names:
        raise AgentTTSError(
            f"`--study` must be one of {', '.join(names)} in {shown}, got {name!r}."
        )
    return names if name is None else [name]


def open_storage(given: str) -> tuple[BaseStorage, list[str], str]:
    """Open a storage with studies, which is only read.

    Returns:
        The storage, the names of its studies, and its name without secrets.

    Raises:
        AgentTTSError: The storage cannot be read, or has no study.
    """
    storage, shown = _open_storage(given)
    studies = [] if storage is None else storage.get_all_studies()
    if storage is None or not studies:
        raise AgentTTSError(f"`storage` must contain a study, but {shown!r} has none.")
    return storage, [study.study_name for study in studies], shown


def name_without_secrets(given: str) -> str:
    """Return the file or URL of a storage, without password and options."""
    if os.path.isfile(given):
        return given
    from sqlalchemy.engine import make_url

    from optuna_agenttts_integrations.calls.store_postgresql import shown_url

    return shown_url(given, make_url(given))


def dashboard_argument(given: str) -> str:
    """Return what optuna-dashboard takes for a storage that was opened, without password."""
    # It takes the file of a journal, but of SQLite only a URL.
    is_file = os.path.isfile(given) and _is_sqlite(given)
    return f"sqlite:///{given}" if is_file else name_without_secrets(given)


def storage_code(given: str) -> str:
    """Return Python code that sets ``storage`` to a storage that was opened."""
    if not os.path.isfile(given) or _is_sqlite(given):
        return f"storage = {dashboard_argument(given)!r}"
    return (
        "from optuna.storages import JournalStorage\n"
        "from optuna.storages.journal import JournalFileBackend\n\n"
        f"storage = JournalStorage(JournalFileBackend({given!r}))"
    )


def _is_sqlite(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(15) == b"SQLite format 3"


def _open_storage(given: str) -> tuple[BaseStorage | None, str]:
    """Open an existing storage.

    Returns:
        The storage, or None for a database without studies, and its name without secrets.

    Raises:
        AgentTTSError: The storage does not exist or cannot be read; the message has no secrets.
    """
    # SQLAlchemy takes longer to import than Optuna.
    from sqlalchemy.engine import make_url

    from optuna_agenttts_integrations.calls.store_postgresql import without_secrets

    shown, url = given.rpartition("@")[2].partition("?")[0], None
    try:
        if "://" not in given and os.path.isfile(given):
            if not _is_sqlite(given):
                return JournalStorage(JournalFileBackend(given)), given
            given = f"sqlite:///{given}"
        url = make_url(given)
        shown = name_without_secrets(given)
        # `RDBStorage` would write Optuna's tables into a database without them.
        return (RDBStorage(given) if _has_studies(url) else None), shown
    # Every kind of storage and every database driver has its own exceptions.
    except Exception as error:
        reason = str(error).split("(Background on")[0]
        if url is not None:
            reason = without_secrets(reason, url)
        raise AgentTTSError(
            f"`storage` {shown!r} cannot be read: {one_line(reason, _MAX_REASON)}. Pass the URL "
            "of an Optuna storage, for example 'sqlite:///study.db'."
        ) from error


def _has_studies(url: URL) -> bool:
    """Return whether a database has Optuna's tables.

    Raises:
        FileNotFoundError: The file does not exist; SQLite would create it.
    """
    from sqlalchemy import create_engine, inspect

    file = url.database or ""
    if url.get_backend_name() == "sqlite" and file and not file.startswith((":", "file:")):
        os.stat(file)
    engine = create_engine(url)
    try:
        return inspect(engine).has_table("studies")
    finally:
        engine.dispose()
