"""Results as JSON files that people can read: versioned, and equal when they are read again.

A file holds the name of what it is, the version of the format, and the fields by name. The version
changes only if a field is removed or means something else; fields that a reader does not know are
ignored.
"""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support.encoding import json_ready
from optuna_agenttts.task.allocation import Allocation, AllocationLike, StageAllocation

VERSION = 1
"""Version of the format."""
_KIND = "optuna-agenttts"
"""Field with the name of what a file holds."""
_ALLOCATION = "Allocation"
"""Name of the kind of a file with an allocation alone."""

_Saved = TypeVar("_Saved", bound="Saved")
_Read = TypeVar("_Read")


class Saved:
    """Base class of frozen dataclasses that are saved as JSON."""

    __slots__ = ()

    def to_json(self) -> str:
        """Return the values as JSON, for `from_json`."""
        return _dump(type(self).__name__, _encode(self))

    @classmethod
    def from_json(cls: type[_Saved], text: str) -> _Saved:
        """Build an equal object from the JSON of `to_json`.

        Args:
            text: The JSON.

        Raises:
            TaskError: The text is no JSON of such an object, or that of a newer version.
        """
        _, values = _parse(text, (cls.__name__,))
        found: _Saved = _decode(cls, values, cls.__name__)
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the values to a JSON file, which replaces an existing one.

        Args:
            path: Path of the file.
        """
        _write(path, self.to_json())

    @classmethod
    def load(cls: type[_Saved], path: str | os.PathLike[str]) -> _Saved:
        """Read a file of `save`.

        Args:
            path: Path of the file.

        Raises:
            TaskError: See `from_json`.
        """
        return _named(path, cls.from_json)


def save_allocation(allocation: AllocationLike, path: str | os.PathLike[str]) -> None:
    """Write an allocation to a JSON file, which replaces an existing one.

    Args:
        allocation: ``{"stage": (model, samples)}`` for every stage.
        path: The file.

    Raises:
        TaskError: It is no allocation.
    """
    try:
        pairs = {stage: tuple(setting) for stage, setting in allocation.items()}
        values = _encode({stage: StageAllocation(*pair) for stage, pair in pairs.items()})
    except (AttributeError, TypeError) as error:
        raise TaskError(
            f'`allocation` must be {{"stage": (model, samples)}}, got {allocation!r}.'
        ) from error
    _decode(Allocation, values, "allocation")
    _write(path, _dump(_ALLOCATION, {"allocation": values}))


def load_allocation(path: str | os.PathLike[str]) -> Allocation:
    """Read the allocation of a saved allocation, recommendation or point of a frontier.

    Args:
        path: A file of `save_allocation`, `Recommendation.save` or `FrontierPoint.save`.

    Raises:
        TaskError: The file holds something else, or is of a newer version.
    """

    def read(text: str) -> Allocation:
        kind, values = _parse(text, (_ALLOCATION, "Recommendation", "FrontierPoint"))
        found: Allocation = _decode(Allocation, values.get("allocation"), f"{kind}.allocation")
        return found

    return _named(path, read)


def _write(path: str | os.PathLike[str], text: str) -> None:
    """Write a file at once, so that no reader sees half of it."""
    # Processes and threads may write the same file.
    part = Path(f"{os.fspath(path)}.{os.getpid()}-{threading.get_ident()}.part")
    try:
        part.write_text(text + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _named(path: str | os.PathLike[str], read: Callable[[str], _Read]) -> _Read:
    """Read a file, and name it in errors."""
    try:
        # Some editors begin files with a byte order mark.
        return read(Path(path).read_text(encoding="utf-8-sig"))
    except (TaskError, UnicodeDecodeError) as error:
        raise TaskError(f"{os.fspath(path)!r}: {error}") from error


def _dump(kind: str, values: Mapping[str, Any]) -> str:
    head = {_KIND: kind, "version": VERSION}
    return json.dumps(head | dict(values), indent=2, ensure_ascii=False, allow_nan=False)


def _parse(text: str, kinds: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """Return what a text holds, one of `kinds`, and its values."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TaskError(f"expected JSON of a saved {kinds[0]}, but {error}.") from None
    kind = str(values.pop(_KIND, "")) if isinstance(values, dict) else ""
    if kind not in kinds:
        what = kind or f"other JSON, of type {type(values).__name__}"
        remedy = ""
        if what == "Frontier":
            remedy = " Load it with `Frontier.load`, and choose a point, such as `.at(budget)`."
        elif _ALLOCATION in kinds and not kind:
            remedy = " Write it with `save_allocation`, or with `save` of a recommendation."
        raise TaskError(f"expected a saved {' or '.join(kinds)}, got {what}.{remedy}")
    version = values.pop("version", None)
    if type(version) is not int or version < 1:
        raise TaskError(f"`version` must be a whole number above 0, got {version!r}.")
    if version > VERSION:
        raise TaskError(
            f"written by a newer optuna-agenttts in version {version} of the format, and this one "
            f"reads up to version {VERSION}: upgrade it."
        )
    return kind, values


def _encode(value: Any) -> Any:
    """Return a value as JSON-ready ones; infinities and NaN are texts."""
    return json_ready(value, lambda number: number if math.isfinite(number) else str(number))


def _decode(kind: Any, value: Any, where: str) -> Any:
    """Return a value of a type of the dataclasses' fields from JSON-ready ones."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _decode(next(one for one in arguments if one is not NoneType), value, where)
    if kind is Allocation:
        return Allocation(_decode(dict[str, StageAllocation], value, where))
    if kind is StageAllocation or is_dataclass(kind):
        return _decode_fields(kind, value, where)
    if origin is dict and isinstance(value, dict):
        item = arguments[1]
        return {key: _decode(item, one, f"{where}[{key!r}]") for key, one in value.items()}
    if origin is tuple and isinstance(value, list):
        items = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(items) == len(value):
            pairs = enumerate(zip(items, value))
            return tuple(_decode(item, one, f"{where}[{i}]") for i, (item, one) in pairs)
    if kind is float and value in ("inf", "-inf", "nan"):
        return float(value)
    if kind is float and isinstance(value, (int, float)) and not isinstance(value, bool):
        with suppress(OverflowError):
            return float(value)
    if kind in (str, int, bool) and type(value) is kind:
        return value
    wanted = getattr(origin or kind, "__name__", str(kind))
    raise TaskError(f"`{where}` must be of type {wanted}, got {value!r}.")


def _decode_fields(kind: Any, values: Any, where: str) -> Any:
    """Return an object with fields from a mapping of their values."""
    if not isinstance(values, dict):
        raise TaskError(f"`{where}` must be an object with fields, got {values!r}.")
    hints = get_type_hints(kind)
    known = fields(kind) if is_dataclass(kind) else ()
    optional = {field.name for field in known if field.default is not MISSING}
    missing = [name for name in hints if name not in {*values, *optional}]
    if missing:
        raise TaskError(f"`{where}` lacks {', '.join(missing)}.")
    found = kind(
        **{
            name: _decode(hint, values[name], f"{where}.{name}")
            for name, hint in hints.items()
            if name in values
        }
    )
    if kind is StageAllocation and found.samples < 1:
        raise TaskError(f"`{where}.samples` must be 1 or more, got {found.samples}.")
    return found
