"""Names and texts that storages can hold."""

from __future__ import annotations

from optuna_agenttts.support.plain import shortened

LONGEST_KEY = 512
"""Most characters of the name of a parameter, an attribute or a study: the width of the columns
in Optuna's tables (`MAX_INDEXED_STRING_LENGTH`), which PostgreSQL and MySQL enforce."""
_SHOWN = 60
"""Characters of a refused name that an error shows; chosen by hand."""


def name_problem(name: object, longest: int | None = LONGEST_KEY) -> str | None:
    """Return why not every storage can hold a name or text; None if every one can.

    Optuna's storages were tried: SQLite and gRPC refuse unpaired surrogates, PostgreSQL also the
    character NUL and longer names. Optuna would show this as an internal error of the storage, in
    the first trial.

    Args:
        name: The name.
        longest: Most characters that it may have; None for a value rather than a key.
    """
    if not isinstance(name, str):
        return f"must be a string, got {shortened(repr(name), _SHOWN)}"
    got = f"got {shortened(repr(name), _SHOWN)}"
    try:
        name.encode()
    except UnicodeEncodeError as error:
        return (
            "contains an unpaired surrogate, which cannot be encoded as UTF-8, at character "
            f"{error.start + 1}, {got}"
        )
    if "\0" in name:
        return f"contains the character NUL, which PostgreSQL cannot hold, {got}"
    if longest is not None and len(name) > longest:
        return f"must have at most {longest} characters, got {len(name)}: {got[4:]}"
    return None
