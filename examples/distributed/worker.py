"""What each worker runs, and the command of a worker; not an example.

    python worker.py STORAGE STORE SERVER --trials 4

STORAGE is a URL of Optuna's, or grpc://HOST:PORT; STORE is the file or URL of a completion store;
SERVER is the URL of the models. Start it on as many hosts as you like.
"""

import argparse
import os
import socket
import warnings

import optuna

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts_integrations import CompletionStore, MultiStageObjective, connect_endpoints
from optuna_agenttts_integrations.playground import make_pipeline, make_problems, make_task

STUDY = "shared"

# Optuna marks its gRPC storage and heartbeats as experimental.
warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def open_storage(name):
    """Return a storage of Optuna's from what the command line has."""
    if name.startswith("grpc://"):
        host, port = name.removeprefix("grpc://").rsplit(":", 1)
        return optuna.storages.GrpcStorageProxy(host=host, port=int(port))
    return name


def make_objective(store, server):
    """Return the objective: endpoints and store connect in the process that uses them."""
    task = make_task()
    return MultiStageObjective(
        make_pipeline(),
        make_problems("search", 10),
        task=task,
        # A key travels by name: api_key=functools.partial(os.environ.get, "MY_KEY")
        endpoints=connect_endpoints(task, server, concurrency=8),
        store=CompletionStore(store),
        progress=False,
    )


def work(storage, store, server, trials):
    """Run trials of the study; return a line about it."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with make_objective(store, server) as objective:
        sampler = AgentTTSSampler(objective.task)
        study = optuna.load_study(study_name=STUDY, storage=storage, sampler=sampler)
        done = []
        study.optimize(objective, n_trials=trials, callbacks=[lambda _, t: done.append(t.number)])
    return f"{socket.gethostname()}, process {os.getpid()}: trials {done}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("storage")
    parser.add_argument("store")
    parser.add_argument("server")
    parser.add_argument("--trials", type=int, default=4)
    given = parser.parse_args()
    print(work(open_storage(given.storage), given.store, given.server, given.trials), flush=True)


if __name__ == "__main__":
    main()
