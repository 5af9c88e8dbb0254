"""Two workers, as on two hosts, that share a study and a store in PostgreSQL.

Shows: a storage and a completion store for many machines, and a worker that needs nothing but
    their addresses.
Needs: `pip install '.[postgresql]'`, and PostgreSQL, which is started on 127.0.0.1; `--database`
    takes one that runs.
Takes: about ten seconds.
"""

import argparse
import contextlib
import subprocess
import sys
from pathlib import Path

from local import create_study, on_host, postgresql, print_result

from optuna_agenttts_integrations.playground import PlaygroundServer

WORKER = [sys.executable, str(Path(__file__).with_name("worker.py"))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", help="postgresql+psycopg://USER@HOST/DATABASE")
    parser.add_argument("--trials", type=int, default=4, help="of each worker")
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = given.database or stack.enter_context(postgresql())
        server = stack.enter_context(PlaygroundServer())
        study = create_study(url)
        command = [*WORKER, url, url, server.url, "--trials", str(given.trials)]
        workers = [subprocess.Popen(on_host(name, command)) for name in ("host-1", "host-2")]
        codes = [worker.wait() for worker in workers]
        if any(codes):
            raise SystemExit("a worker failed")
        print_result(study, url, server)


if __name__ == "__main__":
    main()
