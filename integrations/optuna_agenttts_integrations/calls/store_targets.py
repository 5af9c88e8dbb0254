"""Targets of completion stores: paths and URLs, and the databases that they name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from optuna_agenttts_integrations.calls.store_database import IN_MEMORY, Database
from optuna_agenttts_integrations.calls.store_sqlite import SQLiteDatabase


def target_text(target: Any) -> str:
    """Return the target of a store as text: an absolute path, ``":memory:"``, or a URL.

    The working directory may be another one when a file is opened again.
    """
    # A URL of SQLAlchemy would be printed without its password.
    render = getattr(target, "render_as_string", None)
    text = str(target) if render is None else str(render(hide_password=False))
    for scheme in ("sqlite:///", "sqlite+pysqlite:///"):
        if text.startswith(scheme):
            text = text[len(scheme) :].partition("?")[0] or IN_MEMORY
    if is_url(text) or text == IN_MEMORY:
        return text
    return os.path.abspath(text)


def is_url(target: str | Path) -> bool:
    """Return whether a target is a URL rather than a path."""
    return "://" in str(target)


def open_database(target: str, name: str) -> Database:
    """Open the database of a store; create or upgrade its tables.

    Args:
        target: As `target_text` returns it.
        name: Name for messages, of a file; a URL is named without its secrets.

    Raises:
        StoreError: It cannot be opened, belongs to another application, or has a later version.
    """
    if is_url(target):
        # SQLAlchemy takes longer to import than the rest of a small search.
        from optuna_agenttts_integrations.calls.store_postgresql import PostgreSQLDatabase

        return PostgreSQLDatabase(target)
    return SQLiteDatabase(target, name)


def store_exists(target: str | Path) -> bool:
    """Return whether a target names a store that exists, or at least a file.

    Raises:
        StoreError: The database cannot be reached.
    """
    text = target_text(target)
    if not is_url(text):
        return os.path.exists(text)
    from optuna_agenttts_integrations.calls.store_postgresql import has_tables

    return has_tables(text)
