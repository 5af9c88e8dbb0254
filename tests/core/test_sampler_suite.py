"""Optuna's own suite for samplers, which exists from Optuna 4.8 on."""

import json

import pytest
from core_support import wiki_task

from optuna_agenttts import AgentTTSSampler, ScriptedChatModel

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


def proposals(request):
    """Propose what fits the suite's own spaces now and then, and nonsense else."""
    params = {"x": 1.0, "y": 2, "z": "a", "a": 0.5}
    return json.dumps({"candidates": [{"params": params, "reason": ""}] * 3})


class TestWithAgent(
    suite.BasicSamplerTestCase, suite.RelativeSamplerTestCase, suite.MultiObjectiveSamplerTestCase
):
    """A sampler whose agent plans over whatever is suggested."""

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
