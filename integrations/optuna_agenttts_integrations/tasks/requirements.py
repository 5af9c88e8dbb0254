"""Requirements for programs, in the forms of SRDD (ChatDev, arXiv 2307.07924)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna_agenttts_integrations.exceptions import DataError
from optuna_agenttts_integrations.tasks.records import (
    LeftOut,
    Record,
    Source,
    get_field,
    question_key,
    read_each,
    single_line,
    with_distinct_ids,
)

# Names of fields: of SRDD's table, in lower case, and of the table of its checks.
_NAME = ("id", "Name", "name", "SoftwareName", "names")
_DESCRIPTION = ("Description", "description", "SoftwareDescription", "tasks")
_CATEGORY = ("Category", "category", "SoftwareCategory")


@dataclass(frozen=True, slots=True)
class Software:
    """Requirement for a program.

    Args:
        id: The identifier.
        description: The description of the program, on one line.
        category: The category of the program.
    """

    id: str
    description: str
    category: str

    @property
    def overlap_key(self) -> str:
        """Key that is equal for the same description in different typography."""
        return question_key(self.description)


def read_requirements(
    records: Sequence[Any], *, source: Source, skip_unusable: bool
) -> tuple[list[Software], LeftOut]:
    """Read requirements.

    Args:
        records: SRDD's records with ``Name``, ``Description`` and ``Category``, also in lower
            case. Or one record of the lists ``names`` and ``tasks``, as in the ``tasks.json`` of
            AgentTTS's authors.
        source: Where the records are from, for messages.
        skip_unusable: Whether to leave out invalid records; see `read_each`.

    Raises:
        DataError: Records are invalid; see `read_each`.
    """
    single = [record for record in records for record in _unfolded(record)]
    found, left_out = read_each(
        single,
        _read_requirement,
        source=source,
        skip_unusable=skip_unusable,
        expected="SRDD's data_attribute_format.csv, or AgentTTS's tasks.json",
    )
    return with_distinct_ids(found, "{id} ({number})"), left_out


def _unfolded(record: Any) -> Iterator[Any]:
    """Yield a record, or the records of one whose fields are lists."""
    tasks = record.get("tasks") if isinstance(record, Mapping) else None
    if not isinstance(tasks, list):
        yield record
        return
    names = record.get("names")
    if not isinstance(names, list) or len(names) != len(tasks):
        raise DataError(
            "`source` has the list `tasks`, and needs a list `names` of the same length."
        )
    for name, task in zip(names, tasks):
        yield {"Name": name, "Description": task}


def _read_requirement(record: Record, number: int) -> Software:
    description = get_field(record, number, _DESCRIPTION, str)
    name, category = (
        next((str(record[key]) for key in keys if record.get(key)), "")
        for keys in (_NAME, _CATEGORY)
    )
    return Software(
        id=name or str(number),
        # Unpaired surrogates cannot be encoded as UTF-8 and are replaced.
        description=single_line(description.encode("utf-8", "replace").decode()),
        category=category,
    )
