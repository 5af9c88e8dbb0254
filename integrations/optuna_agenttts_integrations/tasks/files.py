"""Records in files: JSON, JSON lines, CSV and Parquet."""

from __future__ import annotations

import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import DataError

_logger = logging.getLogger(__name__)

_DELIMITERS = ",;\t"
_NO_TEXT = {
    b"PK\x03\x04": "it is a ZIP archive; unpack it",
    b"\x1f\x8b": "it is compressed by gzip; unpack it",
    b"PAR1": "it is a Parquet file; rename it to end in .parquet",
    b"version https://git-lfs": "it is a pointer of Git LFS; download the file by `git lfs pull`",
}
"""Beginnings of files that are downloaded instead of data, and what to do."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of a file that cannot be read, in its place among the others.

    Args:
        problem: Why, such as ``"line 3 is invalid JSON (...)"``.
    """

    problem: str


def read_file(path: Path, deferred: Sequence[str] = ()) -> list[Any]:
    """Read the records of a file by its suffix: ``.csv``, ``.jsonl``, ``.parquet``, or JSON.

    JSON files that are no JSON document are read as JSON lines. CSV files have a header, and
    commas, semicolons or tabs between fields. Files without UTF-8 text are read as UTF-16 if they
    begin with its byte order mark; CSV files otherwise as Windows-1252, with a warning.

    Args:
        path: The file.
        deferred: Names of columns of a Parquet file that are loaded when they are used.

    Returns:
        The records; an `Unreadable` in place of those that cannot be read.

    Raises:
        DataError: The file or all of its records cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return _from_parquet(path, deferred)
    try:
        text = _decoded(path, fallback="cp1252" if suffix == ".csv" else None)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    except (OSError, ValueError) as error:
        raise DataError(f"`source` {str(path)!r} cannot be read: {error}.") from error
    try:
        records = _from_csv(text) if suffix == ".csv" else _from_json(text, suffix == ".jsonl")
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"`source` {str(path)!r} must be JSON, JSON lines, CSV or Parquet: {error}."
        ) from error
    if "\\ud" in text.lower():
        records = [_without_surrogates(record) for record in records]
    return records


def _decoded(path: Path, fallback: str | None) -> str:
    content = path.read_bytes()
    for start, remedy in _NO_TEXT.items():
        if content.startswith(start):
            raise ValueError(remedy)
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16")
    try:
        # Spreadsheets write a byte order mark; it must not become part of the first name.
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if fallback is None:
            raise
        _logger.warning(
            "The file %s is not UTF-8. It is read as Windows-1252: check letters with accents, or "
            "save it as UTF-8.",
            path,
        )
        return content.decode(fallback)


def _from_csv(text: str) -> list[Any]:
    header = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
    # The limit of the library, 131,072 characters, is less than a graph or a hundred passages.
    limit = csv.field_size_limit(sys.maxsize)
    try:
        return list(map(_checked_row, reader, _line_numbers(reader)))
    finally:
        csv.field_size_limit(limit)


def _line_numbers(reader: csv.DictReader[str]) -> Iterator[int]:
    while True:
        yield reader.line_num


def _checked_row(row: dict[Any, Any], line: int) -> Any:
    # `DictReader` files extra fields under None and fills missing ones with None.
    if None in row or None in row.values():
        return Unreadable(f"line {line} and the header differ in their number of fields")
    return row


def _from_json(text: str, lines: bool) -> list[Any]:
    if lines:
        return _json_lines(text, None)
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _json_lines(text, f"invalid JSON ({error})")
    if isinstance(values, Mapping):
        lists = [
            value
            for value in values.values()
            if isinstance(value, list)
            and all(isinstance(entry, Mapping) for entry in value)
            and (value or len(values) == 1)
        ]
        # A single object may be a JSON lines file of one line.
        return lists[0] if len(lists) == 1 else [values]
    return values if isinstance(values, list) else [values]


def _json_lines(text: str, json_error: str | None) -> list[Any]:
    """Parse one record per line; `json_error` is why the whole text is no JSON document."""
    records: list[Any] = []
    # Not `splitlines`: strings in JSON can contain other line separators unescaped.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            if not records and json_error is not None:
                raise ValueError(json_error) from error
            records.append(Unreadable(f"line {number} is invalid JSON ({error})"))
    if records and all(isinstance(record, Unreadable) for record in records):
        raise ValueError(records[0].problem)
    return records


def _without_surrogates(record: Any) -> Any:
    if isinstance(record, Unreadable):
        return record
    try:
        json.dumps(record, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        return Unreadable(
            f"a string has an unpaired surrogate and cannot be encoded as UTF-8 ({error.reason})"
        )
    return record


def _from_parquet(path: Path, deferred: Sequence[str]) -> list[Any]:
    try:
        import datasets
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            "`source` is a Parquet file, which needs the package `datasets`: "
            "pip install 'optuna-agenttts[datasets]', or give JSON, JSON lines or CSV."
        ) from error
    try:
        return from_dataset(datasets.Dataset(parquet.read_table(path)), deferred)
    # Errors come from pyarrow, some of them not derived from its own, or the file system.
    except Exception as error:
        raise DataError(
            f"`source` {str(path)!r} cannot be read: {type(error).__name__}: {error}."
        ) from error


class DeferredRecord(Mapping[str, Any]):
    """A record some of whose columns are loaded when they are used.

    Args:
        values: The other columns.
        deferred: Functions that load a column, by its name.
    """

    def __init__(
        self, values: Mapping[str, Any], deferred: Mapping[str, Callable[[], Any]]
    ) -> None:
        self.values_read = values
        self.deferred = deferred

    def __getitem__(self, name: str) -> Any:
        return self.deferred[name]() if name in self.deferred else self.values_read[name]

    def __contains__(self, name: object) -> bool:
        return name in self.deferred or name in self.values_read

    def __iter__(self) -> Iterator[str]:
        return iter((*self.values_read, *self.deferred))

    def __len__(self) -> int:
        return len(self.values_read) + len(self.deferred)


def from_dataset(loaded: Iterable[Any], deferred: Sequence[str] = ()) -> list[Any]:
    """Return the records of a `datasets.Dataset`, of the Hub or of a Parquet file.

    Args:
        loaded: The data set.
        deferred: Names of columns that are loaded when they are used, because they are large.
    """
    late = [name for name in deferred if name in getattr(loaded, "column_names", ())]
    if not late:
        return list(loaded)
    table: Any = loaded
    arrow = table.with_format("arrow")
    return [
        DeferredRecord(values, {name: partial(_cell, arrow, number, name) for name in late})
        for number, values in enumerate(table.remove_columns(late))
    ]


def _cell(table: Any, row: int, name: str) -> Any:
    """Return a value of a data set in the format of Arrow.

    A list of equally long lists is converted as one list: four times as fast.
    """
    column = table[row : row + 1].column(name).combine_chunks()
    column = column.chunk(0) if hasattr(column, "chunk") else column
    try:
        lists = column.flatten()
        (length,) = lists.value_lengths().unique().to_pylist()
        values = lists.flatten().to_pylist()
        return list(zip(*[iter(values)] * length, strict=True))
    except (AttributeError, TypeError, ValueError):
        return column.to_pylist()[0]
