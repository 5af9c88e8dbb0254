"""Dask: two workers, as two hosts, and `DaskStorage`, which keeps the study on the scheduler.

Shows: the worker of `postgresql_workers.py`, started by Dask, with a storage that needs no
    database. The completion store is a file that both share.
Needs: `pip install '.[dask]'`.
Takes: about fifteen seconds.
"""

import argparse
import contextlib
import os
import sys

import distributed
import worker
from local import create_study, free_port, on_host, print_result, running
from optuna_integration import DaskStorage

from optuna_agenttts_integrations.playground import PlaygroundServer


@contextlib.contextmanager
def cluster():
    """Start a scheduler and two workers of one thread; yield the scheduler's address."""
    address = f"tcp://127.0.0.1:{free_port()}"
    scheduler = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--no-dashboard"]
    node = [sys.executable, "-m", "distributed.cli.dask_worker", address, "--no-dashboard"]
    nodes = [
        on_host(f"host-{n}", [*node, "--nthreads=1", f"--host=127.0.0.{n + 1}"]) for n in (1, 2)
    ]
    with running([*scheduler, "--host", address]), running(*nodes):
        yield address


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--store", default="dask_completions.db", help="on several hosts: PostgreSQL"
    )
    parser.add_argument("--dask", help="address of a scheduler that runs")
    parser.add_argument("--trials", type=int, default=4, help="of each worker")
    given = parser.parse_args()
    store = given.store if "://" in given.store else os.path.abspath(given.store)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PlaygroundServer())
        address = given.dask or stack.enter_context(cluster())
        client = stack.enter_context(distributed.Client(address))
        client.wait_for_workers(2)
        client.upload_file(worker.__file__)
        storage = DaskStorage()
        study = create_study(storage)
        arguments = storage, store, server.url, given.trials
        hosts = list(client.scheduler_info()["workers"])
        tasks = [
            client.submit(worker.work, *arguments, workers=[h], pure=False) for h in hosts[:2]
        ]
        print(*client.gather(tasks), sep="\n")
        print_result(study, store, server)


if __name__ == "__main__":
    main()
