"""PostgreSQL database of a completion store."""

from __future__ import annotations

import random
import re
import time
import uuid
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar, TypeVar

from sqlalchemy import create_engine, event
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from optuna_agenttts.support.forking import keep_inherited, on_fork
from optuna_agenttts.support.plain import one_line
from optuna_agenttts_integrations.calls.store_database import (
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

_T = TypeVar("_T")

_PREFIX = "agenttts_"
"""Start of the names of tables: other applications may have tables in the same database."""

_STORE = f"CREATE TABLE IF NOT EXISTS {_PREFIX}store (version INTEGER NOT NULL, id TEXT NOT NULL)"

_TABLE = re.compile(rf"\b({'|'.join(TABLES)})\b")

_CONNECTIONS = 4
"""Maximum number of connections of a process. Chosen by hand: 16 processes stay below the 100
connections that PostgreSQL allows by default, also beside those of a study's storage."""

_CONNECT_SECONDS = 10
"""Seconds until an attempt to connect fails. Chosen by hand."""

_SILENT_SECONDS = 30
"""Seconds until a connection to a host that has vanished fails; otherwise 15 minutes. Chosen by
hand."""

_LONGEST_WAIT = 5.0
"""Maximum seconds between two attempts. Chosen by hand."""

_CREATION_LOCK = 0x6167656E74747473
"""Key of the advisory lock for creating tables: "agenttts" in ASCII."""

_PASSING = ("08", "40", "53300", "55P03", "57P")
"""Starts of the SQL states that time mends: connection lost, deadlock, too many connections, lock
not available, server stopped or starting."""

_INSERT = """
WITH request AS (INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING)
INSERT INTO completions SELECT unnest(?::text[]), unnest(?::integer[]), unnest(?::text[])
ON CONFLICT DO NOTHING
"""
"""`insert` of `store_database` as one statement."""

_NO_TABLE = "42P01"


class PostgreSQLDatabase(Database):
    """Tables in a PostgreSQL database.

    Calls whose connection is lost connect again, for up to a minute.

    Args:
        url: URL of SQLAlchemy, with the driver psycopg.
        create: Whether to create the tables if there are none.

    Raises:
        StoreError: The database cannot be reached, the tables cannot be created or have a later
            version, or the URL is not one of PostgreSQL.
    """

    remote: ClassVar[bool] = True
    now: ClassVar[str | None] = "extract(epoch FROM clock_timestamp())::double precision"
    stamp_sql: ClassVar[str] = f" UNION ALL SELECT -1, id FROM {_PREFIX}store"

    def __init__(self, url: str, *, create: bool = True) -> None:
        self._url = _parsed(url)
        super().__init__(shown_url(url, self._url))
        self._closed = False
        self._engine = self._new_engine()
        try:
            self.stamp = self._prepare(create)
        except StoreError:
            self._engine.dispose()
            raise
        except SQLAlchemyError as error:
            self._engine.dispose()
            raise StoreError(
                f"`target` {self.name!r} cannot be opened as a completion store "
                f"({self._reason(error)}): check that the server runs, and that its user may "
                "connect and create tables. A password that is not in the URL is read from "
                "PGPASSWORD or ~/.pgpass."
            ) from None
        on_fork(self, PostgreSQLDatabase._after_fork)

    def _new_engine(self) -> Engine:
        """Return an engine without connections."""
        options = {
            "connect_timeout": _CONNECT_SECONDS,
            "keepalives_idle": _SILENT_SECONDS,
            "tcp_user_timeout": 1000 * _SILENT_SECONDS,
            "application_name": "optuna-agenttts",
        }
        try:
            engine = create_engine(
                self._url,
                pool_size=_CONNECTIONS,
                max_overflow=0,
                hide_parameters=True,
                # Options in the URL have precedence.
                connect_args={k: v for k, v in options.items() if k not in self._url.query},
            )
            event.listen(engine, "connect", _limit_waits)
            return engine
        except ModuleNotFoundError as error:
            raise StoreError(
                f"`target` {self.name!r} needs psycopg ({error}): "
                'pip install "optuna-agenttts[postgresql]".'
            ) from error

    def _after_fork(self) -> None:
        """Leave the connections to the parent process."""
        keep_inherited(self._engine)
        if not self._closed:
            self._engine = self._new_engine()

    def _prepare(self, create: bool) -> str | None:
        """Return the identity of the tables, which are created; None if there are none."""
        found = f"SELECT to_regclass('{_PREFIX}store')"
        with self._engine.connect() as connection:
            run = connection.exec_driver_sql
            if run(found).scalar() is None:
                if not create:
                    return None
                # Concurrent statements of this kind would fail; the lock ends with the
                # transaction. What another one created meanwhile may be cached as missing.
                run(f"SELECT pg_advisory_xact_lock({_CREATION_LOCK})")
                for table in (*SCHEMA, _STORE):
                    run(_translated(table))
                run(
                    f"INSERT INTO {_PREFIX}store SELECT %s, %s "
                    f"WHERE NOT EXISTS (SELECT 1 FROM {_PREFIX}store)",
                    (VERSION, uuid.uuid4().hex),
                )
                connection.commit()
            version, stamp = run(f"SELECT version, id FROM {_PREFIX}store").one()
        if version > VERSION:
            raise StoreError(
                f"The store {self.name!r} has version {version}, but this package supports up to "
                f"version {VERSION}: use another database, or upgrade the package."
            )
        return str(stamp)

    def rows(self, sql: str, values: Row = ()) -> Rows:
        """Return the rows of a query; see `Database.rows`."""
        return self._repeated(
            lambda transaction: transaction.rows(sql, values), "read", single=True
        )

    def write(self, work: Callable[[Transaction], _T], *, patience: float = PATIENCE) -> _T:
        """Return the result of a function in one transaction; see `Database.write`."""
        return self._repeated(work, "written", patience)

    def insert(self, request: Row, rows: Sequence[Row]) -> int:
        """Insert by one statement, which crosses the network once; see `Database.insert`."""
        keys, samples, values = (list(column) for column in zip(*rows))
        return self._repeated(
            lambda transaction: transaction.change(_INSERT, (*request, keys, samples, values)),
            "written",
            single=True,
        )

    def _repeated(
        self,
        work: Callable[[Transaction], _T],
        verb: str,
        patience: float = PATIENCE,
        *,
        single: bool = False,
    ) -> _T:
        """Run a function in a transaction, or a single statement; again if it is interrupted."""
        start, wait = time.monotonic(), 0.05
        while True:
            if self._closed:
                raise self.closed_error()
            try:
                if single:
                    # Beginning and committing a transaction would cross the network twice more.
                    with self._engine.connect() as connection:
                        connection.execution_options(isolation_level="AUTOCOMMIT")
                        return work(_PostgreSQLTransaction(connection))
                with self._engine.begin() as connection:
                    return work(_PostgreSQLTransaction(connection))
            except SQLAlchemyError as error:
                if _state(error) == _NO_TABLE:
                    raise self.replaced_error("has lost its tables") from error
                if not _passes(error) or time.monotonic() - start > patience:
                    raise self.failure(verb, self._reason(error)) from error
            time.sleep(wait * (0.5 + random.random()))
            wait = min(2 * wait, _LONGEST_WAIT)

    def json_number(self, index: int) -> str:
        """Return the SQL expression of a number in ``value``; see `Database.json_number`."""
        # Without escapes, because PostgreSQL refuses those of NUL and of unpaired surrogates.
        plain = r"regexp_replace(value, '\\.', '', 'g')"
        return f"({plain}::json->{index})::text::bigint"

    def lock_tables(self, transaction: Transaction) -> None:
        """Keep others from writing; they can still read."""
        transaction.change("LOCK TABLE requests, completions IN SHARE ROW EXCLUSIVE MODE")

    def shrink(self) -> None:
        """Do nothing: PostgreSQL reuses the space by itself."""

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self._engine.dispose()

    def __del__(self) -> None:
        """Close all connections."""
        if getattr(self, "_engine", None) is not None and not self._closed:
            try:
                self.close()
            except TypeError:
                # At the end of the interpreter, classes that SQLAlchemy catches are gone.
                return

    def _reason(self, error: SQLAlchemyError) -> str:
        """Return the message of an error, without secrets."""
        original = error.orig if isinstance(error, DBAPIError) else error
        return one_line(without_secrets(str(original), self._url), 300)


def _limit_waits(connection: Any, record: object) -> None:
    """Let statements fail that wait for locks of others for too long."""
    # Not as an option of the connection, which poolers of connections refuse.
    with connection.cursor() as cursor:
        cursor.execute(f"SET lock_timeout = {round(1000 * PATIENCE)}")
    connection.commit()


class _PostgreSQLTransaction:
    """Statements of a transaction of PostgreSQL; see `Transaction`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def rows(self, sql: str, values: Row = ()) -> Rows:
        """Return the rows of a query."""
        found = self._connection.exec_driver_sql(_translated(sql), values).fetchall()
        return [tuple(row) for row in found]

    def change(self, sql: str, values: Row = ()) -> int:
        """Run a statement, and return the number of rows that it changed."""
        return self._connection.exec_driver_sql(_translated(sql), values).rowcount

    def change_many(self, sql: str, rows: Sequence[Row]) -> int:
        """Run a statement once for each row of values, and return the number of changed rows."""
        if not rows:
            # SQLAlchemy would run it once, without values.
            return 0
        return self._connection.exec_driver_sql(_translated(sql), list(rows)).rowcount


@lru_cache(maxsize=256)
def _translated(sql: str) -> str:
    """Return SQL with the placeholders and table names of PostgreSQL."""
    return _TABLE.sub(rf"{_PREFIX}\1", sql.replace("%", "%%").replace("?", "%s"))


def _state(error: SQLAlchemyError) -> str | None:
    """Return the SQL state of an error; None if the server sent none."""
    state = getattr(getattr(error, "orig", None), "sqlstate", None)
    return None if state is None else str(state)


def _passes(error: SQLAlchemyError) -> bool:
    """Return whether a call that failed may succeed later."""
    state = _state(error)
    if state is not None:
        return state.startswith(_PASSING)
    return isinstance(error, (OperationalError, InterfaceError, PoolTimeoutError))


def _parsed(given: str) -> URL:
    """Return the URL of a PostgreSQL database, with the driver psycopg."""
    try:
        url = make_url(given)
    except (SQLAlchemyError, ValueError):
        shown = given.partition("://")[0] + "://..."
        raise StoreError(f"`target` {shown!r} is not the URL of a database.") from None
    # As libpq and hosting services write it.
    if url.drivername in ("postgres", "postgresql"):
        url = url.set(drivername="postgresql+psycopg")
    if url.drivername != "postgresql+psycopg":
        raise StoreError(
            f"`target` must be a path, or a URL that starts with 'postgresql://' or 'sqlite:///', "
            f"got one of {url.drivername!r}."
        )
    return url


def shown_url(given: str, url: URL) -> str:
    """Return a URL without password and options."""
    if _unescaped(url):
        return f"{url.drivername}://***@{given.rpartition('@')[2].partition('?')[0]}"
    return url.set(query={}).render_as_string()


def _unescaped(url: URL) -> str:
    """Return the rest of a password with an "@" that is not written as "%40"."""
    rest = f"{url.host or ''}/{url.database or ''}"
    return rest.rpartition("@")[0] if url.password is not None else ""


def without_secrets(text: str, url: URL) -> str:
    """Return a text without the password and the options of a URL."""
    for secret in (*_unescaped(url).split("/"), url.password, *url.query.values()):
        if secret:
            text = text.replace(str(secret), "***")
    return text


def without_password(given: str) -> str:
    """Return a URL without its passwords, for pickles."""
    url = _parsed(given).difference_update_query(["password", "sslpassword"])
    return url._replace(password=None).render_as_string(hide_password=False)


def has_tables(url: str) -> bool:
    """Return whether a database has the tables of a completion store.

    Raises:
        StoreError: The database cannot be reached, or they have a later version.
    """
    database = PostgreSQLDatabase(url, create=False)
    database.close()
    return database.stamp is not None
