"""Objectives that users name as ``module:name``."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter
from pathlib import Path

from optuna_agenttts import AgentTTSError
from optuna_agenttts_integrations.objective import MultiStageObjective

IMPORT_NOTE = (
    "my_module is imported from the Python path or the current folder. Code that starts a\n"
    "search must be under `if __name__ == '__main__':`, or importing it starts the search."
)
"""End of the help of commands that take ``module:name``."""


@contextmanager
def open_objective(name: str) -> Iterator[MultiStageObjective]:
    """Import or build an objective; the current folder is on `sys.path` while it is in use.

    Args:
        name: ``module:attribute`` of an objective, or of a function that returns one.

    Raises:
        AgentTTSError: The name is invalid, or importing or calling it fails.
    """
    module, _, attribute = name.partition(":")
    parts = f"{module}.{attribute}".split(".")
    if module.endswith(".py") or not all(part.isidentifier() for part in parts):
        raise AgentTTSError(
            f"{name!r} is neither a server ('hf', or a URL such as 'http://127.0.0.1:8080') nor "
            "'module:name' of an objective. Write the module as in `import`: without '.py', with "
            "dots between folders."
        )
    before = list(sys.path)
    sys.path.insert(0, str(Path.cwd()))
    importlib.invalidate_caches()
    try:
        with _user_code(f"Importing {module!r}"):
            imported = importlib.import_module(module)
        try:
            found = attrgetter(attribute)(imported)
        except AttributeError as error:
            raise AgentTTSError(f"{name!r} does not exist: {error}.") from error
        if callable(found) and not isinstance(found, MultiStageObjective):
            with _user_code(f"Calling {name!r} without arguments"):
                found = found()
        if not isinstance(found, MultiStageObjective):
            raise AgentTTSError(
                f"{name!r} must be a MultiStageObjective, or a function that returns one, got "
                f"{type(found).__name__}."
            )
        with found:
            yield found
    finally:
        sys.path[:] = before


@contextmanager
def _user_code(action: str) -> Iterator[None]:
    """Convert exceptions of user code to one line with the place in that code."""
    try:
        yield
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [
            f" (in {frame.filename}, line {frame.lineno})"
            for frame in frames
            if not frame.filename.startswith((__file__, str(importlib.__file__), "<frozen"))
        ]
        raise AgentTTSError(
            f"{action} raised {type(error).__name__}: {error}{places[-1] if places else ''}"
        ) from error
