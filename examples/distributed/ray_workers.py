"""Plain Ray tasks on one study: two nodes of a Ray cluster, as two hosts, run a worker each.

Shows: the same worker as in `postgresql_workers.py`, started by Ray. Study and completion store
    are in PostgreSQL, so nothing but their addresses is sent to the nodes.
Needs: `pip install '.[postgresql,ray]'`, and PostgreSQL, which is started on 127.0.0.1;
    `--database` takes one that runs, and `--ray` a cluster that runs.
Takes: about a minute, mostly for Ray to start.
"""

import argparse
import contextlib
import os
import sys
import time
from pathlib import Path

import ray
from local import create_study, free_port, on_host, postgresql, print_result, running
from worker import work

from optuna_agenttts_integrations.playground import PlaygroundServer

START = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
FILES = {"working_dir": str(Path(__file__).parent)}
"""What Ray sends to the nodes: this folder, since they import `worker`."""
WAIT = 120
"""Seconds for both nodes to start. Chosen by hand: a busy machine takes a minute."""


@contextlib.contextmanager
def cluster():
    """Start a head and a node of one processor each; yield the address."""
    # `ray start` of Ray 2.60 wants a token that `ray.init` does not send.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    address = f"127.0.0.1:{free_port()}"
    head = ["--head", f"--port={address.split(':')[1]}", "--include-dashboard=false"]
    node = [f"--address={address}"]
    with contextlib.ExitStack() as stack:
        for number, options in enumerate([head, node], 1):
            own = f"--node-ip-address=127.0.0.{number}"
            command = on_host(f"host-{number}", [*START, *options, own])
            stack.enter_context(running(command))
        yield address


@contextlib.contextmanager
def connected(address):
    """Connect to a cluster, and wait for two processors."""
    ray.init(address, log_to_driver=False, runtime_env=FILES)
    try:
        end = time.monotonic() + WAIT
        while (processors := ray.cluster_resources().get("CPU", 0)) < 2:
            if time.monotonic() > end:
                raise TimeoutError(f"{processors:g} of 2 processors came within {WAIT} s")
            time.sleep(0.1)
        yield
    finally:
        ray.shutdown()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="postgresql+psycopg://USER@HOST/DATABASE")
    parser.add_argument("--ray", help="address of a cluster, such as auto")
    parser.add_argument("--trials", type=int, default=4, help="of each worker")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = given.database or stack.enter_context(postgresql())
        server = stack.enter_context(PlaygroundServer())
        study = create_study(url)
        address = given.ray or stack.enter_context(cluster())
        stack.enter_context(connected(address))
        start = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(work)
        tasks = [start.remote(url, url, server.url, given.trials) for _ in range(2)]
        print(*ray.get(tasks), sep="\n")
        print_result(study, url, server)


if __name__ == "__main__":
    main()
