"""Output, errors and exit codes of the command line."""

import asyncio
import csv
import html
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import textwrap
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import entry_points
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import create_trial
from pipeline_support import allocation, make_objective, make_task, unused

from optuna_agenttts import AgentTTSSampler, Task, Verdict, recommend
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts.report.summary import Summary
from optuna_agenttts.study.rounds import Round, write_round
from optuna_agenttts_integrations import CompletionStore, LoopbackServer
from optuna_agenttts_integrations.cli import main
from optuna_agenttts_integrations.playground import PlaygroundServer

KEY = "hf_" + "secret" * 5


class Echo:
    """Chat model that replies at once."""

    async def complete(self, request, *, seed):
        """Reply OK."""
        words = sum(len(message.content.split()) for message in request.messages)
        return Completion(f"OK {seed}", Usage(words, 2))


class Slow:
    """Chat model that does not reply in time."""

    def __init__(self):
        self.called = threading.Event()

    async def complete(self, request, *, seed):
        """Wait."""
        self.called.set()
        await asyncio.sleep(30)


@pytest.fixture(autouse=True)
def _secret_key(monkeypatch):
    """Set a key that must not be printed, and check that Optuna's verbosity is restored."""
    verbosity = optuna.logging.get_verbosity()
    monkeypatch.setenv("HF_TOKEN", KEY)
    yield
    assert optuna.logging.get_verbosity() == verbosity


@pytest.fixture(scope="module")
def studied(tmp_path_factory):
    """Create a storage with the studies "older" (one trial) and "mine", and their store."""
    folder = tmp_path_factory.mktemp("studied")
    storage, path = f"sqlite:///{folder}/study.db", folder / "store.db"
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    store = CompletionStore(path)
    objective, _ = make_objective(count=3, store=store)
    with objective:
        for name, trials in (("older", 1), ("mine", 3)):
            study = optuna.create_study(
                study_name=name, storage=storage, direction="maximize", sampler=AgentTTSSampler()
            )
            study.optimize(objective, n_trials=trials)
    store.close()
    optuna.logging.set_verbosity(verbosity)
    return storage, path


@pytest.fixture
def fails(capsys):
    """Run a command that must fail; return its one-line error."""

    def run(*arguments, code=1):
        assert main([str(argument) for argument in arguments]) == code
        printed = capsys.readouterr()
        assert printed.out == ""
        assert printed.err.startswith("agenttts: ")
        assert printed.err.count("\n") == 1
        assert KEY not in printed.err
        return printed.err

    return run


def new_study(path, **options):
    """Create a study in a new file; return it and its URL."""
    url = f"sqlite:///{path}"
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(storage=url, **{"direction": "maximize", **options})
    optuna.logging.set_verbosity(verbosity)
    return study, url


def start(*arguments, stdout=subprocess.PIPE, cwd=None, **variables):
    """Start the command line in a new process."""
    path = os.pathsep.join(filter(None, sys.path))
    return subprocess.Popen(
        [sys.executable, "-m", "optuna_agenttts_integrations.cli", *arguments],
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": path, **variables},
        # Background jobs of a shell ignore SIGINT.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


# Reports.


def test_report_prints_recommendation_and_spend(studied, capsys):
    """It is about the newest study, without Optuna's log."""
    storage, _ = studied
    assert main(["report", storage]) == 0
    printed = capsys.readouterr()
    assert printed.out.startswith("Study 'mine' of task 'two'\n")
    assert "Trials: 3 complete, on up to 3 instances each" in printed.out
    assert "90 % interval" in printed.out
    assert "Spent so far" in printed.out
    assert "guidelines" not in printed.out
    assert f"agenttts report {storage} --html report.html" in printed.out
    assert f"optuna-dashboard {storage}" in printed.out
    assert "For smaller budgets" not in printed.out
    assert printed.err == ""
    assert main(["report", storage, "--frontier"]) == 0
    frontier = "For smaller budgets\ncost in reference samples per instance\n"
    assert frontier in capsys.readouterr().out


def test_report_on_another_study_of_the_storage(studied, capsys):
    """`--study` selects it."""
    assert main(["report", studied[0], "--study", "older"]) == 0
    assert "Study 'older' of task 'two'\n" in capsys.readouterr().out


def dashboard_studies(printed):
    """Return the studies of the storage that optuna-dashboard opens by a printed command."""
    from optuna_dashboard._storage_url import get_storage

    command = next(line for line in printed.splitlines() if "or: optuna-dashboard" in line)
    storage = get_storage(shlex.split(command)[-1])
    return [study.study_name for study in storage.get_all_studies()]


def test_files_of_storages_are_storages(studied, tmp_path, capsys):
    """An SQLite database and a journal can be given by their path."""
    assert main(["report", studied[0].removeprefix("sqlite:///")]) == 0
    printed = capsys.readouterr().out
    assert dashboard_studies(printed) == ["older", "mine"]
    assert "Study 'mine'" in printed
    journal = tmp_path / "journal.log"
    study = optuna.create_study(
        study_name="journaled", storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    task = make_task()
    study.optimize(lambda trial: float(len(task.suggest(trial))), n_trials=2)
    assert main(["report", str(journal)]) == 0
    printed = capsys.readouterr().out
    assert dashboard_studies(printed) == ["journaled"]
    assert "Study 'journaled'" in printed
    assert "Trials: 2 complete" in printed


def test_report_prints_the_latest_share_of_replies_without_an_answer(tmp_path, capsys):
    """Once for each model and stage."""
    study, url = new_study(tmp_path / "study.db")
    task, shares = make_task(), iter((31, 12))

    def run(trial):
        trial.set_user_attr("thoughts", f"{next(shares)} % of m's replies ended")
        return float(len(task.suggest(trial)))

    study.optimize(run, n_trials=2)
    assert main(["report", url]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "replies ended" in line]
    assert lines == ["  - 12 % of m's replies ended."]


def test_report_prints_the_last_guidelines(tmp_path, capsys):
    """A failed round has none; those of earlier rounds are below."""
    study, url = new_study(tmp_path / "study.db")
    task = make_task()
    study.optimize(lambda trial: float(len(task.suggest(trial))), n_trials=1)
    for number, lines in enumerate([("Old.",), ("Sample more.", "Für wenig Geld."), ()]):
        planned = Round(number=number, guidelines=lines, prompt_tokens=90, requests=1)
        write_round(study, planned)
    assert main(["report", url]) == 0
    printed = capsys.readouterr().out
    assert "  - Sample more.\n  - Für wenig Geld.\n" in printed
    assert printed.index("Sample more.") < printed.index("Old.")
    assert "270 tokens on planning" in printed
    assert "claim" not in printed
    # Characters that the terminal cannot encode are escaped.
    process = start("report", url, PYTHONIOENCODING="ascii")
    out, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (0, "")
    assert r"F\xfcr wenig Geld." in out


def test_report_prints_contradicted_claims_of_the_agent(tmp_path, capsys):
    """Below the guidelines: counts of verdicts, and each contradicted claim."""
    study, url = new_study(tmp_path / "study.db")
    task = make_task()
    study.optimize(lambda trial: float(len(task.suggest(trial))), n_trials=1)
    verdicts = (
        Verdict("answer", "models", "agrees", "answer: right."),
        Verdict("answer", "samples", "contradicts", "answer: wrong."),
    )
    planned = Round(number=1, guidelines=("Sample more.",), verdicts=verdicts)
    write_round(study, planned)
    assert main(["report", url]) == 0
    printed = capsys.readouterr().out
    assert "  - Sample more.\n" in printed
    assert "Of 2 claims the fit agrees with 1, contradicts 1 and leaves 0 open." in printed
    assert "  - answer: wrong.\n" in printed
    assert "right." not in printed


def test_a_study_without_task_is_recognised_by_its_parameters(tmp_path, capsys):
    """The unit of its costs is relative."""
    study, url = new_study(tmp_path / "study.db")

    def objective(trial):
        trial.suggest_categorical("answer.model", ["a-1B", "b-7B"])
        return trial.suggest_int("answer.samples", 1, 9) / 9

    study.optimize(objective, n_trials=3)
    assert main(["report", url]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"\n  stage   model  samples\n  answer  (a-1B|b-7B)  ", printed)
    assert "(relative)" in printed


def test_an_unknown_study_is_an_error(studied, fails):
    """The error lists the studies of the storage."""
    error = fails("report", studied[0], "--study", "other")
    assert "must be one of older, mine" in error
    assert "got 'other'" in error


def test_a_missing_storage_is_not_created(tmp_path, fails):
    """Optuna would create an empty database."""
    for path in (tmp_path / "no.db", tmp_path / "nowhere" / "no.db"):
        assert "No such file" in fails("report", f"sqlite:///{path}")
        assert "URL of an Optuna storage" in fails("report", path)
    assert list(tmp_path.iterdir()) == []


def test_databases_without_studies_are_not_changed(studied, tmp_path, fails):
    """This holds for an empty storage, a completion store and a text file."""
    store = CompletionStore(tmp_path / "store.db")
    store.close()
    (tmp_path / "notes.txt").write_text("no database at all " * 50)
    study, url = new_study(tmp_path / "empty.db")
    optuna.delete_study(study_name=study.study_name, storage=url)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert "must contain a study" in fails("report", url)
    assert "must contain a study" in fails("report", f"sqlite:///{tmp_path}/store.db")
    assert "not a database" in fails("report", f"sqlite:///{tmp_path}/notes.txt")
    assert "must contain a study" in fails("report", tmp_path / "notes.txt")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "storage",
    [
        "nonsense",
        "user:password@host",
        "redis://user:password@host",
        "postgresql+nodriver://user:password@host/db?sslpassword=password",
        "postgresql://user:password@127.0.0.1:1/db?connect_timeout=5&application_name=password",
        "postgresql://user:password@host:port/db",
        "postgresql://user:a@password@127.0.0.1:1/db?connect_timeout=5",
        "postgresql+nodriver://user:a@password/password@host/db",
    ],
)
def test_an_unreadable_storage_is_reported_without_its_password(fails, storage):
    """The error is one line for every driver."""
    error = fails("report", storage)
    assert "cannot be read" in error
    assert "password" not in error


def test_a_study_without_trials_has_a_report_without_a_recommendation(tmp_path, capsys):
    """So has one with several objectives."""
    study, url = new_study(tmp_path / "fresh.db", study_name="fresh")
    make_task().register(study)
    assert main(["report", url]) == 0
    assert "no completed trial" in capsys.readouterr().out
    study, url = new_study(
        tmp_path / "two.db", study_name="two", direction=None, directions=["maximize"] * 2
    )
    make_task().register(study)
    assert main(["report", url]) == 0
    assert "2 objectives" in capsys.readouterr().out


def test_a_study_without_a_task_is_an_error(tmp_path, fails):
    """The error names the remedy."""
    study, url = new_study(tmp_path / "other.db", study_name="other")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert "No task is registered" in (error := fails("report", url))
    assert "summarize(study, task)" in error


def test_report_as_json_has_every_field_of_the_summary(studied, capsys):
    """It is valid JSON without NaN, the task can be built from it, and it names its version."""
    assert main(["report", studied[0], "--json"]) == 0
    printed = capsys.readouterr().out
    values = json.loads(printed, parse_constant=pytest.fail)
    study = optuna.load_study(study_name="mine", storage=studied[0])
    assert set(values) == {"optuna-agenttts", "version", *Summary.__dataclass_fields__}
    assert values["study"] == "mine"
    assert values["states"] == {"complete": 3}
    assert Task.from_dict(values["task"]) == Task.registered(study)
    assert values["recommendation"]["params"] == recommend(study).params
    assert values["recommendation"]["interval"] == list(recommend(study).interval)
    assert len(values["outcomes"]["values"]) == 3


def test_report_as_a_web_page(studied, tmp_path, capsys):
    """The path is printed; the page names study, storage and versions."""
    path = tmp_path / "report.html"
    assert main(["report", studied[0], "--html", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    for text in ("Study mine", studied[0], optuna.__version__):
        assert text in page


@pytest.mark.parametrize("kind", ["url", "database", "journal"])
def test_code_of_the_web_page_runs(studied, tmp_path, kind, capsys):
    """It loads the study from wherever it is, and prints the recommendation."""
    given = studied[0]
    if kind == "database":
        given = given.removeprefix("sqlite:///")
    if kind == "journal":
        given = str(tmp_path / "journal.log")
        study = optuna.create_study(storage=JournalStorage(JournalFileBackend(given)))
        study.optimize(lambda trial: float(len(make_task().suggest(trial))), n_trials=1)
    path = tmp_path / "report.html"
    assert main(["report", given, "--html", str(path)]) == 0
    capsys.readouterr()
    block = re.search("<pre>(import optuna.*?)</pre>", path.read_text(encoding="utf-8"), re.DOTALL)
    exec(html.unescape(block[1]), {})
    assert "recommended" in capsys.readouterr().out


def test_trials_as_a_table(studied, tmp_path, capsys):
    """Each has a line, with its parameters, cost, spend and value."""
    path = tmp_path / "trials.csv"
    assert main(["report", studied[0], "--csv", str(path)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    study = optuna.load_study(study_name="mine", storage=studied[0])
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == [0, 1, 2]
    for row, trial in zip(rows, study.trials):
        assert float(row["value"]) == trial.value
        assert {name: row[name] for name in trial.params} == {
            name: str(value) for name, value in trial.params.items()
        }
        assert row["state"] == "complete"
        assert float(row["cost"]) > 0


def test_json_is_all_of_the_output_in_every_encoding(tmp_path, monkeypatch, capsys):
    """Also where the encoding lacks characters of names, and beside files."""
    study, url = new_study(tmp_path / "names.db", study_name="größe 😀 \U000e0001")
    study.optimize(lambda trial: float(len(make_task().suggest(trial))), n_trials=1)
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", output)
    files = [tmp_path / "trials.csv", tmp_path / "report.html"]
    assert main(["report", url, "--json", "--csv", str(files[0]), "--html", str(files[1])]) == 0
    values = json.loads(output.buffer.getvalue(), parse_constant=pytest.fail)
    assert values["study"] == study.study_name
    assert capsys.readouterr().err == "".join(f"{file}\n" for file in files)


def test_no_cell_of_a_table_is_a_formula(tmp_path):
    """Neither names nor values of attributes; numbers stay numbers."""
    study, url = new_study(tmp_path / "formulas.db")
    make_task().register(study)
    attributes = {f"{sign}x": f"{sign}1+1" for sign in "=+-@\t\r"}
    study.add_trial(
        create_trial(value=-0.5, user_attrs={**attributes, "low": -2.5, "half": "\udc80"})
    )
    path = tmp_path / "trials.csv"
    assert main(["report", url, "--csv", str(path)]) == 0
    with path.open(encoding="utf-8", newline="") as file:
        columns, row = csv.reader(file)
    found = dict(zip(columns, row))
    assert {found[f"'{name}"] for name in attributes} == {f"'{v}" for v in attributes.values()}
    assert (found["value"], found["low"], found["half"]) == ("-0.5", "-2.5", "\\udc80")


def test_a_closed_output_is_no_error(tmp_path, monkeypatch):
    _, url = new_study(tmp_path / "closed.db")
    monkeypatch.setattr("sys.stdout", None)
    assert main(["studies", url]) == 0


def test_a_file_that_cannot_be_written_is_an_error(studied, tmp_path, fails):
    assert "No such file" in fails("report", studied[0], "--html", tmp_path / "no" / "report.html")


# Studies of a storage.


def test_studies_lists_all_studies_of_a_storage(studied, tmp_path, capsys):
    """One line each, with metric, best trial and number of trials by state; nothing is written."""
    assert main(["studies", studied[0]]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["study", "task", "metric"]
    assert [line.split()[0] for line in lines] == ["older", "mine"]
    assert [line.split()[-2:] for line in lines] == [["1", "complete"], ["3", "complete"]]
    assert all("(maximize)" in line for line in lines)
    several, url = new_study(
        tmp_path / "odd.db",
        study_name="<b>\n\033[31m",
        direction=None,
        directions=["minimize"] * 2,
    )
    several.ask()
    before = (tmp_path / "odd.db").read_bytes()
    assert main(["studies", url]) == 0
    printed = capsys.readouterr().out
    assert "\033" not in printed
    assert len(printed.splitlines()) == 2
    assert "(minimize, minimize)" in printed
    assert (tmp_path / "odd.db").read_bytes() == before


def test_studies_of_an_empty_storage_is_an_error(tmp_path, fails):
    assert "No such file" in fails("studies", f"sqlite:///{tmp_path}/no.db")


# The doctor on servers.


@pytest.mark.parametrize("dialect", ["tgi", "openai"])
def test_doctor_examines_servers(dialect, capsys):
    """It prints a table of findings; the exit code is 1 if there is an error."""
    with LoopbackServer({"small": Echo()}, dialect=dialect) as server:
        assert main(["doctor", server.url, "small"]) == 0
        printed = capsys.readouterr()
        assert "one token" in printed.out
        assert "WARN" not in printed.out
        assert printed.err == ""
        assert main(["doctor", server.url, "another"]) == 1
        assert "another" in capsys.readouterr().out
        assert main(["doctor", f"{server.url}#small", "another"]) == 0
        capsys.readouterr()


def test_doctor_finds_no_error_in_the_playground(capsys, monkeypatch):
    """Each model has its rows; the prompt consists of words that it knows."""
    names = ["answerer-13k", "answerer-22k"]
    with PlaygroundServer(names) as server:
        assert main(["doctor", server.url, *names, "--prompt", "2 + 3 ?", "--timeout", "9"]) == 0
        printed = capsys.readouterr().out
        assert all(printed.count(f"\n{name} ") == 1 for name in names)
        assert "its prompt has 4 tokens" in " ".join(printed.split())
        assert main(["doctor", server.url, *names, "--prompt", "2 " * 200]) == 1
        assert "Shorten the prompt" in capsys.readouterr().out
        # The table fits the terminal.
        for columns, width in (("80", 79), ("200", 99), ("20", 72)):
            monkeypatch.setenv("COLUMNS", columns)
            main(["doctor", server.url, *names, "--prompt", "2 " * 200])
            lines = capsys.readouterr().out.splitlines()
            assert width - 9 < max(map(len, lines)) <= width


def test_doctor_tests_whole_replies_and_further_fields(capsys, fails):
    """Without `--max-tokens` only prompts are tested, and without `--prompt` the table says so."""
    with LoopbackServer({"small": Echo()}) as server:
        assert main(["doctor", server.url, "small"]) == 0
        assert "Pass your longest prompt" in capsys.readouterr().out
        options = ["--prompt", "a b c", "--extra", '{"top_k": 3}']
        assert main(["doctor", server.url, "small", *options]) == 0
        printed = capsys.readouterr().out
        assert "full length" not in printed
        assert "Pass your longest prompt" not in printed
        assert main(["doctor", server.url, "small", *options, "--max-tokens", "99"]) == 0
        assert "with `max_tokens` 99 is answered" in " ".join(capsys.readouterr().out.split())
        for option, value, message in [
            ("--extra", "{", "must be a JSON object"),
            ("--extra", "[]", "must be a JSON object"),
            ("--extra", '{"seed": 1}', "must not set seed"),
            ("--max-tokens", "0", "must be at least 1, got 0"),
        ]:
            assert message in fails("doctor", server.url, "small", option, value)


def test_an_unreachable_server_is_contacted_once(capsys):
    """The table has the remedy, and further models are skipped."""
    assert main(["doctor", unused(), "one", "two"]) == 1
    printed = " ".join(capsys.readouterr().out.split())
    assert "Check that the server is running" in printed
    assert "two reachable FAIL skipped: the server was unreachable for one" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["http://127.0.0.1:1"], "name the models"),
        (["hf"], "name the models"),
        (["hf:groq"], "name the models"),
        (
            ["http://127.0.0.1:1", "m", "--concurrency", "0"],
            "`concurrency` must be at least 1, got 0",
        ),
        (["http://127.0.0.1:1", "m", "--timeout", "0"], "`timeout` must be positive, got 0"),
        (["localhost:1", "m"], "'http://127.0.0.1:8080', got 'localhost:1'"),
        (["http://", "m"], "'http://127.0.0.1:8080', got 'http://'"),
        (["http://user:password@127.0.0.1:1", "m"], "contains a user name or password"),
        (["http://127.0.0.1:1", "m", "--api-key-env", "password"], "`--api-key-env`"),
        (["http://127.0.0.1:1", ""], "name the models"),
    ],
)
def test_invalid_server_arguments_are_errors(fails, arguments, message):
    """The error is one line without secrets."""
    error = fails("doctor", *arguments)
    assert message in error
    assert "password@" not in error
    assert "'password'" not in error


class Forgetful(BaseHTTPRequestHandler):
    """Server that refuses every request and repeats the key it received."""

    def do_GET(self):
        key = self.headers.get("authorization", "none")
        self.server.keys.add(key)
        body = json.dumps({"error": f"the key {key} is wrong"}).encode()
        self.send_response(401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("named", [True, False])
def test_keys_are_sent_only_to_their_server_and_never_printed(named, monkeypatch, capsys):
    """A server gets the key of the given variable or none, never the Hugging Face token."""
    monkeypatch.setenv("MY_KEY", "correct horse battery")
    server = HTTPServer(("127.0.0.1", 0), Forgetful)
    server.keys = set()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        assert main(["doctor", url, "m", *(["--api-key-env", "MY_KEY"] if named else [])]) == 1
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    assert server.keys == {"Bearer correct horse battery" if named else "none"}
    printed = capsys.readouterr()
    assert "Check that the API key is set" in printed.out
    assert "correct horse" not in printed.out + printed.err
    assert KEY not in printed.out + printed.err


# The doctor on objectives.


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Write a module into the current folder; return its unique name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    names = []

    def write(text, name=None):
        names.append(name or f"cli_{tmp_path.name}_{len(names)}".replace("-", "_"))
        (tmp_path / f"{names[-1]}.py").write_text(textwrap.dedent(text))
        return names[-1]

    yield write
    for name in names:
        sys.modules.pop(name, None)


BUILD = """
    from pipeline_support import make_objective

    def build():
        return make_objective(count=2)[0]

    class Kept:
        objective = build()

    objective, number = build(), 7
"""


def test_doctor_examines_objectives(module, capsys):
    """Objects and functions that return one work; `sys.path` is restored."""
    name, before = module(BUILD), list(sys.path)
    for attribute in ("build", "objective", "Kept.objective"):
        assert main(["doctor", f"{name}:{attribute}"]) == 0
        printed = capsys.readouterr()
        assert "writable" in printed.out
        assert printed.err == ""
        assert sys.path == before


def test_modules_of_the_current_folder_can_be_imported_during_a_check(module, capsys):
    """A prompt function may import lazily."""
    module("WORDS = 'from elsewhere'", "cli_lazily")
    name = module(
        """
        from pipeline_support import Replies, objective_of
        from optuna_agenttts_integrations import Pipeline, StageProgram

        def prompt(state):
            import cli_lazily
            return f"{state.instance} {cli_lazily.WORDS} " + "word " * 10

        def build():
            pipeline = Pipeline(
                stages=[StageProgram(name="s", prompt=prompt)], score=lambda state: 1.0
            )
            return objective_of(pipeline, {"m": Replies(lambda request, number: "OK")})
        """
    )
    assert main(["doctor", f"{name}:build"]) == 0
    assert "1 built" in capsys.readouterr().out
    assert str(Path.cwd()) not in sys.path


def test_an_objective_with_errors_has_exit_code_1(module, capsys):
    """The table has the remedy."""
    name = module(
        f"""
        from pipeline_support import objective_of, make_pipeline
        from optuna_agenttts_integrations import connect_endpoints

        def build():
            return objective_of(
                make_pipeline(), connect_endpoints(["m"], {unused()!r}), [{{"id": "q"}}]
            )
        """
    )
    assert main(["doctor", f"{name}:build"]) == 1
    assert "Check that the server is running" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("text", "what", "message"),
    [
        (BUILD, "{}:number", "got int"),
        (BUILD, "{}:missing", "has no attribute 'missing'"),
        (BUILD, "{}:build.missing", "has no attribute 'missing'"),
        (BUILD, "{}", "'module:name'"),
        (BUILD, "{}:", "'module:name'"),
        (BUILD, "{}.py:objective", "without '.py'"),
        (BUILD, "./{}:objective", "'module:name'"),
        (BUILD, "no_such_module:objective", "No module named 'no_such_module'"),
        (BUILD, "{}.inner:objective", "is not a package"),
        ("import no_such_module", "{}:x", "{}.py, line 1"),
        ("\n1 / 0", "{}:x", "raised ZeroDivisionError: division by zero (in "),
        ("\n1 / 0", "{}:x", "{}.py, line 2)"),
        ("def f(:", "{}:x", "raised SyntaxError"),
        ("raise SystemExit('usage')", "{}:x", "raised SystemExit: usage"),
        ("def build():\n    raise OSError('no\\ndata')", "{}:build", "raised OSError: no data"),
        ("def build(path): pass", "{}:build", "'path'"),
        (f"def build(): raise ValueError('{KEY}')", "{}:build", "raised ValueError: [hidden]"),
    ],
)
def test_objectives_that_cannot_be_imported_are_errors(module, fails, text, what, message):
    """The error is one line with the place in the user's code; `sys.path` is restored."""
    name, before = module(text), list(sys.path)
    assert message.format(name) in fails("doctor", what.format(name))
    assert sys.path == before


@pytest.mark.parametrize(
    "option", ["--concurrency=3", "--prompt=x", "--timeout=3", "--bill-to=me"]
)
def test_options_for_servers_are_rejected_for_objectives(module, fails, option):
    """They would have no effect."""
    error = fails("doctor", f"{module(BUILD)}:objective", option)
    assert option.split("=")[0] in error


# Stores.


def test_store_can_be_shown_exported_loaded_and_pruned(studied, tmp_path, capsys):
    """Loading an export creates an equal store."""
    _, path = studied
    assert main(["store", "show", "--path", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "scripted:small" in shown
    assert "generated" in shown
    lines, copy = tmp_path / "all.jsonl", tmp_path / "copy.db"
    assert main(["store", "export", str(lines), "--path", str(path)]) == 0
    assert f"{len(lines.read_text().splitlines())} requests" in capsys.readouterr().out
    assert main(["store", "load", str(lines), "--path", str(copy)]) == 0
    capsys.readouterr()
    assert main(["store", "show", "--path", str(copy)]) == 0
    assert capsys.readouterr().out == shown
    assert main(["store", "prune", "--model", "small", "--path", str(copy)]) == 0
    capsys.readouterr()
    assert main(["store", "show", "--path", str(copy)]) == 0
    printed = capsys.readouterr().out
    assert "scripted:small" not in printed
    assert "scripted:large" in printed
    assert main(["store", "prune", "--all", "--path", str(copy)]) == 0
    assert ", 0 left" in capsys.readouterr().out


@pytest.fixture
def filled(tmp_path):
    """Create a store of two requests with three samples each, of one model."""
    lines = [
        {
            "endpoint": "here",
            "seed": 0,
            "at": at,
            "request": {"model": "m", "n": at},
            "samples": {str(i): ["text", 3, 1, "stop"] for i in range(3)},
        }
        for at in (1e9, 1e300)
    ]
    file, path = tmp_path / "lines.jsonl", tmp_path / "filled.db"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert main(["store", "load", str(file), "--path", str(path)]) == 0
    return path


def count(path):
    """Count the completions of a store."""
    store = CompletionStore(path)
    held = len(store)
    store.close()
    return held


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--keep=0"],
        ["--keep=-1"],
        ["--keep=-1", "--model=m"],
        ["--older-than-days=0"],
        ["--older-than-days=-3"],
        ["--older-than-days=nan"],
        ["--older-than-days=inf"],
    ],
)
def test_nothing_is_deleted_by_mistake(filled, capsys, fails, options):
    """Without a valid condition, all completions would be deleted."""
    capsys.readouterr()
    fails("store", "prune", *options, "--path", filled)
    assert count(filled) == 6


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--keep=2"], 4),
        (["--older-than-days=30"], 3),
        (["--older-than-days=30", "--keep=1"], 4),
        (["--endpoint="], 6),
        (["--model=other"], 6),
        (["--endpoint=here", "--model=m"], 0),
        (["--all"], 0),
    ],
)
def test_only_matching_completions_are_deleted(filled, capsys, options, left):
    """Conditions are combined; an empty endpoint is a condition, too."""
    assert main(["store", "prune", *options, "--path", str(filled)]) == 0
    assert f", {left} left" in capsys.readouterr().out
    assert count(filled) == left


def test_invalid_dates_are_printed_as_a_question_mark(tmp_path, filled, capsys):
    """Loaded files may have any number as a date."""
    assert main(["store", "prune", "--older-than-days=30", "--path", str(filled)]) == 0
    capsys.readouterr()
    assert main(["store", "show", "--path", str(filled)]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["here", "m", *"1393?"]


def test_files_that_are_not_stores_are_not_changed(studied, tmp_path, fails):
    """Every action rejects a missing file and other kinds of files."""
    text, study = tmp_path / "notes.txt", studied[0].removeprefix("sqlite:///")
    text.write_text("notes, and no database at all " * 50)
    before, new = text.read_bytes(), tmp_path / "new.jsonl"
    for action in (["show"], ["export", new], ["prune", "--all"]):
        missing = tmp_path / "missing.db"
        assert "does not exist" in fails("store", *action, "--path", missing)
        assert "notes.txt" in fails("store", *action, "--path", text)
        assert "another application" in fails("store", *action, "--path", study)
        assert "cannot be opened" in fails("store", *action, "--path", tmp_path)
    assert text.read_bytes() == before
    assert list(tmp_path.iterdir()) == [text]


def test_unreadable_or_unwritable_files_are_errors(studied, tmp_path, fails):
    """A missing file creates no store, and a store is not exported to itself."""
    _, path = studied
    new = tmp_path / "new.db"
    assert "does not exist" in fails("store", "load", tmp_path / "missing", "--path", new)
    assert not new.exists()
    text = tmp_path / "notes.txt"
    text.write_text("notes")
    assert "line 1" in fails("store", "load", text, "--path", new)
    assert "cannot be read" in fails("store", "load", tmp_path, "--path", new)
    nowhere = tmp_path / "nowhere" / "all.jsonl"
    assert "cannot be written" in fails("store", "export", nowhere, "--path", path)
    assert "the store itself" in fails("store", "export", path, "--path", path)


# The program.


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--help"], 0),
        (["--version"], 0),
        (["report"], 2),
        (["studies", "--help"], 0),
        (["doctor"], 2),
        (["doctor", "--help"], 0),
        (["doctor", "http://127.0.0.1:1", "m", "--concurrency", "many"], 2),
        (["store"], 2),
        (["store", "show"], 2),
        (["store", "prune", "--help"], 0),
        (["unknown"], 2),
    ],
)
def test_invalid_commands_print_the_usage(arguments, code, capsys):
    """Help goes to standard output, usage to standard error."""
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == code
    printed = capsys.readouterr()
    start = "optuna-agenttts " if "--version" in arguments else "usage: agenttts"
    assert (printed.err if code else printed.out).startswith(start)
    assert (printed.out if code else printed.err) == ""


def test_the_help_is_printed_without_packages_that_take_long():
    """Each of them takes longer than the rest of the command line."""
    heavy = ("huggingface_hub", "optuna_dashboard", "pandas", "plotly", "scipy", "sqlalchemy")
    code = (
        "import sys\nfrom optuna_agenttts_integrations.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_installed_program_is_this_one():
    """`agenttts` runs `main` if the package is installed."""
    found = [e for e in entry_points(group="console_scripts") if e.name == "agenttts"]
    if not found:
        pytest.skip("runs from the sources")
    assert found[0].load() is main


@pytest.mark.slow
def test_the_module_runs_as_a_program(studied, tmp_path):
    """It runs in any folder, with the same exit codes."""
    process = start("report", studied[0], cwd=tmp_path)
    out, error = process.communicate(timeout=300)
    assert (process.returncode, error) == (0, "")
    assert "Study 'mine'" in out
    process = start("report", "sqlite:///no.db", cwd=tmp_path)
    out, error = process.communicate(timeout=300)
    assert (process.returncode, out) == (1, "")
    assert error.startswith("agenttts: ")


def test_a_closed_pipe_is_no_error(studied):
    """`agenttts report ... | head` prints no traceback."""
    reading, writing = os.pipe()
    os.close(reading)
    process = start("report", studied[0], stdout=writing)
    os.close(writing)
    _, error = process.communicate(timeout=300)
    assert error == ""


def test_interrupting_prints_no_traceback():
    """Ctrl-C during a check exits at once."""
    slow = Slow()
    with LoopbackServer({"slow": slow}) as server:
        process = start("doctor", server.url, "slow")
        assert slow.called.wait(300)
        process.send_signal(signal.SIGINT)
        out, error = process.communicate(timeout=100)
    assert (process.returncode, out) == (130, "")
    assert error == "agenttts: interrupted\n"


def test_evaluations_of_a_replayed_store_send_no_requests(studied):
    """A store is enough to score an allocation again."""
    storage, path = studied
    trial = optuna.load_study(study_name="mine", storage=storage).trials[0]
    store = CompletionStore(path)
    objective, chats = make_objective(count=3, store=store, replay=True)
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
