"""Optuna's own suite for samplers, which exists from Optuna 4.8 on."""

import json

import pytest
from core_support import wiki_task
from optuna.distributions import FloatDistribution
from optuna.samplers import TPESampler

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel

suite = pytest.importorskip("optuna.testing.pytest_samplers")


class TestWithoutTask(suite.BasicSamplerTestCase, suite.MultiObjectiveSamplerTestCase):
    """A sampler without task or agent, which is TPE."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        return lambda: AgentTTSSampler(seed=0)


class TestWithoutStartup(suite.RelativeSamplerTestCase):
    """A sampler without task or agent that samples relatively from the first trial on, as TPE."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        return lambda: AgentTTSSampler(seed=0, n_startup_trials=0, multivariate=True)


class TestStartup(suite.RelativeSamplerTestCase):
    """TPE during startup, which leaves values to `sample_independent`.

    42 of the suite's tests fail for it, and so do they for the sampler that equals it.
    """

    @pytest.fixture(params=[AgentTTSSampler, TPESampler])
    def sampler(self, request):
        """Make samplers."""
        if request.function.__name__.startswith("test_sample_relative"):
            request.applymarker(pytest.mark.xfail(raises=KeyError, strict=True))
        return lambda: request.param(seed=0)


class TestWithSearchSpace(suite.RelativeSamplerTestCase):
    """A sampler with `search_space`, which leaves no value to `sample_independent`."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        return lambda: AgentTTSSampler(search_space={"z": FloatDistribution(0, 1)}, seed=0)


class TestWithTask(
    suite.BasicSamplerTestCase, suite.RelativeSamplerTestCase, suite.MultiObjectiveSamplerTestCase
):
    """A sampler with a task, in studies that have none of its parameters."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        task = wiki_task(max_samples=10)
        return lambda: AgentTTSSampler(task, seed=0)


def proposals(request):
    """Propose values that fit the suite's spaces sometimes, and invalid ones otherwise."""
    params = {"x": 1.0, "y": 2, "z": "a", "a": 0.5}
    return json.dumps({"candidates": [{"params": params, "reason": ""}] * 3})


class TestWithAgent(
    suite.BasicSamplerTestCase, suite.RelativeSamplerTestCase, suite.MultiObjectiveSamplerTestCase
):
    """A sampler with an agent that plans over any search space."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        return lambda: AgentTTSSampler(llm=ScriptedChatModel(proposals), seed=0)


class TestWithUselessAgent(
    suite.BasicSamplerTestCase, suite.RelativeSamplerTestCase, suite.MultiObjectiveSamplerTestCase
):
    """A sampler whose agent talks nonsense."""

    @pytest.fixture
    def sampler(self):
        """Make samplers."""
        return lambda: AgentTTSSampler(llm=ScriptedChatModel(lambda _: "no idea"), seed=0)
