"""Samples per second that processes write to one completion store and read from it.

    python tests/benchmarks/store_throughput.py [--seconds 3] [--workers 1 4 16] [--rounds 3]

All processes use one store at the same time: an SQLite file, and a PostgreSQL server on loopback
that waits for its disk (`fsync`). "new" are samples that are looked up, missing, and then written,
as in a search that generates each of them; "stored" are samples that are looked up and found. One
thread of a process makes one call at a time, so that a worker with many calls in progress reaches
more on PostgreSQL, whose calls run in threads ("threads"). Rounds of the kinds alternate, and the
median is printed. To compare versions, run it with PYTHONPATH of another checkout.
"""

import argparse
import multiprocessing
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from postgresql_support import postgresql

from optuna_agenttts.llm import Completion, Usage
from optuna_agenttts_integrations import CompletionStore
from optuna_agenttts_integrations.calls.store import RequestKey, canonical_json

REPLY = Completion("Answer: 42. " * 20, Usage(2000, 60))
PROMPT = "word " * 400
PER_REQUEST = 10


def key(name, number):
    """Return the key of a request with a prompt of 2,000 characters."""
    return RequestKey(
        "server", 0, canonical_json({"model": "m", "p": PROMPT, "n": [name, number]})
    )


def work(target, name, barrier, seconds, threads, results):
    """Write samples for some seconds, then read them."""
    store = CompletionStore(target)
    counts = [0, 0]

    def write(thread, end):
        number = 0
        while time.perf_counter() < end:
            request = key([name, thread], number)
            for sample in range(PER_REQUEST):
                store.get(request.digest, sample + 1)
                store.put(request, {sample: REPLY})
            number += 1
            counts[0] += PER_REQUEST

    def read(thread, end):
        number = 0
        while time.perf_counter() < end:
            # Requests that do not exist any more are as expensive to look for.
            request = key([name, thread], number % 50)
            for _ in range(PER_REQUEST):
                store.get(request.digest, 1)
            number += 1
            counts[1] += PER_REQUEST

    for function in (write, read):
        barrier.wait()
        end = time.perf_counter() + seconds
        running = [threading.Thread(target=function, args=(n, end)) for n in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
    results.put(counts)
    store.close()


def measure(target, workers, seconds, threads):
    """Return samples per second of all workers: new ones, and stored ones."""
    CompletionStore(target).prune()
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(workers), context.Queue()
    processes = [
        context.Process(target=work, args=(target, name, barrier, seconds, threads, results))
        for name in range(workers)
    ]
    for process in processes:
        process.start()
    counts = [results.get() for _ in processes]
    for process in processes:
        process.join()
    return [sum(column) / seconds for column in zip(*counts)]


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sqlite-only", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        kinds = {"SQLite": (f"{folder}/store.db", 1)}
        if not options.sqlite_only:
            url = stack.enter_context(postgresql(fsync=True))
            kinds |= {"PostgreSQL": (url, 1), "PostgreSQL, 4 threads": (url, 4)}
        print("| store | workers | new, per second | stored, per second |\n|---|---|---|---|")
        for workers in options.workers:
            found = {kind: [] for kind in kinds}
            for _ in range(options.rounds):
                for kind, (target, threads) in kinds.items():
                    found[kind].append(measure(target, workers, options.seconds, threads))
            for kind, rounds in found.items():
                new, stored = (statistics.median(column) for column in zip(*rounds))
                print(f"| {kind} | {workers} | {new:,.0f} | {stored:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
