"""Rows as pandas DataFrames; pandas is imported on first use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna_agenttts.exceptions import AgentTTSError

if TYPE_CHECKING:
    from pandas import DataFrame


def to_frame(
    caller: str, rows: Iterable[Mapping[Any, Any]], columns: Sequence[Any] = ()
) -> DataFrame:
    """Return rows as a pandas DataFrame.

    Args:
        caller: Name of the calling function, for the message.
        rows: The rows, by column.
        columns: The first columns, which exist even without rows.

    Raises:
        AgentTTSError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise AgentTTSError(
            f"`{caller}` needs pandas: run `pip install optuna-agenttts[pandas]`."
        ) from error
    found = list(rows)
    names = dict.fromkeys([*columns, *(name for row in found for name in row)])
    return pandas.DataFrame(found, columns=list(names))
