"""Completions on disk, so that nothing that was paid for is paid for twice."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna_agenttts.llm import Completion
from optuna_agenttts_integrations.calls.store_records import (
    RequestKey,
    canonical_json,
    completion_text,
    export_line,
    read_completion,
    read_line,
)
from optuna_agenttts_integrations.exceptions import StoreError

__all__ = ["CompletionStore", "Holding", "RequestKey", "canonical_json"]

_logger = logging.getLogger(__name__)

_ATTEMPTS = 100
_VERSION = 2
_SCHEMA = (
    """
CREATE TABLE IF NOT EXISTS completions (
    key TEXT NOT NULL,
    sample INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (key, sample)
) WITHOUT ROWID
""",
    # Version 2: what was request_key, so that a store can be inspected and exported.
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


@dataclass(frozen=True, slots=True)
class Holding:
    """What a store holds of one model at one endpoint.

    Args:
        endpoint: Identity of the endpoint; empty for what a store of version 1 left undescribed.
        model: The model.
        requests: Different requests.
        samples: Samples of them.
        prompt_tokens: Tokens of the samples' prompts, each counted as often as it was sent.
        generated_tokens: Tokens of the samples.
        oldest: When the first of the requests was made, in seconds since 1970.
    """

    endpoint: str
    model: str
    requests: int
    samples: int
    prompt_tokens: int
    generated_tokens: int
    oldest: float


class CompletionStore:
    """Completions by request and sample index, in SQLite.

    Several threads and processes may share one file. Values are JSON. What is written is on disk
    when `put` returns, short of a crash of the operating system.

    Args:
        path: The file, or ``":memory:"`` for a store that ends with the process.
        clock: Seconds since 1970.

    Raises:
        StoreError: The file is no store, or one of a later version.
    """

    def __init__(
        self, path: str | Path = ":memory:", *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = str(path)
        self._clock = clock
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            self._connection = connection
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                connection.close()
                raise StoreError(
                    f"`path` is {self.path!r}: the store has version {version}, and this is "
                    f"version {_VERSION}: use another file, or the package that wrote it."
                )
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
            if version == 0 and tables and "completions" not in tables:
                connection.close()
                raise StoreError(
                    f"`path` is {self.path!r}: it is a database of something else: give a file "
                    "of its own, or one that does not exist yet."
                )
            _write_ahead(connection)
            connection.execute("PRAGMA synchronous=NORMAL")
            if version < _VERSION:
                for table in _SCHEMA:
                    connection.execute(table)
                connection.execute(f"PRAGMA user_version={_VERSION}")
        except sqlite3.Error as error:
            if self._connection is not None:
                self._connection.close()
            raise StoreError(
                f"`path` is {self.path!r}: it cannot be opened as a completion store ({error}): "
                "give a file that can be written, or one that does not exist yet."
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Keep the path: another process opens the file for itself."""
        return {"path": self.path, "_clock": self._clock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`; a store in memory comes back empty."""
        self.__dict__.update(state)
        self._open()

    def get(self, key: str, count: int) -> dict[int, Completion]:
        """The completions of a request that are known, of those with index below `count`."""
        rows = self._execute(
            "SELECT sample, value FROM completions WHERE key = ? AND sample < ?", (key, count)
        )
        return {int(sample): read_completion(value) for sample, value in rows}

    def put(self, request_key: RequestKey, completions: Mapping[int, Completion]) -> None:
        """Keep completions of a request by sample index; those that are there already stay."""
        self._put(request_key, completions, self._clock())

    def _put(
        self, request_key: RequestKey, completions: Mapping[int, Completion], at: float
    ) -> None:
        if not completions:
            return
        key = request_key.digest
        rows = [(key, sample, completion_text(value)) for sample, value in completions.items()]
        about = (
            key,
            request_key.endpoint,
            request_key.seed,
            request_key.model,
            request_key.request,
            at,
        )
        try:
            with self._lock, self._usable() as connection:
                connection.execute(
                    "INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?)", about
                )
                connection.executemany("INSERT OR IGNORE INTO completions VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._trouble("written", error) from error

    def check(self) -> None:
        """Write something and take it back.

        Raises:
            StoreError: The store cannot be written.
        """
        probe = ("probe", -1, "x" * 65_536)
        try:
            with self._lock, self._usable() as connection:
                connection.execute("INSERT OR REPLACE INTO completions VALUES (?, ?, ?)", probe)
                connection.execute("DELETE FROM completions WHERE key = 'probe'")
        except sqlite3.Error as error:
            raise self._trouble("written", error) from error

    def __len__(self) -> int:
        """The number of completions."""
        ((count,),) = self._execute("SELECT count(*) FROM completions", ())
        return int(count)

    def holdings(self) -> list[Holding]:
        """What the store holds, by endpoint and model."""
        rows = self._execute(
            "SELECT coalesce(endpoint, ''), coalesce(model, ''), count(DISTINCT c.key), count(*), "
            "sum(json_extract(value, '$[1]')), sum(json_extract(value, '$[2]')), "
            "coalesce(min(at), 0) FROM completions c LEFT JOIN requests r ON c.key = r.key "
            "GROUP BY 1, 2 ORDER BY 1, 2",
            (),
        )
        return [Holding(*row) for row in rows]

    def export(self, path: str | Path) -> int:
        """Write everything to a file, a line of JSON for each request.

        A line has ``endpoint``, ``seed``, ``at`` (when it was first asked, in seconds since 1970),
        ``request`` and ``samples``: for each index, the text, the tokens of prompt and reply, and
        why it ended.

        Args:
            path: The file; what it held is lost.

        Returns:
            The number of lines. What a store of version 1 left undescribed is not written.

        Raises:
            StoreError: The file cannot be written, or is the store itself.
        """
        if (
            os.path.exists(path)
            and os.path.exists(self.path)
            and os.path.samefile(path, self.path)
        ):
            raise StoreError(f"`path` is {str(path)!r}, the store itself: give another file.")
        count = 0
        try:
            with open(path, "w", encoding="utf-8") as file:
                for line in self._lines():
                    file.write(line + "\n")
                    count += 1
        except OSError as error:
            raise StoreError(
                f"`path` is {str(path)!r}: it cannot be written ({error}): give another file, or "
                "make room."
            ) from error
        return count

    def _lines(self) -> Iterator[str]:
        for (key,) in self._execute("SELECT key FROM requests ORDER BY at, key", ()):
            about = self._execute(
                "SELECT endpoint, seed, request, at FROM requests WHERE key = ?", (key,)
            )
            rows = self._execute("SELECT sample, value FROM completions WHERE key = ?", (key,))
            # Another process may have pruned it meanwhile.
            for endpoint, seed, request, at in about if rows else ():
                yield export_line(RequestKey(endpoint, seed, request), dict(rows), at)

    def load(self, path: str | Path) -> int:
        """Add what `export` wrote; what is there already stays.

        Returns:
            The number of lines.

        Raises:
            StoreError: The file cannot be read, or a line is not what `export` writes.
        """
        count = 0
        try:
            # Bytes, so that a line that is no UTF-8 has a number, too.
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        request_key, samples, at = read_line(line)
                    except (ValueError, LookupError, TypeError, AttributeError) as error:
                        raise StoreError(
                            f"`path` is {str(path)!r}: line {number} is not what `export` writes "
                            f"({error!r}): the lines before it are loaded."
                        ) from error
                    self._put(request_key, samples, self._clock() if at is None else at)
                    count += 1
        except OSError as error:
            raise StoreError(
                f"`path` is {str(path)!r}: it cannot be read ({error}): give what `export` wrote."
            ) from error
        return count

    def prune(
        self,
        *,
        model: str | None = None,
        endpoint: str | None = None,
        older_than: float | None = None,
        keep: int = 0,
    ) -> int:
        """Forget completions, and give the room back.

        Args:
            model: Only those of this model.
            endpoint: Only those of this endpoint; empty for what a store of version 1 left
                undescribed.
            older_than: Only requests that were first made so many seconds ago or earlier, as far
                as that is known.
            keep: How many samples of each request to keep.

        Returns:
            How many completions were forgotten.
        """
        where = ["1"]
        values: list[Any] = []
        for column, value in (("model", model), ("endpoint", endpoint)):
            if value is not None:
                where.append(f"coalesce({column}, '') = ?")
                values.append(value)
        if older_than is not None:
            where.append("at <= ?")
            values.append(self._clock() - older_than)
        chosen = (
            "SELECT c.key FROM completions c LEFT JOIN requests r ON c.key = r.key "
            f"WHERE {' AND '.join(where)}"
        )
        try:
            with self._lock:
                with self._usable() as connection:
                    gone = connection.execute(
                        f"DELETE FROM completions WHERE sample >= ? AND key IN ({chosen})",
                        (keep, *values),
                    ).rowcount
                    connection.execute(
                        "DELETE FROM requests WHERE key NOT IN (SELECT key FROM completions)"
                    )
                self._shrink()
        except sqlite3.Error as error:
            raise self._trouble("written", error) from error
        return int(gone)

    def _shrink(self) -> None:
        try:
            self._usable().execute("VACUUM")
            # Until then the smaller file is in the log beside it, which takes room of its own.
            self._usable().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            # It needs room itself. What was forgotten makes room for completions all the same.
            _logger.warning("The store %r keeps its size for now: %s", self.path, error)

    def close(self) -> None:
        """Close the file. The store cannot be used afterwards."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __del__(self) -> None:
        """Close the file."""
        if getattr(self, "_connection", None) is not None:
            self.close()

    def _usable(self) -> sqlite3.Connection:
        if self._connection is None:
            raise StoreError(f"The store {self.path!r} is closed: open another one.")
        return self._connection

    def _execute(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._usable().execute(sql, values).fetchall()
        except sqlite3.Error as error:
            raise self._trouble("read", error) from error

    def _trouble(self, verb: str, error: sqlite3.Error) -> StoreError:
        return StoreError(
            f"The store {self.path!r} cannot be {verb} ({error}). What it holds is kept: make "
            "room or mend access, and run the study again to go on."
        )


def _write_ahead(connection: sqlite3.Connection) -> None:
    """Switch a file to write-ahead logging, which stays with it."""
    for _ in range(_ATTEMPTS):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            # SQLite does not wait for others that have the file open at this moment, as it does
            # for a transaction. A file that can only be read fails in that, too.
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
    connection.execute("PRAGMA journal_mode=WAL")
