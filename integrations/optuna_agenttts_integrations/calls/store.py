"""Completions on disk or in a database, so that no request is paid for twice."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from optuna_agenttts.llm import Completion
from optuna_agenttts_integrations.calls.leases import Leases
from optuna_agenttts_integrations.calls.store_database import IN_MEMORY, Transaction, insert
from optuna_agenttts_integrations.calls.store_exports import export_lines, read_export
from optuna_agenttts_integrations.calls.store_records import (
    RequestKey,
    canonical_json,
    read_completion,
)
from optuna_agenttts_integrations.calls.store_rows import (
    completion_rows,
    quarantine,
    request_row,
    stored_samples,
)
from optuna_agenttts_integrations.calls.store_targets import is_url, open_database, target_text
from optuna_agenttts_integrations.calls.store_unwritten import Entry, Unwritten
from optuna_agenttts_integrations.exceptions import StoreError

__all__ = ["CompletionStore", "Holding", "RequestKey", "canonical_json"]

_T = TypeVar("_T")

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
    """Store of completions by request and sample index, in SQLite or PostgreSQL.

    Several threads and processes may share one store; those of several machines need PostgreSQL.
    A completion survives a crash of the process once `put` has returned; in SQLite, it does not
    necessarily survive a crash of the operating system. Unpickled stores and those of forked
    processes open their own connections; passwords in URLs are not pickled. A store in memory is
    empty after unpickling; a forked process has its own copy.

    Args:
        target: Path of an SQLite file, URL of a database (``"postgresql://user@host/name"`` or
            ``"sqlite:///file.db"``), or ``":memory:"`` for a store that ends with the process.
        clock: Function that returns the time in seconds since 1970.

    Attributes:
        path: The path, or the URL without its secrets.
        leases: Leases of missing samples, which this process is generating.

    Raises:
        StoreError: The store cannot be opened, is not a completion store, or has a later version.
    """

    def __init__(
        self, target: str | Path = IN_MEMORY, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._target = target_text(target)
        self._clock = clock
        self._open(os.fspath(target) if isinstance(target, (str, Path)) else self._target)

    def _open(self, name: str) -> None:
        """Open the database."""
        self._database = open_database(self._target, name)
        self.leases = Leases(self._database, self._clock)
        self.path = self._database.name
        folder, file = os.path.split(self._target)
        if self._database.remote:
            folder, file = os.getcwd(), "store"
        self._unwritten = Unwritten(folder, file, self.path)

    def __getstate__(self) -> dict[str, Any]:
        """Return name, target and clock; the database is opened again on unpickling."""
        target = self._target
        if is_url(target):
            from optuna_agenttts_integrations.calls.store_postgresql import without_password

            target = without_password(target)
        return {"path": self.path, "_target": target, "_clock": self._clock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the database again; a store in memory is empty afterwards."""
        self.__dict__.update(state)
        self._open(self.path)

    async def run(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Return the result of a method of this store, without blocking the event loop for long.

        Calls of SQLite take less time than a change of threads; those of PostgreSQL cross the
        network, and run in a thread.

        Args:
            function: Method of this store.
            *arguments: Its arguments.
        """
        if self._database.remote:
            call = asyncio.get_running_loop().run_in_executor(None, function, *arguments)
            # A reply that was received is written even if the caller is cancelled.
            return await asyncio.shield(call)
        return function(*arguments)

    def get(self, key: str, count: int) -> dict[int, Completion]:
        """Return stored completions of a request.

        A row that cannot be read is moved to the table ``quarantine``, and left out of the result,
        so that its sample is generated again.

        Args:
            key: Digest of the request's key, `RequestKey.digest`.
            count: Number of samples.

        Returns:
            The completions by sample index, of those with an index below `count`.

        Raises:
            StoreError: The store cannot be read, or is not the one that was opened first.
        """
        found = self._unwritten.get(key, count)
        database = self._database
        rows = database.rows(
            f"SELECT sample, value FROM completions WHERE key = ? AND sample < ?"
            f"{database.stamp_sql}",
            (key, count),
        )
        for sample, value in rows:
            if sample == -1 and database.stamp is not None:
                if value != database.stamp:
                    raise database.replaced_error("was replaced by another one")
                continue
            try:
                completion = read_completion(value)
                # Those that earlier versions stored are still in files that are read-only.
                if not completion.failed:
                    found[int(sample)] = completion
            except ValueError as error:
                quarantine(database, key, int(sample), error, self._clock())
        return found

    def put(
        self, request_key: RequestKey, completions: Mapping[int, Completion]
    ) -> dict[int, Completion]:
        """Store completions of a request; samples that are stored already are kept.

        Replies that a failing server cut off (see `Completion.failed`) are not stored.
        Completions that cannot be written are kept: `get` returns them, the next `put` stores
        them, and a file that the error names has them in case the process ends before.

        Args:
            request_key: Key of the request.
            completions: Completions by sample index.

        Returns:
            What the store holds of these samples now: of each, the one that was stored first.

        Raises:
            StoreError: The store cannot be written, or is not the one that was opened first.
        """
        completions = {i: value for i, value in completions.items() if not value.failed}
        if not completions:
            return {}
        now = self._clock()
        waiting = self._unwritten.entries()
        rows = completion_rows(request_key, completions)
        try:
            self._write(waiting)
            inserted = self._database.insert(request_row(request_key, now), rows)
        except StoreError as error:
            if self._target == IN_MEMORY:
                raise
            kept = self._unwritten.add(request_key, completions, now)
            raise StoreError(f"{error} {kept}") from error
        self._unwritten.remove(waiting)
        if inserted == len(rows):
            return dict(completions)
        return stored_samples(self._database, request_key, completions)

    def _write(self, entries: list[Entry]) -> None:
        """Store completions of requests, in one transaction."""
        # In order: databases that lock rows would else block each other.
        ordered = sorted(entries, key=lambda entry: entry[0].digest)

        def work(transaction: Transaction) -> None:
            insert(
                transaction,
                [request_row(key, at) for key, _, at in ordered],
                [row for key, samples, _ in ordered for row in completion_rows(key, samples)],
            )

        if entries:
            self._database.write(work)

    def check(self) -> None:
        """Check that the store can be written, by a write that leaves nothing.

        Raises:
            StoreError: The store cannot be written.
        """

        def work(transaction: Transaction) -> None:
            transaction.change("DELETE FROM completions WHERE key = 'probe'")
            transaction.change(
                "INSERT INTO completions VALUES ('probe', 0, ?)", ("x" * _PROBE_CHARACTERS,)
            )
            transaction.change("DELETE FROM completions WHERE key = 'probe'")

        self._database.write(work)

    def __len__(self) -> int:
        """Return the number of completions."""
        ((count,),) = self._database.rows("SELECT count(*) FROM completions")
        return int(count)

    def holdings(self) -> list[Holding]:
        """Return totals of the stored samples by endpoint and model.

        Raises:
            StoreError: The store cannot be read.
        """
        tokens = ", ".join(f"sum({self._database.json_number(index)})" for index in (1, 2))
        sql = (
            "SELECT coalesce(endpoint, ''), coalesce(model, ''), count(DISTINCT c.key), count(*), "
            f"{tokens}, coalesce(min(at), 0) FROM completions c LEFT JOIN requests r "
            "ON c.key = r.key GROUP BY 1, 2"
        )
        try:
            rows = self._database.rows(sql)
        except StoreError:
            # A row that is not JSON may be the reason.
            for (key,) in self._database.rows("SELECT DISTINCT key FROM completions"):
                self.get(key, 2**31 - 1)
            rows = self._database.rows(sql)
        return [
            Holding(endpoint, model, requests, samples, int(prompt or 0), int(reply or 0), oldest)
            for endpoint, model, requests, samples, prompt, reply, oldest in sorted(rows)
        ]

    def quarantined(self) -> int:
        """Return the number of rows that could not be read, which no search uses.

        Raises:
            StoreError: The store cannot be read.
        """
        ((count,),) = self._database.rows("SELECT count(*) FROM quarantine")
        return int(count)

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
            and os.path.exists(self._target)
            and os.path.samefile(path, self._target)
        ):
            raise StoreError(f"`path` {str(path)!r} is the store itself: give another file.")
        count = 0
        try:
            with open(path, "w", encoding="utf-8") as file:
                for line in export_lines(self._database):
                    file.write(line + "\n")
                    count += 1
        except OSError as error:
            raise StoreError(
                f"`path` {str(path)!r} cannot be written ({error}): give another file, or free "
                "disk space."
            ) from error
        return count

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
        for entries in read_export(path, self._clock()):
            usable = [
                (key, {i: value for i, value in samples.items() if not value.failed}, at)
                for key, samples, at in entries
            ]
            self._write([entry for entry in usable if entry[1]])
            count += len(entries)
        return count

    def prune(
        self,
        *,
        model: str | None = None,
        endpoint: str | None = None,
        older_than: float | None = None,
        keep: int = 0,
    ) -> int:
        """Delete completions, and shrink an SQLite file.

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
        where = ["1 = 1"]
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

        def work(transaction: Transaction) -> int:
            self._database.lock_tables(transaction)
            deleted = transaction.change(
                f"DELETE FROM completions WHERE sample >= ? AND key IN ({chosen})",
                (keep, *values),
            )
            transaction.change(
                "DELETE FROM requests WHERE NOT EXISTS "
                "(SELECT 1 FROM completions c WHERE c.key = requests.key)"
            )
            return deleted

        deleted = self._database.write(work)
        self._database.shrink()
        return deleted

    def close(self) -> None:
        """Close the store. It cannot be used afterwards."""
        self.leases.close()
        self._database.close()
