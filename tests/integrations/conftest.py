import sys
from pathlib import Path

import pytest

from optuna_agenttts.llm import outages

# Helpers live beside the tests and above.
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

from store_support import new_target, postgresql_server, target  # noqa: F401


@pytest.fixture(autouse=True)
def no_server_has_answered(monkeypatch):
    """Forget the servers of earlier tests, whose ports the system gives out again."""
    monkeypatch.setattr(outages, "_answered", {})
