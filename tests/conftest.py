"""Set-up that all tests share."""

import os

import pytest
from hypothesis import HealthCheck, settings

# Busy machines are slow. In CI, where a failure should be that of a change, examples are the same
# in every run.
settings.register_profile(
    "tests",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="CI" in os.environ,
    database=None if "CI" in os.environ else settings.default.database,
)
settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _explain_less(monkeypatch):
    """Explain short searches after their first trial only, which takes milliseconds."""
    from optuna_agenttts.explanation import pace

    monkeypatch.setattr(pace, "START", 0.0)
