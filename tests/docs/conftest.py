"""Set-up that the tests of pages share."""

import sys
from pathlib import Path

import pytest

from optuna_agenttts.llm import outages

# Helpers live beside the tests.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def no_server_has_answered(monkeypatch):
    """Forget the servers of earlier tests, whose ports the system gives out again."""
    monkeypatch.setattr(outages, "_answered", {})
