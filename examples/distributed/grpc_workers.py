"""Two workers, as on two hosts, that reach a study through Optuna's gRPC server.

Shows: one process that alone writes the database of the study, here an SQLite file, and workers
    that open no connection to it. The completion store is a file that both share.
Needs: `pip install '.[grpc]'`.
Takes: about ten seconds.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from local import create_study, grpc_proxy, on_host, print_result
from worker import open_storage

from optuna_agenttts_integrations.playground import PlaygroundServer

WORKER = [sys.executable, str(Path(__file__).with_name("worker.py"))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--store", default="grpc_completions.db", help="on several hosts: PostgreSQL"
    )
    parser.add_argument("--trials", type=int, default=4, help="of each worker")
    given = parser.parse_args()
    with grpc_proxy("sqlite:///grpc_study.db") as storage, PlaygroundServer() as server:
        study = create_study(open_storage(storage))
        command = [*WORKER, storage, given.store, server.url, "--trials", str(given.trials)]
        workers = [subprocess.Popen(on_host(name, command)) for name in ("host-1", "host-2")]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            raise SystemExit("a worker failed")
        print_result(study, given.store, server)


if __name__ == "__main__":
    main()
