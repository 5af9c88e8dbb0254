"""Notebooks of the examples run in a kernel, and are kept without outputs."""

import json
import os
import shutil
import sys
import textwrap
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted((EXAMPLES / "notebooks").glob("*.ipynb"))
NAMES = [path.stem for path in NOTEBOOKS]

pytestmark = pytest.mark.skipif(not EXAMPLES.exists(), reason="needs the examples")


@pytest.fixture
def execute(monkeypatch):
    """Return a function that runs a notebook in a kernel, and returns it with its outputs."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def run(notebook, folder):
        client = nbclient.NotebookClient(
            notebook, timeout=300, resources={"metadata": {"path": str(folder)}}
        )
        return client.execute()

    return run


def outputs(notebook, kind):
    """Return the outputs of a kind: MIME type, or name of a stream."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            if output.get("name") == kind:
                yield output["text"]
            elif kind in output.get("data", {}):
                yield output["data"][kind]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebooks_run(path, tmp_path, execute):
    """Without an error or a warning, and results are shown as tables."""
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("plotly")
    pytest.importorskip("pandas")
    for source in EXAMPLES.iterdir():
        if source.is_file():
            shutil.copy(source, tmp_path)
    folder = tmp_path / "notebooks"
    folder.mkdir()

    done = execute(nbformat.read(path, as_version=4), folder)

    assert not [text for text in outputs(done, "stderr") if "Warning" in text or "Error" in text]
    tables = [text for text in outputs(done, "text/html") if "<table" in text]
    assert len(tables) >= 3
    assert any("90 % interval" in text for text in tables)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=NAMES)
def test_notebooks_are_kept_without_outputs(path):
    """A change of a notebook shows what was changed, and nothing else."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert set(notebook["metadata"]) <= {"kernelspec", "language_info"}
    for cell in notebook["cells"]:
        assert cell["metadata"] == {}
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


CELLS = [
    """
    import asyncio
    import warnings

    import optuna

    from optuna_agenttts import AgentTTSSampler, ScriptedChatModel, recommend, search
    from optuna_agenttts_integrations import Predictor
    from optuna_agenttts_integrations.playground import *

    warnings.simplefilter("error", RuntimeWarning)
    asyncio.get_running_loop()
    """,
    """
    objective = make_objective(problems=make_problems("search", 60))
    assert objective.check().ok
    sampler = AgentTTSSampler(objective.task, llm=ScriptedChatModel(lambda request: "{}"))
    study = optuna.create_study(direction="maximize", sampler=sampler)
    study.optimize(objective, n_trials=8, n_jobs=2, show_progress_bar=True)
    """,
    """
    found = search(optuna.create_study(direction="maximize"), objective, evaluations=300)
    objective.evaluate(found.recommendation.allocation, make_problems("test", 10))
    found
    """,
    """
    objective.inspect(study.trials[0])
    """,
    """
    best, problems = recommend(study).allocation, make_problems("test", 5)
    awaited = await objective.apredict(problems, best)
    assert awaited.answers == objective.predict(problems, best).answers
    """,
    """
    with PlaygroundServer() as server:
        from optuna_agenttts.llm import connect
        from optuna_agenttts_integrations import connect_endpoints
        from optuna_agenttts_integrations import MultiStageObjective

        served = connect_endpoints(objective.task, server.url)
        with MultiStageObjective(
            make_pipeline(), make_problems("search", 5), task=objective.task, endpoints=served
        ) as remote:
            remote.evaluate(best)
    objective.close()
    """,
]


@pytest.mark.slow
def test_everything_runs_where_an_event_loop_runs(tmp_path, execute):
    """Searches, agents, confirmations, inspections, predictions and servers, in a kernel."""
    v4 = pytest.importorskip("nbformat.v4")
    cells = [v4.new_code_cell(textwrap.dedent(text).strip()) for text in CELLS]

    done = execute(v4.new_notebook(cells=cells), tmp_path)

    assert not [text for text in outputs(done, "stderr") if "awaited" in text]
    assert any("confirmed on" in text for text in outputs(done, "text/html"))
    # A bar of Optuna, and one of each worker, but not one of each trial.
    bars = [out for out in done.cells[1].outputs if "widget" in str(out.get("data"))]
    assert 1 <= len(bars) <= 4
