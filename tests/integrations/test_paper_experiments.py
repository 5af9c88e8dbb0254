"""The experiments of the paper: what they write, that they resume, and what they send."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from optuna_agenttts_integrations.tasks import sample_path, two_wiki
from optuna_agenttts_integrations.testing.serving import LoopbackServer
from optuna_agenttts_integrations.testing.simulation import simulated_models

FOLDER = Path(__file__).parents[2] / "examples" / "paper"

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="needs the examples")
SMALL = ("--trials", "4", "--search", "3", "--test", "2", "--sizes", "2", "3", "--grid", "1", "3")
HEADING = "Simulated models: this checks the code, not the claims."


@pytest.fixture
def modules(monkeypatch):
    """Import the modules of the folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import experiments
    import paper_output
    import paper_searches

    return experiments, paper_searches, paper_output


def command(folder, *arguments):
    return [sys.executable, str(FOLDER / "experiments.py"), "--out", str(folder), *arguments]


def run(folder, *arguments):
    """Run the script; returns what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        command(folder, *arguments), capture_output=True, text=True, timeout=600, env=environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr
    return done.stdout


def results(folder):
    """Return the results by experiment."""
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


def test_titles_of_long_pages_stay_above_their_panels(modules, tmp_path):
    """And logarithmic axes have few ticks, all of one kind."""
    pytest.importorskip("plotly")
    *_, paper_output = modules
    line = ("Qwen2.5-7B", [2e13, 4e14], [0.5, 0.6])
    panel = {"title": "retrieval", "x": "FLOPs", "y": "score", "log": True, "lines": [line]}
    paper_output.draw(tmp_path / "a.html", "Title", HEADING, [panel] * 60)
    page = (tmp_path / "a.html").read_text()
    (height,) = map(int, re.findall(r'"height":(\d+)', page))
    (y,) = (
        float(y) for y in re.findall(r'"title":\{[^{}]*(?:\{[^{}]*\}[^{}]*)*"y":([\d.]+)', page)
    )
    assert (1 - y) * height == pytest.approx(20)
    assert paper_output.log_ticks([3, 72])["ticktext"] == ["5", "10", "20", "50"]
    assert paper_output.log_ticks([1e12, 1e15])["dtick"] == 1


@pytest.mark.slow
def test_all_experiments_run_offline_and_keep_what_they_have(tmp_path):
    """Every experiment writes its files under the heading; a second run only reads."""
    run(tmp_path, *SMALL)
    found = results(tmp_path)
    assert len(found) == 10
    assert {content["heading"] for content in found.values()} == {HEADING}
    for name in found:
        assert f"**{HEADING}**" in (tmp_path / f"{name}.md").read_text()
        if name not in ("tables", "cases"):
            assert HEADING in (tmp_path / f"{name}.html").read_text()
    searches = found["efficiency"]["results"]
    assert len(searches) == 6
    for methods in searches.values():
        assert len(methods) == 7
        assert all(len(run["scores"]) == 4 for (run,) in methods.values())
    # The same search is part of two experiments.
    same = found["budgets"]["results"]["900"]["published AgentTTS"]
    assert found["ablations"]["results"]["published AgentTTS"] == same
    said = run(tmp_path, *SMALL)
    assert "seed 0:" not in said
    assert results(tmp_path) == found


@pytest.mark.slow
def test_a_killed_run_continues(tmp_path):
    """Trials of the killed run are kept, and the search has as many as one that was not."""
    arguments = (
        "efficiency",
        "--names",
        "2Wiki",
        "--methods",
        "Random",
        "LLM_ZS",
        "published AgentTTS",
    )
    arguments += ("--trials", "30", "--search", "3", "--test", "2", "--jobs", "2")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(
        command(tmp_path, *arguments), env=environment, start_new_session=True
    )
    log = tmp_path / "studies" / "efficiency_2Wiki_LLM_ZS_seed_0.log"
    deadline = time.monotonic() + 300
    while not (log.exists() and log.read_text().count('"values"') > 3):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # With its workers, which would otherwise go on for a moment.
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = log.read_bytes()
    log.write_bytes(kept + b'{"op_code":6,"worker')  # as half of a line
    run(tmp_path, *arguments)
    whole = kept[: kept.rindex(b"\n") + 1]
    assert log.read_bytes().startswith(whole)
    found = results(tmp_path)["efficiency"]["results"]["2Wiki"]
    assert {name: len(runs[0]["scores"]) for name, runs in found.items()} == {
        "Random": 30,
        "LLM_ZS": 30,
        "published AgentTTS": 30,
    }


@pytest.mark.slow
def test_real_servers_get_the_paper_s_temperature_and_the_agent_its_prompts(tmp_path, modules):
    """Requests go to the endpoint; the paper's numbers stand beside those of real models."""
    from follower import follow

    from optuna_agenttts import ScriptedChatModel

    benchmark = two_wiki(sample_path("two_wiki.json"), search=3)
    temperatures = set()

    class Recorded:
        def __init__(self, model):
            self.model = model

        async def complete(self, request, *, seed):
            temperatures.add(request.temperature)
            return await self.model.complete(request, seed=seed)

    models = {name: Recorded(model) for name, model in simulated_models(benchmark).items()}
    models["planner"] = ScriptedChatModel(follow)
    with LoopbackServer(models) as server:
        run(
            *(tmp_path, "efficiency", "--names", "2Wiki", "--endpoint", server.url),
            *("--llm", f"{server.url}#planner", "--methods", "LLM_ZS", "published AgentTTS"),
            *("--trials", "4", "--search", "3", "--test", "2"),
        )
    content = results(tmp_path)["efficiency"]
    assert content["heading"].startswith("Models served by 127.0.0.1.")
    assert "| 12.5 | 0.7 |" in (tmp_path / "efficiency.md").read_text()
    assert temperatures == {0.9, 0.3}  # of samples and of fusions


def test_a_journal_loses_half_of_a_line_only(tmp_path, modules):
    """Logs before it are read, and new ones follow them."""
    _, searches, _ = modules
    path = tmp_path / "study.log"
    first = searches.Lines(path)
    study = optuna.create_study(storage=optuna.storages.JournalStorage(first), study_name="s")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    path.write_bytes(path.read_bytes() + b'{"half')
    again = optuna.storages.JournalStorage(searches.Lines(path))
    study = optuna.load_study(storage=again, study_name="s")
    assert len(study.trials) == 3
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    assert (
        len(
            optuna.load_study(
                storage=optuna.storages.JournalStorage(backend), study_name="s"
            ).trials
        )
        == 4
    )


def test_rows_say_when_the_best_of_all_was_reached(modules):
    """A method that does not reach it has a dash, as in the paper's Table 1."""
    experiments, _, output = modules

    def figures(scores):
        test = {what: {"score": 0.5} for what in ("best trial", "recommended")}
        return [{"scores": scores, "costs": [10.0] * len(scores), "test": test}]

    rows = experiments.rows_of({"a": figures([0.1, 0.9, 0.9]), "b": figures([0.2, 0.3, 0.4])})
    assert rows == [["a", 0.9, 2.0, 20.0, 0.5, 0.5], ["b", 0.4, None, None, 0.5, 0.5]]
    assert "| b | 0.4 | - | - |" in output.table(experiments.SEARCH_COLUMNS, rows)


def test_endpoints_are_one_place_or_one_for_each_model(modules):
    """A URL may contain an equals sign."""
    experiments, _, _ = modules
    assert experiments.places_of([]) is None
    assert experiments.places_of(["hf"]) == "hf"
    assert experiments.places_of(["http://host/v1?a=b"]) == "http://host/v1?a=b"
    each = experiments.places_of(["Qwen/a=http://host:1", "b=hf"])
    assert each == {"Qwen/a": "http://host:1", "b": "hf"}


def test_results_of_other_servers_are_not_mixed(modules, tmp_path):
    """The message names the option that differs; numbers of trials may change."""
    experiments, _, _ = modules
    path = tmp_path / "arguments.txt"
    experiments.check_folder(path, experiments.parse(["--trials", "3"]))
    experiments.check_folder(path, experiments.parse(["--trials", "4"]))
    with pytest.raises(SystemExit, match="results of another --endpoint: give another --out"):
        experiments.check_folder(path, experiments.parse(["--endpoint", "hf"]))


def test_the_paper_s_numbers_are_complete(modules):
    """Table 1 has six methods on each data set, Table 2 three temperatures."""
    experiments, _, _ = modules
    known = experiments.PAPER_RESULTS
    for name in experiments.DATA:
        assert set(known["table 1"][name]) == set(experiments.METHODS) - {"optuna-agenttts"}
    for value in experiments.TEMPERATURES:
        assert len(known["table 2"][str(value)]) == 10
    assert len(experiments.PRICES) == 6


def test_figures_show_their_heading_and_tables_how_they_are_read(modules, tmp_path):
    """The heading is a line of the title; equal lines have different widths; costs have a unit."""
    experiments, _, output = modules
    lines = [["a", [1, 2], [0.1, 0.2]], ["b", [1, 2], [0.1, 0.2]]]
    panel = {"title": "2Wiki", "x": "trial", "y": "score", "lines": lines}
    scale = experiments.OFFLINE
    note = experiments.note_of(scale, seeds=3, planner=experiments.SCRIPTS)
    pytest.importorskip("plotly")
    written = output.Output(tmp_path, HEADING, scale, note)
    written.write("name", "A long title " * 20, results={}, text="text", panels=[panel])
    drawn = (tmp_path / "name.html").read_text()
    assert f"\\u003cbr\\u003e{HEADING}" in drawn
    assert '"width":3.2' in drawn
    assert '"width":2' in drawn
    page = (tmp_path / "name.md").read_text()
    assert "20 trials on 20 instances" in page
    assert "3 seeds (values in tables are medians)" in page
    assert "scripts" in page
    assert "medians" not in experiments.note_of(scale, seeds=1, planner="")
    written.write("costs", "Costs", results={}, text="text", searched=False)
    assert "trials on" not in (tmp_path / "costs.md").read_text()
    columns = experiments.columns_of({"a": [{"unit": "US dollars"}]})
    assert "cost until then, US dollars" in columns
