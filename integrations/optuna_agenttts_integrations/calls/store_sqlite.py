"""SQLite file of a completion store: how it is opened, upgraded, and recognized while in use."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TypeVar

from optuna_agenttts.llm.port import FAILED_REASONS
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts_integrations.calls.store_database import (
    IN_MEMORY,
    PATIENCE,
    SCHEMA,
    TABLES,
    VERSION,
    Database,
    Row,
    Rows,
    Transaction,
)
from optuna_agenttts_integrations.exceptions import StoreError

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")

_WAL_ATTEMPTS = 100
"""Attempts to enable write-ahead logging. Chosen by hand: more than the processes that may open
one file at the same time."""

_FAILED = (
    "CASE WHEN json_valid(value) THEN lower(json_extract(value, '$[3]')) END IN "
    f"({', '.join(map(repr, FAILED_REASONS))})"
)
"""Condition of replies that a failing server cut off."""


class SQLiteDatabase(Database):
    """SQLite file, or a database in memory, with one connection that threads use in turn.

    Args:
        path: Absolute path of the file, or ``":memory:"``.
        name: Path for messages.

    Raises:
        StoreError: The file is not a completion store, or has a later version.
    """

    def __init__(self, path: str, name: str) -> None:
        super().__init__(name)
        self._path = path
        self._lock = threading.Lock()
        self._closed = False
        self._identity: tuple[int, int] | None = None
        self._size = 0
        self._read_only = False
        self.connection: sqlite3.Connection | None = None
        # Before the file is opened: forks wait for it, since they would inherit locks of SQLite.
        on_fork(
            self,
            SQLiteDatabase._reset_lock,
            before=SQLiteDatabase._disconnect,
            after=SQLiteDatabase._release,
        )
        with self._lock:
            self.connection = self._open()

    def rows(self, sql: str, values: Row = ()) -> Rows:
        """Return the rows of a query; see `Database.rows`."""
        with self._locked("read") as connection:
            return connection.execute(sql, values).fetchall()

    def write(self, work: Callable[[Transaction], _T], *, patience: float = PATIENCE) -> _T:
        """Return the result of a function in one transaction; see `Database.write`."""
        with self._locked("written") as connection:
            if patience != PATIENCE:
                connection.execute(f"PRAGMA busy_timeout={round(1000 * patience)}")
            try:
                connection.execute("BEGIN IMMEDIATE")
                result = work(_SQLiteTransaction(connection))
                connection.execute("COMMIT")
            finally:
                # SQLite itself rolls some failed transactions back.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if patience != PATIENCE:
                    connection.execute(f"PRAGMA busy_timeout={round(1000 * PATIENCE)}")
            return result

    def json_number(self, index: int) -> str:
        """Return the SQL expression of a number in ``value``; see `Database.json_number`."""
        return f"CASE WHEN json_valid(value) THEN json_extract(value, '$[{index}]') ELSE 0 END"

    def lock_tables(self, transaction: Transaction) -> None:
        """Do nothing: a transaction locks the file when it begins."""

    def shrink(self) -> None:
        """Return free pages of the file to the file system."""
        with self._locked("written") as connection:
            try:
                connection.execute("VACUUM")
                # Until the checkpoint, only the write-ahead log contains the smaller file.
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error as error:
                # VACUUM itself needs disk space. Free pages are reused anyway.
                _logger.warning(
                    "The pruned store %r could not be shrunk (%s). New completions will reuse the "
                    "space. To shrink it, prune again with free disk space and no other user.",
                    self.name,
                    error,
                )

    def close(self) -> None:
        """Close the file. The database cannot be used afterwards."""
        with self._lock:
            self._closed = True
            if self.connection is not None:
                self.connection.close()
                self.connection = None

    def __del__(self) -> None:
        """Close the file."""
        if getattr(self, "connection", None) is not None:
            self.close()

    def _disconnect(self) -> None:
        """Close the file until its next use: SQLite connections must not be inherited by a fork.

        SQLite would assume in the new process that it holds the locks of the inherited connection,
        even if it opened the file again.
        """
        self._lock.acquire()
        if self.connection is not None and self._path != IN_MEMORY:
            self.connection.close()
            self.connection = None

    def _release(self) -> None:
        self._lock.release()

    def _reset_lock(self) -> None:
        self._lock = threading.Lock()

    @contextmanager
    def _locked(self, verb: str) -> Iterator[sqlite3.Connection]:
        """Lock the connection; raise `StoreError` if the store is closed, or its use fails."""
        try:
            with self._lock:
                if self._closed:
                    raise self.closed_error()
                self._check_identity()
                if self.connection is None:
                    self.connection = self._open()
                if self._read_only and verb == "written":
                    raise self.failure(verb, "its file is read-only")
                yield self.connection
        except sqlite3.Error as error:
            raise self.failure(verb, error) from error

    def _check_identity(self) -> None:
        """Raise `StoreError` if the path is not that of the opened file any more.

        SQLite would go on with the deleted file, which ends with the process.
        """
        if self._identity is None:
            return
        try:
            now = os.stat(self._path)
        except FileNotFoundError:
            raise self.replaced_error("was deleted") from None
        except OSError as error:
            raise self.failure("reached", error) from error
        if (now.st_dev, now.st_ino) != self._identity:
            raise self.replaced_error("was replaced by another file")
        if now.st_size < self._size and not self._is_intact(now.st_size):
            raise self.replaced_error("was truncated")
        self._size = now.st_size

    def _is_intact(self, size: int) -> bool:
        """Return whether a file that became smaller is whole, as after pruning by another process.

        The open connection would go on with the pages that it has read.
        """
        if not size:
            return False
        try:
            with closing(sqlite3.connect(self._path, timeout=PATIENCE)) as connection:
                return bool(connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",))
        except sqlite3.DatabaseError:
            return False

    def _open(self) -> sqlite3.Connection:
        """Open the file for any thread; create or upgrade its tables."""
        connection = None
        if os.path.isfile(self._path) and os.stat(self._path).st_nlink > 1:
            raise StoreError(
                f"The file of the store {self.name!r} has several names (hard links), and SQLite "
                "would lose what is written by the one or the other: give a copy of the file, or "
                "make symbolic links."
            )
        try:
            connection = sqlite3.connect(
                self._path, timeout=PATIENCE, check_same_thread=False, isolation_level=None
            )
            connection.text_factory = _text
            self._prepare(connection)
            if self._path != IN_MEMORY:
                found = os.stat(self._path)
                self._identity, self._size = (found.st_dev, found.st_ino), found.st_size
            return connection
        except (sqlite3.Error, OSError, StoreError) as error:
            if connection is not None:
                connection.close()
            if isinstance(error, StoreError):
                raise
            raise StoreError(
                f"`target` {self.name!r} cannot be opened as a completion store ({error}): give "
                "the path of a writable completion store, or of a new file."
            ) from error

    def _prepare(self, connection: sqlite3.Connection) -> None:
        """Create or upgrade the tables."""
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > VERSION:
            raise StoreError(
                f"The store {self.name!r} has version {version}, but this package supports up to "
                f"version {VERSION}: use another file, or upgrade the package."
            )
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
        if version == 0 and tables and "completions" not in tables:
            raise StoreError(
                f"`target` {self.name!r} is a database of another application: give the path of "
                "a completion store, or of a new file."
            )
        self._read_only = self._path != IN_MEMORY and not os.access(self._path, os.W_OK)
        if self._read_only:
            # What an earlier version lacks is empty.
            for name, table in zip(TABLES, SCHEMA):
                if name not in tables:
                    connection.execute(table.replace("CREATE TABLE", "CREATE TEMP TABLE"))
            return
        _enable_wal(connection)
        connection.execute("PRAGMA synchronous=NORMAL")
        if version < VERSION:
            for table in SCHEMA:
                # Rows are found by their key alone, so SQLite keeps them in its index.
                keyed = " WITHOUT ROWID" if "PRIMARY KEY" in table else ""
                connection.execute(table + keyed)
            connection.execute(f"PRAGMA user_version={VERSION}")
        if "completions" in tables:
            self._delete_failed(connection, tables)

    def _delete_failed(self, connection: sqlite3.Connection, tables: set[str]) -> None:
        """Delete replies that a failing server cut off, which earlier versions stored."""
        if "failed" not in tables:
            # It has the failed replies only, so that opening a large file reads none else.
            connection.execute(
                f"CREATE INDEX IF NOT EXISTS failed ON completions (key) WHERE {_FAILED}"
            )
        if connection.execute(f"SELECT 1 FROM completions WHERE {_FAILED}").fetchone():
            deleted = connection.execute(f"DELETE FROM completions WHERE {_FAILED}").rowcount
            _logger.info(
                "Deleted %d replies that a failing server had cut off from the store %r; they "
                "will be generated again when needed.",
                deleted,
                self.name,
            )


class _SQLiteTransaction:
    """Statements of a transaction of SQLite; see `Transaction`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, values: Row = ()) -> Rows:
        """Return the rows of a query."""
        return self._connection.execute(sql, values).fetchall()

    def change(self, sql: str, values: Row = ()) -> int:
        """Run a statement, and return the number of rows that it changed."""
        return self._connection.execute(sql, values).rowcount

    def change_many(self, sql: str, rows: Sequence[Row]) -> int:
        """Run a statement once for each row of values, and return the number of changed rows."""
        return self._connection.executemany(sql, rows).rowcount


def _text(stored: bytes) -> str | bytes:
    """Return a text, or its bytes if they are not UTF-8: one bad row must not hide the others."""
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return stored


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
