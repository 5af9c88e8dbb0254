"""Checks of the names and texts of tasks, stages and models."""

from __future__ import annotations

from optuna_agenttts.exceptions import TaskError
from optuna_agenttts.support.names import name_problem


def check_texts(owner: str, longest: int | None = None, **texts: object) -> None:
    """Check that every storage can hold names or texts.

    Args:
        owner: Prefix of the error message.
        longest: Most characters that they may have; None for no limit.
        texts: The names or texts, by argument. A `name` must not be empty.

    Raises:
        TaskError: One is not a string, or a storage cannot hold it.
    """
    for argument, text in texts.items():
        if argument == "name" and (not isinstance(text, str) or not text):
            raise TaskError(f"{owner}: `name` must be a non-empty string, got {text!r}.")
        if (problem := name_problem(text, longest)) is not None:
            raise TaskError(f"{owner}: `{argument}` {problem}.")
