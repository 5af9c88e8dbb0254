"""Rows of a completion store: written unless there are some, and moved away if unreadable."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from optuna_agenttts.llm import Completion
from optuna_agenttts_integrations.calls.store_database import Database, Transaction
from optuna_agenttts_integrations.calls.store_records import (
    RequestKey,
    completion_text,
    read_completion,
)
from optuna_agenttts_integrations.exceptions import StoreError

_logger = logging.getLogger(__name__)


def insert(
    transaction: Transaction, key: RequestKey, completions: Mapping[int, Completion], at: float
) -> dict[int, Completion]:
    """Insert completions of a request that are not stored yet, and return those that are held.

    Their leases end in the same transaction.
    """
    digest = key.digest
    transaction.change(
        "INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (digest, key.endpoint, key.seed, key.model, key.request, at),
    )
    statement = "INSERT INTO completions VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
    # In order of index, since PostgreSQL locks row by row.
    rows = [(digest, index, completion_text(completions[index])) for index in sorted(completions)]
    leases = f"sample IN ({', '.join('?' * len(rows))})"
    transaction.change(
        f"DELETE FROM leases WHERE key = ? AND {leases}", (digest, *(row[1] for row in rows))
    )
    if len(rows) == 1:
        if transaction.change(statement, rows[0]):
            return dict(completions)
    else:
        transaction.change_many(statement, rows)
    held = dict(completions)
    stored = transaction.rows(
        "SELECT sample, value FROM completions WHERE key = ? AND sample BETWEEN ? AND ?",
        (digest, rows[0][1], rows[-1][1]),
    )
    for sample, value in stored:
        if sample in held:
            try:
                held[sample] = read_completion(value)
            except ValueError:
                # The next `get` moves it out of the way; until then, the new one serves.
                continue
    return held


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
