"""Records in files: JSON, JSON lines, CSV and Parquet, also compressed."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import logging
import lzma
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.exceptions import DataError

_logger = logging.getLogger(__name__)

_DELIMITERS = ",;\t"
_TABLES = (".csv", ".tsv")
_NO_TEXT = {
    b"PAR1": "it is a Parquet file; rename it to end in .parquet",
    b"version https://git-lfs": "it is a pointer of Git LFS; download the file by `git lfs pull`",
}
"""Beginnings of files that are downloaded instead of data, and what to do."""
_PACKED: dict[bytes, Callable[[bytes], bytes]] = {
    b"\x1f\x8b": gzip.decompress,
    b"BZh": bz2.decompress,
    b"\xfd7zXZ": lzma.decompress,
}
_BETWEEN = re.compile(r"[\s,]*")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record of a file that cannot be read, in its place among the others.

    Args:
        problem: Why, such as ``"line 3 is invalid JSON (...)"``.
    """

    problem: str


def read_file(path: Path, deferred: Sequence[str] = ()) -> list[Any]:
    """Read the records of a file by its suffix: ``.csv``, ``.jsonl``, ``.parquet``, or JSON.

    Files compressed by gzip, bzip2 or xz, and ZIP archives of one file, are unpacked. JSON files
    that are no JSON document are read as objects one after the other, such as JSON lines. CSV
    files have a header, and commas, semicolons or tabs between fields. Files without UTF-8 text
    are read as UTF-16 if they begin with its byte order mark; CSV files otherwise as
    Windows-1252, with a warning.

    Args:
        path: The file.
        deferred: Names of columns of a Parquet file that are loaded when they are used.

    Returns:
        The records; an `Unreadable` in place of those that cannot be read.

    Raises:
        DataError: The file or all of its records cannot be read.
    """
    if path.suffix.lower() in (".parquet", ".arrow"):
        return _from_parquet(path, deferred)
    try:
        name, content = _unpacked(path)
        is_table = Path(name).suffix.lower() in _TABLES
        text = _decoded(content, path, fallback="cp1252" if is_table else None)
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    # Damaged archives raise the errors of their libraries.
    except (
        OSError,
        ValueError,
        EOFError,
        zlib.error,
        zipfile.BadZipFile,
        lzma.LZMAError,
    ) as error:
        raise DataError(f"`source` {str(path)!r} cannot be read: {error}.") from error
    try:
        records = _from_csv(text) if is_table else _from_json(text, name.endswith(".jsonl"))
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"`source` {str(path)!r} must be JSON, JSON lines, CSV or Parquet: {error}."
        ) from error
    if "\\ud" in text.lower():
        records = [_without_surrogates(record) for record in records]
    return records


def _unpacked(path: Path) -> tuple[str, bytes]:
    """Return the content of a file, and its name in lower case without the suffix of archives."""
    name, content = path.name.lower(), path.read_bytes()
    for start, unpack in _PACKED.items():
        if content.startswith(start):
            return name.removesuffix(path.suffix.lower()) or name, unpack(content)
    if not content.startswith(b"PK\x03\x04"):
        return name, content
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
        names = [name for name in names if not name.startswith(("__MACOSX/", "."))]
        if len(names) != 1:
            raise ValueError(f"it is a ZIP archive of {', '.join(names)}; unpack it and name one")
        return names[0].lower(), archive.read(names[0])


def _decoded(content: bytes, path: Path, fallback: str | None) -> str:
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
    return records_in(values)


def records_in(values: Any) -> list[Any]:
    """Return the records of a decoded JSON document.

    Args:
        values: A list of records, or an object: with one list of records, also deeper inside,
            such as a page of the Hub's viewer; of records by their IDs; of columns, as tables are
            written by pandas; or a record, as a JSON lines file of one line.

    Raises:
        ValueError: It has several lists of records.
    """
    if not isinstance(values, Mapping):
        return list(map(_of_viewer, values)) if isinstance(values, list) else [values]
    entries = list(values.values())
    if set(values) == {"columns", "index", "data"}:
        return [dict(zip(values["columns"], row)) for row in values["data"]]
    if "features" in values and isinstance(values.get("rows"), list):
        return list(map(_of_viewer, values["rows"]))
    lists = {
        name: value
        for name, value in values.items()
        if isinstance(value, list) and all(isinstance(entry, Mapping) for entry in value)
    }
    if len(lists) == len(values) > 1:
        raise ValueError(f"it has several lists of records: {', '.join(lists)}. Give one of them")
    are_lists = len(values) > 1 and all(isinstance(entry, list) for entry in entries)
    if are_lists and len(set(map(len, entries))) == 1:
        return [dict(zip(values, row)) for row in zip(*entries)]
    found = [value for value in lists.values() if value or len(values) == 1]
    if len(found) == 1:
        return list(map(_of_viewer, found[0]))
    if entries and all(isinstance(entry, Mapping) for entry in entries):
        if len(entries) == 1:
            return records_in(entries[0])
        by_row = all(str(name).isdigit() for entry in entries for name in entry)
        return _rows(values) if by_row else entries
    return [values]


def _rows(columns: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Return the rows of columns, each with its values by the numbers of rows."""
    numbers = dict.fromkeys(number for column in columns.values() for number in column)
    return [
        {name: column[number] for name, column in columns.items() if number in column}
        for number in numbers
    ]


def _of_viewer(record: Any) -> Any:
    """Return the record in a row of the Hub's viewer; others unchanged."""
    if not isinstance(record, Mapping) or not {"row", "truncated_cells"} <= set(record):
        return record
    if cut := record["truncated_cells"]:
        names = ", ".join(map(str, cut))
        return Unreadable(f"the Hub's viewer has cut {names}; download the data set instead")
    return record["row"]


def _json_lines(text: str, json_error: str | None) -> list[Any]:
    """Parse values that follow each other, or one per line where some cannot be parsed.

    `json_error` is why the whole text is no JSON document.
    """
    records: list[Any] = []
    decoder, position = json.JSONDecoder(), _end(text, 0)
    try:
        while position < len(text):
            value, position = decoder.raw_decode(text, position)
            records.append(value)
            position = _end(text, position)
        return records
    except (ValueError, RecursionError):
        records = []
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


def _end(text: str, position: int) -> int:
    """Return the end of white space and commas at a position."""
    found = _BETWEEN.match(text, position)
    return found.end() if found else position


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
            f"`source` is a {path.suffix} file, which needs the package `datasets`: "
            "pip install 'optuna-agenttts[datasets]', or give JSON, JSON lines or CSV."
        ) from error
    try:
        is_arrow = path.suffix.lower() == ".arrow"
        table = datasets.Dataset.from_file(str(path)) if is_arrow else parquet.read_table(path)
        return from_dataset(table if is_arrow else datasets.Dataset(table), deferred)
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
