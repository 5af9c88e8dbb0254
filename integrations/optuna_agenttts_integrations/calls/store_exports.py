"""Exports of completion stores: one line of JSON for each request."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from optuna_agenttts_integrations.calls.store_database import Database
from optuna_agenttts_integrations.calls.store_records import (
    RequestKey,
    export_line,
    read_completion,
    read_line,
)
from optuna_agenttts_integrations.calls.store_unwritten import Entry
from optuna_agenttts_integrations.exceptions import StoreError

_logger = logging.getLogger(__name__)

_REQUESTS_AT_ONCE = 200
"""Requests that are read by one query or written by one transaction. Chosen by hand: more would
take memory, and fewer would wait for the network more often."""


def export_lines(database: Database) -> Iterator[str]:
    """Yield the lines of an export, by time; rows that cannot be read are logged and left out."""
    keys = [key for (key,) in database.rows("SELECT key FROM requests ORDER BY at, key")]
    for start in range(0, len(keys), _REQUESTS_AT_ONCE):
        part = tuple(keys[start : start + _REQUESTS_AT_ONCE])
        among = f"WHERE key IN ({', '.join('?' * len(part))})"
        requests = {
            key: rest
            for key, *rest in database.rows(
                f"SELECT key, endpoint, seed, request, at FROM requests {among}", part
            )
        }
        samples: dict[str, dict[int, str]] = defaultdict(dict)
        for key, sample, value in database.rows(
            f"SELECT key, sample, value FROM completions {among} ORDER BY key, sample", part
        ):
            try:
                read_completion(value)
                samples[key][sample] = value
            except ValueError as error:
                _skipped(database, f"Sample {sample} of request {key}", error)
        for key in part:
            # Another process may have pruned the request in the meantime.
            if key in requests and key in samples:
                endpoint, seed, request, at = requests[key]
                try:
                    line = export_line(RequestKey(endpoint, seed, request), samples[key], at)
                except (ValueError, TypeError, RecursionError) as error:
                    _skipped(database, f"Request {key}", error)
                else:
                    yield line


def _skipped(database: Database, what: str, error: Exception) -> None:
    _logger.warning(
        "%s in the store %r cannot be read (%s), and is left out.", what, database.name, error
    )


def read_export(path: str | Path, now: float) -> Iterator[list[Entry]]:
    """Yield the entries of an export in parts.

    Args:
        path: Path of the export.
        now: Time of lines without one, in seconds since 1970.

    Raises:
        StoreError: The file cannot be read, or a line is invalid; the lines before it have been
            yielded.
    """
    part: list[Entry] = []
    try:
        # Read bytes, so that the error about a line that is not UTF-8 has its number.
        with open(path, "rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    request_key, samples, at = read_line(line)
                except (ValueError, LookupError, TypeError, AttributeError) as error:
                    yield part
                    raise StoreError(
                        f"`path` {str(path)!r}: line {number} is not a line of an export "
                        f"({error!r}). The lines before it are loaded: fix the file and load it "
                        "again."
                    ) from error
                part.append((request_key, samples, now if at is None else at))
                if len(part) == _REQUESTS_AT_ONCE:
                    yield part
                    part = []
    except OSError as error:
        raise StoreError(
            f"`path` {str(path)!r} cannot be read ({error}): give a file that `export` wrote."
        ) from error
    yield part
