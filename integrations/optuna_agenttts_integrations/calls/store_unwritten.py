"""Completions that a store could not write: kept in the process and in a file until it can."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from shlex import quote

from optuna_agenttts.llm import Completion
from optuna_agenttts.support.forking import on_fork
from optuna_agenttts_integrations.calls.store_records import (
    RequestKey,
    completion_text,
    export_line,
)

Entry = tuple[RequestKey, dict[int, Completion], float]
"""Key of a request, its completions by sample index, and the time of the request."""


class Unwritten:
    """Completions that were received but could not be written.

    Args:
        folder: Folder of the file that keeps them; the folder for temporary files is tried next.
        name: Start of the file's name.
        store: Path or URL of the store for messages, without secrets.
    """

    def __init__(self, folder: str, name: str, store: str) -> None:
        self._folders, self._name, self._store = (folder, tempfile.gettempdir()), name, store
        self._entries: dict[str, Entry] = {}
        self._file: Path | None = None
        self._lock = threading.Lock()
        on_fork(self, Unwritten._after_fork)

    def _after_fork(self) -> None:
        """Leave the file to the process that wrote it."""
        self._lock, self._file = threading.Lock(), None

    def __len__(self) -> int:
        """Return the number of completions."""
        return sum(len(samples) for _, samples, _ in self.entries())

    def entries(self) -> list[Entry]:
        """Return all entries."""
        # Usually there are none, which needs no lock.
        if not self._entries:
            return []
        with self._lock:
            return [(key, dict(samples), at) for key, samples, at in self._entries.values()]

    def get(self, digest: str, count: int) -> dict[int, Completion]:
        """Return completions of a request with an index below `count`."""
        if not self._entries:
            return {}
        with self._lock:
            _, samples, _ = self._entries.get(digest, (None, {}, 0.0))
            return {index: value for index, value in samples.items() if index < count}

    def add(self, key: RequestKey, completions: Mapping[int, Completion], at: float) -> str:
        """Keep completions, also in a file, and return a sentence that says where."""
        with self._lock:
            _, samples, _ = self._entries.setdefault(key.digest, (key, {}, at))
            added = {index: value for index, value in completions.items() if index not in samples}
            samples.update(added)
            texts = {index: completion_text(value) for index, value in added.items()}
            written = not added or self._append(export_line(key, texts, at))
        total = len(self)
        if self._file is None or not written:
            return (
                f"{total} completions that were received since are kept in this process only: no "
                "file could be written, either. They are stored with its next write."
            )
        load = f"agenttts store load {quote(str(self._file))} --path {quote(self._store)}"
        return (
            f"{total} completions that were received since are kept in this process, and in "
            f"{str(self._file)!r}. They are stored with the next write of this process; if it has "
            f"ended, by `{load}`."
        )

    def remove(self, entries: list[Entry]) -> None:
        """Forget entries that are written now; remove the file with the last one."""
        if not entries:
            return
        with self._lock:
            for key, written, _ in entries:
                _, samples, _ = self._entries.get(key.digest, (None, {}, 0.0))
                for index in written:
                    samples.pop(index, None)
                if not samples:
                    self._entries.pop(key.digest, None)
            if not self._entries and self._file is not None:
                self._file.unlink(missing_ok=True)
                self._file = None

    def _append(self, line: str) -> bool:
        """Append a line to the file; return False if no folder has space for it."""
        encoded = line.encode() + b"\n"
        for folder in self._folders if self._file is None else (self._file.parent,):
            file = Path(folder, f"{self._name}.unwritten-{os.getpid()}-{id(self):x}.jsonl")
            try:
                length = file.stat().st_size if file.exists() else 0
                # Others must not read replies in the folder for temporary files.
                number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError:
                continue
            try:
                if os.write(number, encoded) == len(encoded):
                    self._file = file
                    return True
                os.ftruncate(number, length)
            except OSError:
                pass
            finally:
                os.close(number)
            if not length:
                file.unlink(missing_ok=True)
        return False
