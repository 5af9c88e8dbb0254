"""Set-up that the tests of language models share."""

import sys
from pathlib import Path

import pytest

# Helpers live beside the tests.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _wait_for_rounds():
    """Wait no longer than users do: servers of these tests may never answer."""
