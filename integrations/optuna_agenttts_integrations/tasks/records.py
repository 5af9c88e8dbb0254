"""Records of data sets, read from files or from the Hub and validated before any request."""

from __future__ import annotations

import ast
import io
import json
import logging
import random
import re
import reprlib
import tokenize
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks.files import Unreadable, from_dataset, read_file

_logger = logging.getLogger(__name__)

Record = Mapping[str, Any]
Source = str | Path | Sequence[Record]
"""A file (``.json``, ``.jsonl``, ``.csv``, ``.parquet``), a list or table of records, or
``"hf:<data set>[:<configuration>][@<revision>]"``."""

LeftOut = Mapping[str, int]
"""Numbers of records that were left out, by reason."""

_T = TypeVar("_T")

_LISTED = 5
"""Records that an error lists with their problems. Chosen by hand: they fit on a screen."""
_NUMBER = re.compile(r"^Record \d+:? *")
# Messages go on with what was given, or with a remedy.
_GIVEN = re.compile(r", (?:but|got|only)\b|[;(]|\. ")
_NO_WORD = re.compile(r"[\W_]+")
_INDEX = re.compile(r"(?<![\w-])\d+(?!\w)")
# Items of a printed array without a comma between them. Long arrays have "..." in place of items.
_ITEMS = (tokenize.STRING, tokenize.NUMBER, tokenize.NAME)
_ADJACENT = re.compile(r"""['"\])}]\s+(?=['"\[{]|array\()""")


def read_records(
    source: Source,
    *,
    split: str = "test",
    revision: str | None = None,
    keep_unreadable: bool = False,
    deferred: Sequence[str] = (),
) -> list[Any]:
    """Read the records of a data set.

    Args:
        source: A file: JSON (a list of objects, or an object as in `records_in`), JSON lines, CSV
            with a header, Parquet or Arrow, also compressed. Or a list of records, or a table of
            `datasets` or pandas. Or a data set of the Hub, ``"hf:<data set>"``,
            ``"hf:<data set>:<configuration>"``, or either with ``"@<revision>"``.
        split: Split of a data set of the Hub, or of a `datasets.DatasetDict`.
        revision: Revision of a data set of the Hub, a tag or commit. Default: the newest.
        keep_unreadable: Whether to return records that are not objects with named fields, and
            `Unreadable` in place of lines that cannot be parsed, instead of raising.
            `read_each` reports them with the other unusable ones.
        deferred: Names of large columns of Parquet files and data sets of the Hub, which are
            loaded when they are used.

    Raises:
        DataError: The source cannot be read or has no records.
    """
    values: Any = source
    if isinstance(values, Mapping) and split in values:
        values = values[split]  # of a `datasets.DatasetDict`
    elif hasattr(values, "iterrows"):
        values = values.to_dict("records")  # of a table of pandas
    if isinstance(values, str) and values.startswith("hf:"):
        records: list[Any] = _from_hub(values.removeprefix("hf:"), split, revision, deferred)
    elif isinstance(values, str) and "://" in values:
        raise DataError(f"`source` {values!r} is a URL: download it and give the file.")
    elif isinstance(values, (str, Path)):
        records = read_file(Path(values).expanduser(), deferred)
    elif isinstance(values, Iterable) and not isinstance(values, (Mapping, bytes, io.IOBase)):
        records = from_dataset(values, deferred)
    else:
        raise DataError(
            f"`source` must be a file or a list of records, got {reprlib.repr(source)}."
        )
    if not records:
        raise DataError(f"`source` {_describe(source)} has no records.")
    if not keep_unreadable:
        for number, record in enumerate(records):
            if problem := _unreadable(record):
                raise DataError(f"`source` {_describe(source)}: record {number}{problem}.")
    return records


def read_each(
    records: Sequence[Any],
    read: Callable[[Any, int], _T],
    *,
    source: Source,
    skip_unusable: bool,
    expected: str = "",
) -> tuple[list[_T], LeftOut]:
    """Read each record of a data set by a function, and report all that cannot be used at once.

    Args:
        records: The records; see `read_records`.
        read: Function of a record and its number, from 0. It raises `DataError` for a record that
            cannot be used: "Record <number>: <reason>, got <value>. <remedy>".
        source: Where the records are from, for messages.
        skip_unusable: Whether to leave out unusable records, with a warning, instead of raising.
        expected: Files or data sets to provide if no record can be used.

    Returns:
        What was read, and the numbers of records that were left out by reason.

    Raises:
        DataError: Records cannot be used and `skip_unusable` is False, or no record can be used.
            The message lists the first five.
    """
    used: list[_T] = []
    problems: list[str] = []
    for number, record in enumerate(records):
        try:
            if problem := _unreadable(record):
                raise DataError(f"Record {number}{problem}.")
            used.append(read(record, number))
        except DataError as error:
            problems.append(str(error))
    if problems and not (skip_unusable and used):
        listed = problems[:_LISTED]
        if len(problems) > _LISTED:
            listed.append(f"... and {len(problems) - _LISTED:,} more.")
        remedy = ", or leave them out with `skip_unusable=True`" if used else ""
        if expected and not used:
            remedy = f", or provide {expected}"
        raise DataError(
            f"`source` {_describe(source)}: {len(problems):,} of {len(records):,} records cannot "
            "be used:\n" + "\n".join(listed) + f"\nCorrect them{remedy}."
        )
    left_out = dict(Counter(map(_reason, problems)).most_common())
    if left_out:
        _logger.warning(
            "%d of %d records of `source` %s are left out: %s.",
            len(problems),
            len(records),
            _describe(source),
            "; ".join(f"{count} x {reason}" for reason, count in left_out.items()),
        )
    return used, left_out


def _unreadable(record: Any) -> str | None:
    """Return why a record is no object with named fields, to follow its number."""
    if isinstance(record, Unreadable):
        return f": {record.problem}"
    if not isinstance(record, Mapping):
        return f" must be an object with named fields, got a {type(record).__name__}"
    return None


def _reason(problem: str) -> str:
    """Return the part of a message that it shares with those of other records."""
    shared = _GIVEN.split(_NUMBER.sub("", problem), maxsplit=1)[0]
    return _INDEX.sub("N", shared).strip().rstrip(".")


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


def _from_hub(name: str, split: str, revision: str | None, deferred: Sequence[str]) -> list[Any]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            "`source` is a data set of the Hub, which needs the package `datasets`: "
            "pip install 'optuna-agenttts[datasets]', or give a file."
        ) from error
    name, _, named = name.partition("@")
    if named and revision not in (None, named):
        raise DataError(
            f"`revision` must be that of `source`, {named!r}, or omitted; got {revision!r}."
        )
    revision = named or revision
    path, _, configuration = name.partition(":")
    try:
        loaded = datasets.load_dataset(path, configuration or None, split=split, revision=revision)
    # Errors come from datasets, huggingface_hub, the HTTP library or the file system.
    except Exception as error:
        raise DataError(
            f"`source` 'hf:{name}', split {split!r}, cannot be loaded: "
            f"{type(error).__name__}: {error}."
        ) from error
    return from_dataset(loaded, deferred)


def with_distinct_ids(instances: Iterable[_T], form: str) -> list[_T]:
    """Return instances of which those that repeat an earlier ID have another one.

    Args:
        instances: Frozen dataclasses with a field ``id``.
        form: Format of other IDs, from the ``id`` and the ``number`` of the instance.
    """
    ids: set[str] = set()
    found: list[Any] = list(instances)
    for number, instance in enumerate(found):
        if instance.id in ids:
            name = form.format(id=instance.id, number=number)
            found[number] = replace(instance, id=name)
        ids.add(found[number].id)
    return found


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


def nested(value: Any) -> Any:
    """Return a nested value of a record, which tables hold as text or as an array.

    Args:
        value: A value, the text of a list or an object in JSON or as Python prints it, also with
            arrays, or an array. Other texts are returned as they are.
    """
    if isinstance(value, str) and value.lstrip().startswith(("[", "{", "array(")):
        for parse in (json.loads, _printed):
            try:
                return parse(value)
            except (ValueError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError):
                continue
    return value.tolist() if hasattr(value, "tolist") else value


def is_cut(value: Any) -> bool:
    """Return whether a value that `nested` returns is the beginning of a list or an object."""
    return isinstance(value, str) and value.lstrip().startswith(('["', "['", "[{", "[[", '{"'))


class _Arrays(ast.NodeTransformer):
    """Replaces the arrays that pandas prints, ``array([...], dtype=object)``, by their lists."""

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        is_array = isinstance(node.func, ast.Name) and node.func.id == "array" and node.args
        return node.args[0] if is_array else node


def _printed(text: str) -> Any:
    return ast.literal_eval(_Arrays().visit(ast.parse(_with_commas(text.strip()), mode="eval")))


def _with_commas(text: str) -> str:
    """Add the commas that NumPy leaves out between items when it prints an array.

    Without them, Python joins neighboring strings into one.
    """
    if not _ADJACENT.search(text):
        return text
    parts: list[str] = []
    ended = False
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        value = token.type in _ITEMS or token.string == "..."
        if ended and (value or token.string in ("[", "{")):
            parts.append(",")
        if token.string.strip():
            parts.append(token.string)
            ended = value or token.string in ("]", "}", ")")
    return " ".join(parts)


def question_key(text: str) -> str:
    """Return a key that is equal for the same question in different typography.

    The key has the words only, without case, punctuation and white space.

    Args:
        text: The question.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_NO_WORD.sub(" ", text).split()) or text


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

    The order is that of `random.Random(seed).shuffle` on the distinct instances in the given
    order, on all versions of Python that the package supports.

    Args:
        instances: The instances.
        search: Number of instances for the search.
        seed: Seed of the shuffle.
        content: Key that identifies duplicates, such as `question_key`; the first of several is
            kept.

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
