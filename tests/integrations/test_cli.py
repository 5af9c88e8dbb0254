"""The command line: what it prints, and how it says no."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import optuna
import pytest
from pipeline_support import allocation, make_objective

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import CompletionStore, LoopbackServer
from optuna_agenttts_integrations.cli import main

ROOT = Path(__file__).parents[2]


class Echo:
    """Answers at once."""

    async def complete(self, request, *, seed):
        """Say OK."""
        return Completion("OK", Usage(5, 1))


@pytest.fixture
def studied(tmp_path):
    """A study in SQLite and the store of its completions."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = f"sqlite:///{tmp_path}/study.db"
    path = tmp_path / "store.db"
    store = CompletionStore(path)
    objective, _ = make_objective(count=6, store=store)
    with objective:
        study = optuna.create_study(
            study_name="mine", storage=storage, direction="maximize", sampler=AgentTTSSampler()
        )
        study.optimize(objective, n_trials=4)
    store.close()
    return storage, path


def test_report_says_what_to_use_and_what_was_spent(studied, capsys):
    """The newest study's, unless another one is named."""
    storage, _ = studied
    assert main(["report", storage]) == 0
    said = capsys.readouterr()
    assert "Study 'mine': 4 finished trials of 4" in said.out
    assert "90 % interval" in said.out
    assert "Spent so far" in said.out
    assert said.err == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--study", "other"], "no study 'other'; there are mine"),
        (None, "holds no study"),
    ],
)
def test_reports_that_cannot_be_given_say_why(studied, tmp_path, capsys, arguments, message):
    """On standard error, with exit code 1."""
    storage, _ = studied
    if arguments is None:
        storage, arguments = f"sqlite:///{tmp_path}/empty.db", []
    assert main(["report", storage, *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_storage_that_cannot_be_opened_is_no_traceback(tmp_path, capsys):
    """Nor is a study without a finished trial."""
    assert main(["report", f"sqlite:///{tmp_path}/no/such/folder/x.db"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    assert main(["report", "nonsense"]) == 1
    assert "cannot be read" in capsys.readouterr().err
    storage = f"sqlite:///{tmp_path}/fresh.db"
    optuna.create_study(storage=storage, study_name="fresh")
    assert main(["report", storage]) == 1
    assert "fresh" in capsys.readouterr().err


def test_doctor_examines_servers(capsys):
    """A table of findings; exit code 1 where something must be mended first."""
    with LoopbackServer({"small": Echo()}) as server:
        url = server.url
        assert main(["doctor", url, "small"]) == 0
        assert "one token" in capsys.readouterr().out
        assert main(["doctor", url, "another"]) == 1
        assert "another" in capsys.readouterr().out
    assert main(["doctor", url, "small"]) == 1
    assert "Is the server running" in " ".join(capsys.readouterr().out.split())


def test_doctor_examines_objectives(tmp_path, monkeypatch, capsys):
    """By name, as an object or a function that makes one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    (tmp_path / "examined.py").write_text(
        "from pipeline_support import make_objective\n"
        "def build():\n    return make_objective(count=2)[0]\n"
        "objective = build()\nnumber = 7\n"
    )
    before = list(sys.path)
    for name in ("examined:build", "examined:objective"):
        assert main(["doctor", name]) == 0
        assert "writable" in capsys.readouterr().out
    for name, message in (
        ("examined:number", "of type int"),
        ("examined:missing", "cannot be imported"),
        ("no_such_module:x", "cannot be imported"),
        ("examined", "cannot be imported"),
    ):
        assert main(["doctor", name]) == 1
        assert message in capsys.readouterr().err
    assert sys.path == before


def test_doctor_wants_models_where_servers_are_meant(capsys):
    """A place alone does not say what to check."""
    assert main(["doctor", "http://127.0.0.1:1"]) == 1
    assert "name the models" in capsys.readouterr().err
    assert main(["doctor", "http://127.0.0.1:1", "m", "--concurrency", "0"]) == 1
    assert "concurrency" in capsys.readouterr().err


def test_store_is_shown_exported_loaded_and_pruned(studied, tmp_path, capsys):
    """What is exported from one store makes another one."""
    _, path = studied
    assert main(["store", "show", "--path", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "scripted:small" in shown
    assert "generated" in shown
    lines, copy = tmp_path / "all.jsonl", tmp_path / "copy.db"
    assert main(["store", "export", str(lines), "--path", str(path)]) == 0
    assert main(["store", "load", str(lines), "--path", str(copy)]) == 0
    capsys.readouterr()
    assert main(["store", "show", "--path", str(copy)]) == 0
    assert capsys.readouterr().out == shown
    assert main(["store", "prune", "--path", str(copy)]) == 1
    assert "--all" in capsys.readouterr().err
    assert main(["store", "prune", "--model", "small", "--path", str(copy)]) == 0
    assert main(["store", "prune", "--all", "--path", str(copy)]) == 0
    assert "0 are left" in capsys.readouterr().out


def test_stores_that_are_none_are_left_alone(tmp_path, capsys):
    """A file that is missing, or of another kind."""
    assert main(["store", "show", "--path", str(tmp_path / "missing.db")]) == 1
    assert "no such file" in capsys.readouterr().err
    text = tmp_path / "notes.txt"
    text.write_text("notes, and no database at all " * 50)
    assert main(["store", "show", "--path", str(text)]) == 1
    assert "notes.txt" in capsys.readouterr().err
    assert main(["store", "load", str(text), "--path", str(tmp_path / "new.db")]) == 1
    assert "line 1" in capsys.readouterr().err


def _start(*arguments):
    return subprocess.Popen(
        [sys.executable, "-m", "optuna_agenttts_integrations.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ,
        # Whoever runs the tests in a shell's background has it ignored.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def test_the_module_runs_as_a_program():
    """Help is printed; a command is required."""
    process = _start("--help")
    assert "doctor" in process.communicate(timeout=60)[0]
    assert process.returncode == 0
    process = _start()
    assert "required" in process.communicate(timeout=60)[1]
    assert process.returncode == 2


def test_interrupting_is_no_traceback():
    """Ctrl-C while a server is being examined."""

    class Slow(Echo):
        async def complete(self, request, *, seed):
            import asyncio

            await asyncio.sleep(30)

    with LoopbackServer({"slow": Slow()}) as server:
        process = _start("doctor", server.url, "slow")
        deadline = time.monotonic() + 30
        while not server.served["/v1/chat/completions"] and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "Traceback" not in error


def test_evaluations_of_a_replayed_store_ask_nobody(studied):
    """A store alone is enough to score what was tried."""
    storage, path = studied
    trial = optuna.load_study(study_name="mine", storage=storage).trials[0]
    store = CompletionStore(path)
    objective, chats = make_objective(count=6, store=store, replay=True)
    params = trial.params
    with objective:
        found = objective.evaluate(
            allocation(
                (params["find.model"], params["find.samples"]),
                (params["say.model"], params["say.samples"]),
            )
        )
    store.close()
    assert found.mean == pytest.approx(trial.value)
    assert not any(chat.calls for chat in chats.values())
