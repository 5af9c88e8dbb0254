"""Databases of completion stores: their tables, and transactions on them.

The SQL is the same for all databases, with ``?`` as placeholder. SQLite runs it by `sqlite3`, and
PostgreSQL by an engine of SQLAlchemy: on SQLite that would more than double the time of each call,
and take longer to import than the rest of a small search.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

from optuna_agenttts_integrations.exceptions import StoreError

IN_MEMORY = ":memory:"

VERSION = 3
"""Version of the tables. 2: the requests themselves; 3: leases, and rows that cannot be read."""

SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS completions (
    key TEXT NOT NULL,
    sample INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (key, sample)
)
""",
    """
CREATE TABLE IF NOT EXISTS requests (
    key TEXT PRIMARY KEY,
    endpoint TEXT NOT NULL,
    seed BIGINT NOT NULL,
    model TEXT NOT NULL,
    request TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL
)
""",
    """
CREATE TABLE IF NOT EXISTS leases (
    key TEXT NOT NULL,
    sample INTEGER NOT NULL,
    owner TEXT NOT NULL,
    expires DOUBLE PRECISION NOT NULL,
    PRIMARY KEY (key, sample)
)
""",
    """
CREATE TABLE IF NOT EXISTS quarantine (
    key TEXT NOT NULL,
    sample INTEGER NOT NULL,
    value TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL
)
""",
)

PATIENCE = 60.0
"""Seconds to wait for the locks of other processes, and for a lost connection. Chosen by hand:
transactions take milliseconds, but pruning may rewrite a large file, and a server may restart."""

TABLES = ("completions", "requests", "leases", "quarantine")

_T = TypeVar("_T")

Row = tuple[Any, ...]

Rows = list[Row]


class Transaction(Protocol):
    """Statements of one transaction."""

    def rows(self, sql: str, values: Row = ()) -> Rows:
        """Return the rows of a query."""

    def change(self, sql: str, values: Row = ()) -> int:
        """Run a statement, and return the number of rows that it changed."""

    def change_many(self, sql: str, rows: Sequence[Row]) -> int:
        """Run a statement once for each row of values, and return the number of changed rows."""


class Database(ABC):
    """Database of a completion store.

    Threads may share it. A forked process opens its own connections.

    Attributes:
        name: Path or URL for messages, without secrets.
        remote: Whether calls cross a network, so that an event loop should run them in a thread.
        now: SQL expression of the database's time in seconds since 1970; None if the processes
            that share it have one clock.
        stamp: Identity of the tables, which `stamp_sql` selects in place of a value; None if they
            are recognized otherwise.
        stamp_sql: End of a query for (sample, value), which adds the row (-1, stamp).
    """

    remote: ClassVar[bool] = False
    now: ClassVar[str | None] = None
    stamp_sql: ClassVar[str] = ""

    def __init__(self, name: str) -> None:
        """Set the name."""
        self.name = name
        self.stamp: str | None = None

    @abstractmethod
    def rows(self, sql: str, values: Row = ()) -> Rows:
        """Return the rows of a query.

        Raises:
            StoreError: The database cannot be read, is closed, or is not the one opened first.
        """

    @abstractmethod
    def write(self, work: Callable[[Transaction], _T], *, patience: float = PATIENCE) -> _T:
        """Return the result of a function that reads and writes in one transaction.

        Args:
            work: The function. It may be called again if the connection is lost, so repeating it
                must not change the result.
            patience: Seconds to wait for the locks of others, and for a lost connection.

        Raises:
            StoreError: The database cannot be written, is closed, or is not the one opened first.
        """

    def insert(self, request: Row, rows: Sequence[Row]) -> int:
        """Insert a request and its completions in one transaction, except those that are stored.

        Returns:
            Number of completions that were inserted.

        Raises:
            StoreError: As `write`.
        """
        return self.write(lambda transaction: insert(transaction, [request], rows))

    @abstractmethod
    def json_number(self, index: int) -> str:
        """Return the SQL expression of a number in the column ``value``, 0 if it has none."""

    @abstractmethod
    def lock_tables(self, transaction: Transaction) -> None:
        """Keep other transactions from writing before this one ends."""

    @abstractmethod
    def shrink(self) -> None:
        """Return the space of deleted rows to the file system, if that is needed."""

    @abstractmethod
    def close(self) -> None:
        """Close all connections. The database cannot be used afterwards."""

    def failure(self, verb: str, reason: object) -> StoreError:
        """Return the error of a failed call."""
        return StoreError(
            f"The store {self.name!r} cannot be {verb} ({reason}). Stored completions are safe: "
            "free disk space or restore access, and run the study again to resume it."
        )

    def closed_error(self) -> StoreError:
        """Return the error of a call after `close`."""
        return StoreError(f"The store {self.name!r} is closed: construct a new `CompletionStore`.")

    def replaced_error(self, what: str) -> StoreError:
        """Return the error of a call to a database that is not the one opened first."""
        return StoreError(
            f"The store {self.name!r} {what} while it was in use, so that its completions would "
            "be paid for again: restore it, or construct a new `CompletionStore` to begin with "
            "what is there now."
        )


def insert(transaction: Transaction, requests: Sequence[Row], rows: Sequence[Row]) -> int:
    """Insert requests and their completions; see `Database.insert`."""
    transaction.change_many(
        "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", requests
    )
    return transaction.change_many(
        "INSERT INTO completions VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows
    )
