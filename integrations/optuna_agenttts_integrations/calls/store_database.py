"""SQLite file of a completion store: its tables, their versions, and how it is opened."""

from __future__ import annotations

import logging
import sqlite3

from optuna_agenttts.llm.port import FAILED_REASONS
from optuna_agenttts_integrations.exceptions import StoreError

_logger = logging.getLogger(__name__)

_WAL_ATTEMPTS = 100
"""Attempts to enable write-ahead logging. Chosen by hand: more than the processes that may open
one file at the same time."""

_LOCK_SECONDS = 60
"""Seconds to wait for the lock of another process. Chosen by hand: transactions take milliseconds,
but pruning may rewrite a large file."""

_VERSION = 2
"""Version of the tables, kept as SQLite's ``user_version``."""

_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS completions (
    key TEXT NOT NULL,
    sample INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (key, sample)
) WITHOUT ROWID
""",
    # Version 2: the requests themselves, so that a store can be inspected and exported.
    """
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    seed INTEGER NOT NULL,
    model TEXT NOT NULL,
    request TEXT NOT NULL,
    at REAL NOT NULL
) WITHOUT ROWID
""",
)

_FAILED = (
    "CASE WHEN json_valid(value) THEN lower(json_extract(value, '$[3]')) END IN "
    f"({', '.join(map(repr, FAILED_REASONS))})"
)
"""Condition of replies that a failing server cut off."""


def open_database(path: str) -> sqlite3.Connection:
    """Open the file of a completion store for any thread; create or upgrade its tables.

    Raises:
        StoreError: The file is not a completion store, or has a later version.
    """
    connection = None
    try:
        connection = sqlite3.connect(path, timeout=_LOCK_SECONDS, check_same_thread=False)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StoreError(
                f"The store {path!r} has version {version}, but this package supports up to "
                f"version {_VERSION}: use another file, or upgrade the package."
            )
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if version == 0 and tables and "completions" not in tables:
            raise StoreError(
                f"`path` {path!r} is a database of another application: give the path of a "
                "completion store, or of a new file."
            )
        _enable_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        if version < _VERSION:
            for table in _SCHEMA:
                connection.execute(table)
            connection.execute(f"PRAGMA user_version={_VERSION}")
        if "completions" in tables:
            _delete_failed(connection, path, tables)
        return connection
    except (sqlite3.Error, StoreError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, StoreError):
            raise
        raise StoreError(
            f"`path` {path!r} cannot be opened as a completion store ({error}): give the path of "
            "a writable completion store, or of a new file."
        ) from error


def _delete_failed(connection: sqlite3.Connection, path: str, tables: set[str]) -> None:
    """Delete replies that a failing server cut off, which earlier versions stored."""
    if "failed" not in tables:
        # The index has the failed replies only, so that opening a large file reads none else.
        connection.execute(
            f"CREATE INDEX IF NOT EXISTS failed ON completions (key) WHERE {_FAILED}"
        )
    if connection.execute(f"SELECT 1 FROM completions WHERE {_FAILED}").fetchone():
        with connection:
            deleted = connection.execute(f"DELETE FROM completions WHERE {_FAILED}").rowcount
        _logger.info(
            "Deleted %d replies that a failing server had cut off from the store %r; they will be "
            "generated again when needed.",
            deleted,
            path,
        )


def _enable_wal(connection: sqlite3.Connection) -> None:
    """Enable write-ahead logging, which is a persistent property of the file."""
    for _ in range(_WAL_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            # SQLite does not wait for the locks of other processes here as it does for a
            # transaction, so wait by an empty transaction. On a read-only file that fails, too.
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode=WAL")
