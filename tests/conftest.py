"""Set-up that all tests share."""

import os

import pytest
from hypothesis import HealthCheck, settings

from optuna_agenttts.agent import scheduler
from optuna_agenttts.explanation import pace
from optuna_agenttts.llm import inference_providers, outages, usage_bounds, waiting
from optuna_agenttts.task import model

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
    monkeypatch.setattr(pace, "START", 0.0)


@pytest.fixture(autouse=True)
def _wait_for_rounds(monkeypatch):
    """Plan rounds of scripted agents alike however busy the machine is: trials wait for them."""
    monkeypatch.setattr(scheduler, "MIN_WAIT", 20.0)
    monkeypatch.setattr("optuna_agenttts.agent.pace.MIN_WAIT", 20.0)


@pytest.fixture(autouse=True)
def _start_as_a_new_process_does(monkeypatch):
    """Forget what was logged once, and servers, whose ports the system gives out again."""
    monkeypatch.setattr(model, "_assumed", set())
    monkeypatch.setattr(inference_providers, "_resolved", set())
    monkeypatch.setattr(outages, "_answered", {})
    monkeypatch.setattr(usage_bounds, "_warned", set())
    monkeypatch.setattr(waiting, "_logged", {})
