"""Set-up of the tests in a browser."""

import sys
from pathlib import Path

import optuna
import pytest

TESTS = Path(__file__).parent.parent
sys.path[:0] = [str(TESTS / "browser"), str(TESTS / "core"), str(TESTS / "hosts"), str(TESTS)]

from browser_support import chromium  # noqa: E402


def pytest_addoption(parser):
    """Add the folder of the pictures."""
    parser.addoption("--screenshots", help="folder in which pictures of pages are kept")


@pytest.fixture(scope="session")
def pictures(request, tmp_path_factory):
    """Return the folder of the pictures."""
    kept = request.config.getoption("--screenshots", None)
    return Path(kept).resolve() if kept else tmp_path_factory.mktemp("screenshots")


@pytest.fixture(scope="session")
def browser():
    """Start a browser for all tests."""
    with chromium() as started:
        yield started


@pytest.fixture(autouse=True)
def _quiet():
    """Keep Optuna's log out of the tests' output."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    yield
    optuna.logging.set_verbosity(before)
