"""Set-up that the tests of hosts share."""

import sys
from pathlib import Path

import optuna
import pytest

# Helpers live beside the tests and above; a host's workers find them on the same path.
sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _quiet():
    """Keep Optuna's log out of the tests' output."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(before)
