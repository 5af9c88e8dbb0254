"""Optuna's own suite for samplers, which exists from Optuna 4.8 on."""

import pytest
from core_support import wiki_task

from optuna_agenttts import AgentTTSSampler

suite = pytest.importorskip("optuna.testing.pytest_samplers")


class TestWithoutTask(
    suite.BasicSamplerTestCase, suite.RelativeSamplerTestCase, suite.MultiObjectiveSamplerTestCase
):
    """A sampler that was told nothing."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        return lambda: AgentTTSSampler(seed=0)


class TestWithTask(
    suite.BasicSamplerTestCase, suite.RelativeSamplerTestCase, suite.MultiObjectiveSamplerTestCase
):
    """A sampler with a task, in studies that have none of its parameters."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        task = wiki_task(max_samples=10)
        return lambda: AgentTTSSampler(task, seed=0)
