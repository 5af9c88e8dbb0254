"""Examples run offline, from anywhere, and say what they recommend."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOT = EXAMPLES.parent

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the examples")


def run(folder, *arguments):
    """Run an example in a folder of its own; returns what it prints."""
    name, *rest = arguments
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *rest],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OPTUNA_AGENTTTS_LLM": ""},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize(
    "family", ["two_wiki", "hotpot_qa", "cwq", "web_qsp", "task_bench", "chat_dev"]
)
def test_each_data_set_runs_end_to_end(tmp_path, family):
    """Search on one half of the sample, score on the other, over HTTP."""
    said = run(tmp_path, "paper_tasks.py", family, "--trials", "3")
    assert "90 % interval" in said
    assert "Held out" in said


def test_a_pipeline_of_ones_own_takes_sixty_lines(tmp_path):
    """As the README says; it checks, searches, recommends and scores."""
    said = run(tmp_path, "own_pipeline.py")
    assert "prompts" in said
    assert "against the baseline" in said
    assert len((EXAMPLES / "own_pipeline.py").read_text().splitlines()) <= 60
