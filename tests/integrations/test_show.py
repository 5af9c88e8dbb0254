"""``agenttts show``: outcomes from a study's storage, replies from its objective and store."""

import itertools
import json
import os
import subprocess
import sys
from contextlib import closing

import optuna
import pytest

from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.cli import main
from optuna_agenttts_integrations.playground import make_objective

KEY = "hf_" + "secret" * 5

OWN = """
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.playground import make_objective

def build():
    return make_objective(store=CompletionStore("completions.db"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Search twice on the playground, with a storage and a store."""
    path = tmp_path_factory.mktemp("show")
    study = optuna.create_study(
        study_name="small", direction="maximize", storage=f"sqlite:///{path / 'study.db'}"
    )
    with (
        closing(CompletionStore(path / "completions.db")) as store,
        make_objective(store=store, progress=False) as objective,
    ):
        for answerer in ("answerer-13k", "answerer-22k"):
            chosen = {"retrieval": ("retriever-9k", 1), "answer": (answerer, 1)}
            study.enqueue_trial(objective.task.params(chosen))
        study.optimize(objective, n_trials=2)
    (path / "own_show_module.py").write_text(OWN)
    return path


@pytest.fixture
def show(folder, monkeypatch, capsys):
    """Return a function that runs the command in the study's folder."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments, code=0):
        assert main(["show", "study.db", *map(str, arguments)]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    yield run
    sys.modules.pop("own_show_module", None)


def rows(printed):
    """Return the cells of the table."""
    lines = printed.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("---")) + 1
    cells = map(str.split, lines[first:])
    return list(itertools.takewhile(bool, cells))


def outcomes(folder, number):
    """Return the outcomes of a trial by instance."""
    study = optuna.load_study(study_name="small", storage=f"sqlite:///{folder / 'study.db'}")
    with make_objective(progress=False) as objective:
        return dict(zip(objective.instances, study.trials[number].intermediate_values.values()))


def test_the_storage_alone_lists_the_worst_outcomes(show, folder):
    """The study has the names of the instances."""
    found = rows(show(0, "--limit", 60))
    assert {name: float(outcome) for name, outcome in found} == outcomes(folder, 0)
    values = [float(outcome) for _, outcome in found]
    assert values == sorted(values)
    assert "... and 30 more" in show(0)


def test_the_storage_alone_shows_where_two_trials_differ(show, folder):
    """All other instances are counted."""
    one, other = outcomes(folder, 0), outcomes(folder, 1)
    differing = {name for name in one if one[name] != other[name]}
    printed = show(0, "--baseline", 1, "--limit", 60)
    assert {row[0] for row in rows(printed)} == differing
    assert f"differ on {len(differing)} of 50" in printed


@pytest.mark.parametrize(
    "source", [("--store", "completions.db"), ("--objective", "own_show_module:build")]
)
def test_replies_come_from_the_store(show, source):
    """The playground's objective is known, others are named."""
    listed = json.loads(show(0, *source, "--json"))
    assert len(listed["instances"]) == 50
    worst = listed["instances"][0]
    shown = json.loads(show(0, worst["instance"], *source, "--json"))
    assert shown == worst
    assert [stage["name"] for stage in shown["stages"]] == ["retrieval", "answer"]
    replies = [r["text"] for r in shown["stages"][1]["requests"][0]["replies"]]
    printed = show(0, worst["instance"], *source)
    assert all(reply in printed for reply in replies)
    assert "outcome 0" in printed
    assert max(map(len, printed.splitlines())) <= 80


def test_two_trials_stand_side_by_side(show):
    """One instance under both allocations."""
    differing = json.loads(show(1, "--baseline", 0, "--store", "completions.db", "--json"))
    name = differing["instances"][0]["instance"]
    printed = show(1, name, "--baseline", 0, "--store", "completions.db")
    assert "== answer: answerer-22k, 1 sample" in printed
    assert "| == answer: answerer-13k, 1 sample" in printed


def test_without_a_store_missing_replies_are_told(show):
    """The outcome is in the storage."""
    printed = show(0, "step:0")
    assert "not in the store" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((7,), "has 2 trials"),
        ((0, "--baseline", 7), "has 2 trials"),
        ((0, "nowhere"), "`instance` must be the ID"),
        ((0, "--store", "gone.db"), "`--store` 'gone.db' does not exist"),
        ((0, "--limit", 0), "`--limit` must be at least 1"),
        ((0, "--objective", "gone:build"), "gone"),
        ((0, "--study", "other"), "`--study` must be one of small"),
    ],
)
def test_wrong_arguments_are_one_line(show, arguments, message):
    """The exit code is 1."""
    printed = show(*arguments, code=1)
    assert message in printed
    assert printed.count("\n") == 1


def test_an_instance_of_another_task_needs_the_objective(show, folder, monkeypatch, tmp_path):
    """Only the playground's objective is known."""
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'other.db'}")
    trial = study.ask()
    trial.report(1.0, 0)
    study.tell(trial, 1.0)
    monkeypatch.chdir(tmp_path)
    assert main(["show", "other.db", "0", "step:0"]) == 1
    assert main(["show", "other.db", "0"]) == 0
    assert main(["show", "other.db", "0", "--store", str(folder / "completions.db")]) == 1


def command(folder, *arguments):
    """Run the command line in a new process."""
    return subprocess.run(
        [sys.executable, "-m", "optuna_agenttts_integrations.cli", "show", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            "HF_TOKEN": KEY,
            "COLUMNS": "70",
        },
        timeout=120,
    )


@pytest.mark.slow
def test_the_command_prints_no_secret(folder):
    """Neither keys of the environment nor passwords of the storage."""
    worst = json.loads(
        command(folder, "study.db", "0", "--store", "completions.db", "--json").stdout
    )
    done = command(
        folder, "study.db", "0", worst["instances"][0]["instance"], "--store", "completions.db"
    )
    assert done.returncode == 0
    assert "outcome 0" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 70
    failed = command(folder, "postgresql://me:pass-word-9@127.0.0.1:1/db", "0")
    assert failed.returncode == 1
    for each in (done, failed):
        assert KEY not in each.stdout + each.stderr
        assert "pass-word-9" not in each.stdout + each.stderr
