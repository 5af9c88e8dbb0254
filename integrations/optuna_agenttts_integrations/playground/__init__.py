"""Tiny trained language models with a two-stage task: an offline example."""

from optuna_agenttts_integrations.playground.pipeline import (
    make_endpoints,
    make_objective,
    make_pipeline,
    make_task,
)
from optuna_agenttts_integrations.playground.problems import Problem, make_problems
from optuna_agenttts_integrations.playground.server import Faults, PlaygroundServer

__all__ = [
    "Faults",
    "PlaygroundServer",
    "Problem",
    "make_endpoints",
    "make_objective",
    "make_pipeline",
    "make_problems",
    "make_task",
]
