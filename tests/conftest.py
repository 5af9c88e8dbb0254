"""Set-up that all tests share."""

import pytest


@pytest.fixture(autouse=True)
def _explain_less(monkeypatch):
    """Explain short searches after their first trial only, which takes milliseconds."""
    from optuna_agenttts.explanation import pace

    monkeypatch.setattr(pace, "START", 0.0)
