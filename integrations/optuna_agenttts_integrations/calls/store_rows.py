"""Rows of a completion store: written unless there are some, and moved away if unreadable."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from optuna_agenttts.llm import Completion
from optuna_agenttts_integrations.calls.store_database import Database, Row, Transaction
from optuna_agenttts_integrations.calls.store_records import (
    RequestKey,
    completion_text,
    read_completion,
)
from optuna_agenttts_integrations.exceptions import StoreError

_logger = logging.getLogger(__name__)


def request_row(key: RequestKey, at: float) -> Row:
    """Return the row of a request that was first made at a time."""
    return (key.digest, key.endpoint, key.seed, key.model, key.request, at)


def completion_rows(key: RequestKey, completions: Mapping[int, Completion]) -> list[Row]:
    """Return the rows of completions, in order of index: PostgreSQL locks one after the other."""
    return [
        (key.digest, index, completion_text(completions[index])) for index in sorted(completions)
    ]


def stored_samples(
    database: Database, key: RequestKey, completions: Mapping[int, Completion]
) -> dict[int, Completion]:
    """Return what is stored of the samples that completions were received for."""
    found = dict(completions)
    stored = database.rows(
        "SELECT sample, value FROM completions WHERE key = ? AND sample BETWEEN ? AND ?",
        (key.digest, min(completions), max(completions)),
    )
    for sample, value in stored:
        if sample in found:
            try:
                found[sample] = read_completion(value)
            except ValueError:
                # The next `get` moves it out of the way; until then, the new one serves.
                continue
    return found


def quarantine(database: Database, key: str, sample: int, error: ValueError, now: float) -> None:
    """Move a row that cannot be read out of the way, unless it was replaced since."""

    def work(transaction: Transaction) -> bool:
        rows = transaction.rows(
            "SELECT value FROM completions WHERE key = ? AND sample = ?", (key, sample)
        )
        try:
            for (value,) in rows:
                read_completion(value)
            return False
        except ValueError:
            pass
        transaction.change(
            "INSERT INTO quarantine SELECT key, sample, value, ? FROM completions "
            "WHERE key = ? AND sample = ?",
            (now, key, sample),
        )
        transaction.change("DELETE FROM completions WHERE key = ? AND sample = ?", (key, sample))
        return True

    try:
        moved = database.write(work)
    except StoreError as failure:
        error, moved = ValueError(f"{error}; nor can it be moved: {failure}"), True
    if moved:
        _logger.warning(
            "Sample %d of request %s in the store %r cannot be read (%s). It was moved to the "
            "table `quarantine`, and will be generated again when needed.",
            sample,
            key,
            database.name,
            error,
        )
