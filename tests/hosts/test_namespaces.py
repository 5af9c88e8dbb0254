"""Workers on several hosts, which are network namespaces: nothing is shared but addresses."""

import re
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import optuna
import pytest
from hosts_support import environment
from namespaces_support import hosts, reachable
from postgresql_support import postgresql
from storages_support import open_grpc

from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.playground import PlaygroundServer

WORKER = Path(__file__).parents[2] / "examples" / "distributed" / "worker.py"
SECONDS = 120.0
"""Longest time of a worker."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WORKER.exists(), reason="needs the examples"),
]


def at(url, host):
    """Return a URL of 127.0.0.1 as a host reaches it."""
    return url.replace("127.0.0.1", host.here)


@pytest.mark.parametrize("kind", ["postgresql", "grpc"])
@pytest.mark.parametrize("cut", [False, True], ids=["", "network cut off for seconds"])
def test_workers_on_two_hosts(kind, cut, tmp_path):
    """All trials complete, each host runs some, and nothing is paid for twice."""
    with ExitStack() as stack:
        first, second = stack.enter_context(hosts("host-1", "host-2"))
        store = stack.enter_context(postgresql())
        if kind == "grpc":
            storage = stack.enter_context(open_grpc(tmp_path))
            url = f"grpc://127.0.0.1:{storage._port}"
        else:
            storage, url = optuna.storages.RDBStorage(store), store
            stack.callback(storage.engine.dispose)
        study = optuna.create_study(study_name="shared", storage=storage, direction="maximize")
        server = stack.enter_context(PlaygroundServer())
        ports = {urlsplit(each).port for each in (store, url, server.url)}
        for host in (first, second):
            stack.enter_context(reachable(host.here, ports))
        workers = []
        for host in (first, second):
            command = [sys.executable, str(WORKER), at(url, host), at(store, host)]
            command += [at(server.url, host), "--trials", "4"]
            workers.append(
                subprocess.Popen(
                    host.command(command),
                    cwd=tmp_path,
                    env=environment(),
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            stack.callback(workers[-1].kill)
        if cut:
            while not server.served["/v1/chat/completions"]:
                time.sleep(0.1)
                assert workers[1].poll() is None
            second.plug(False)
            time.sleep(5)
            second.plug(True)
        printed = "".join(worker.communicate(timeout=SECONDS)[0] for worker in workers)
        assert [worker.returncode for worker in workers] == [0, 0]
        assert set(re.findall(r"^host-\d", printed, re.MULTILINE)) == {"host-1", "host-2"}
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 8
        with closing(CompletionStore(store)) as opened:
            assert cut or len(opened) == server.served["/v1/chat/completions"]
