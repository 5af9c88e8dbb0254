"""Servers that the examples need, started on 127.0.0.1, and host names; not an example."""

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from contextlib import closing, contextmanager, suppress
from functools import partial
from glob import glob

import optuna
from worker import STUDY

from optuna_agenttts import recommend
from optuna_agenttts_integrations import CompletionStore


def free_port():
    """Return a port that no program listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def on_host(name, command):
    """Return a command that runs with a host name of its own, where Linux permits it."""
    own = ["unshare", "--uts", "--map-root-user", "sh", "-c", 'hostname "$0" && exec "$@"', name]
    with suppress(OSError):
        if subprocess.run([*own, "true"], capture_output=True).returncode == 0:
            return [*own, *command]
    return command


@contextmanager
def running(*commands):
    """Run programs until the block ends; print what they wrote if it fails."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        programs = [subprocess.Popen(command, stdout=log, stderr=log) for command in commands]
        try:
            yield programs
        except Exception:
            log.seek(0)
            print(log.read(), file=sys.stderr)
            raise
        finally:
            for program in reversed(programs):
                program.terminate()
                program.wait()


@contextmanager
def postgresql():
    """Start PostgreSQL, which must be installed, with an empty database; yield its URL."""
    places = [*sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True), os.environ["PATH"]]
    found = shutil.which("initdb", path=os.pathsep.join(places))
    if found is None:
        raise SystemExit("Install PostgreSQL, or pass --database postgresql+psycopg://...")
    tools, port = os.path.dirname(os.path.realpath(found)), free_port()
    # PostgreSQL refuses to run as root.
    user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    with tempfile.TemporaryDirectory() as folder:
        if user:
            shutil.chown(folder, "postgres")
        quiet = partial(subprocess.run, check=True, cwd="/", stdout=subprocess.DEVNULL)
        data = f"{folder}/data"
        quiet([*user, f"{tools}/initdb", "-D", data, "-U", "postgres", "-A", "trust", "-N"])
        control = [*user, f"{tools}/pg_ctl", "-D", data, "-w", "-l", f"{folder}/log"]
        quiet([*control, "-o", f"-h 127.0.0.1 -p {port} -k {folder}", "start"])
        try:
            yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
        finally:
            quiet([*control, "-m", "immediate", "stop"])


@contextmanager
def grpc_proxy(url):
    """Serve a storage over gRPC from another process; yield its address for `worker.py`."""
    port = free_port()
    spawn = multiprocessing.get_context("spawn")
    server = spawn.Process(target=_serve, args=(url, port), daemon=True)
    server.start()
    optuna.storages.GrpcStorageProxy(host="127.0.0.1", port=port).wait_server_ready(timeout=60)
    try:
        yield f"grpc://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.join()


def _serve(url, port):
    optuna.storages.run_grpc_proxy_server(
        optuna.storages.RDBStorage(url), host="127.0.0.1", port=port
    )


def create_study(storage):
    """Create the study before the workers load it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(study_name=STUDY, storage=storage, direction="maximize")


def print_result(study, store, server):
    """Print what the search found, and that nothing was paid for twice."""
    states = [trial.state.name for trial in study.trials]
    with closing(CompletionStore(store)) as opened:
        kept = len(opened)
    print(f"{states.count('COMPLETE')} of {len(states)} trials complete")
    print(f"{server.served['/v1/chat/completions']} requests for {kept} stored completions")
    print(recommend(study))
