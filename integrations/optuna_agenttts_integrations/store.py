"""Completions on disk, so that nothing that was paid for is paid for twice."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations.exceptions import StoreError

_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS completions (
    key TEXT NOT NULL,
    sample INTEGER NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (key, sample)
) WITHOUT ROWID
"""


class CompletionStore:
    """Completions by request and sample index, in SQLite.

    Several threads and processes may share one file. Values are JSON. What is written is on disk
    when `put` returns, short of a crash of the operating system.

    Args:
        path: The file, or ``":memory:"`` for a store that ends with the process.

    Raises:
        StoreError: The file is no store, or one of another version.
    """

    def __init__(self, path: str | Path = ":memory:") -> None:
        self.path = str(path)
        self._open()

    def _open(self) -> None:
        self._lock = threading.Lock()
        self._connection = None
        try:
            connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            self._connection = connection
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, _VERSION):
                connection.close()
                raise StoreError(
                    f"`path` is {self.path!r}: the store has version {version}, and this is "
                    f"version {_VERSION}: use another file, or the package that wrote it."
                )
            with connection:
                connection.execute(_SCHEMA)
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
        return {"path": self.path}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo `__getstate__`; a store in memory comes back empty."""
        self.path = state["path"]
        self._open()

    def get(self, key: str, count: int) -> dict[int, Completion]:
        """The completions of a request that are known, of those with index below `count`."""
        rows = self._execute(
            "SELECT sample, value FROM completions WHERE key = ? AND sample < ?", (key, count)
        )
        return {int(sample): _decode(value) for sample, value in rows}

    def put(self, key: str, completions: Mapping[int, Completion]) -> None:
        """Keep completions of a request by sample index; those that are there already stay."""
        rows = [(key, sample, _encode(value)) for sample, value in completions.items()]
        try:
            with self._lock, self._usable() as connection:
                connection.executemany("INSERT OR IGNORE INTO completions VALUES (?, ?, ?)", rows)
        except sqlite3.Error as error:
            raise self._trouble("written", error) from error

    def __len__(self) -> int:
        """The number of completions."""
        ((count,),) = self._execute("SELECT count(*) FROM completions", ())
        return int(count)

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


def _encode(completion: Completion) -> str:
    usage = completion.usage
    values = [
        completion.text,
        usage.prompt_tokens,
        usage.completion_tokens,
        completion.finish_reason,
    ]
    return json.dumps(values, ensure_ascii=False)


def _decode(value: str) -> Completion:
    text, prompt, generated, reason = json.loads(value)
    return Completion(text, Usage(prompt, generated), reason)
