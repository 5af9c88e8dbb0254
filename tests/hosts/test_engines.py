"""Examples of engines: two workers on one machine, each with its host name and connections."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import optuna
import pytest
from hosts_support import environment
from postgresql_support import postgresql

from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.playground import PlaygroundServer

FOLDER = Path(__file__).parents[2] / "examples" / "distributed"
SECONDS = 240.0
"""Longest time of an example; Ray takes half a minute to start on two cores."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER.exists(), reason="needs the examples"),
]


def run(folder, name, *arguments):
    """Run an example in a folder of its own; return what it prints."""
    done = subprocess.run(
        [sys.executable, str(FOLDER / name), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def check(printed):
    """Check that all trials are complete, on two hosts, and that nothing was paid for twice."""
    assert "8 of 8 trials complete" in printed
    paid, kept = re.search(r"(\d+) requests for (\d+) stored", printed).groups()
    assert paid == kept != "0"
    hosts = set(re.findall(r"^host-\d", printed, re.MULTILINE))
    if shutil.which("unshare") and os.getuid() == 0:
        assert hosts == {"host-1", "host-2"}


def needs_postgresql():
    """Skip the test where no temporary server can be started."""
    with postgresql():
        pass


def test_postgresql(tmp_path):
    needs_postgresql()
    check(run(tmp_path, "postgresql_workers.py"))


def test_grpc(tmp_path):
    pytest.importorskip("grpc")
    check(run(tmp_path, "grpc_workers.py"))


@pytest.mark.hosts
def test_ray_workers(tmp_path):
    pytest.importorskip("ray")
    needs_postgresql()
    check(run(tmp_path, "ray_workers.py"))


@pytest.mark.hosts
def test_ray_tune(tmp_path):
    pytest.importorskip("ray.tune")
    check(run(tmp_path, "ray_tune.py"))


@pytest.mark.hosts
def test_dask(tmp_path):
    pytest.importorskip("optuna_integration.dask")
    check(run(tmp_path, "dask_workers.py"))


@pytest.fixture
def slurm(tmp_path):
    """Return a function that starts the batch script as SLURM would, with `srun` that execs."""
    (tmp_path / "srun").write_text('#!/bin/sh\nexec "$@"\n')
    (tmp_path / "srun").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)
    path = os.pathsep.join([str(tmp_path), os.environ["PATH"]])
    storage, store = f"sqlite:///{tmp_path}/study.db", f"{tmp_path}/completions.db"
    study = optuna.create_study(study_name="shared", storage=storage, direction="maximize")
    with PlaygroundServer() as server:

        def start(trials):
            more = {"STORAGE": storage, "STORE": store, "SERVER": server.url, "PATH": path}
            # SLURM copies the script; the job runs where it was submitted.
            return subprocess.Popen(
                ["bash", str(FOLDER / "slurm.sh")],
                cwd=FOLDER,
                env=environment(**more, TRIALS=str(trials)),
                start_new_session=True,
                # Background jobs of a shell ignore SIGINT, and so do the programs they start.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
            )

        yield study, store, server, start


def test_slurm(slurm):
    """Two jobs of the array, at the same time, run their trials and share what was paid for."""
    study, store, server, start = slurm
    assert [job.wait(SECONDS) for job in [start(4), start(4)]] == [0, 0]
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
    with closing(CompletionStore(store)) as opened:
        assert len(opened) == server.served["/v1/chat/completions"]


def test_slurm_ends_jobs_by_sigint(slurm):
    """The signal that the script asks SLURM for fails the running trial, and no trial is left."""
    study, store, server, start = slurm
    assert "--signal=INT@" in (FOLDER / "slurm.sh").read_text()
    job = start(1000)
    deadline = time.monotonic() + SECONDS
    # An interruption while Optuna creates a trial would leave it running.
    while not (server.served["/v1/chat/completions"] and study.trials[-1].params):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(job.pid, signal.SIGINT)
    assert job.wait(SECONDS) != 0
    assert all(trial.state.is_finished() for trial in study.trials)
    with closing(CompletionStore(store)) as opened:
        assert len(opened) > 0
