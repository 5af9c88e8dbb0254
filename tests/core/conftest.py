"""Set-up that the tests of the core share."""

import sys
from pathlib import Path

import optuna
import pytest

from optuna_agenttts.explanation.explaining import Explain

# Helpers live beside the tests and above; spawned processes find them on the same path.
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))
pytest.register_assert_rewrite("optuna.testing.pytest_samplers")


@pytest.fixture(autouse=True)
def _quiet():
    """Keep Optuna's log out of the tests' output."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def unexplained(monkeypatch):
    """Leave out the note and figures that end a search, which take longer than many searches."""
    monkeypatch.setattr(Explain, "finish", lambda *_: None)
