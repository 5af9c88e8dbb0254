"""Completions on disk, so that no request is paid for twice."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna_agenttts.llm import Completion
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts_integrations.calls.store_database import open_database
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

_IN_MEMORY = ":memory:"

_PROBE_CHARACTERS = 65_536
"""Length of the text that `CompletionStore.check` writes. Chosen by hand: more than fits into the
free part of a page of the file, so that a full disk shows."""


@dataclass(frozen=True, slots=True)
class Holding:
    """Totals of the stored samples of one model at one endpoint.

    Args:
        endpoint: Identity of the endpoint; empty for completions that a store of version 1 kept
            without their requests.
        model: Name of the model; empty for the same completions.
        requests: Number of distinct requests.
        samples: Number of samples.
        prompt_tokens: Tokens of the prompts, counted once per sample.
        generated_tokens: Tokens of the samples.
        oldest: Time of the first request, in seconds since 1970; 0 if unknown.
    """

    endpoint: str
    model: str
    requests: int
    samples: int
    prompt_tokens: int
    generated_tokens: int
    oldest: float


class CompletionStore:
    """SQLite store of completions by request and sample index.

    Several threads and processes may share one file. A completion survives a crash of the process
    once `put` has returned, but not necessarily a crash of the operating system. Unpickled stores
    and those of forked processes open the file themselves. A store in memory is empty after
    unpickling; a forked process has its own copy.

    Args:
        path: Path of the file, or ``":memory:"`` for a store that ends with the process.
        clock: Function that returns the time in seconds since 1970.

    Raises:
        StoreError: The file is not a completion store, or has a later version.
    """

    def __init__(
        self, path: str | Path = _IN_MEMORY, *, clock: Callable[[], float] = time.time
    ) -> None:
        self.path = str(path)
        # The working directory may be another one when the file is opened again.
        self._file = self.path if self.path == _IN_MEMORY else os.path.abspath(self.path)
        self._clock = clock
        self._open()

    def _open(self) -> None:
        """Open the file."""
        self._lock = threading.Lock()
        self._closed = False
        self._connection: sqlite3.Connection | None = None
        self._connection = open_database(self._file)
        on_fork(
            self,
            CompletionStore._reset_lock,
            before=CompletionStore._disconnect,
            after=CompletionStore._release,
        )

    def _disconnect(self) -> None:
        """Close the file until its next use: SQLite connections must not be inherited by a fork.

        SQLite would assume in the new process that it holds the locks of the inherited connection,
        even if it opened the file again.
        """
        self._lock.acquire()
        if self._connection is not None and self._file != _IN_MEMORY:
            self._connection.close()
            self._connection = None

    def _release(self) -> None:
        self._lock.release()

    def _reset_lock(self) -> None:
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Return the path and the clock; the file is opened again on unpickling."""
        return {"path": self.path, "_file": self._file, "_clock": self._clock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again; a store in memory is empty afterwards."""
        self.__dict__.update(state)
        self._open()

    def get(self, key: str, count: int) -> dict[int, Completion]:
        """Return stored completions of a request.

        Args:
            key: Digest of the request's key, `RequestKey.digest`.
            count: Number of samples.

        Returns:
            The completions by sample index, of those with an index below `count`.

        Raises:
            StoreError: The store cannot be read.
        """
        rows = self._execute(
            "SELECT sample, value FROM completions WHERE key = ? AND sample < ?", (key, count)
        )
        return {int(sample): read_completion(value) for sample, value in rows}

    def put(self, request_key: RequestKey, completions: Mapping[int, Completion]) -> None:
        """Store completions of a request; samples that are stored already are kept.

        Replies that a failing server cut off (see `Completion.failed`) are not stored.

        Args:
            request_key: Key of the request.
            completions: Completions by sample index.

        Raises:
            StoreError: The store cannot be written.
        """
        self._put(request_key, completions, self._clock())

    def _put(self, key: RequestKey, completions: Mapping[int, Completion], at: float) -> None:
        """Store completions of a request that was first made at a time."""
        completions = {i: value for i, value in completions.items() if not value.failed}
        if not completions:
            return
        digest = key.digest
        rows = [(digest, sample, completion_text(value)) for sample, value in completions.items()]
        request = (digest, key.endpoint, key.seed, key.model, key.request, at)
        with self._locked("written") as connection, connection:
            connection.execute("INSERT OR IGNORE INTO requests VALUES (?, ?, ?, ?, ?, ?)", request)
            connection.executemany("INSERT OR IGNORE INTO completions VALUES (?, ?, ?)", rows)

    def check(self) -> None:
        """Check that the store can be written, by a write that is rolled back.

        Raises:
            StoreError: The store cannot be written.
        """
        probe = ("probe", -1, "x" * _PROBE_CHARACTERS)
        with self._locked("written") as connection, connection:
            connection.execute("INSERT OR REPLACE INTO completions VALUES (?, ?, ?)", probe)
            connection.execute("DELETE FROM completions WHERE key = 'probe'")

    def __len__(self) -> int:
        """Return the number of completions."""
        ((count,),) = self._execute("SELECT count(*) FROM completions", ())
        return int(count)

    def holdings(self) -> list[Holding]:
        """Return totals of the stored samples by endpoint and model.

        Raises:
            StoreError: The store cannot be read.
        """
        rows = self._execute(
            "SELECT coalesce(endpoint, ''), coalesce(model, ''), count(DISTINCT c.key), count(*), "
            "sum(json_extract(value, '$[1]')), sum(json_extract(value, '$[2]')), "
            "coalesce(min(at), 0) FROM completions c LEFT JOIN requests r ON c.key = r.key "
            "GROUP BY 1, 2 ORDER BY 1, 2",
            (),
        )
        return [Holding(*row) for row in rows]

    def export(self, path: str | Path) -> int:
        """Write all requests with their samples to a file, as one line of JSON per request.

        A line has ``endpoint``, ``seed``, ``at`` (time of the first request, in seconds since
        1970), ``request`` and ``samples``: by index, the text, the tokens of prompt and reply, and
        the finish reason. Completions that a store of version 1 kept without their requests are
        not written.

        Args:
            path: Path of the file, which is overwritten.

        Returns:
            Number of lines.

        Raises:
            StoreError: The file cannot be written, or is the store itself.
        """
        if (
            os.path.exists(path)
            and os.path.exists(self.path)
            and os.path.samefile(path, self.path)
        ):
            raise StoreError(f"`path` {str(path)!r} is the store itself: give another file.")
        count = 0
        try:
            with open(path, "w", encoding="utf-8") as file:
                for line in self._lines():
                    file.write(line + "\n")
                    count += 1
        except OSError as error:
            raise StoreError(
                f"`path` {str(path)!r} cannot be written ({error}): give another file, or free "
                "disk space."
            ) from error
        return count

    def _lines(self) -> Iterator[str]:
        """Yield the lines of an export."""
        for (key,) in self._execute("SELECT key FROM requests ORDER BY at, key", ()):
            requests = self._execute(
                "SELECT endpoint, seed, request, at FROM requests WHERE key = ?", (key,)
            )
            rows = self._execute("SELECT sample, value FROM completions WHERE key = ?", (key,))
            # Another process may have pruned the request in the meantime.
            for endpoint, seed, request, at in requests if rows else ():
                yield export_line(RequestKey(endpoint, seed, request), dict(rows), at)

    def load(self, path: str | Path) -> int:
        """Add the completions of an export; samples that are stored already are kept.

        Args:
            path: Path of the file that `export` wrote.

        Returns:
            Number of lines.

        Raises:
            StoreError: The file cannot be read, or a line is invalid; the lines before it are
                loaded.
        """
        count = 0
        try:
            # Read bytes, so that the error about a line that is not UTF-8 has its number.
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    try:
                        request_key, samples, at = read_line(line)
                    except (ValueError, LookupError, TypeError, AttributeError) as error:
                        raise StoreError(
                            f"`path` {str(path)!r}: line {number} is not a line of an export "
                            f"({error!r}). The lines before it are loaded: fix the file and load "
                            "it again."
                        ) from error
                    self._put(request_key, samples, self._clock() if at is None else at)
                    count += 1
        except OSError as error:
            raise StoreError(
                f"`path` {str(path)!r} cannot be read ({error}): give a file that `export` wrote."
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
        """Delete completions, and shrink the file.

        Args:
            model: Delete only completions of this model.
            endpoint: Delete only completions of this endpoint; empty for those that a store of
                version 1 kept without their requests.
            older_than: Delete only completions of requests that were first made at least this
                many seconds ago; those without a time are kept.
            keep: Number of samples to keep of each request.

        Returns:
            Number of deleted completions.

        Raises:
            StoreError: The store cannot be written.
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
        with self._locked("written") as connection:
            with connection:
                deleted = connection.execute(
                    f"DELETE FROM completions WHERE sample >= ? AND key IN ({chosen})",
                    (keep, *values),
                ).rowcount
                connection.execute(
                    "DELETE FROM requests WHERE key NOT IN (SELECT key FROM completions)"
                )
            self._vacuum(connection)
        return int(deleted)

    def _vacuum(self, connection: sqlite3.Connection) -> None:
        """Return free pages of the file to the file system."""
        try:
            connection.execute("VACUUM")
            # Until the checkpoint, only the write-ahead log contains the smaller file.
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        except sqlite3.Error as error:
            # VACUUM itself needs disk space. Free pages are reused for new completions anyway.
            _logger.warning(
                "The pruned store %r could not be shrunk (%s). New completions will reuse the "
                "space. To shrink it, prune again with free disk space and no other user.",
                self.path,
                error,
            )

    def close(self) -> None:
        """Close the file. The store cannot be used afterwards."""
        with self._lock:
            self._closed = True
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def __del__(self) -> None:
        """Close the file."""
        if getattr(self, "_connection", None) is not None:
            self.close()

    @contextmanager
    def _locked(self, verb: str) -> Iterator[sqlite3.Connection]:
        """Lock the connection; raise `StoreError` if the store is closed, or its use fails."""
        try:
            with self._lock:
                if self._closed:
                    raise StoreError(
                        f"The store {self.path!r} is closed: construct a new `CompletionStore`."
                    )
                if self._connection is None:
                    self._connection = open_database(self._file)
                yield self._connection
        except sqlite3.Error as error:
            raise StoreError(
                f"The store {self.path!r} cannot be {verb} ({error}). Stored completions are "
                "safe: free disk space or restore access, and run the study again to resume it."
            ) from error

    def _execute(self, sql: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        """Return the rows of a query."""
        with self._locked("read") as connection:
            return connection.execute(sql, values).fetchall()
