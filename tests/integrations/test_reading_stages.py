"""Agents that read what the stages of trials did find the right models sooner."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from agent_stages import make_benchmark, search

from optuna_agenttts_integrations import CompletionStore


@pytest.mark.slow
@pytest.mark.parametrize("name", ["2WikiMultiHopQA", "CWQ"])
def test_an_agent_that_reads_what_the_stages_did_tries_the_right_models(name):
    """Over three searches, more often than the same agent without that block of the prompt."""
    benchmark = make_benchmark(name)
    counts = {"scores": 0, "stages": 0}
    for seed in range(3):
        store = CompletionStore()
        for kind in counts:
            _, _, good = search(benchmark, kind, seed, store)
            counts[kind] += good
    assert counts["stages"] > counts["scores"]
