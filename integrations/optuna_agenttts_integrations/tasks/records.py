"""Records of data sets, read from files or from the Hub and validated before any request."""

from __future__ import annotations

import csv
import io
import json
import random
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from optuna_agenttts_integrations.exceptions import DataError

Record = Mapping[str, Any]
Source = str | Path | Sequence[Record]
"""A file (``.json``, ``.jsonl``, ``.csv``), a list of records, or
``"hf:<data set>[:<configuration>]"``."""

_T = TypeVar("_T")


def read_records(source: Source, *, split: str = "test", revision: str | None = None) -> list[Any]:
    """Read the records of a data set.

    Args:
        source: A file: JSON (a list of objects, or an object with one such list), JSON lines, or
            CSV with a header. Or a list of records. Or a data set of the Hub,
            ``"hf:<data set>"`` or ``"hf:<data set>:<configuration>"``.
        split: Split of a data set of the Hub.
        revision: Revision of a data set of the Hub, a tag or commit. Default: the newest.

    Raises:
        DataError: The source cannot be read or has no records.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        records: list[Any] = _from_hub(source.removeprefix("hf:"), split, revision)
    elif isinstance(source, (str, Path)):
        records = _from_file(Path(source))
    elif isinstance(source, Iterable) and not isinstance(source, (Mapping, bytes)):
        records = list(source)
    else:
        raise DataError(
            f"`source` must be a file or a list of records, got {reprlib.repr(source)}."
        )
    if not records:
        raise DataError(f"`source` {_describe(source)} has no records.")
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise DataError(
                f"`source` {_describe(source)}: record {number} must be an object with named "
                f"fields, got a {type(record).__name__}."
            )
    return records


def sample_path(name: str) -> Path:
    """Return the path of a small made-up data set that comes with the package.

    Args:
        name: The name of its file, such as ``"hotpot_qa.json"``.

    Raises:
        DataError: The package has no such file.
    """
    folder = Path(__file__).with_name("samples")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if name not in names:
        raise DataError(f"`name` must be one of {', '.join(names)}; got {name!r}.")
    return folder / name


def _from_file(path: Path) -> list[Any]:
    try:
        # Spreadsheets write a byte order mark; it must not become part of the first name.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"`source` {str(path)!r} cannot be read: {error}.") from error
    suffix = path.suffix.lower()
    try:
        records = _from_csv(text) if suffix == ".csv" else _from_json(text, suffix == ".jsonl")
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"`source` {str(path)!r} must be JSON, JSON lines or CSV: {error}."
        ) from error
    if "\\ud" in text.lower():
        _refuse_surrogates(path, records)
    return records


def _from_csv(text: str) -> list[Any]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    records = []
    for record in reader:
        # `DictReader` files extra fields under None and fills missing ones with None.
        if None in record or None in record.values():
            raise ValueError(
                f"line {reader.line_num} and the header differ in their number of fields"
            )
        records.append(record)
    return records


def _from_json(text: str, lines: bool) -> list[Any]:
    try:
        values = None if lines else json.loads(text)
    except (ValueError, RecursionError) as error:
        return _json_lines(text, f"invalid JSON ({error})")
    if lines:
        return _json_lines(text, None)
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
            whole = json_error if not records else None
            raise ValueError(whole or f"line {number} is invalid JSON ({error})") from error
    return records


def _refuse_surrogates(path: Path, records: Iterable[Any]) -> None:
    for number, record in enumerate(records):
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"`source` {str(path)!r}: record {number} contains an unpaired surrogate and "
                f"cannot be encoded as UTF-8 ({error.reason})."
            ) from error


def _from_hub(name: str, split: str, revision: str | None) -> list[Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "`source` is a data set of the Hub, which needs the package `datasets`: "
            "pip install 'optuna-agenttts[datasets]', or give a file."
        ) from error
    path, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, configuration or None, split=split, revision=revision)
    # Errors come from datasets, huggingface_hub, the HTTP library or the file system.
    except Exception as error:
        raise DataError(
            f"`source` 'hf:{name}', split {split!r}, cannot be loaded: "
            f"{type(error).__name__}: {error}."
        ) from error
    return list(loaded)


def get_field(record: Record, number: int, names: str | Iterable[str], kind: type[_T]) -> _T:
    """Return a field of a record.

    Args:
        record: The record.
        number: The record's position, for error messages.
        names: Alternative names of the field; the first with a valid value counts.
        kind: The type of the value.

    Raises:
        DataError: The field is missing, empty or of another type.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        value = record.get(name)
        if isinstance(value, kind) and not (isinstance(value, str) and not value.strip()):
            return value
    expected = "a non-empty string" if kind is str else f"a {kind.__name__}"
    raise _field_error(record, number, expected, names)


def get_texts(record: Record, number: int, names: str | Iterable[str]) -> tuple[str, ...]:
    """Return the distinct non-empty strings of a field that is a string or a list of strings.

    Args:
        record: The record.
        number: The record's position, for error messages.
        names: Alternative names of the field; the first with a valid value counts.

    Raises:
        DataError: The field is missing, of another type, or has no non-empty string.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        value = record.get(name)
        if isinstance(value, str):
            value = [value]
        if isinstance(value, (list, tuple)) and all(isinstance(text, str) for text in value):
            found = tuple(dict.fromkeys(text.strip() for text in value if text.strip()))
            if found:
                return found
    raise _field_error(record, number, "a non-empty string or a list of such", names)


def single_line(text: str) -> str:
    """Replace white space by single blanks, so that a text is one entry of a list of lines."""
    return " ".join(text.split())


def _field_error(record: Record, number: int, expected: str, names: Sequence[str]) -> DataError:
    found = [f"{name!r} is {reprlib.repr(record[name])}" for name in names if name in record]
    got = " and ".join(found) or f"the record has only {', '.join(sorted(map(str, record)))}"
    wanted = " or ".join(repr(name) for name in names)
    return DataError(f"Record {number}: field {wanted} must be {expected}, but {got}.")


def split_instances(
    instances: Sequence[_T],
    *,
    search: int,
    seed: int,
    content: Callable[[_T], Any] = lambda instance: instance,
) -> tuple[tuple[_T, ...], tuple[_T, ...]]:
    """Shuffle instances and split them into those for the search and those held out.

    Args:
        instances: The instances.
        search: Number of instances for the search.
        seed: Seed of the shuffle.
        content: Key that identifies duplicates; the first of several is kept.

    Returns:
        The instances for the search, and the others.

    Raises:
        DataError: `search` is not an integer from 1 to the number of distinct instances.
    """
    shuffled = list({content(instance): instance for instance in reversed(instances)}.values())
    shuffled.reverse()
    if not isinstance(search, int) or not 1 <= search <= len(shuffled):
        raise DataError(
            f"`search` must be an integer from 1 to {len(shuffled)}, the number of distinct "
            f"instances; got {search!r}."
        )
    random.Random(seed).shuffle(shuffled)
    return tuple(shuffled[:search]), tuple(shuffled[search:])


def _describe(source: Source) -> str:
    return repr(str(source)) if isinstance(source, (str, Path)) else "a list"
