"""Workers that are killed: their trials are retried or failed, and what they received is kept."""

import asyncio
import multiprocessing
import os
import re
import signal
import time
from contextlib import closing, contextmanager
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage, RDBStorage
from optuna.storages.journal import (
    JournalFileBackend,
    JournalFileOpenLock,
    JournalFileSymlinkLock,
)
from pipeline_support import MODELS, make_pipeline, make_task
from postgresql_support import postgresql

from optuna_agenttts import AgentTTSSampler, storage
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import CompletionStore, Endpoint, MultiStageObjective
from optuna_agenttts_integrations.cli import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    # Forked workers inherit connections of the tests before.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.skipif(
        "fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork"
    ),
]

INTERVAL, GRACE = 1, 2
"""Seconds between heartbeats, and after the last one until a trial is stale."""
TIMEOUT = 300
"""Seconds to wait for another process."""
# `RetryFailedTrialCallback` before Optuna 4.9.
Retry = getattr(
    optuna.storages, "RetryHeartbeatStaleTrialCallback", optuna.storages.RetryFailedTrialCallback
)


class LoggingModel:
    """Chat model that writes each call to a file, and hangs once the file has enough lines."""

    def __init__(self, path, limit=float("inf")):
        self.path, self.limit = Path(path), limit

    async def complete(self, request, *, seed):
        """Reply, or hang."""
        if len(calls(self.path)) >= self.limit:
            await asyncio.sleep(3 * TIMEOUT)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"{request.model}|{request.messages[-1].content}|{seed}\n")
        return Completion("yes" if seed % 3 else "no", Usage(10, 3))


def calls(path):
    """Return the calls that were written to a file."""
    return Path(path).read_text(encoding="utf-8").splitlines() if Path(path).exists() else []


def run(opened, folder, *, n_trials, limit=float("inf")):
    """Run trials of the study."""
    model = LoggingModel(folder / "calls", limit)
    endpoints = {name: Endpoint(chat=model, identity=name, concurrency=2) for name in MODELS}
    task = make_task()
    objective = MultiStageObjective(
        make_pipeline(),
        [{"id": f"i{n}"} for n in range(4)],
        task=task,
        endpoints=endpoints,
        store=CompletionStore(folder / "store.db"),
        progress=False,
        measure_after=None,
    )
    with objective:
        study = optuna.load_study(
            study_name="x", storage=opened, sampler=AgentTTSSampler(task, seed=0)
        )
        study.optimize(objective, n_trials=n_trials)
    return study


def killed_worker(open_storage, folder, *, limit=30):
    """Kill a worker in the middle of a trial; return the number of calls that it made."""

    def work():
        run(open_storage(), folder, n_trials=100, limit=limit)

    worker = multiprocessing.get_context("fork").Process(target=work)
    worker.start()
    wait_for(lambda: len(calls(folder / "calls")) >= limit)
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    return len(calls(folder / "calls"))


def wait_for(condition):
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline, "the worker hangs"
        time.sleep(0.05)


@contextmanager
def sqlite_url(folder):
    """Yield the URL of an SQLite file."""
    yield f"sqlite:///{folder}/study.db"


@contextmanager
def postgresql_url(folder):
    """Yield the URL of a temporary PostgreSQL server."""
    with postgresql() as url:
        yield url


@pytest.mark.parametrize("opened", [sqlite_url, postgresql_url])
def test_trials_of_killed_workers_are_retried_with_their_allocation(opened, tmp_path, capsys):
    """Heartbeats find it, the next worker runs it again, and pays only for what is missing."""
    with opened(tmp_path) as url:

        def open_storage():
            return RDBStorage(
                url,
                heartbeat_interval=INTERVAL,
                grace_period=GRACE,
                heartbeat_stale_trial_callback=Retry(max_retry=2),
            )

        optuna.create_study(study_name="x", storage=open_storage(), direction="maximize")
        before = killed_worker(open_storage, tmp_path)
        time.sleep(GRACE + 2)
        assert main(["studies", url, "--stale", "--older-than", f"{GRACE}s"]) == 0
        assert re.search(r"^x .* s ago", capsys.readouterr().out, re.MULTILINE)
        study = run(open_storage(), tmp_path, n_trials=3)
        (stale,) = [trial for trial in study.trials if trial.state.name == "FAIL"]
        (again,) = [
            trial for trial in study.trials if Retry.retried_trial_number(trial) == stale.number
        ]
        assert (again.state.name, again.params) == ("COMPLETE", stale.params)
        assert again.system_attrs[storage.CANDIDATE] == stale.system_attrs[storage.CANDIDATE]
        made = calls(tmp_path / "calls")
        # At most what was in flight, two calls, is paid for again.
        assert before < len(made) <= len(set(made)) + 2
        complete = [t for t in study.trials if t.state.name == "COMPLETE"]
        assert len({tuple(t.params.items()) for t in complete}) == len(complete)


def test_a_retried_trial_of_half_its_parameters_keeps_these():
    """A worker killed between two suggestions leaves the others to the sampler."""
    task = make_task()
    study = optuna.create_study(direction="maximize", sampler=AgentTTSSampler(task, seed=0))
    study.optimize(lambda trial: float(len(str(task.suggest(trial)))), n_trials=4)
    trial = study.ask()
    stage = task.stages[0]
    names = [model.name for model in stage.models]
    first = trial.suggest_categorical(stage.model_parameter, names)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    Retry()(study, study.trials[trial.number])
    again = study.ask()
    suggested = task.suggest(again)
    assert Retry.retried_trial_number(study.trials[again.number]) == trial.number
    assert suggested[stage.name][0] == first
    assert task.cost(suggested) <= task.budget


def test_stale_trials_without_heartbeats_are_failed_by_the_command(tmp_path, capsys):
    """On a journal, whose trials have none: by the time since their start."""
    path = str(tmp_path / "journal.log")

    def open_storage():
        return JournalStorage(JournalFileBackend(path))

    optuna.create_study(study_name="x", storage=open_storage(), direction="maximize")
    before = killed_worker(open_storage, tmp_path)
    number = len(optuna.load_study(study_name="x", storage=open_storage()).trials) - 1
    assert main(["studies", path, "--stale"]) == 0
    assert "1 running trial without heartbeats" in capsys.readouterr().out
    time.sleep(1.1)
    assert main(["studies", path, "--stale", "--older-than", "1s", "--fail"]) == 0
    assert f"Failed trial {number} of study 'x'." in capsys.readouterr().out
    study = run(open_storage(), tmp_path, n_trials=3)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE"] * number + ["FAIL"] + ["COMPLETE"] * 3
    made = calls(tmp_path / "calls")
    assert before <= len(made) <= len(set(made)) + 2


def test_failing_a_trial_that_still_runs_ends_its_worker(tmp_path):
    """Optuna refuses its score; its replies are kept, and another worker goes on."""
    url = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(study_name="x", storage=url, direction="maximize")
    fail = ["studies", url, "--stale", "--older-than", "0s", "--fail"]
    task = make_task()

    def objective(trial):
        task.suggest(trial)
        if trial.number == 0:
            assert main(fail) == 0
        return 1.0

    study = optuna.load_study(study_name="x", storage=url, sampler=AgentTTSSampler(task))
    with pytest.raises((ValueError, AssertionError)):
        study.optimize(objective, n_trials=2)
    study = run(url, tmp_path, n_trials=2)
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize("lock", [JournalFileSymlinkLock, JournalFileOpenLock])
def test_a_journal_whose_lock_was_held_by_a_killed_worker(lock, tmp_path):
    """The others wait for the grace period of the lock, and go on."""
    path, grace = str(tmp_path / "journal.log"), 3

    def open_storage():
        return JournalStorage(JournalFileBackend(path, lock_obj=lock(path, grace_period=grace)))

    optuna.create_study(study_name="x", storage=open_storage(), direction="maximize")

    def hold():
        lock(path).acquire()
        time.sleep(TIMEOUT)

    worker = multiprocessing.get_context("fork").Process(target=hold)
    worker.start()
    wait_for(lambda: os.path.lexists(f"{path}.lock"))
    os.kill(worker.pid, signal.SIGKILL)
    worker.join()
    start = time.monotonic()
    study = run(open_storage(), tmp_path, n_trials=2)
    # Less than the grace period of Optuna's locks.
    assert grace <= time.monotonic() - start < 30
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    with closing(CompletionStore(tmp_path / "store.db")) as store:
        assert len(store) == len(calls(tmp_path / "calls"))
