"""Completion stores of each kind of database, for tests."""

import itertools

import pytest
from postgresql_support import new_database, postgresql_server

from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations.calls.store import RequestKey, canonical_json

__all__ = ["contents", "new_target", "postgresql_server", "request_key", "said", "target"]


def request_key(number=0, model="m", endpoint="e", seed=0):
    """Return the key of a request."""
    return RequestKey(endpoint, seed, canonical_json({"model": model, "n": number}))


def said(text="hi", prompt=2, generated=1):
    """Return a completion."""
    return Completion(text, Usage(prompt, generated), "stop")


def contents(store):
    """Return all rows of a store, by table."""
    return [
        sorted(store._database.rows(f"SELECT * FROM {table}"))
        for table in ("completions", "requests")
    ]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_target(request, tmp_path):
    """Return a function that returns the target of a new store, of each kind of database."""
    numbers = itertools.count()
    if request.param == "sqlite":
        return lambda: tmp_path / f"new{next(numbers)}.db"
    server = request.getfixturevalue("postgresql_server")
    return lambda: new_database(server)


@pytest.fixture
def target(new_target):
    """Return the target of a new store, of each kind of database."""
    return new_target()
