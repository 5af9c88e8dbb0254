"""Asks per second as workers of one study grow, by the kind of its storage.

    python tests/benchmarks/storage_workers.py [--workers 1 4 8 16] [--seconds 10] [--trial 1.0]

Each worker is a process with a connection of its own. Its trials take a second, as of a pipeline
that waits for servers, so that w workers ask at most w times a second. An ask is `study.ask` and
the suggestion of all parameters; a tell is the rest. Beside AgentTTSSampler, RandomSampler shows
what the storage alone takes. On a busy machine compare the processor time of an ask, which does
not contain waiting for other programs, or for locks.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import optuna
from ask_cost import make_task
from optuna.samplers import RandomSampler
from optuna.storages import GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from optuna_agenttts import AgentTTSSampler

sys.path.insert(0, str(Path(__file__).parents[1]))
from postgresql_support import new_database, postgresql
from storages_support import open_grpc

KINDS = ("sqlite", "journal", "postgresql", "grpc")


def open_storage(kind, place):
    """Open a storage in this process."""
    if kind == "journal":
        return JournalStorage(JournalFileBackend(place))
    if kind == "grpc":
        return GrpcStorageProxy(host="127.0.0.1", port=place)
    return RDBStorage(place)


def work(kind, place, ours, options, start, found):
    """Run trials until the time is up; put the times of asks and tells, and an error if any."""
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    task, asks, busy, tells, error = make_task(), [], [], [], ""
    sampler = AgentTTSSampler(task) if ours else RandomSampler()
    study = optuna.load_study(study_name="s", storage=open_storage(kind, place), sampler=sampler)
    # The first ask of a process imports and compiles.
    trial = study.ask()
    task.suggest(trial)
    study.tell(trial, 0.0)
    start.wait()
    until = time.monotonic() + options.seconds
    try:
        while time.monotonic() < until:
            began, processor = time.monotonic(), time.process_time()
            trial = study.ask()
            allocation = task.suggest(trial)
            asks.append(time.monotonic() - began)
            busy.append(time.process_time() - processor)
            time.sleep(options.trial)
            began = time.monotonic()
            study.tell(trial, 1 - 1 / sum(setting.samples for setting in allocation.values()))
            tells.append(time.monotonic() - began)
    except Exception as raised:
        error = f"{type(raised).__name__}: {raised}"[:200]
    found.put((asks, busy, tells, error))


def measure(kind, place, ours, workers, options):
    """Print the line of one configuration."""
    optuna.create_study(study_name="s", storage=open_storage(kind, place), direction="maximize")
    # Its processes begin with the modules imported, and without connections.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["optuna_agenttts", "optuna.storages", "grpc", "psycopg"])
    start, found = context.Barrier(workers + 1), context.Queue()
    arguments = (kind, place, ours, options, start, found)
    processes = [context.Process(target=work, args=arguments) for _ in range(workers)]
    for process in processes:
        process.start()
    start.wait()
    results = [found.get() for _ in processes]
    for process in processes:
        process.join()
    asks, busy, tells = (sorted(value for r in results for value in r[i]) for i in range(3))
    study = optuna.load_study(study_name="s", storage=open_storage(kind, place))
    allocations = [tuple(sorted(trial.params.items())) for trial in study.trials]
    errors = [r[3] for r in results if r[3]]
    cells = [kind, "ours" if ours else "random", workers, f"{len(asks) / options.seconds:.1f}"]
    cells += [f"{1e3 * at:.0f}" for at in (statistics.median(asks), quantile(asks, 0.95))]
    cells += [f"{1e3 * statistics.median(each):.0f}" for each in (busy, tells)]
    cells += [f"{len(allocations) - len(set(allocations))} of {len(allocations)}", len(errors)]
    print(f"| {' | '.join(map(str, cells))} |", flush=True)
    for error in sorted(set(errors)):
        print(f"    {error}", file=sys.stderr)


def quantile(values, share):
    """Return a quantile of sorted values."""
    return values[int(share * (len(values) - 1))]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 4, 8, 16])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--ours", action="store_true", help="without RandomSampler")
    parser.add_argument("--trial", type=float, default=1.0, help="seconds of a trial")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    heads = ["storage", "sampler", "workers", "asks/s", "ask, ms", "95 %", "processor", "tell"]
    print(f"| {' | '.join([*heads, 'repeated', 'errors'])} |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    with ExitStack() as stack:
        server = stack.enter_context(postgresql()) if "postgresql" in options.kinds else None
        for kind in options.kinds:
            for ours in (True,) if options.ours else (True, False):
                for workers in options.workers:
                    with tempfile.TemporaryDirectory() as folder, ExitStack() as inner:
                        if kind == "grpc":
                            place = inner.enter_context(open_grpc(folder))._port
                        elif kind == "postgresql":
                            place = new_database(server)
                        else:
                            journal = kind == "journal"
                            place = f"{folder}/log" if journal else f"sqlite:///{folder}/s.db"
                        measure(kind, place, ours, workers, options)


if __name__ == "__main__":
    main()
