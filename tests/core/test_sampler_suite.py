"""Optuna's own suite for samplers, which exists from Optuna 4.8 on."""

import pytest
from core_support import wiki_task
from optuna.samplers import TPESampler

from optuna_agenttts import AgentTTSSampler

suite = pytest.importorskip("optuna.testing.pytest_samplers")


class TestWithoutTask(suite.BasicSamplerTestCase, suite.MultiObjectiveSamplerTestCase):
    """A sampler that was told nothing."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        return lambda: AgentTTSSampler(seed=0)


class TestRelative(suite.RelativeSamplerTestCase):
    """Joint sampling, with an independent sampler that needs no trials to start.

    The suite asks for joint values after one trial. `TPESampler` with its defaults has none to
    give before its tenth, so neither has a sampler that leaves them to it.
    """

    @pytest.fixture
    def sampler(self):
        """Make samplers."""

        def make():
            tpe = TPESampler(seed=0, n_startup_trials=0, multivariate=True)
            return AgentTTSSampler(independent_sampler=tpe)

        return make


class TestWithTask(suite.BasicSamplerTestCase, suite.MultiObjectiveSamplerTestCase):
    """A sampler with a task, in studies that have none of its parameters."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        task = wiki_task(max_samples=10)
        return lambda: AgentTTSSampler(task, seed=0)
