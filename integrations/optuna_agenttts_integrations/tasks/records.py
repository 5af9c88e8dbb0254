"""Records of data sets: read from files or from the Hub, and checked before anything is asked."""

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
"""A file (``.json``, ``.jsonl``, ``.csv``), records, or ``"hf:<data set>[:<configuration>]"``."""

_T = TypeVar("_T")


def read_records(source: Source, *, split: str = "test", revision: str | None = None) -> list[Any]:
    """Read the records of a data set.

    Args:
        source: A file: JSON (a list, or an object with one list of objects, which is meant), JSON
            lines, or CSV with a header; records that were read already; or
            ``"hf:rmanluo/RoG-cwq"`` for a data set of the Hub, with its configuration after
            another colon.
        split: Split of a data set of the Hub.
        revision: Its revision, a tag or commit. Default: the newest.

    Raises:
        DataError: The source cannot be read, or holds no records.
    """
    if isinstance(source, str) and source.startswith("hf:"):
        records: list[Any] = _from_hub(source.removeprefix("hf:"), split, revision)
    elif isinstance(source, (str, Path)):
        records = _from_file(Path(source))
    elif isinstance(source, Iterable) and not isinstance(source, (Mapping, bytes)):
        records = list(source)
    else:
        raise DataError(f"`source` is {reprlib.repr(source)}: give a file or a list of records.")
    if not records:
        raise DataError(f"`source` is {_shown(source)}: it holds no records.")
    for number, record in enumerate(records):
        if not isinstance(record, Mapping):
            raise DataError(
                f"`source` is {_shown(source)}: record {number} is a {type(record).__name__}, not "
                "an object with named fields."
            )
    return records


def sample_path(name: str) -> Path:
    """The path of a small data set that comes with the package: made-up questions to try with.

    Args:
        name: Its file, such as ``"hotpot_qa.json"``.

    Raises:
        DataError: There is none of that name.
    """
    folder = Path(__file__).with_name("samples")
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    if name not in names:
        raise DataError(f"`name` is {name!r}: there are {', '.join(names)}.")
    return folder / name


def _from_file(path: Path) -> list[Any]:
    try:
        # A mark of byte order, as spreadsheets write it, is no part of the first name.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"`source` is {str(path)!r}: it cannot be read ({error}).") from error
    suffix = path.suffix.lower()
    try:
        records = _from_csv(text) if suffix == ".csv" else _from_json(text, suffix == ".jsonl")
    except (ValueError, csv.Error) as error:
        raise DataError(
            f"`source` is {str(path)!r}: {error}: give JSON, JSON lines or CSV."
        ) from error
    if "\\ud" in text.lower():
        _refuse_surrogates(path, records)
    return records


def _from_csv(text: str) -> list[Any]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    records = []
    for record in reader:
        # Fields beyond the header's, and those that a row lacks.
        if None in record or None in record.values():
            raise ValueError(f"line {reader.line_num} has not as many fields as the header")
        records.append(record)
    return records


def _from_json(text: str, lines: bool) -> list[Any]:
    try:
        values = None if lines else json.loads(text)
    except (ValueError, RecursionError) as error:
        return _json_lines(text, f"no JSON ({error})")
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
        # A file of one line is JSON and JSON lines at once.
        return lists[0] if len(lists) == 1 else [values]
    return values if isinstance(values, list) else [values]


def _json_lines(text: str, whole: str | None) -> list[Any]:
    """Records of one line each; `whole` says why the text as a whole is none."""
    records: list[Any] = []
    # Not `splitlines`: texts in JSON may hold other separators of lines as they are.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            first = whole if whole is not None and not records else None
            raise ValueError(first or f"line {number} is no JSON ({error})") from error
    return records


def _refuse_surrogates(path: Path, records: Iterable[Any]) -> None:
    for number, record in enumerate(records):
        try:
            json.dumps(record, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"`source` is {str(path)!r}: record {number} holds half a character "
                f"({error.reason}), which cannot be sent to a model."
            ) from error


def _from_hub(name: str, split: str, revision: str | None) -> list[Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "`source` names a data set of the Hub, and `datasets` is not installed: "
            "pip install 'optuna-agenttts[datasets]', or give a file."
        ) from error
    path, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, configuration or None, split=split, revision=revision)
    # It raises errors of its own, of huggingface_hub, of its HTTP library and of the system.
    except Exception as error:
        raise DataError(
            f"`source` is 'hf:{name}' and `split` is {split!r}: the data set cannot be loaded "
            f"({type(error).__name__}: {error})."
        ) from error
    return list(loaded)


def field(record: Record, number: int, names: str | Iterable[str], kind: type[_T]) -> _T:
    """A field of a record, under any of its names.

    Raises:
        DataError: It is missing, empty or of another type.
    """
    names = (names,) if isinstance(names, str) else tuple(names)
    for name in names:
        value = record.get(name)
        if isinstance(value, kind) and not (isinstance(value, str) and not value.strip()):
            return value
    raise _lacks(record, number, kind.__name__, names)


def texts(record: Record, number: int, names: str | Iterable[str]) -> tuple[str, ...]:
    """A field that is a text or a list of texts, without repetitions and empty ones.

    Raises:
        DataError: It is missing or of another type, or nothing is left.
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
    raise _lacks(record, number, "text", names)


def on_one_line(text: str) -> str:
    """A text on one line, so that no part of it passes for another one of a list."""
    return " ".join(text.split())


def _lacks(record: Record, number: int, what: str, names: Sequence[str]) -> DataError:
    wanted = " or ".join(repr(name) for name in names)
    found = [f"{name!r} is {reprlib.repr(record[name])}" for name in names if name in record]
    has = " and ".join(found) or f"it has the fields {', '.join(sorted(map(str, record)))}"
    return DataError(f"Record {number} has no {what} in {wanted}: {has}.")


def split_instances(
    instances: Sequence[_T],
    *,
    search: int,
    seed: int,
    content: Callable[[_T], Any] = lambda instance: instance,
) -> tuple[tuple[_T, ...], tuple[_T, ...]]:
    """Divide instances, in a seeded shuffle, into those to search on and those to hold out.

    Args:
        instances: The instances.
        search: How many to search on.
        seed: Of the shuffle.
        content: What makes two instances the same; of the same, one is kept.

    Raises:
        DataError: `search` is no whole number from 1 to how many different instances there are.
    """
    shuffled = list({content(instance): instance for instance in reversed(instances)}.values())
    shuffled.reverse()
    if not isinstance(search, int) or not 1 <= search <= len(shuffled):
        raise DataError(
            f"`search` is {search!r} and there are {len(shuffled)} different instances: give a "
            f"whole number from 1 to {len(shuffled)}."
        )
    random.Random(seed).shuffle(shuffled)
    return tuple(shuffled[:search]), tuple(shuffled[search:])


def _shown(source: Source) -> str:
    return repr(str(source)) if isinstance(source, (str, Path)) else "a list"
