"""Completions paid for twice, and trials lost, by workers that share a study and a store.

    python tests/benchmarks/paid_twice.py [--workers 4] [--trials 3] [--engines fork grpc ...]

Each call takes .2 to .4 s, and its reply is random: a worker that scored with a reply other than
the stored one would show as a trial whose score differs when it is computed from the store alone.
"killed": one of the workers is killed (kill -9) during its calls, which the others repeat; calls
that it had finished must not be paid for again, and its trial stays running, as Optuna keeps it.
PostgreSQL is started if it is installed; Ray and Dask are measured if they are.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import optuna
from optuna.storages import GrpcStorageProxy, RDBStorage, run_grpc_proxy_server
from optuna.trial import TrialState
from postgresql_support import postgresql

from optuna_agenttts import AgentTTSSampler
from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import (
    CompletionStore,
    MultiStageObjective,
    Pipeline,
    Predictor,
    StageProgram,
    connect_endpoints,
)
from optuna_agenttts_integrations.playground import make_task

INSTANCES = 20
CONCURRENCY = 32
"""Calls of one model that a worker makes at a time, as is the default of models in process."""

STUDY = "workers"


class Chat:
    """Chat model with random replies, which writes down when calls begin and end.

    Args:
        path: File of one line for each begin and end.
    """

    def __init__(self, path):
        self.path = path

    async def complete(self, request, *, seed):
        """Reply at random after .2 to .4 s."""
        call = hashlib.sha256(f"{request}{seed}".encode()).hexdigest()
        self.note("begin", call)
        await asyncio.sleep(random.uniform(0.2, 0.4))
        self.note("end", call)
        return Completion(str(int.from_bytes(os.urandom(2), "big") % 3), Usage(10, 10))

    def note(self, event, call):
        """Append a line, which no other process interrupts."""
        handle = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(handle, f"{event} {os.getpid()} {call}\n".encode())
        os.close(handle)


def make_pipeline():
    """Build a pipeline of two stages."""
    stages = [
        StageProgram(name="retrieval", prompt=lambda state: f"q {state.instance}"),
        StageProgram(name="answer", prompt=lambda state: f"{state['retrieval']} {state.instance}"),
    ]
    return Pipeline(stages=stages, score=lambda state: float(state["answer"] == "1"))


def make_objective(store, paid, **options):
    """Build the objective of one worker, with its own connection to the store."""
    task = make_task()
    models = {model.name: Chat(paid) for stage in task.stages for model in stage.models}
    return MultiStageObjective(
        make_pipeline(),
        list(range(INSTANCES)),
        task=task,
        endpoints=connect_endpoints(task, models),
        store=CompletionStore(store),
        progress=False,
        measure_after=None,
        **options,
    )


def work(storage, store, paid, trials, jobs=1):
    """Run a worker's trials."""
    logging.disable(logging.CRITICAL)
    if isinstance(storage, tuple):
        host, port = storage
        storage = GrpcStorageProxy(host=host, port=port)
        storage.wait_server_ready(timeout=30)
    sampler = AgentTTSSampler(make_task())
    study = optuna.load_study(study_name=STUDY, storage=storage, sampler=sampler)
    study.optimize(make_objective(store, paid), n_trials=trials, n_jobs=jobs)


def allocation_of(task, trial):
    """Return the allocation of a trial."""
    choices = task.choices_from_params(trial.params)
    return task.allocation([choices[stage] for stage in range(len(task.stages))])


class Search:
    """A new study and an empty store, and what their workers did.

    Args:
        folder: Empty folder.
        url: URL of a PostgreSQL database for study and store. Default: files of SQLite.
        options: Command line.
    """

    def __init__(self, folder, options, url=None):
        self.options, self.paid = options, f"{folder}/paid"
        self.storage = url or f"sqlite:///{folder}/study.db"
        self.store = url or f"{folder}/store.db"
        optuna.create_study(study_name=STUDY, storage=self.storage, direction="maximize")

    def arguments(self, storage=None):
        """Return the arguments of a worker."""
        return storage or self.storage, self.store, self.paid, self.options.trials

    def fork(self, storage=None, method="fork"):
        """Start the workers as processes, and return them."""
        context = multiprocessing.get_context(method)
        started = [
            context.Process(target=work, args=self.arguments(storage))
            for _ in range(self.options.workers)
        ]
        for process in started:
            process.start()
        return started

    def lines(self):
        """Return the events of all calls: event, process, call."""
        path = Path(self.paid)
        return [line.split() for line in path.read_text().splitlines()] if path.exists() else []

    def report(self, name, seconds, expected, killed=None):
        """Print a row of the table; return whether nothing was lost or paid for twice."""
        lines = self.lines()
        begun = Counter(call for event, _, call in lines if event == "begin")
        ended = Counter(call for event, _, call in lines if event == "end")
        twice = sum(begun.values()) - len(begun)
        cut = {call for event, process, call in lines if event == "begin" and process == killed}
        # Replies of the last moment were received, but not stored.
        finished = [call for event, process, call in lines if event == "end" and process == killed]
        cut -= set(finished[:-CONCURRENCY])
        trials = optuna.load_study(study_name=STUDY, storage=self.storage).trials
        states = Counter(trial.state for trial in trials)
        complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
        differ = self.differing(complete)
        lost = expected - len(complete)
        repeated = {call for call, times in begun.items() if times > 1}
        good = not differ and not lost and repeated <= cut and twice == len(repeated)
        print(
            f"{name:<22} {sum(begun.values()):6} {len(begun):9} {twice:6} {len(cut):10} "
            f"{sum(ended.values()) - len(ended):9} {len(complete):7} {lost:5} "
            f"{states[TrialState.RUNNING]:8} {differ:7} {seconds:8.1f}"
            f"{'' if good else '   WRONG'}",
            flush=True,
        )
        return good

    def differing(self, trials):
        """Count trials whose score is not that of the stored replies."""
        with make_objective(self.store, self.paid, replay=True) as objective:
            return sum(
                objective.evaluate(allocation_of(objective.task, trial)).mean != trial.value
                for trial in trials
            )


HEADER = (
    "engine                   paid  distinct  twice  in flight  end twice  trials  lost  running"
    "  differ  seconds"
)


def join(processes):
    """Wait for processes."""
    for process in processes:
        process.join()


def fork(search):
    """Forked workers."""
    join(search.fork())


def spawn(search):
    """Spawned workers."""
    join(search.fork(method="spawn"))


def grpc(search):
    """Workers that reach the study through Optuna's gRPC storage."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = multiprocessing.get_context("spawn").Process(
        target=serve_study, args=(search.storage, port), daemon=True
    )
    server.start()
    join(search.fork(("127.0.0.1", port), "spawn"))
    server.kill()
    server.join()


def serve_study(storage, port):
    """Serve a study's storage."""
    run_grpc_proxy_server(RDBStorage(storage), host="127.0.0.1", port=port)


def threads(search):
    """Threads of one process, with one objective (`n_jobs`)."""
    storage, store, paid, trials = search.arguments()
    work(storage, store, paid, trials * search.options.workers, search.options.workers)


def objectives(search):
    """Threads of one process, with an objective and a store each."""
    started = [
        threading.Thread(target=work, args=search.arguments())
        for _ in range(search.options.workers)
    ]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


def ask_and_tell(search):
    """Coroutines of one event loop, with a predictor and a store each."""
    task = make_task()
    study = optuna.load_study(
        study_name=STUDY, storage=search.storage, sampler=AgentTTSSampler(task)
    )

    async def worker():
        store = CompletionStore(search.store)
        models = {m.name: Chat(search.paid) for stage in task.stages for m in stage.models}
        endpoints = connect_endpoints(task, models)
        predictor = Predictor(make_pipeline(), task=task, endpoints=endpoints, store=store)
        for _ in range(search.options.trials):
            trial = study.ask()
            allocation = task.suggest(trial)
            found = await predictor.apredict(range(INSTANCES), allocation)
            study.tell(trial, sum(float(one.answer == "1") for one in found) / INSTANCES)
        predictor.close()

    async def run():
        await asyncio.gather(*(worker() for _ in range(search.options.workers)))

    asyncio.run(run())


def ray(search):
    """Ray tasks."""
    import ray

    # Not a cluster that another program of this machine has started.
    options = {"address": "local", "include_dashboard": False, "log_to_driver": False}
    ray.init(num_cpus=search.options.workers, **options)
    try:
        remote = ray.remote(work)
        ray.get([remote.remote(*search.arguments()) for _ in range(search.options.workers)])
    finally:
        ray.shutdown()


def dask(search):
    """Workers of a Dask cluster, which reach the study through `DaskStorage`."""
    import distributed
    from optuna_integration import DaskStorage

    cluster = {"n_workers": search.options.workers, "threads_per_worker": 1}
    with distributed.Client(processes=True, dashboard_address=":0", **cluster) as client:
        storage = DaskStorage(search.storage)
        client.gather(
            [
                client.submit(work, *search.arguments(storage), key=f"worker-{number}", pure=False)
                for number in range(search.options.workers)
            ]
        )


def kill(search):
    """Kill one of the workers during its calls; return its process ID."""
    started = search.fork()
    victim = started[0]
    while victim.is_alive() and sum(x[1] == str(victim.pid) for x in search.lines()) < 100:
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    join(started)
    return str(victim.pid)


ENGINES = {
    "fork": fork,
    "spawn": spawn,
    "grpc": grpc,
    "threads": threads,
    "objectives": objectives,
    "asyncio": ask_and_tell,
    "ray": ray,
    "dask": dask,
    "killed": kill,
}


def main():
    """Measure all of them, on SQLite and PostgreSQL."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=3, help="trials of each worker")
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--databases", nargs="+", default=["sqlite", "postgresql"])
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    print(HEADER)
    good = True
    for database in options.databases:
        for name in options.engines:
            needed = {"ray": "ray", "dask": "optuna_integration"}.get(name)
            with contextlib.suppress(ImportError):
                if needed:
                    __import__(needed)
            if needed and needed not in sys.modules:
                print(f"{database} {name}: {needed} is not installed")
                continue
            server = postgresql() if database == "postgresql" else contextlib.nullcontext()
            with tempfile.TemporaryDirectory() as folder, server as url:
                search = Search(folder, options, url)
                started = time.monotonic()
                killed = ENGINES[name](search)
                seconds = time.monotonic() - started
                expected = options.workers * options.trials
                if killed:
                    states = Counter(
                        t.state
                        for t in optuna.load_study(study_name=STUDY, storage=search.storage).trials
                    )
                    expected = (options.workers - 1) * options.trials
                    expected = max(expected, states[TrialState.COMPLETE])
                good &= search.report(f"{database} {name}", seconds, expected, killed)
    raise SystemExit(not good)


if __name__ == "__main__":
    main()
